"""Data sets as JSON text: values shared by the instances of a series are converted once.

Most elements of an instance have the same bytes as in the previous one. Only their heads are
parsed, and their text is looked up by their bytes; new elements are converted by `dicom_json`, in
one small data set. If a value is unusual, its whole data set is converted that way.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import BinaryIO, NamedTuple

import orjson

from pacsroute.dataset import charsets
from pacsroute.dataset.json_model import BulkData, dicom_json, json_of
from pacsroute.dataset.limits import LIMITS, Limits
from pacsroute.dataset.reader import Reader, Reading
from pacsroute.dataset.received import Frame
from pacsroute.dataset.vr import LONG_VRS, PIXEL_DATA, STRING_VRS, WORD_SIZES, syntax
from pacsroute.dataset.wanted import CHARACTER_SET, never_written
from pacsroute.errors import DataSetError

_LOOK = 65_536  # bytes read from a file: usually all elements before the pixels
_SHARED = 1024  # texts of elements up to this size are kept; only longer values become URIs
_KEPT = 4 * 1_048_576  # limit for the kept texts and their keys, in bytes
_UNDEFINED, _DELIMITERS = 0xFFFFFFFF, 0xFFFE
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_BITS_ALLOCATED, _PIXEL_REPRESENTATION = 0x00280100, 0x00280103
_TELLING = (CHARACTER_SET, _BITS_ALLOCATED, _PIXEL_REPRESENTATION)  # needed to read others
_BINARY = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW"))
_SHORT = frozenset(
    vr.encode("ascii") for vr in (*STRING_VRS, *WORD_SIZES, "SQ") if vr not in LONG_VRS
)
_LONG = frozenset(vr.encode("ascii") for vr in LONG_VRS)
_implicit = struct.Struct("<HHI").unpack_from
_explicit = struct.Struct("<HH2sH").unpack_from
_length = struct.Struct("<I").unpack_from


class _Cut(NamedTuple):
    """The elements of a data set as bytes, and where the rest of the last one is in the file.

    Parameters
    ----------
    elements : dict of int to bytes
        The elements by tag, in order.
    context : dict of int to bytes
        The elements that decide how others are read.
    last : (int, str, int) or None
        The tag, VR and length of a large last value.
    """

    elements: dict[int, bytes]
    context: dict[int, bytes]
    last: tuple[int, str, int] | None


class JsonTexts:
    r"""Encodes the elements of data sets as JSON, for one response.

    Parameters
    ----------
    limits : Limits
        The limits on the depth and size of a data set.
    bulk_data : callable, optional
        As for `dicom_json`; its result may depend only on its arguments.

    Examples
    --------
    >>> from io import BytesIO
    >>> texts = JsonTexts()
    >>> texts.of(BytesIO(b"\x20\0\x13\0IS\2\0\x31 "), "1.2.840.10008.1.2.1")
    {2097171: b'"00200013":{"vr":"IS","Value":[1]}'}
    """

    def __init__(self, limits: Limits = LIMITS, bulk_data: BulkData | None = None) -> None:
        self._limits = limits
        self._bulk_data = bulk_data
        self._context: dict[int, bytes] = {}
        self._texts: dict[bytes, bytes] = {}
        self._size = 0

    def of(self, file: BinaryIO, transfer_syntax: str) -> dict[int, bytes]:
        """Return the text of each element of a data set, by its tag and in order.

        Parameters
        ----------
        file : binary file
            Positioned at the data set.
        transfer_syntax : str
            The UID of its transfer syntax.

        Raises
        ------
        DataSetError
            If it is not a data set, or exceeds a limit.
        """
        how, start = syntax(transfer_syntax), file.tell()
        if how.little and not how.deflated and self._bulk_data is not None:
            with contextlib.suppress(DataSetError):  # a real error is raised again below
                found = self._shared(file, start, how.implicit)
                if found is not None:
                    return found
            file.seek(start)
        model = dicom_json(file, transfer_syntax, bulk_data=self._bulk_data, limits=self._limits)
        return {int(key, 16): _text(key, model[key]) for key in sorted(model)}

    def _shared(self, file: BinaryIO, start: int, implicit: bool) -> dict[int, bytes] | None:
        """Return the texts, mostly from those kept; None if a value is unusual."""
        data = file.read(_LOOK)
        size = len(data) if len(data) < _LOOK else file.seek(0, os.SEEK_END) - start
        reading = Reading(True, self._limits)
        with Reader(data, reading) as reader:
            implicit = reader.implicit_at(0, len(data), implicit, top=True)
            cut = _cut(data, size, implicit, reader, file, start)
        if cut is None or len(cut.elements) > self._limits.elements:
            return None
        if cut.context != self._context or self._size > _KEPT:
            self._context = cut.context
            self._texts.clear()
            self._size = 0
        kept = self._texts
        found = {tag: kept.get(raw) for tag, raw in cut.elements.items()}
        new = [tag for tag, text in found.items() if text is None]
        if new and not self._convert(new, cut, implicit, reading, found):
            return None
        if cut.last is not None:
            tag, vr, length = cut.last
            assert self._bulk_data is not None
            uri = self._bulk_data((f"{tag:08X}",), vr, length)
            if uri is None:
                return None
            found[tag] = _text(f"{tag:08X}", {"vr": vr, "BulkDataURI": uri})
        return {tag: text for tag, text in found.items() if text}

    def _convert(
        self,
        new: list[int],
        cut: _Cut,
        implicit: bool,
        reading: Reading,
        found: dict[int, bytes | None],
    ) -> bool:
        """Add the texts of new elements; return whether the elements are valid."""
        elements = cut.elements
        wanted = {*new, *cut.context}
        data = b"".join(elements[tag] for tag in sorted(wanted))
        frame = Frame(implicit, charsets.terms(self._limits.charset))
        with Reader(data, reading) as reader:
            dataset, _ = reader.data_set(0, len(data), frame)
        if wanted != set(map(int, dataset.keys())):
            return False
        model = json_of(dataset, self._bulk_data)
        for tag in new:
            key = f"{tag:08X}"
            text = b"" if never_written(tag) else _text(key, model[key])
            found[tag] = text
            if len(elements[tag]) <= _SHARED:
                self._texts[elements[tag]] = text
                self._size += len(elements[tag]) + len(text)
        return True


def _text(key: str, element: object) -> bytes:
    return orjson.dumps({key: element})[1:-1]


def _cut(
    data: bytes, size: int, implicit: bool, reader: Reader, file: BinaryIO, base: int
) -> _Cut | None:
    """Cut a data set into its elements; None if reading their heads is not enough."""
    elements: dict[int, bytes] = {}
    context: dict[int, bytes] = {}
    at, last, end = 0, 0, len(data)
    while at + 8 <= end:
        start = at + 8
        if implicit:
            group, number, length = _implicit(data, at)
            code = b"OW"  # the VR of pixel data
        else:
            group, number, code, length = _explicit(data, at)
            if code in _LONG and at + 12 <= end:
                start = at + 12
                (length,) = _length(data, at + 8)
            elif code not in _SHORT:
                return None
            if code == b"UN" and length == _UNDEFINED:
                return None
        tag = group << 16 | number
        if tag <= last or group == _DELIMITERS:
            return None
        last, stop = tag, start + length
        if length == _UNDEFINED and tag != PIXEL_DATA and _length(data, start) == (0xE000FFFE,):
            stop = reader.behind_items(start, end, implicit)
        if stop > end or length == _UNDEFINED == stop - start:
            is_large = code in _BINARY and (tag == PIXEL_DATA or not implicit)
            if length == _UNDEFINED:
                stop = _behind_fragments(file, base, start) if tag == PIXEL_DATA else 0
            if not is_large or stop != size or stop - start <= _SHARED:
                return None
            return _Cut(elements, context, (tag, code.decode("ascii"), length))
        if length & 1 and length != _UNDEFINED:
            return None
        elements[tag] = raw = data[at:stop]
        if tag in _TELLING or (group & 1 and 0x10 <= number <= 0xFF):  # a private creator
            context[tag] = raw
        at = stop
    return _Cut(elements, context, None) if at == size else None


def _behind_fragments(file: BinaryIO, base: int, at: int) -> int:
    """Return the offset after the fragments of compressed pixels; 0 if their end is missing."""
    while True:
        file.seek(base + at)
        head = file.read(8)
        if len(head) < 8:
            return 0
        group, number, length = _implicit(head)
        at += 8 + length
        if group << 16 | number == _SEQUENCE_END:
            return at
        if group << 16 | number != _ITEM:
            return 0
