"""The bytes of a data set to a pydicom Dataset (PS3.5 §7, Annex A).

Lenient, since what a peer has sent is what there is: a value that is cut off ends where
the bytes end, numbers lose the odd bytes behind the last whole one, an unknown VR is UN, a
data set or item in the other VR encoding than announced is read as it is. Sequences are
parsed at once and other values when they are accessed, so that a broken structure shows
here, as DataSetError, and not later as whatever pydicom would raise.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

from pydicom import config
from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from pydicom.valuerep import DS, IS, PersonName

from pacsroute import late
from pacsroute.dataset import charsets
from pacsroute.dataset.limits import LIMITS, Limits
from pacsroute.dataset.vr import (
    LONG_VRS,
    NUMBER_FORMATS,
    SINGLE_VRS,
    STRING_VRS,
    TEXT_VRS,
    WORD_SIZES,
    resolve_vr,
    syntax,
)
from pacsroute.errors import DataSetError

late.settle()

Source: TypeAlias = "bytes | bytearray | memoryview | BinaryIO"

_RATIO_FROM = 16 * 1_048_576

MAX_KEYS = 50_000
"""How many elements and items an identifier may have, those in sequences too."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_VRS = {vr.encode("ascii"): vr for vr in (*STRING_VRS, *WORD_SIZES, "SQ")}
_OCTETS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW"))
_BYTES_READ_WELL = (charsets.DEFAULT, ("ISO_IR 100",))
_CHUNK = 1 << 16


def parse(
    data: Source,
    transfer_syntax: str,
    *,
    defer_size: int | None = None,
    limits: Limits = LIMITS,
) -> Dataset:
    r"""The Dataset that some bytes are.

    Parameters
    ----------
    data : bytes-like or binary file
        A file has to be seekable and is read from where it stands.
    transfer_syntax : str
        A private one that nobody registered with pydicom is taken for explicit VR little
        endian, unless the first element shows that its VR is implicit.
    defer_size : int, optional
        Values of a file that are longer stay there until they are accessed, for which
        the file has to be open still or to be found by its name. Deflated data sets
        and values inside sequences are never deferred.
    limits : Limits
        How deep and how large it may be.

    Raises
    ------
    DataSetError
        Not a data set, nested too deeply, or inflated beyond the limit.

    Examples
    --------
    >>> parse(b"\x10\x00 \x00LO\x02\x001 ", "1.2.840.10008.1.2.1").PatientID
    '1'
    """
    return _parse(data, transfer_syntax, defer_size, limits, strict=False)


def identifier(data: Source, transfer_syntax: str, limits: Limits = LIMITS) -> Dataset:
    r"""The Dataset of a C-FIND, C-GET or C-MOVE identifier.

    All of its values are converted, so that no access raises: IS and DS that are not
    numbers stay str, dates and times are str always. Group lengths and groups 0000 and
    0002 are left out, in items too (PS3.4 §C.2.2.1.3).

    Parameters
    ----------
    data : bytes-like or binary file
        What the request holds.
    transfer_syntax : str
        That of the presentation context.
    limits : Limits
        How deep it may be.

    Raises
    ------
    DataSetError
        Not a data set, or one that is cut off.

    Examples
    --------
    >>> identifier(b"\x10\x00 \x00LO\x02\x001*", "1.2.840.10008.1.2.1").PatientID
    '1*'
    """
    limits = limits._replace(elements=min(limits.elements, MAX_KEYS))
    dataset = _parse(data, transfer_syntax, None, limits, strict=True)
    return _converted(dataset, charsets.DEFAULT)


def readable(data: Source, transfer_syntax: str, limits: Limits = LIMITS) -> Dataset:
    r"""The Dataset that some bytes are, as far as they go, for somebody to look at.

    As lenient as `parse`; all of its values are converted as those of an `identifier` are,
    so that no access raises or warns of them.

    Parameters
    ----------
    data : bytes-like
        A data set, or its beginning.
    transfer_syntax, limits
        As for `parse`.

    Raises
    ------
    DataSetError
        As for `parse`.

    Examples
    --------
    >>> readable(b"\x10\x00 \x00LO\x08\x0012", "1.2.840.10008.1.2.1").PatientID
    '12'
    """
    dataset = _parse(data, transfer_syntax, None, limits, strict=False)
    return _converted(dataset, charsets.DEFAULT)


def _parse(
    data: Source,
    transfer_syntax: str,
    defer_size: int | None,
    limits: Limits,
    *,
    strict: bool,
) -> Dataset:
    how = syntax(transfer_syntax)
    try:
        source: Any = data
        file = None
        if not isinstance(data, (bytes, bytearray, memoryview)):
            file, source = data, _File(data)
        elif isinstance(data, memoryview):
            source = data.cast("B") if data.format != "B" else data
        base = source.base if file is not None else 0
        if how.deflated:
            source, file, base = _inflated(bytes(source[0:]), limits), None, 0
        defer = defer_size if file is not None else None
        reader = _Reader(source, how.little, base, defer, strict, limits)
        implicit = reader.implicit_at(0, len(source), how.implicit, top=True)
        dataset, at = reader.data_set(0, len(source), implicit, charsets.DEFAULT, None, 0)
        rest = bytes(source[at : at + 8])
        if rest.strip(b"\0") and (strict or not len(dataset)):
            raise DataSetError("not a data set: less than a data element")
        if reader.deferred:
            dataset = _with_file(dataset, file)
        return dataset
    except DataSetError:
        raise
    except RecursionError:
        raise DataSetError("sequences are nested too deeply") from None
    except (struct.error, ValueError, TypeError, LookupError, ArithmeticError, OSError) as error:
        # the exceptions of pydicom and of struct quote the bytes they are about
        raise DataSetError(f"not a data set ({type(error).__name__})") from None


def _inflated(data: bytes, limits: Limits) -> bytes:
    most = min(limits.inflated, max(_RATIO_FROM, limits.ratio * len(data)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, most)
        if inflater.unconsumed_tail and inflater.decompress(inflater.unconsumed_tail, 1):
            limit = "max_inflated" if most == limits.inflated else "max_deflate_ratio"
            raise DataSetError(f"a deflated data set of more than {most} bytes: {limit}")
    except zlib.error:
        raise DataSetError("a data set that cannot be inflated") from None
    return inflated


def _with_file(dataset: Dataset, file: Any) -> Dataset:
    """A Dataset that can read its deferred values."""
    whole = FileDataset(BytesIO(), dataset)
    implicit, little = dataset.original_encoding
    whole.set_original_encoding(implicit, little, dataset.original_character_set)
    whole.buffer = file
    whole.fileobj_type = open
    name = getattr(file, "name", None)
    whole.filename = name if isinstance(name, str) else None
    return whole


class _File:
    """A file as a sequence of bytes, read in chunks, from where the file stands."""

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


class _Reader:
    """Reads data sets of one byte order out of something that can be sliced."""

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
        """The elements from `at` to `end` or an item delimiter, and where they end."""
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
                if undefined and tag == _ITEM_END:
                    return self._finished(elements, implicit, names, inherited), at
                if undefined:
                    return self._finished(elements, implicit, names, inherited), start
                continue
            if here:
                vr = self._dictionary_vr(tag, elements)
                if vr == "US or SS" and signed is not None:
                    vr = "SS" if signed else "US"
                elif vr == "OB or OW":
                    vr = "OB" if length == _UNDEFINED else "OW"
            if tag == 0 and length == 0:
                continue

            if length == _UNDEFINED:
                if vr in ("SQ", "UN", None) and self._is_item(at, end):
                    below = here or self.implicit_at(at + 8, end, here)
                    items, at = self._items(at, end, below, names, signed, depth, True)
                    if items is None:
                        raise DataSetError("a sequence without items")
                    elements[BaseTag(tag)] = self._sequence(tag, items, base + at, True)
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
                meant = self._dictionary_vr(tag, elements)
            sequence = meant == "SQ" and (vr == "SQ" or length > 0)
            if sequence:
                items, _ = self._items(at, stop, here or vr == "UN", names, signed, depth, False)
                if items is not None:
                    elements[BaseTag(tag)] = self._sequence(tag, items, base + at, False)
                    at = stop
                    continue
                vr = self._no_sequence()
            if (
                defer is not None
                and length > defer
                and depth == 0
                and tag != 0x00080005
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
            value = bytes(data[at:stop])
            size = WORD_SIZES.get(meant or "", 1) if meant != "US or SS" else 2
            if length % size and meant not in _OCTETS:
                value = value[: length - length % size]
            if tag == 0x00080005:
                names = charsets.terms(value.decode("latin_1").rstrip("\0 "))
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

    def _dictionary_vr(self, tag: int, elements: dict[BaseTag, Any]) -> str | None:
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

    def _sequence(self, tag: int, items: list[Dataset], tell: int, undefined: bool) -> DataElement:
        sequence = Sequence(items)
        sequence.is_undefined_length = undefined
        return DataElement(BaseTag(tag), "SQ", sequence, tell, undefined, already_converted=True)

    def _fragments(self, at: int, end: int) -> tuple[int, int]:
        """Where a value of undefined length ends, and where the next element begins."""
        first = at
        while at + 8 <= end:
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
        encodings = _encodings(names)
        if names not in _BYTES_READ_WELL:
            _mend_text(elements, names)
        parent = encodings if names == inherited else _encodings(inherited)
        dataset = Dataset(elements, parent_encoding=list(parent))
        dataset.set_original_encoding(implicit, self._little, list(encodings))
        return dataset


@lru_cache(256)
def _encodings(names: tuple[str, ...]) -> tuple[str, ...]:
    """Pydicom's names of the encodings, including of the one that it has not."""
    known = python_encoding | {"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}
    return tuple(known.get(name, "iso8859") for name in names or ("",))


# Values


def _mend_text(elements: dict[BaseTag, Any], names: tuple[str, ...]) -> None:
    """Decode what pydicom would get wrong, or complain about, when it is accessed."""
    for tag, raw in elements.items():
        if (
            isinstance(raw, RawDataElement)
            and raw.VR in TEXT_VRS
            and raw.value
            and not (raw.value.isascii() and b"\x1b" not in raw.value)
        ):
            value = _value(raw.VR, raw.value, raw.is_little_endian, names)
            elements[tag] = DataElement(tag, raw.VR, value, raw.value_tell, already_converted=True)


def _converted(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    raw_names = dataset.get_item(0x00080005)
    if isinstance(raw_names, RawDataElement):
        names = charsets.terms((raw_names.value or b"").decode("latin_1").rstrip("\0 "))
    for tag, element in dataset.items():
        if tag.element == 0 or tag.group in (0x0000, 0x0002):
            continue
        if isinstance(element, RawDataElement):
            vr, data = element.VR or "UN", element.value or b""
            if vr == "UN" and not tag.is_private and tag in DicomDictionary:
                vr = dictionary_VR(tag)
            if len(vr) > 2:
                vr = resolve_vr(vr, tag, data, (dataset,), True)
            value = _value(vr, data, element.is_little_endian, names)
            elements[tag] = DataElement(tag, vr, value, element.value_tell, already_converted=True)
        else:
            if element.VR == "SQ":
                items = [_converted(item, names) for item in element.value]
                element.value = Sequence(items)
            elements[tag] = element
    converted = Dataset(elements, parent_encoding=list(_encodings(names)))
    implicit, little = dataset.original_encoding
    converted.set_original_encoding(implicit, little, list(_encodings(names)))
    return converted


def _value(vr: str, data: bytes, little: bool, names: Iterable[str]) -> Any:
    """A value as pydicom has it, without its warnings, which quote values."""
    if vr in STRING_VRS:
        return _strings(vr, data, tuple(names))
    if not data:
        return empty_value_for_VR(vr)
    order = "<" if little else ">"
    if vr in NUMBER_FORMATS:
        count = len(data) // WORD_SIZES[vr]
        size = count * WORD_SIZES[vr]
        return _one_or_more(struct.unpack(f"{order}{count}{NUMBER_FORMATS[vr]}", data[:size]))
    if vr == "AT":
        words = struct.unpack(f"{order}{len(data) // 4 * 2}H", data[: len(data) // 4 * 4])
        return _one_or_more([Tag(g, e) for g, e in zip(words[::2], words[1::2], strict=True)])
    return data


def _strings(vr: str, data: bytes, names: tuple[str, ...]) -> Any:
    text = charsets.decode(data, names, vr) if vr in TEXT_VRS else data.decode("latin_1")
    text = text.rstrip("\0 ")
    if not text:
        return empty_value_for_VR(vr)
    values = [text] if vr in SINGLE_VRS else [v.rstrip("\0 ") for v in text.split("\\")]
    return _one_or_more([_string(vr, v, names) for v in values])


def _string(vr: str, text: str, names: tuple[str, ...]) -> Any:
    if vr == "PN":
        encodings = list(_encodings(names))
        return PersonName(text, encodings, validation_mode=config.IGNORE)
    if vr == "UI":
        return UID(text, config.IGNORE)
    if vr == "AE":
        return text.strip()
    if vr in ("DS", "IS"):
        try:
            number = IS if vr == "IS" else DS
            return number(text, validation_mode=config.IGNORE)
        except (ValueError, TypeError, ArithmeticError):
            return text
    return text


def _same(value: Any) -> Any:
    return value


def _one_or_more(values: Any) -> Any:
    if not values:
        return None
    return values[0] if len(values) == 1 else MultiValue(_same, values)
