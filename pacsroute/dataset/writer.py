"""Elements, rows and Datasets to bytes, in one character set and one syntax (PS3.5 §7.1).

Each set of keys gets a plan, which its rows share. One class handles rows and Datasets, since each
may contain the other as items.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

from pacsroute.dataset import charsets
from pacsroute.dataset.keywords import keyword_tag, tag_and_vr
from pacsroute.dataset.received import Received, ReceivedSequence
from pacsroute.dataset.value_writer import pad, string_bytes, swapped, to_bytes
from pacsroute.dataset.vr import (
    LONG_VRS,
    PIXEL_DATA,
    STRING_VRS,
    TEXT_VRS,
    WAVEFORMS,
    WORD_SIZES,
    Row,
    Syntax,
    resolve_vr,
    several,
)
from pacsroute.dataset.wanted import CHARACTER_SET, TIME_ZONE, Wanted, implicit_vr, never_written
from pacsroute.errors import DataSetError

_NO_KEYS = {0x00080052, 0x00080053}  # the level and the view, which are not keys
_UNDEFINED = 0xFFFFFFFF
_ITEM = b"\xfe\xff\x00\xe0"
_PLANS = 256
_PLANNED = 2048  # maximum elements of a Dataset with a cached plan: a peer may send a million
_TABLE = 1024
_LENGTHS = {
    code: tuple(struct.pack(code, n) for n in range(_TABLE)) for code in ("<H", "<I", ">H", ">I")
}

_Entry: TypeAlias = (
    "tuple[str, bytes, tuple[bytes, ...], bytes, str | None, Callable[[Any], bytes] | None]"
)


class _Plan(NamedTuple):
    """How rows of one set of keys are written.

    An entry has its keyword, the bytes up to the length (with the constant elements before it), the
    table of lengths, and the padding. It also has the codec of a str that needs no conversion, and
    the conversion of anything else: None if that depends on the row.
    """

    entries: list[_Entry]
    tail: bytes
    complete: bool


class _DatasetPlan(NamedTuple):
    entries: list[tuple[int, bytes]]
    tail: bytes
    complete: bool


class Encoder:
    """Writes rows in one syntax for one set of requested keys.

    Other encoders of the same syntax write the items of sequences.

    Parameters
    ----------
    how : Syntax
        The transfer syntax.
    wanted : Wanted, optional
        The requested keys; without them, the whole row is written.
    always : mapping of str, optional
        Elements of every row; the row's own values take precedence.
    kept : iterable of str, optional
        Keywords that are sent if the row has them, requested or not.

    Raises
    ------
    DataSetError
        An unknown keyword in `always` or `kept`.
    """

    def __init__(
        self,
        how: Syntax,
        wanted: Wanted | None = None,
        always: Mapping[str, Any] | None = None,
        kept: Iterable[str] = (),
    ) -> None:
        self._how = how
        self._order = "<" if how.little else ">"
        self._long = _LENGTHS[self._order + "I"]
        self._short = self._long if how.implicit else _LENGTHS[self._order + "H"]
        self._wanted = wanted
        self._always = dict(always or {})
        self._always.pop("SpecificCharacterSet", None)
        self._always_tags = {keyword_tag(k) for k in self._always}
        self._kept = {TIME_ZONE, *map(keyword_tag, kept)} | self._always_tags
        # Empty ones are left out, because they were not requested.
        self._unasked = set() if wanted is None else {*map(keyword_tag, kept)} - wanted.keys.keys()
        self._plans: dict[tuple[Any, ...], dict[tuple[Any, ...], _Plan]] = {}
        self._dataset_plans: dict[tuple[Any, ...], _DatasetPlan] = {}
        self._children: dict[int, Encoder] = {}
        self._plain_plans: dict[tuple[Any, ...], _Plan] = {}

    def data_set(
        self,
        row: Row,
        target: tuple[str, ...],
        specific: tuple[str, ...],
        above: tuple[Row, ...],
    ) -> tuple[bytes, bool]:
        """The bytes of a row, and whether it has all requested keys.

        Parameters
        ----------
        row : mapping of str or Dataset
            The data set to write.
        target : tuple of str
            The character set of its text, as `charsets.terms` gives it.
        specific : tuple of str
            Its (0008,0005), which is left out if empty.
        above : tuple of rows
            The rows around it, the innermost first.

        Raises
        ------
        UnicodeEncodeError
            A character is not in the target.
        DataSetError
            An unknown keyword, or a value that does not fit its VR.
        """
        if isinstance(row, Dataset):
            return self._from_dataset(row, target, specific, above)
        if target or specific:
            if len(self._plans) >= _PLANS:  # peers choose the order of character sets
                self._plans.clear()
            plans = self._plans.setdefault((target, specific), {})
        else:
            plans = self._plain_plans
        try:
            plan = plans.get(tuple(row))
        except TypeError:
            raise DataSetError(f"a row must be a mapping or a Dataset, not {_kind(row)}") from None
        if plan is None:
            if not isinstance(row, Mapping):
                raise DataSetError(f"a row must be a mapping or a Dataset, not {_kind(row)}")
            plan = self._plan(tuple(row), target, specific)
            if len(plans) >= _PLANS:
                plans.clear()
            plans[tuple(row)] = plan
        entries, tail, complete = plan
        parts: list[bytes] = []
        key, value = "", None
        try:
            for key, head, lengths, padding, codec, convert in entries:
                value = row[key]
                if codec is not None and value.__class__ is str:
                    raw = value.encode(codec)
                elif convert is not None:
                    raw = convert(value)
                else:
                    tag, vr = tag_and_vr(key)
                    parts.append(head)
                    if tag in self._unasked and not value:
                        continue
                    element, whole = self._element(tag, vr, value, target, (row, *above))
                    complete = complete and whole
                    parts.append(element)
                    continue
                length = len(raw)
                if length & 1:
                    raw += padding
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
        found = {keyword_tag(key): key for key in keys}
        constants = self._constants(found, target, specific)
        todo: dict[int, str | bytes] = {**constants}
        for tag, key in found.items():
            if tag != CHARACTER_SET and not never_written(tag) and self._asked(tag):
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
        return self._wanted is None or tag in self._wanted.keys or tag in self._kept

    @staticmethod
    def _required(wanted: Wanted) -> set[int]:
        return set(wanted.keys) - _NO_KEYS

    def _constants(
        self, found: Iterable[int], target: tuple[str, ...], specific: tuple[str, ...]
    ) -> dict[int, bytes]:
        """The elements of `always` that the row lacks, and the character set."""
        constants = {}
        for keyword, value in self._always.items():
            tag, vr = tag_and_vr(keyword)
            if tag not in found:
                constants[tag] = self._checked(tag, vr, value, target, (self._always,))[0]
        if specific:
            constants[CHARACTER_SET] = self._framed(
                CHARACTER_SET, "CS", "\\".join(specific).encode("ascii")
            )
        return constants

    def _entry(self, tag: int, key: str, before: bytes, target: tuple[str, ...]) -> _Entry:
        vr = tag_and_vr(key)[1]
        lengths = self._long if vr in LONG_VRS else self._short
        depends = vr == "SQ" or " or " in vr or (tag == PIXEL_DATA and self._how.encapsulated)
        if depends or tag in self._unasked:
            return key, before, lengths, b"", None, None
        head = before + self._prefix(tag, vr)
        codec = None
        if vr in STRING_VRS and not target:
            codec = "ascii" if vr in TEXT_VRS else "latin_1"

        def convert(value: Any) -> bytes:
            return to_bytes(vr, value, target, self._order, swap=not self._how.little)

        return key, head, lengths, pad(vr), codec, convert

    def _from_dataset(
        self,
        row: Dataset,
        target: tuple[str, ...],
        specific: tuple[str, ...],
        above: tuple[Row, ...],
    ) -> tuple[bytes, bool]:
        # plain ints: a BaseTag compares in Python
        elements = dict(zip(map(int, row.keys()), row.values(), strict=True))
        for tag in self._unasked:
            if tag in elements and not elements[tag].value:
                del elements[tag]
        private, missing = self._private(row, elements)
        key = (target, specific, tuple(elements), tuple(private))
        plan = self._dataset_plans.get(key)
        if plan is None:
            plan = self._dataset_plan(elements, private, target, specific)
            if len(self._dataset_plans) >= _PLANS:
                self._dataset_plans.clear()
            if len(elements) <= _PLANNED:
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
                raw = text.encode("ascii") if text.isascii() else string_bytes(text, vr, target)
                parts.append(self._framed(tag, vr, raw))
                continue
            if element.is_undefined_length and vr != "SQ" and isinstance(value, bytes):
                # "OB or OW" is what pydicom calls pixels that somebody has just set
                parts.append(self._framed(tag, "OB" if len(vr) > 2 else vr, value, undefined=True))
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
            if tag == CHARACTER_SET or never_written(tag):
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
    ) -> tuple[dict[int, Wanted | None], bool]:
        """The private elements asked for, which may be in another block of this row."""
        if self._wanted is None or not self._wanted.private:
            return {}, False
        found: dict[int, Wanted | None] = {}
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
        vr = element.VR or implicit_vr(row, tag)
        how = self._how
        if len(vr) > 2:
            vr = resolve_vr(vr, tag, value, rows, element.is_implicit_VR)
        elif vr == "OW" and tag >> 16 == WAVEFORMS and element.is_implicit_VR:
            vr = resolve_vr("OB or OW", tag, value, rows, how.implicit)  # PS3.5 §8.3
        undefined = element.length == _UNDEFINED
        if vr in STRING_VRS:
            if vr in TEXT_VRS and not (value.isascii() and b"\x1b" not in value):
                source = _source(row)
                if source != target:
                    text = charsets.decode(value, source, vr).rstrip("\0 ")
                    value = charsets.encode(text, target, vr)
        elif vr == "SQ":
            if isinstance(row, Received):
                return None  # an item may be in another encoding, and is bounded when it is read
            same = element.is_implicit_VR is how.implicit and element.is_little_endian is how.little
            if undefined or self._wanted is not None or not same or _source(row) != target:
                return None
        elif element.is_little_endian is not how.little and not undefined:
            value = swapped(value, WORD_SIZES.get(vr, 1))
        return self._framed(tag, vr, value, undefined=undefined)

    def _checked(
        self,
        tag: int,
        vr: str,
        value: Any,
        target: tuple[str, ...],
        rows: Sequence[Row],
        *,
        inner: Wanted | None = None,
        little: bool = True,
    ) -> tuple[bytes, bool]:
        try:
            return self._element(tag, vr, value, target, rows, inner=inner, little=little)
        except (UnicodeEncodeError, DataSetError):
            raise
        except (TypeError, ValueError, ArithmeticError, struct.error):
            if isinstance(value, bytes) and isinstance(rows[0], Dataset):
                # what pydicom could not convert, it keeps as the bytes that came
                if len(vr) > 2:
                    vr = resolve_vr(vr, tag, value, rows, self._how.implicit)
                if little is not self._how.little:
                    value = swapped(value, WORD_SIZES.get(vr, 1))
                return self._framed(tag, vr, value), True
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
        inner: Wanted | None = None,
        little: bool = True,
    ) -> tuple[bytes, bool]:
        if vr == "SQ":
            return self._sequence(tag, value, target, tuple(rows), inner)
        encapsulated = (
            tag == PIXEL_DATA
            and self._how.encapsulated
            and isinstance(value, (bytes, bytearray))
            and value.startswith(_ITEM)
        )
        if encapsulated:
            return self._framed(tag, "OB", bytes(value), undefined=True), True
        if len(vr) > 2:
            vr = resolve_vr(vr, tag, value, rows, self._how.implicit)
        data = to_bytes(vr, value, target, self._order, swap=little is not self._how.little)
        return self._framed(tag, vr, data), True

    def _sequence(
        self,
        tag: int,
        value: Any,
        target: tuple[str, ...],
        rows: tuple[Row, ...],
        inner: Wanted | None,
    ) -> tuple[bytes, bool]:
        items: Iterable[Any] | None
        if isinstance(value, ReceivedSequence):
            items = value.passing()  # a real one has a million elements: one item at a time
        else:
            items = () if value is None else several(value)
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

    def _child(self, tag: int, inner: Wanted | None) -> Encoder:
        if inner is None and self._wanted is not None:
            inner = self._wanted.keys.get(tag)
        if inner is None:
            return encoder_of_all(self._how)
        child = self._children.get(id(inner))
        if child is None:
            child = self._children[id(inner)] = Encoder(self._how, inner)
        return child

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
            value += pad(vr)
            length += 1
        is_long = self._how.implicit or len(prefix) == 8
        if length < _TABLE:
            return prefix + (self._long if is_long else self._short)[length] + value
        return self._head(prefix, length, is_long) + value


@lru_cache(16)
def encoder_of_all(how: Syntax) -> Encoder:
    """The encoder of all of any row, kept since its plans are as good for the next.

    Parameters
    ----------
    how : Syntax
        The transfer syntax.
    """
    return Encoder(how)


@lru_cache(16384)
def _prefix(tag: int, vr: str, order: str, implicit: bool) -> bytes:
    prefix = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return prefix
    return prefix + vr.encode("ascii") + (b"\0\0" if vr in LONG_VRS else b"")


def _source(row: Dataset) -> tuple[str, ...]:
    """The character set that the raw values of a Dataset are in."""
    if isinstance(row, Received):
        return row.names
    return charsets.terms(row.original_character_set or row.get("SpecificCharacterSet"))


def _kind(value: Any) -> str:
    return type(value).__name__


def _misfit(name: str, value: Any) -> str:
    tag = tag_for_keyword(name)
    vr = "" if tag is None else dictionary_VR(tag)
    text = f"{name}: not a value{f' of VR {vr}' if vr else ''} (type {_kind(value)})"
    return f"{text}; write it as a str" if vr in STRING_VRS else text
