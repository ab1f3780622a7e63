"""The hot loop: elements, sequences and items out of something that can be sliced (PS3.5 §7)."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from pacsroute.dataset import charsets
from pacsroute.dataset.decoded import character_set, encodings, mend_text
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.vr import LONG_VRS, STRING_VRS, WORD_SIZES
from pacsroute.dataset.wanted import CHARACTER_SET
from pacsroute.errors import DataSetError

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_VRS = {vr.encode("ascii"): vr for vr in (*STRING_VRS, *WORD_SIZES, "SQ")}
_OCTETS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW"))
_BYTES_READ_WELL = (charsets.DEFAULT, ("ISO_IR 100",))
_CHUNK = 1 << 16


class File:
    """A file as a sequence of bytes, read in chunks, from where the file stands.

    Parameters
    ----------
    file : binary file
        It has to be seekable.

    Attributes
    ----------
    base : int
        Where it stood.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.base = file.tell()
        self._length = file.seek(0, 2) - self.base
        self._at = 0
        self._chunk = b""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._length)
        if self._at <= start and stop <= self._at + len(self._chunk):
            return self._chunk[start - self._at : stop - self._at]
        self._file.seek(self.base + start)
        if stop - start > _CHUNK:
            return self._file.read(stop - start)
        self._at, self._chunk = start, self._file.read(_CHUNK)
        return self._chunk[: max(stop - start, 0)]


class Reader:
    """Reads data sets of one byte order out of something that can be sliced.

    Parameters
    ----------
    data : bytes-like or File
        All of the outermost data set.
    little : bool
        Whether it is little endian.
    base : int
        Where it begins in its file.
    defer_size : int or None
        Values of the outermost data set that are longer stay in their file; without, none do.
    strict : bool
        Whether a structure that is cut off raises, and does not end where the bytes do.
    limits : Limits
        How deep it may be, and of how many elements.

    Attributes
    ----------
    deferred : bool
        Whether a value has stayed in the file.
    """

    def __init__(
        self,
        data: Any,
        little: bool,
        base: int,
        defer_size: int | None,
        strict: bool,
        limits: Limits,
    ) -> None:
        self._data = data
        self._limits = limits
        self._little = little
        order = "<" if little else ">"
        self._implicit = struct.Struct(order + "HHI").unpack
        self._explicit = struct.Struct(order + "HH2sH").unpack
        self._long = struct.Struct(order + "I").unpack
        self._base = base
        self._defer_size = defer_size
        self._strict = strict
        self.deferred = False
        self._left = limits.elements

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise DataSetError(f"more than {self._limits.elements} elements: max_elements")

    def implicit_at(self, at: int, end: int, implicit: bool, *, top: bool = False) -> bool:
        """Whether the VR is implicit in what begins here, whatever was announced."""
        head = bytes(self._data[at : min(at + 8, end)])
        if len(head) < 8 or (implicit and not top):
            return implicit
        vr = head[4:6]
        if implicit:
            # a length below 64 KB has zeros where an explicit VR has its own length
            return not (vr in _VRS and (head[6:8] == b"\0\0") == (_VRS[vr] in LONG_VRS))
        return not (vr.isalpha() and vr.isupper())

    def data_set(
        self,
        at: int,
        end: int,
        implicit: bool,
        names: tuple[str, ...],
        signed: bool | None,
        depth: int,
        undefined: bool = False,
    ) -> tuple[Dataset, int]:
        """The elements from `at` to `end` or an item delimiter, and where they end.

        Parameters
        ----------
        at, end : int
            Where they are in the data.
        implicit : bool
            Whether their VR is.
        names : tuple of str
            The Specific Character Set around them.
        signed : bool or None
            Whether the pixels around them are; None where nothing says so.
        depth : int
            In how many sequences they are.
        undefined : bool
            Whether they are those of an item that ends with a delimiter.

        Raises
        ------
        DataSetError
            Nested too deeply, too many of them, or, if strict, cut off.
        """
        if depth > self._limits.depth:
            raise DataSetError("sequences are nested too deeply: max_depth")
        self._count()  # an item, which may have no element
        data, little, base, defer = self._data, self._little, self._base, self._defer_size
        inherited = names
        elements: dict[BaseTag, Any] = {}
        vr: str | None
        while at + 8 <= end:
            start = at
            self._count()
            head = data[at : at + 8]
            at += 8
            here, odd = implicit, False
            if not implicit:
                group, element, code, length = self._explicit(head)
                vr = _VRS.get(bytes(code))
                if vr is None:
                    odd = True
                    here, vr, length, at = self._odd_vr(head, at, end)
                elif vr in LONG_VRS:
                    if at + 4 > end:
                        at = start
                        break
                    (length,) = self._long(data[at : at + 4])
                    at += 4
                tag = group << 16 | element
                if group == 0xFFFE:
                    length = self._long(head[4:8])[0]
                    at = start + 8
            else:
                group, element, length = self._implicit(head)
                tag = group << 16 | element
                vr = None
            if group == 0xFFFE and element in (0xE000, 0xE00D, 0xE0DD):
                if not undefined:
                    continue
                after = at if tag == _ITEM_END else start  # its sequence takes any other
                return self._finished(elements, implicit, names, inherited), after
            if here:
                vr = _dictionary_vr(tag, elements)
                if vr == "US or SS" and signed is not None:
                    vr = "SS" if signed else "US"
                elif vr == "OB or OW":
                    vr = "OB" if length == _UNDEFINED else "OW"
            if tag == 0 and length == 0:
                continue

            if length == _UNDEFINED:
                if vr in ("SQ", "UN", None) and self._is_item(at, end):
                    below = here or (vr == "UN" and self.implicit_at(at + 8, end, here))
                    items, at = self._items(at, end, below, names, signed, depth, True)
                    assert items is not None  # it begins with one, or with its end
                    elements[BaseTag(tag)] = _sequence(tag, items, base + at, True)
                    continue
                if vr not in _OCTETS:
                    # no other VR may have it (PS3.5 §7.1.1), and pydicom would convert it
                    vr = self._no_sequence() if vr == "SQ" else "OB"
                stop, at_next = self._fragments(at, end)
                # pydicom compares the VR when it reads a deferred value
                read_as = DicomDictionary.get(tag, ("UN",))[0] if here else vr
                can_wait = depth == 0 and not odd and read_as[:2] == "OB" and vr == "OB"
                too_long = defer is not None and stop - at > defer and can_wait
                self.deferred = self.deferred or too_long
                value = None if too_long else bytes(data[at:stop])
                elements[BaseTag(tag)] = RawDataElement(
                    BaseTag(tag),
                    read_as if too_long else vr,
                    length,
                    value,
                    base + at,
                    here,
                    little,
                )
                at = at_next
                continue

            stop = at + length
            if stop > end:
                if self._strict:
                    raise DataSetError("a value is longer than the data set")
                stop = end
                length = stop - at
            meant = vr
            if vr == "UN":
                # pydicom takes the VR of the dictionary instead, so it has to fit
                meant = _dictionary_vr(tag, elements)
            sequence = meant == "SQ" and (vr == "SQ" or length > 0)
            if sequence:
                items, _ = self._items(at, stop, here or vr == "UN", names, signed, depth, False)
                if items is not None:
                    elements[BaseTag(tag)] = _sequence(tag, items, base + at, False)
                    at = stop
                    continue
                vr = self._no_sequence()
            if (
                defer is not None
                and length > defer
                and depth == 0
                and tag != CHARACTER_SET
                and not sequence
                and not (odd and not here)
            ):
                self.deferred = True
                known = None if here else vr
                elements[BaseTag(tag)] = RawDataElement(
                    BaseTag(tag), known, length, None, base + at, here, little
                )
                at = stop
                continue
            if vr == "UN" and length > 0xFFFF and meant in STRING_VRS:
                vr = meant  # it was too long for its VR (PS3.5 §6.2.2); pydicom leaves it unknown
            value = bytes(data[at:stop])
            size = WORD_SIZES.get(meant or "", 1) if meant != "US or SS" else 2
            if length % size and meant not in _OCTETS:
                value = value[: length - length % size]
            if tag == CHARACTER_SET:
                names = character_set(value, names)
            elif tag == 0x00280103 and value:
                signed = 1 in value
            elements[BaseTag(tag)] = RawDataElement(
                BaseTag(tag), vr, len(value), value, base + at, here, little
            )
            at = stop
        if undefined and self._strict:
            raise DataSetError("an item has no end")
        return self._finished(elements, implicit, names, inherited), at

    def _odd_vr(self, head: Any, at: int, end: int) -> tuple[bool, str | None, int, int]:
        """What a VR that is none means: implicit VR, or one of a later edition.

        New VRs have 32-bit lengths (PS3.5 §6.2); older ones that peers make up have not.
        """
        code = bytes(head[4:6])
        if not (code.isalpha() and code.isupper()):
            return True, None, self._implicit(head)[2], at
        if bytes(head[6:8]) == b"\0\0" and at + 4 <= end:
            (length,) = self._long(self._data[at : at + 4])
            if length == _UNDEFINED or at + 4 + length <= end:
                return False, "UN", length, at + 4
        return False, "UN", self._explicit(head)[3], at

    def _no_sequence(self) -> str:
        """The VR of the bytes of a sequence that has no items."""
        if self._strict:
            raise DataSetError("a sequence without items")
        return "OB"

    def _is_item(self, at: int, end: int) -> bool:
        head = self._data[at : at + 8]
        if at + 8 > end:
            return at == end and not self._strict
        group, element, _ = self._implicit(head)
        return group == 0xFFFE and element in (0xE000, 0xE0DD)

    def _items(
        self,
        at: int,
        end: int,
        implicit: bool,
        names: tuple[str, ...],
        signed: bool | None,
        depth: int,
        undefined: bool,
    ) -> tuple[list[Dataset] | None, int]:
        """The items of a sequence and where it ends; None if it does not begin with one."""
        items: list[Dataset] = []
        while at + 8 <= end:
            group, element, length = self._implicit(self._data[at : at + 8])
            tag = group << 16 | element
            if tag == _SEQUENCE_END:
                return items, at + 8
            if tag == _ITEM_END:
                at += 8
                continue
            if tag != _ITEM:
                return (items, at) if items else (None, at)
            at += 8
            if length != _UNDEFINED and at + length > end and self._strict:
                raise DataSetError("an item is longer than its sequence")
            stop = end if length == _UNDEFINED else min(at + length, end)
            item, after = self.data_set(
                at,
                stop,
                self.implicit_at(at, stop, implicit),
                names,
                signed,
                depth + 1,
                length == _UNDEFINED,
            )
            item.is_undefined_length_sequence_item = length == _UNDEFINED
            at = after if length == _UNDEFINED else stop
            items.append(item)
        if undefined and self._strict:
            raise DataSetError("a sequence has no end")
        return items, at

    def _fragments(self, at: int, end: int) -> tuple[int, int]:
        """Where a value of undefined length ends, and where the next element begins."""
        first = at
        while at + 8 <= end:
            self._count()  # one that ends in nothing is gone through again for each element
            group, element, length = self._implicit(self._data[at : at + 8])
            tag = group << 16 | element
            if tag == _SEQUENCE_END:
                return at, at + 8
            if tag != _ITEM or length == _UNDEFINED:
                return self._search(first, end)
            at += 8 + length
        if self._strict:
            raise DataSetError("a value of undefined length has no end")
        return end, end

    def _search(self, at: int, end: int) -> tuple[int, int]:
        delimiter = struct.pack(
            "<HH" if self._little else ">HH", _SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF
        )
        for chunk in range(at, end, _CHUNK):
            found = bytes(self._data[chunk : min(chunk + _CHUNK + 3, end)]).find(delimiter)
            if found >= 0:
                return chunk + found, min(chunk + found + 8, end)
        return end, end

    def _finished(
        self,
        elements: dict[BaseTag, Any],
        implicit: bool,
        names: tuple[str, ...],
        inherited: tuple[str, ...],
    ) -> Dataset:
        own = encodings(names)
        if names not in _BYTES_READ_WELL:
            mend_text(elements, names)
        parent = own if names == inherited else encodings(inherited)
        dataset = Dataset(elements, parent_encoding=list(parent))
        dataset.set_original_encoding(implicit, self._little, list(own))
        return dataset


def _dictionary_vr(tag: int, elements: dict[BaseTag, Any]) -> str | None:
    entry = DicomDictionary.get(tag)
    if entry is not None:
        return entry[0] if entry[0] != "NONE" else None
    if not tag >> 16 & 1:
        try:
            return dictionary_VR(tag) if tag & 0xFFFF else "UL"
        except KeyError:
            return "UN"
    if not tag & 0xFF00:
        return "LO" if tag & 0xFFFF >= 0x10 else "UN"
    creator = elements.get(BaseTag(tag & 0xFFFF0000 | tag >> 8 & 0xFF))
    if creator is None or not isinstance(creator, RawDataElement) or not creator.value:
        return "UN"
    try:
        return private_dictionary_VR(tag, creator.value.decode("latin_1").strip("\0 "))
    except KeyError:
        return "UN"


def _sequence(tag: int, items: list[Dataset], tell: int, undefined: bool) -> DataElement:
    sequence = Sequence(items)
    sequence.is_undefined_length = undefined
    return DataElement(BaseTag(tag), "SQ", sequence, tell, undefined, already_converted=True)
