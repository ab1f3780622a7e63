"""Read data sets of peers with limits, leniency and silence, which pydicom's reader lacks.

Bounds: depth, number of elements, and the memory of the process. Leniency: a data set or item in
the other VR encoding than announced, an unknown VR, numbers with odd bytes after the last whole
one, and misplaced delimiters are read if nothing is lost. Silence: no message and no
warning quotes a value. Sequences are skipped, and read when they are opened (PS3.5 §7).
"""

from __future__ import annotations

import struct
import threading
import time
from array import array
from typing import Any, NamedTuple

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from pacsroute.dataset.dictionary import TAGS, implicit_vr_of, meant_vr
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.received import Frame, Received, made
from pacsroute.dataset.source import unpacker
from pacsroute.dataset.value_reader import character_set
from pacsroute.dataset.vr import LONG_VRS, STRING_VRS, WORD_SIZES
from pacsroute.dataset.wanted import CHARACTER_SET
from pacsroute.errors import DataSetError, DataSetTooLarge, UnreadableDataSet
from pacsroute.memory import Holding

_UNDEFINED = 0xFFFFFFFF
_DELIMITERS = 0xFFFE
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_REPRESENTATION = 0x00280103
_TELLING = frozenset((CHARACTER_SET, _PIXEL_REPRESENTATION))  # they affect other elements
_VRS = {vr.encode("ascii"): vr for vr in (*STRING_VRS, *WORD_SIZES, "SQ")}
_SHORT = {code: vr for code, vr in _VRS.items() if vr not in LONG_VRS}
_LONG = {code: vr for code, vr in _VRS.items() if vr in LONG_VRS - {"SQ", "UN"}}
_OCTETS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW"))
_MASKS = {vr: 0 if vr in _OCTETS else size - 1 for vr, size in WORD_SIZES.items()}
_CHUNK = 1 << 16
_BROKEN = (struct.error, ValueError, TypeError, LookupError, ArithmeticError, OSError)

_HEADS = {
    little: tuple(struct.Struct(order + code) for code in ("HHI", "HH2sH", "I"))
    for little, order in ((True, "<"), (False, ">"))
}
_STRIDE = 1024  # elements between checks of the limits
_A_TURN = 16  # strides before another thread may take a turn
_PASSED_FOR_ONE = 8  # skipped elements that count as one
_ELEMENT, _ITEM_OBJECT = 256, 1536  # bytes of memory for each, besides the value
_AT_A_TIME = 1 << 20  # bytes of values to hold before counting them

TURNS = threading.BoundedSemaphore(2)
"""Held while thousands of elements are read, or megabytes inflated: more at once would keep the
interpreter from all others, and all of them would fail where one after the other has room."""


class _Head(NamedTuple):
    """The head of an element: its tag, VR and length, where its value is, and how it was read.

    `odd` marks an unknown VR in explicit VR.
    """

    tag: int
    vr: str | None
    length: int
    start: int
    implicit: bool
    odd: bool = False


class _Level:
    """The elements of one data set or item while they are read."""

    __slots__ = ("elements", "end", "frame", "names", "other_vr", "signed", "size")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.names, self.signed = frame.names, frame.signed
        self.elements: dict[BaseTag, Any] = {}
        self.size = 0  # bytes of values not counted yet
        self.end = 0  # the offset of the delimiter that ended them
        self.other_vr: list[BaseTag] = []  # sequences with items in the other VR encoding

    def finished(self, reading: Reading) -> Received:
        """Return the data set."""
        frame, names = self.frame, self.names
        dataset = made(Received, self.elements, frame.implicit, reading.little, names, frame.names)
        dataset.__dict__["_reading"] = reading
        dataset.__dict__["_frame"] = frame._replace(names=names, signed=self.signed)
        dataset.__dict__["_count"] = len(self.elements)
        for tag in self.other_vr:
            dataset[tag]  # writing the received bytes would give the wrong encoding
        return dataset


class Reading:
    """The state shared by the reading of a data set and later of its sequences.

    Parameters
    ----------
    little : bool
        Whether it is little endian.
    limits : Limits
        The allowed depth, number of elements, and memory.
    lossless : bool
        Whether losing a part of it is an error.
    strict : bool
        Whether a sequence without items is an error, too.

    Attributes
    ----------
    holding : Holding
        The memory in use; released when nothing uses it any more.
    """

    def __init__(
        self, little: bool, limits: Limits, *, lossless: bool = True, strict: bool = False
    ) -> None:
        self.little = little
        self.limits = limits
        self.lossless = lossless
        self.strict = strict
        self.left = limits.elements
        self.holding = Holding(limits.memory)

    def hold(self, size: int) -> None:
        """Count memory that it takes.

        Raises
        ------
        DataSetTooLarge
            If the process has no room for it.
        """
        if not self.holding.grow(size):
            most = self.limits.memory
            raise DataSetTooLarge(f"max_memory reached, {most} bytes")

    def expect(self, items: int) -> None:
        """Refuse a sequence, before its first item, if the process could not hold its items.

        Raises
        ------
        DataSetTooLarge
            If there are too many.
        """
        most = self.limits.memory
        if items * _ITEM_OBJECT > most:
            raise DataSetTooLarge(f"{items} items are more than max_memory holds, {most} bytes")

    def lost(self, why: str) -> None:
        """Refuse a data set if a part of it would be lost.

        Raises
        ------
        UnreadableDataSet
            If the reading is lossless.
        """
        if self.lossless:
            raise UnreadableDataSet(why)

    def starts(self, data: bytes, frame: Frame) -> array[int]:
        """Return where the items of a sequence begin.

        Parameters
        ----------
        data : bytes
            The value of the sequence, without its delimiter.
        frame : Frame
            The context of its items.
        """
        self.hold(len(data))  # at the most: an item has a head of 8 bytes, and its place takes 8
        with Reader(data, self) as reader:
            found = reader.starts(len(data), frame)
        self.holding.shrink(len(data) - 8 * len(found))
        return found

    def item(self, data: bytes, start: int, frame: Frame) -> Dataset:
        """Return an item of a sequence.

        Parameters
        ----------
        data, frame
            As for `starts`.
        start : int
            Its offset.
        """
        self.hold(_ITEM_OBJECT)
        with Reader(data, self) as reader:
            return reader.item(start, len(data), frame)


class Reader:
    """Reads elements from data that can be sliced.

    It is held while it reads.

    Parameters
    ----------
    data : bytes-like or File
        A whole data set, or a whole sequence.
    reading : Reading
        The counters, and how lenient the reader is.
    base : int
        The offset of the data in its file.
    defer_size : int or None
        Longer values of the outermost data set stay in their file; None reads all values.

    Attributes
    ----------
    deferred : bool
        Whether a value has stayed in the file.
    """

    def __init__(
        self, data: Any, reading: Reading, base: int = 0, defer_size: int | None = None
    ) -> None:
        self._data = data
        self._reading = reading
        implicit, explicit, long = _HEADS[reading.little]
        self._implicit = unpacker(data, implicit)
        self._explicit = unpacker(data, explicit)
        self._long = unpacker(data, long)
        self._base = base
        self._defer = _UNDEFINED if defer_size is None else defer_size
        self.deferred = False
        self._room = 0
        self._strides = self._passed = 0
        self._has_turn = False

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._has_turn:
            TURNS.release()
        self._reading.left += self._room
        if isinstance(error, RecursionError):
            raise DataSetTooLarge("sequences are nested too deeply") from None
        if isinstance(error, _BROKEN) and not isinstance(error, DataSetError):
            # exceptions of pydicom and struct quote the bytes
            raise UnreadableDataSet(f"not a data set ({type(error).__name__})") from None

    def _count(self) -> None:
        """Count one element, item or fragment."""
        self._room -= 1
        if self._room >= 0:
            return
        reading = self._reading
        if reading.left <= 0:
            self._room = 0
            raise DataSetTooLarge(f"more than {reading.limits.elements} elements: max_elements")
        self._room = min(_STRIDE, reading.left)
        reading.left -= self._room
        self._room -= 1
        self._strides += 1
        if self._strides % _A_TURN == 0:
            if self._has_turn:
                TURNS.release()
                self._has_turn = False
                time.sleep(0)  # lets another thread have it
            self._has_turn = TURNS.acquire()

    def _pass(self) -> None:
        """Count a skipped element, which takes a fraction of the time, and no memory."""
        self._passed += 1
        if not self._passed % _PASSED_FOR_ONE:
            self._count()

    # ------------------------------------------------------------- data sets

    def implicit_at(self, at: int, end: int, implicit: bool, *, top: bool = False) -> bool:
        """Return whether the VR is implicit in the data set at `at`, judging by its bytes."""
        if end - at < 8 or (implicit and not top):
            return implicit
        code, length = self._explicit(at)[2:]
        if implicit:
            # a length below 64 KB has zeros where an explicit VR would have its length
            return not (code in _VRS and (length == 0) == (_VRS[code] in LONG_VRS))
        if code.isalpha() and code.isupper():
            return False
        return self._odd(at, end).implicit

    def data_set(self, at: int, end: int, frame: Frame) -> tuple[Received, int]:
        """Return the elements from `at` to `end` or an item delimiter, and where they end.

        Parameters
        ----------
        at, end : int
            Their offsets in the data.
        frame : Frame
            Their context.

        Raises
        ------
        UnreadableDataSet
            If a part of it would be lost.
        DataSetTooLarge
            If it is beyond a limit.
        """
        if frame.depth > self._reading.limits.depth:
            raise DataSetTooLarge("sequences are nested too deeply: max_depth")
        self._count()  # an item, which may have no element
        level = _Level(frame)
        at = self._elements(at, end, level)
        self._reading.hold(level.size + _ELEMENT * len(level.elements))
        return level.finished(self._reading), at

    def _elements(self, at: int, end: int, level: _Level) -> int:
        """Read elements; return where they end. Usual elements are read here, others elsewhere."""
        data, base, little = self._data, self._base, self._reading.little
        elements, frame = level.elements, level.frame
        implicit = frame.implicit
        most = self._defer if frame.depth == 0 else _UNDEFINED
        vr: str | None
        while at + 8 <= end:
            self._room -= 1
            if self._room < 0:
                self._room += 1
                self._count()
            start = at + 8
            if implicit:
                group, number, length = self._implicit(at)
                tag = group << 16 | number
                vr = implicit_vr_of(tag, elements, length, level.signed)
                usual = vr in _MASKS or vr in STRING_VRS
            else:
                group, number, code, length = self._explicit(at)
                tag = group << 16 | number
                vr = _SHORT.get(code)
                if vr is None and code in _LONG and start + 4 <= end:
                    vr = _LONG[code]
                    (length,) = self._long(start)
                    start += 4
                usual = vr is not None
            stop = start + length
            if (
                not usual
                or vr == "UN"
                or stop > end
                or length > most
                or (length and length & _MASKS.get(vr or "", 0))
                or tag in _TELLING
                or group == _DELIMITERS
                or not tag
            ):
                after = self._unusual(at, end, level)
                if after is None:
                    return level.end
                at = after
                continue
            level.size += length
            if level.size > _AT_A_TIME:
                self._reading.hold(level.size)
                level.size = 0
            elements[TAGS[tag]] = RawDataElement(
                TAGS[tag], vr, length, bytes(data[start:stop]), base + start, implicit, little
            )
            at = stop
        if frame.undefined:
            self._reading.lost("an item has no end")
        if at < end and bytes(data[at:end]).strip(b"\0"):
            self._reading.lost("too few bytes for a data element at the end")
        return at

    def behind_items(self, at: int, end: int, implicit: bool) -> int:
        """Return the offset after a sequence of undefined length.

        Parameters
        ----------
        at, end : int
            The offsets of its items, and of the end of the data.
        implicit : bool
            Whether their VR is implicit.

        Raises
        ------
        UnreadableDataSet
            If it has no end.
        """
        return self._skip_items(at, end, implicit, 1)[1]

    # ------------------------------------------------------------- elements

    def _head(
        self, at: int, end: int, implicit: bool, elements: dict[BaseTag, Any], signed: bool | None
    ) -> _Head | None:
        """Read the head of an element; None if it is cut off."""
        if implicit:
            group, number, length = self._implicit(at)
            tag, start, odd = group << 16 | number, at + 8, False
        else:
            group, number, code, length = self._explicit(at)
            tag = group << 16 | number
            if group == _DELIMITERS:
                return _Head(tag, None, self._long(at + 4)[0], at + 8, False)
            vr = _VRS.get(code)
            if vr is not None:
                if vr not in LONG_VRS:
                    return _Head(tag, vr, length, at + 8, False)
                if at + 12 > end:
                    return None
                return _Head(tag, vr, self._long(at + 8)[0], at + 12, False)
            found = self._odd(at, end)
            if not found.implicit:
                return found
            length, start, odd = found.length, found.start, True
        if group == _DELIMITERS:
            return _Head(tag, None, length, start, True)
        return _Head(tag, implicit_vr_of(tag, elements, length, signed), length, start, True, odd)

    def _odd(self, at: int, end: int) -> _Head:
        """Read the head of an element with an invalid VR, such as two spaces or ``??``.

        New VRs have 32-bit lengths (PS3.5 §6.2), VRs that peers invent have 16-bit lengths, and
        some elements are in implicit VR: the right reading is the one that another element can
        follow.
        """
        group, number, code, short = self._explicit(at)
        tag = group << 16 | number
        is_vr = code.isalpha() and code.isupper()
        readings = [_Head(tag, "UN", short, at + 8, False, True)]
        if short == 0 and at + 12 <= end:
            readings.insert(0, _Head(tag, "UN", self._long(at + 8)[0], at + 12, False, True))
        if not is_vr:
            readings.append(_Head(tag, None, self._long(at + 4)[0], at + 8, True, True))
        best = max(readings, key=lambda head: self._likelihood(head, end))
        if not self._likelihood(best, end):
            best = readings[-1]
            if best.length != _UNDEFINED:
                self._reading.lost("an unknown VR, after which nothing can be read")
        return best

    def _likelihood(self, head: _Head, end: int) -> int:
        """Rate how likely a length is by the bytes that follow; 0 is impossible."""
        if head.length == _UNDEFINED:
            return 2 if self._is_item(head.start, end) else 0
        at = head.start + head.length
        if at + 8 > end:
            return 2 * (at == end) or (at < end and not bytes(self._data[at:end]).strip(b"\0"))
        group, number, code, _ = self._explicit(at)
        if group == _DELIMITERS:
            return 2
        if group << 16 | number <= head.tag:
            return 0
        if code in _VRS:
            return 3
        return 2 if head.implicit and at + 8 + self._long(at + 4)[0] <= end else 1

    def _unusual(self, at: int, end: int, level: _Level) -> int | None:
        """Read an element of any kind; return where the next one begins, None at a delimiter."""
        frame = level.frame
        head = self._head(at, end, frame.implicit, level.elements, level.signed)
        if head is None:
            self._reading.lost("too few bytes for a data element at the end")
            level.end = end
            return None
        if head.tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            if not frame.undefined:
                return head.start
            level.end = head.start if head.tag == _ITEM_END else at  # or its sequence ends here
            return None
        if head.tag == 0 and head.length == 0:
            return head.start
        if head.length == _UNDEFINED:
            return self._undefined(head, end, level)
        return self._defined(head, end, level)

    def _undefined(self, head: _Head, end: int, level: _Level) -> int:
        """Read an element of undefined length (PS3.5 §7.5)."""
        tag, vr, length, start, implicit, odd = head
        if vr in ("SQ", "UN", None) and self._is_item(start, end):
            below = implicit or (vr == "UN" and self.implicit_at(start + 8, end, implicit))
            stop, after = self._skip_items(start, end, below, level.frame.depth + 1)
            self._add(level, head._replace(vr="SQ", implicit=below), stop)
            return after
        if vr not in _OCTETS:
            # only these VRs may have it (PS3.5 §7.1.1), and pydicom would convert it
            vr = self._no_sequence() if vr == "SQ" else "OB"
        stop, after = self._fragments(start, end)
        # pydicom compares the VR when it reads a deferred value
        read_as = (meant_vr(tag, {}) or "UN") if implicit else vr
        can_wait = level.frame.depth == 0 and not odd and read_as[:2] == "OB" and vr == "OB"
        if can_wait and stop - start > self._defer:
            self.deferred = True
            level.elements[TAGS[tag]] = RawDataElement(
                TAGS[tag], read_as, length, None, self._base + start, implicit, self._reading.little
            )
        else:
            self._add(level, head._replace(vr=vr), stop)
        return after

    def _defined(self, head: _Head, end: int, level: _Level) -> int:
        """Read an element of defined length."""
        tag, vr, length, start, implicit, odd = head
        if start + length > end:
            self._reading.lost("a value is longer than the data set")
            length = end - start
        stop = start + length
        # pydicom uses the dictionary's VR instead of UN, so it must fit
        meant = meant_vr(tag, level.elements) if vr == "UN" else vr
        sequence = meant == "SQ" and (vr == "SQ" or length > 0)
        if sequence and not (length == 0 or self._is_sequence(start, stop)):
            vr, sequence = self._no_sequence(), False
        elif sequence:
            head = head._replace(vr="SQ", implicit=implicit or vr == "UN")
        may_wait = level.frame.depth == 0 and (implicit or not odd) and vr == head.vr
        if length > self._defer and may_wait and tag not in _TELLING:
            self.deferred = True
            known = None if implicit else vr
            level.elements[TAGS[tag]] = RawDataElement(
                TAGS[tag], known, length, None, self._base + start, implicit, self._reading.little
            )
            return stop
        if sequence:
            self._add(level, head, stop)
            return stop
        if vr == "UN" and length > 0xFFFF and meant in STRING_VRS:
            vr = meant  # it was too long for its VR (PS3.5 §6.2.2); pydicom leaves it unknown
        mask = 1 if meant == "US or SS" else _MASKS.get(meant or "", 0)
        value = self._add(level, head._replace(vr=vr), stop - (length & mask))
        if tag == CHARACTER_SET:
            level.names = character_set(value, level.names)
        elif tag == _PIXEL_REPRESENTATION and value:
            level.signed = 1 in value
        return stop

    def _add(self, level: _Level, head: _Head, stop: int) -> bytes:
        """Add an element with its value; return the value."""
        tag = TAGS[head.tag]
        level.size += stop - head.start
        if level.size > _AT_A_TIME:
            self._reading.hold(level.size)
            level.size = 0
        value = bytes(self._data[head.start : stop])
        length = _UNDEFINED if head.length == _UNDEFINED else len(value)
        level.elements[tag] = RawDataElement(
            tag,
            head.vr,
            length,
            value,
            self._base + head.start,
            head.implicit,
            self._reading.little,
        )
        if head.vr == "SQ" and head.implicit is not level.frame.implicit:
            level.other_vr.append(tag)
        return value

    def _no_sequence(self) -> str:
        """Return the VR of the bytes of a sequence that has no items."""
        if self._reading.strict:
            raise UnreadableDataSet("a sequence without items")
        return "OB"

    # ------------------------------------------------------------- sequences and fragments

    def starts(self, end: int, frame: Frame) -> array[int]:
        """Return the offsets of the items, if the data is a sequence."""
        found = array("Q")
        at = 0
        while at + 8 <= end:
            self._pass()
            group, number, length = self._implicit(at)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                break
            if tag == _ITEM_END:
                at += 8
                continue
            if tag != _ITEM:
                self._reading.lost("a sequence with something between its items")
                break
            found.append(at)
            at = self._skip_item(at + 8, length, end, frame.implicit, frame.depth)
        return found

    def item(self, start: int, end: int, frame: Frame) -> Dataset:
        """Return the item that begins at a place."""
        length, at = self._implicit(start)[2], start + 8
        undefined = length == _UNDEFINED
        stop = end if undefined else min(at + length, end)
        implicit = self.implicit_at(at, stop, frame.implicit)
        item, _ = self.data_set(at, stop, frame._replace(implicit=implicit, undefined=undefined))
        item.__dict__["is_undefined_length_sequence_item"] = undefined
        return item

    def _is_item(self, at: int, end: int) -> bool:
        if at + 8 > end:
            return at == end and not self._reading.strict
        group, number, _ = self._implicit(at)
        return group == _DELIMITERS and number in (0xE000, 0xE0DD)

    def _is_sequence(self, at: int, end: int) -> bool:
        return at + 8 <= end and self._implicit(at)[0] == _DELIMITERS

    def _skip_items(self, at: int, end: int, implicit: bool, depth: int) -> tuple[int, int]:
        """Return where the items of a sequence end, and where the next element begins."""
        if depth > self._reading.limits.depth:
            raise DataSetTooLarge("sequences are nested too deeply: max_depth")
        while at + 8 <= end:
            self._pass()
            group, number, length = self._implicit(at)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return at, at + 8
            if tag == _ITEM:
                at = self._skip_item(at + 8, length, end, implicit, depth)
            elif tag == _ITEM_END:
                at += 8
            else:
                return at, at
        self._reading.lost("a sequence has no end")
        return end, end

    def _skip_item(self, at: int, length: int, end: int, implicit: bool, depth: int) -> int:
        """Return where an item ends."""
        if length == _UNDEFINED:
            return self._skip_elements(at, end, self.implicit_at(at, end, implicit), depth)
        if at + length > end:
            self._reading.lost("an item is longer than its sequence")
        return min(at + length, end)

    def _skip_elements(self, at: int, end: int, implicit: bool, depth: int) -> int:
        """Return where an item of undefined length ends."""
        while at + 8 <= end:
            self._pass()
            head = self._head(at, end, implicit, {}, None)
            if head is None:
                break
            tag, vr, length, start, here, _ = head
            if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
                return start if tag == _ITEM_END else at
            if length != _UNDEFINED:
                if start + length > end:
                    break
                at = start + length
            elif vr in ("SQ", "UN", None) and self._is_item(start, end):
                below = here or (vr == "UN" and self.implicit_at(start + 8, end, here))
                at = self._skip_items(start, end, below, depth + 1)[1]
            else:
                at = self._fragments(start, end)[1]
        self._reading.lost("an item has no end")
        return end

    def _fragments(self, at: int, end: int) -> tuple[int, int]:
        """Return where a value of undefined length ends, and where the next element begins."""
        first = at
        while at + 8 <= end:
            self._pass()  # a value without an end is scanned again for each element
            group, number, length = self._implicit(at)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return at, at + 8
            if tag != _ITEM or length == _UNDEFINED:
                return self._search(first, end)
            at += 8 + length
        self._reading.lost("a value of undefined length has no end")
        return end, end

    def _search(self, at: int, end: int) -> tuple[int, int]:
        order = "<HH" if self._reading.little else ">HH"
        delimiter = struct.pack(order, _SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF)
        for chunk in range(at, end, _CHUNK):
            found = bytes(self._data[chunk : min(chunk + _CHUNK + 3, end)]).find(delimiter)
            if found >= 0:
                return chunk + found, min(chunk + found + 8, end)
        self._reading.lost("a value of undefined length has no end")
        return end, end
