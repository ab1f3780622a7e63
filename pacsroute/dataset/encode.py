"""Rows and Datasets to the bytes of a data set (PS3.5 §7, Annex A).

`encode` writes one data set; `RowEncoder` writes many rows in answer to one C-FIND
identifier. Sequences and items have defined lengths. Text is written in the default
repertoire where it fits, then in the set that was asked for, then in UTF-8: no character
is ever lost and none raises. Error messages name keywords and types, never values.
"""

from __future__ import annotations

import difflib
import math
import operator
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import (
    dictionary_VR,
    keyword_for_tag,
    private_dictionary_VR,
    tag_for_keyword,
)
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, PrivateTransferSyntaxes
from pydicom.valuerep import PersonName, format_number_as_ds

from pacsroute.dataset import charsets
from pacsroute.errors import DataSetError

Row: TypeAlias = "Mapping[str, Any] | Dataset"

TEXT_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
SINGLE_VRS = frozenset(("LT", "ST", "UR", "UT"))
STRING_VRS = TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
NUMBER_FORMATS = {
    "FD": "d",
    "FL": "f",
    "SL": "i",
    "SS": "h",
    "SV": "q",
    "UL": "I",
    "US": "H",
    "UV": "Q",
}
WORD_SIZES = {vr: struct.calcsize(f) for vr, f in NUMBER_FORMATS.items()} | {
    "AT": 2,
    "OB": 1,
    "OD": 8,
    "OF": 4,
    "OL": 4,
    "OV": 8,
    "OW": 2,
    "UN": 1,
}
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))

_CHARACTER_SET = 0x00080005
_LEVEL = 0x00080052
_TIME_ZONE = 0x00080201
_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_ITEM = b"\xfe\xff\x00\xe0"
_PLANS = 256
_GE_PRIVATE = "1.2.840.113619.5.2"


class Syntax(NamedTuple):
    """How a transfer syntax encodes a data set (PS3.5 Annex A); `known` or guessed."""

    implicit: bool = False
    little: bool = True
    deflated: bool = False
    encapsulated: bool = False
    known: bool = True


@lru_cache(256)
def syntax(uid: str) -> Syntax:
    """How a transfer syntax encodes a data set.

    What is not in the dictionary is taken for an encapsulated one, hence explicit VR
    little endian (PS3.5 §A.4), unless it was registered with pydicom.

    Parameters
    ----------
    uid : str
        The transfer syntax.

    Examples
    --------
    >>> syntax("1.2.840.10008.1.2").implicit
    True
    """
    known = UID(uid)
    if uid == _GE_PRIVATE:
        return Syntax(implicit=True)
    if known in PrivateTransferSyntaxes:
        known = PrivateTransferSyntaxes[PrivateTransferSyntaxes.index(known)]
    if not known.is_transfer_syntax:
        return Syntax(encapsulated=True, known=False)
    return Syntax(
        known.is_implicit_VR, known.is_little_endian, known.is_deflated, known.is_compressed
    )


def encode(
    row: Row, transfer_syntax: str, *, charset: str | Iterable[str | None] | None = None
) -> bytes:
    r"""The bytes of one data set.

    Parameters
    ----------
    row : mapping of str or Dataset
        Keywords and values, or a Dataset. None is a value of length zero; lists and
        tuples are several values; a list of rows is a sequence. Groups 0000 and 0002 and
        group lengths are left out. The bytes of OW, OF, OL, OD and OV in a mapping are
        little endian.
    transfer_syntax : str
        Encapsulated ones are explicit VR little endian (PS3.5 §A.4).
    charset : str or iterable of str, optional
        The Specific Character Set to write text in that is not ASCII; the row's own
        without. What it cannot encode turns the data set to ISO_IR 192.

    Raises
    ------
    DataSetError
        An unknown keyword, or a value that does not fit its VR.

    Examples
    --------
    >>> encode({"PatientID": "1"}, "1.2.840.10008.1.2.1")
    b'\x10\x00 \x00LO\x02\x001 '
    """
    how = syntax(transfer_syntax)
    own = row.get("SpecificCharacterSet")
    preferred = charsets.terms(charset) or charsets.terms(own)
    body, _ = _in_a_charset(_whole(how), row, preferred, preferred if own else charsets.DEFAULT)
    return _deflate(body) if how.deflated else body


class RowEncoder:
    r"""The data sets of the responses to one C-FIND (PS3.4 §C.4.1.1.3.2).

    Only what the identifier asks for is encoded, inside sequences too: a sequence key
    without an item, or with an empty one, asks for all of the sequence. Time zone offsets
    are kept in any case.

    Parameters
    ----------
    transfer_syntax : str
        That of the presentation context.
    identifier : Dataset, optional
        The request's; all of a row is encoded without.
    always : mapping of str, optional
        What every response has; values of the row win over these.
    charset : str or iterable of str, optional
        The set of responses that are not ASCII; the identifier's own without. A row that
        it cannot encode goes as ISO_IR 192.

    Raises
    ------
    DataSetError
        An unknown keyword in `always`.

    Examples
    --------
    >>> asked = Dataset()
    >>> asked.PatientID = asked.PatientName = ""
    >>> RowEncoder("1.2.840.10008.1.2.1", asked).encode({"PatientID": "1", "Modality": "CT"})
    (b'\x10\x00 \x00LO\x02\x001 ', False)
    """

    def __init__(
        self,
        transfer_syntax: str,
        identifier: Dataset | None = None,
        *,
        always: Mapping[str, Any] | None = None,
        charset: str | Iterable[str | None] | None = None,
    ) -> None:
        how = syntax(transfer_syntax)
        self._deflated = how.deflated
        self._charset = charsets.terms(charset)
        wanted = None
        if identifier is not None:
            wanted = _wanted(identifier)
            self._charset = self._charset or charsets.terms(identifier.get("SpecificCharacterSet"))
        for keyword in always or {}:
            _tag(keyword)
        self._encoder = _Encoder(how, wanted, always)

    def encode(self, row: Row) -> tuple[bytes, bool]:
        """The data set of one row, and whether the row has all that was asked for.

        Parameters
        ----------
        row : mapping of str or Dataset
            What matched.

        Returns
        -------
        bytes
            The data set, with a Specific Character Set only if it needs one.
        bool
            False when a key that was asked for is not in the row: the response is then
            Pending with warning, 0xFF01.

        Raises
        ------
        DataSetError
            An unknown keyword, or a value that does not fit its VR.
        """
        body, complete = _in_a_charset(self._encoder, row, self._charset, charsets.DEFAULT)
        return (_deflate(body) if self._deflated else body), complete


def _in_a_charset(
    encoder: _Encoder, row: Row, preferred: tuple[str, ...], ascii_as: tuple[str, ...]
) -> tuple[bytes, bool]:
    try:
        try:
            return encoder.data_set(row, charsets.DEFAULT, ascii_as, ())
        except UnicodeEncodeError:
            pass
        if preferred:
            try:
                return encoder.data_set(row, preferred, preferred, ())
            except UnicodeEncodeError:
                pass
        return encoder.data_set(row, charsets.UTF8, charsets.UTF8, ())
    except RecursionError:
        raise DataSetError("sequences are nested too deeply") from None


def _deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = compressor.compress(body) + compressor.flush()
    return deflated + b"\0" if len(deflated) & 1 else deflated


# What an identifier asks for


class _Wanted(NamedTuple):
    """The keys of an identifier; those of a sequence in turn, None for all of them."""

    keys: dict[int, _Wanted | None]
    private: list[tuple[int, str, int, _Wanted | None]]


def _wanted(identifier: Dataset) -> _Wanted:
    wanted = _Wanted({}, [])
    for tag in identifier.keys():  # noqa: SIM118 - iterating a Dataset converts its elements
        if tag in (_CHARACTER_SET, _TIME_ZONE) or _never_written(tag):
            continue
        nested = None
        if _vr_of(identifier, tag) == "SQ":
            for item in identifier[tag].value or ():
                inner = _wanted(item)
                if inner.keys or inner.private:
                    nested = _merged(nested, inner)
        if not tag.is_private:
            wanted.keys[tag] = nested
        elif not tag.is_private_creator:
            creator = identifier.get(Tag(tag.group, tag.element >> 8))
            name = str(creator.value) if creator is not None else ""
            wanted.private.append((tag.group, name, tag.element & 0xFF, nested))
    return wanted


def _merged(one: _Wanted | None, other: _Wanted) -> _Wanted:
    if one is None:
        return other
    return _Wanted(one.keys | other.keys, one.private + other.private)


def _never_written(tag: int) -> bool:
    return tag & 0xFFFF == 0 or tag >> 16 in (0x0000, 0x0002)


def _vr_of(dataset: Dataset, tag: int) -> str:
    element = dataset.get_item(tag, keep_deferred=True)
    vr = element.VR if element is not None else None
    return vr or _implicit_vr(dataset, tag)


def _implicit_vr(dataset: Dataset, tag: int) -> str:
    try:
        if not Tag(tag).is_private:
            return dictionary_VR(tag)
        if Tag(tag).is_private_creator:
            return "LO"
        creator = dataset.get((tag >> 16, tag >> 8 & 0xFF))
        return private_dictionary_VR(tag, str(creator.value)) if creator is not None else "UN"
    except KeyError:
        return "UN"


@lru_cache(4096)
def _tag(keyword: str) -> tuple[int, str]:
    """The tag and VR of a keyword."""
    tag = tag_for_keyword(keyword) if isinstance(keyword, str) else None
    if not keyword or tag is None or tag >> 16 == 0xFFFE:
        raise DataSetError(_unknown(keyword))
    return tag, dictionary_VR(tag)


def _unknown(keyword: object) -> str:
    if not isinstance(keyword, str):
        return f"the keys of a row are keywords, not {type(keyword).__name__}"
    names = [entry[4] for entry in DicomDictionary.values()]
    near = difflib.get_close_matches(keyword, names, 1)
    return f"no such keyword: {keyword!r}" + (f"; did you mean {near[0]!r}?" if near else "")


# Values


def _several(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """The values of something that has several, None when it is one."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return list(value)
    return None


def _string(value: Any, vr: str) -> str:
    if isinstance(value, str):
        return value
    if (many := _several(value)) is not None:
        if vr in SINGLE_VRS and len(many) > 1:
            raise ValueError("one value only")
        return "\\".join("" if v is None else _FORMATS.get(vr, _plain)(v) for v in many)
    return _FORMATS.get(vr, _plain)(value)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError


def _name(value: Any) -> str:
    return str(value) if isinstance(value, PersonName) else _plain(value)


def _original(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """What pydicom read is written as it was."""

    def formatted(value: Any) -> str:
        if isinstance(value, bool):
            raise TypeError
        original = value if isinstance(value, str) else getattr(value, "original_string", None)
        return original if isinstance(original, str) else function(value)

    return formatted


@_original
def _date(value: Any) -> str:
    if not isinstance(value, date):
        raise TypeError
    return f"{value.year:04}{value.month:02}{value.day:02}"


@_original
def _time(value: Any) -> str:
    if not isinstance(value, (time, datetime)):
        raise TypeError
    fraction = f".{value.microsecond:06}" if value.microsecond else ""
    return f"{value.hour:02}{value.minute:02}{value.second:02}{fraction}"


@_original
def _date_time(value: Any) -> str:
    text = _date(value)
    if isinstance(value, datetime):
        text += _time(value)
        if (offset := value.utcoffset()) is not None:
            minutes = round(offset.total_seconds() / 60)
            text += f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    return text


@_original
def _integer_string(value: Any) -> str:
    number = int(value)
    if number != value or not -(2**31) <= number < 2**31:
        raise ValueError
    return str(number)


@_original
def _decimal_string(value: Any) -> str:
    if hasattr(value, "__index__"):
        value = operator.index(value)
        if len(text := str(value)) <= 16:
            return text
        text = format_number_as_ds(float(value))
        if Decimal(text) != value:
            raise ValueError
        return text
    if not isinstance(value, Decimal):
        value = float(value)
    text = str(value)
    if len(text) > 16 or not math.isfinite(value):
        text = format_number_as_ds(value)
    if not math.isfinite(float(text)):
        # the largest numbers, rounded up beyond what a reader can hold
        raise ValueError
    return text


_FORMATS: dict[str, Callable[[Any], str]] = {
    "DA": _date,
    "DS": _decimal_string,
    "DT": _date_time,
    "IS": _integer_string,
    "PN": _name,
    "TM": _time,
}


def _string_bytes(text: str, vr: str, target: tuple[str, ...]) -> bytes:
    if vr in TEXT_VRS:
        return charsets.encode(text, target, vr)
    # Such a VR has the default repertoire; what a peer put there beyond it was read as
    # Latin-1, and gets its own bytes back.
    try:
        return text.encode("latin_1")
    except UnicodeEncodeError:
        if target == charsets.DEFAULT:
            raise
        return text.encode("utf_8", "replace")


def _numbers(value: Any, vr: str, order: str) -> bytes:
    if hasattr(value, "tolist"):
        value = value.tolist()
    many = _several(value)
    if many is None:
        many = (value,)
    if any(isinstance(v, (str, bytes, bool)) for v in many):
        raise TypeError
    convert: Callable[[Any], Any] = float if vr in ("FD", "FL") else operator.index
    return struct.pack(f"{order}{len(many)}{NUMBER_FORMATS[vr]}", *map(convert, many))


def _tags(value: Any, order: str) -> bytes:
    many = _several(value)
    if many is None or (
        isinstance(value, tuple) and len(value) == 2 and all(type(v) is int for v in value)
    ):
        many = (value,)
    if any(isinstance(v, (bool, float, bytes)) for v in many):
        raise TypeError
    tags = [Tag(v) for v in many]
    return b"".join(struct.pack(order + "HH", t >> 16, t & 0xFFFF) for t in tags)


def _octets(value: Any, size: int, swap: bool) -> bytes:
    if hasattr(value, "getbuffer"):
        value = value.getbuffer()
    elif hasattr(value, "read"):
        start = value.tell()
        data = value.read()
        value.seek(start)
        value = data
    data = value if isinstance(value, bytes) else memoryview(value).tobytes()
    return _swapped(data, size) if swap else data


def _swapped(data: bytes, size: int) -> bytes:
    if size == 1:
        return data
    data += b"\0" * (-len(data) % size)
    out = bytearray(len(data))
    for i in range(size):
        out[i::size] = data[size - 1 - i :: size]
    return bytes(out)


def resolve_vr(vr: str, tag: int, value: Any, rows: Sequence[Row], implicit: bool) -> str:
    """The VR of an element that has a choice (PS3.5 §A.1, §A.2; PS3.3 C.7.6.3)."""
    if "US" not in vr:
        if tag == _PIXEL_DATA:
            bits = _first(rows, "BitsAllocated")
        elif tag >> 16 == 0x5400:
            bits = _first(rows, "WaveformBitsAllocated")
        else:
            bits = None
        return "OB" if not implicit and isinstance(bits, int) and bits <= 8 else "OW"
    if "OW" in vr and (value is None or isinstance(value, (bytes, bytearray, memoryview))):
        return "OW"
    if isinstance(value, (bytes, bytearray)):
        return "SS" if _first(rows, "PixelRepresentation") == 1 else "US"
    many = _several(value)
    numbers = [v for v in (many if many is not None else (value,)) if isinstance(v, int)]
    if any(v < 0 for v in numbers):
        return "SS"
    # the first value of a LUT descriptor is a count, whatever the pixels are
    signed = "SS" in vr and _first(rows, "PixelRepresentation") == 1
    return "SS" if signed and all(v < 0x8000 for v in numbers) else "US"


def _first(rows: Sequence[Row], keyword: str) -> Any:
    for row in rows:
        if (value := row.get(keyword)) is not None:
            return value
    return None


# Elements and data sets

_TABLE = 1024
_LENGTHS = {
    code: tuple(struct.pack(code, n) for n in range(_TABLE)) for code in ("<H", "<I", ">H", ">I")
}

_Entry: TypeAlias = (
    "tuple[str, bytes, tuple[bytes, ...], bytes, str | None, Callable[[Any], bytes] | None]"
)


class _Plan(NamedTuple):
    """How rows of one set of keys are written.

    An entry has its keyword, the bytes up to the length (with the constant elements that
    come before), the table of lengths, the padding, the codec of a str that needs no
    conversion, and the conversion of anything else: None where that depends on the row.
    """

    entries: list[_Entry]
    tail: bytes
    complete: bool


class _DatasetPlan(NamedTuple):
    entries: list[tuple[int, bytes]]
    tail: bytes
    complete: bool


class _Encoder:
    """Writes rows of one syntax that were asked for in one way."""

    def __init__(
        self,
        how: Syntax,
        wanted: _Wanted | None = None,
        always: Mapping[str, Any] | None = None,
    ) -> None:
        self._how = how
        self._order = "<" if how.little else ">"
        self._long = _LENGTHS[self._order + "I"]
        self._short = self._long if how.implicit else _LENGTHS[self._order + "H"]
        self._wanted = wanted
        self._always = dict(always or {})
        self._always.pop("SpecificCharacterSet", None)
        self._always_tags = {_tag(k)[0] for k in self._always}
        self._plans: dict[tuple[Any, ...], dict[tuple[Any, ...], _Plan]] = {}
        self._dataset_plans: dict[tuple[Any, ...], _DatasetPlan] = {}
        self._children: dict[int, _Encoder] = {}
        self._plain_plans: dict[tuple[Any, ...], _Plan] = {}

    def data_set(
        self,
        row: Row,
        target: tuple[str, ...],
        specific: tuple[str, ...],
        above: tuple[Row, ...],
    ) -> tuple[bytes, bool]:
        """The bytes of a row with text in `target` and `specific` as its (0008,0005).

        Raises UnicodeEncodeError when a character is not in the target.
        """
        if isinstance(row, Dataset):
            return self._from_dataset(row, target, specific, above)
        if target or specific:
            plans = self._plans.setdefault((target, specific), {})
        else:
            plans = self._plain_plans
        try:
            plan = plans.get(tuple(row))
        except TypeError:
            raise DataSetError(f"a row is a mapping or a Dataset, not {_kind(row)}") from None
        if plan is None:
            if not isinstance(row, Mapping):
                raise DataSetError(f"a row is a mapping or a Dataset, not {_kind(row)}")
            plan = self._plan(tuple(row), target, specific)
            if len(plans) >= _PLANS:
                plans.clear()
            plans[tuple(row)] = plan
        entries, tail, complete = plan
        parts: list[bytes] = []
        key, value = "", None
        try:
            for key, head, lengths, pad, codec, convert in entries:
                value = row[key]
                if codec is not None and value.__class__ is str:
                    raw = value.encode(codec)
                elif convert is not None:
                    raw = convert(value)
                else:
                    tag, vr = _tag(key)
                    parts.append(head)
                    element, whole = self._element(tag, vr, value, target, (row, *above))
                    complete = complete and whole
                    parts.append(element)
                    continue
                length = len(raw)
                if length & 1:
                    raw += pad
                    length += 1
                if length < _TABLE:
                    parts += (head, lengths[length], raw)
                else:
                    parts += (self._head(head, length, lengths is self._long), raw)
        except (UnicodeEncodeError, DataSetError):
            raise
        except (TypeError, ValueError, ArithmeticError, struct.error):
            raise DataSetError(_misfit(key, value)) from None
        parts.append(tail)
        return b"".join(parts), complete

    def _plan(
        self, keys: tuple[str, ...], target: tuple[str, ...], specific: tuple[str, ...]
    ) -> _Plan:
        wanted = self._wanted
        found = {_tag(key)[0]: key for key in keys}
        constants = self._constants(found, target, specific)
        todo: dict[int, str | bytes] = {**constants}
        for tag, key in found.items():
            if tag != _CHARACTER_SET and not _never_written(tag) and self._asked(tag):
                todo[tag] = key
        entries: list[_Entry] = []
        before = b""
        for tag, what in sorted(todo.items()):
            if isinstance(what, bytes):
                before += what
            else:
                entries.append(self._entry(tag, what, before, target))
                before = b""
        complete = wanted is None or not (
            wanted.private or self._required(wanted) - found.keys() - self._always_tags
        )
        return _Plan(entries, before, complete)

    def _asked(self, tag: int) -> bool:
        return (
            self._wanted is None
            or tag in self._wanted.keys
            or tag == _TIME_ZONE
            or tag in self._always_tags
        )

    @staticmethod
    def _required(wanted: _Wanted) -> set[int]:
        return set(wanted.keys) - {_LEVEL}

    def _constants(
        self, found: Iterable[int], target: tuple[str, ...], specific: tuple[str, ...]
    ) -> dict[int, bytes]:
        """The elements of `always` that the row has not, and the character set."""
        constants = {}
        for keyword, value in self._always.items():
            tag, vr = _tag(keyword)
            if tag not in found:
                constants[tag] = self._checked(tag, vr, value, target, (self._always,))[0]
        if specific:
            constants[_CHARACTER_SET] = self._framed(
                _CHARACTER_SET, "CS", "\\".join(specific).encode("ascii")
            )
        return constants

    def _entry(self, tag: int, key: str, before: bytes, target: tuple[str, ...]) -> _Entry:
        vr = _tag(key)[1]
        lengths = self._long if vr in LONG_VRS else self._short
        if vr == "SQ" or " or " in vr or (tag == _PIXEL_DATA and self._how.encapsulated):
            return key, before, lengths, b"", None, None
        head = before + self._prefix(tag, vr)
        codec = None
        if vr in STRING_VRS and not target:
            codec = "ascii" if vr in TEXT_VRS else "latin_1"

        def convert(value: Any) -> bytes:
            return self._value(vr, value, target, swap=not self._how.little)

        return key, head, lengths, _pad(vr), codec, convert

    def _from_dataset(
        self,
        row: Dataset,
        target: tuple[str, ...],
        specific: tuple[str, ...],
        above: tuple[Row, ...],
    ) -> tuple[bytes, bool]:
        # plain ints: a BaseTag compares in Python
        elements = dict(zip(map(int, row.keys()), row.values(), strict=True))
        private, missing = self._private(row, elements)
        key = (target, specific, tuple(elements), tuple(private))
        plan = self._dataset_plans.get(key)
        if plan is None:
            plan = self._dataset_plan(elements, private, target, specific)
            if len(self._dataset_plans) >= _PLANS:
                self._dataset_plans.clear()
            self._dataset_plans[key] = plan
        entries, tail, complete = plan
        complete = complete and not missing
        parts: list[bytes] = []
        rows = (row, *above)
        for tag, before in entries:
            element = elements[tag]
            if before:
                parts.append(before)
            if isinstance(element, RawDataElement):
                if element.value is None and element.length:
                    element = row[tag]
                elif (raw := self._raw(row, element, target, rows)) is not None:
                    parts.append(raw)
                    continue
                else:
                    element = row[tag]
            vr, value = element.VR, element.value
            if vr in STRING_VRS and isinstance(value, (str, PersonName)):
                # the most frequent case, without the calls of the general one
                text = str(value)
                raw = text.encode("ascii") if text.isascii() else _string_bytes(text, vr, target)
                parts.append(self._framed(tag, vr, raw))
                continue
            if element.is_undefined_length and vr != "SQ" and isinstance(value, bytes):
                parts.append(self._framed(tag, vr, value, undefined=True))
                continue
            little = row.original_encoding[1]
            inner = private.get(tag) if private else None
            done, whole = self._checked(
                tag, vr, value, target, rows, inner=inner, little=little is not False
            )
            parts.append(done)
            complete = complete and whole
        parts.append(tail)
        return b"".join(parts), complete

    def _dataset_plan(
        self,
        elements: dict[int, Any],
        private: Mapping[int, Any],
        target: tuple[str, ...],
        specific: tuple[str, ...],
    ) -> _DatasetPlan:
        wanted = self._wanted
        todo: dict[int, bytes | None] = {**self._constants(elements, target, specific)}
        for tag in elements:
            if tag == _CHARACTER_SET or _never_written(tag):
                continue
            if self._asked(tag) or tag in private:
                todo[tag] = None
        entries: list[tuple[int, bytes]] = []
        before = b""
        for tag, constant in sorted(todo.items()):
            if constant is None:
                entries.append((tag, before))
                before = b""
            else:
                before += constant
        required = set() if wanted is None else self._required(wanted)
        return _DatasetPlan(entries, before, not required - elements.keys() - self._always_tags)

    def _private(
        self, row: Dataset, elements: dict[int, Any]
    ) -> tuple[dict[int, _Wanted | None], bool]:
        """The private elements asked for, which may be in another block of this row."""
        if self._wanted is None or not self._wanted.private:
            return {}, False
        found: dict[int, _Wanted | None] = {}
        blocks = {
            (tag >> 16, str(row[tag].value).strip()): tag & 0xFFFF
            for tag in elements
            if Tag(tag).is_private_creator
        }
        missing = False
        for group, creator, element, nested in self._wanted.private:
            block = blocks.get((group, creator.strip()))
            tag = group << 16 | (block or 0) << 8 | element
            if block is not None and tag in elements:
                found[group << 16 | block] = None
                found[tag] = nested
            else:
                missing = True
        return found, missing

    def _raw(
        self, row: Dataset, element: RawDataElement, target: tuple[str, ...], rows: Sequence[Row]
    ) -> bytes | None:
        """An element as it was read, None if its value has to be converted."""
        tag, value = int(element.tag), element.value or b""
        vr = element.VR or _implicit_vr(row, tag)
        how = self._how
        if len(vr) > 2:
            vr = resolve_vr(vr, tag, value, rows, element.is_implicit_VR)
        undefined = element.length == _UNDEFINED
        if vr in STRING_VRS:
            if vr in TEXT_VRS and not (value.isascii() and b"\x1b" not in value):
                source = _source(row)
                if source != target:
                    text = charsets.decode(value, source, vr).rstrip("\0 ")
                    value = charsets.encode(text, target, vr)
        elif vr == "SQ":
            same = element.is_implicit_VR is how.implicit and element.is_little_endian is how.little
            if undefined or self._wanted is not None or not same or _source(row) != target:
                return None
        elif element.is_little_endian is not how.little and not undefined:
            value = _swapped(value, WORD_SIZES.get(vr, 1))
        return self._framed(tag, vr, value, undefined=undefined)

    def _checked(
        self,
        tag: int,
        vr: str,
        value: Any,
        target: tuple[str, ...],
        rows: Sequence[Row],
        *,
        inner: _Wanted | None = None,
        little: bool = True,
    ) -> tuple[bytes, bool]:
        try:
            return self._element(tag, vr, value, target, rows, inner=inner, little=little)
        except (UnicodeEncodeError, DataSetError):
            raise
        except (TypeError, ValueError, ArithmeticError, struct.error):
            if isinstance(value, bytes) and isinstance(rows[0], Dataset):
                # what pydicom could not convert, it keeps as the bytes that came
                return self._framed(tag, vr if len(vr) == 2 else "UN", value), True
            name = keyword_for_tag(tag) or str(Tag(tag))
            raise DataSetError(_misfit(name, value)) from None

    def _element(
        self,
        tag: int,
        vr: str,
        value: Any,
        target: tuple[str, ...],
        rows: Sequence[Row],
        *,
        inner: _Wanted | None = None,
        little: bool = True,
    ) -> tuple[bytes, bool]:
        if vr == "SQ":
            return self._sequence(tag, value, target, tuple(rows), inner)
        encapsulated = (
            tag == _PIXEL_DATA
            and self._how.encapsulated
            and isinstance(value, (bytes, bytearray))
            and value.startswith(_ITEM)
        )
        if encapsulated:
            return self._framed(tag, "OB", bytes(value), undefined=True), True
        if len(vr) > 2:
            vr = resolve_vr(vr, tag, value, rows, self._how.implicit)
        data = self._value(vr, value, target, swap=little is not self._how.little)
        return self._framed(tag, vr, data), True

    def _sequence(
        self,
        tag: int,
        value: Any,
        target: tuple[str, ...],
        rows: tuple[Row, ...],
        inner: _Wanted | None,
    ) -> tuple[bytes, bool]:
        items = () if value is None else _several(value)
        if items is None:
            raise TypeError
        child = self._child(tag, inner)
        complete = True
        parts: list[bytes] = []
        item_tag = _ITEM if self._how.little else b"\xff\xfe\xe0\x00"
        for item in items:
            data, whole = child.data_set(item, target, charsets.DEFAULT, rows)
            complete = complete and whole
            parts += (item_tag, struct.pack(self._order + "I", len(data)), data)
        return self._framed(tag, "SQ", b"".join(parts)), complete

    def _child(self, tag: int, inner: _Wanted | None) -> _Encoder:
        if inner is None and self._wanted is not None:
            inner = self._wanted.keys.get(tag)
        if inner is None:
            return _whole(self._how)
        child = self._children.get(id(inner))
        if child is None:
            child = self._children[id(inner)] = _Encoder(self._how, inner)
        return child

    def _value(self, vr: str, value: Any, target: tuple[str, ...], *, swap: bool) -> bytes:
        if value is None or (value == "" and vr not in STRING_VRS):
            return b""
        if vr in STRING_VRS:
            return _string_bytes(_string(value, vr), vr, target)
        if vr in NUMBER_FORMATS:
            return _numbers(value, vr, self._order)
        if vr == "AT":
            return _tags(value, self._order)
        return _octets(value, WORD_SIZES.get(vr, 1), swap)

    def _prefix(self, tag: int, vr: str) -> bytes:
        return _prefix(tag, vr, self._order, self._how.implicit)

    def _head(self, prefix: bytes, length: int, is_long: bool) -> bytes:
        """The prefix of an element and its length."""
        if length >= _UNDEFINED:
            raise DataSetError("a value is longer than 4 GB")
        if is_long:
            return prefix + struct.pack(self._order + "I", length)
        if length > 0xFFFF:
            # PS3.5 §6.2.2: what is too long for its VR goes as UN
            return prefix[:-2] + b"UN\0\0" + struct.pack(self._order + "I", length)
        return prefix + struct.pack(self._order + "H", length)

    def _framed(self, tag: int, vr: str, value: bytes, *, undefined: bool = False) -> bytes:
        """An element: tag, VR, length, and its value made even."""
        prefix = self._prefix(tag, vr)
        length = len(value)
        if undefined:
            delimiter = b"\xfe\xff\xdd\xe0" if self._how.little else b"\xff\xfe\xe0\xdd"
            return prefix + b"\xff\xff\xff\xff" + value + delimiter + b"\0\0\0\0"
        if length & 1:
            value += _pad(vr)
            length += 1
        is_long = self._how.implicit or len(prefix) == 8
        if length < _TABLE:
            return prefix + (self._long if is_long else self._short)[length] + value
        return self._head(prefix, length, is_long) + value


@lru_cache(16)
def _whole(how: Syntax) -> _Encoder:
    """The encoder of all of any row."""
    return _Encoder(how)


@lru_cache(16384)
def _prefix(tag: int, vr: str, order: str, implicit: bool) -> bytes:
    prefix = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return prefix
    return prefix + vr.encode("ascii") + (b"\0\0" if vr in LONG_VRS else b"")


def _source(row: Dataset) -> tuple[str, ...]:
    """The character set that the raw values of a Dataset are in."""
    return charsets.terms(row.original_character_set or row.get("SpecificCharacterSet"))


def _pad(vr: str) -> bytes:
    return b" " if vr in STRING_VRS and vr != "UI" else b"\0"


def _kind(value: Any) -> str:
    return type(value).__name__


def _misfit(name: str, value: Any) -> str:
    entry = tag_for_keyword(name)
    vr = f" of VR {dictionary_VR(entry)}" if entry is not None else ""
    return f"{name}: not a value{vr} (type {_kind(value)})"
