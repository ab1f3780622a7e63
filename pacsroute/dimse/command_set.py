"""Encode and decode command sets.

A command set is always implicit VR little endian (PS3.7 §6.3.1). On receipt, the group length
and elements that do not belong to the message are ignored.
"""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from pacsroute.dimse.commands import (
    TYPES,
    CEchoRSP,
    CFindRSP,
    CGetRSP,
    CMoveRSP,
    Command,
    CStoreRQ,
    CStoreRSP,
    Response,
    UnknownRQ,
    UnknownRSP,
)
from pacsroute.errors import ProtocolError
from pacsroute.status import PROCESSING_FAILURE

_GROUP_LENGTH = struct.Struct("<HHII")
_US = struct.Struct("<H")
_AT = struct.Struct("<HH")
_HEAD = struct.Struct("<HHI")
_NUMBER_ELEMENT = struct.Struct("<HHIH")

_NO_DATA_SET = 0x0101


def _number(element: int, value: int) -> bytes:
    return _NUMBER_ELEMENT.pack(0, element, 2, value)


def _read_number(value: bytes) -> int:
    return int.from_bytes(value[:2], "little")


def _read_field(value: bytes) -> int | None:
    return int.from_bytes(value[:2], "little") if len(value) >= 2 else None


def _read_status(value: bytes) -> int:
    # A message with a part of a status, or without one, is not a success.
    return int.from_bytes(value[:2], "little") if len(value) >= 2 else PROCESSING_FAILURE


def _data_set(element: int, value: bool) -> bytes:
    return _NUMBER_ELEMENT.pack(0, element, 2, 0x0001 if value else _NO_DATA_SET)


def _read_data_set(value: bytes) -> bool:
    return value[:2] != b"\1\1" and len(value) >= 2


def _uid(element: int, value: str) -> bytes:
    data = value.encode("latin-1")
    if len(data) & 1:
        data += b"\0"
    return _HEAD.pack(0, element, len(data)) + data


def _read_uid(value: bytes) -> str:
    # Spaces are kept, because a response repeats the peer's bytes. `uids.trim` removes them.
    return value.decode("latin-1").rstrip("\0")


def _text(element: int, value: str) -> bytes:
    data = value.encode("latin-1", "replace")
    if len(data) & 1:
        data += b" "
    return _HEAD.pack(0, element, len(data)) + data


def _read_text(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _tags(element: int, value: tuple[int, ...]) -> bytes:
    tags = b"".join(_AT.pack(tag >> 16, tag & 0xFFFF) for tag in value)
    return _HEAD.pack(0, element, len(tags)) + tags


def _read_tags(value: bytes) -> tuple[int, ...]:
    whole = value[: len(value) // 4 * 4]
    return tuple(group << 16 | element for group, element in _AT.iter_unpack(whole))


_Codec = tuple[Callable[[int, Any], bytes], Callable[[bytes], Any]]
_NUMBER: _Codec = (_number, _read_number)
_UID: _Codec = (_uid, _read_uid)
_TEXT: _Codec = (_text, _read_text)
_TAGS: _Codec = (_tags, _read_tags)

_COMMAND_FIELD = 0x0100

# Element numbers of group 0000 (PS3.7 §E.1), in ascending order.
_ELEMENTS: dict[str, tuple[int, _Codec]] = {
    "affected_sop_class": (0x0002, _UID),
    "requested_sop_class": (0x0003, _UID),
    "received_field": (_COMMAND_FIELD, _NUMBER),
    "command_field": (_COMMAND_FIELD, (_number, _read_field)),
    "message_id": (0x0110, _NUMBER),
    "message_id_responded_to": (0x0120, _NUMBER),
    "move_destination": (0x0600, _TEXT),
    "priority": (0x0700, _NUMBER),
    "has_data_set": (0x0800, (_data_set, _read_data_set)),
    "status": (0x0900, (_number, _read_status)),
    "offending_element": (0x0901, _TAGS),
    "error_comment": (0x0902, _TEXT),
    "error_id": (0x0903, _NUMBER),
    "affected_sop_instance": (0x1000, _UID),
    "requested_sop_instance": (0x1001, _UID),
    "event_type": (0x1002, _NUMBER),
    "attribute_identifiers": (0x1005, _TAGS),
    "action_type": (0x1008, _NUMBER),
    "remaining": (0x1020, _NUMBER),
    "completed": (0x1021, _NUMBER),
    "failed": (0x1022, _NUMBER),
    "warning": (0x1023, _NUMBER),
    "move_originator_ae": (0x1030, _TEXT),
    "move_originator_message_id": (0x1031, _NUMBER),
}


def keyword(name: str) -> str:
    """Return the dictionary's keyword for a field of a command.

    Examples
    --------
    >>> keyword("error_comment")
    'ErrorComment'
    """
    from pydicom.datadict import dictionary_keyword  # noqa: PLC0415 - pydicom, late

    return dictionary_keyword(_ELEMENTS[name][0])


# The encoding of each message type: a getter of its values, and a writer for each.
_Writer = tuple[str, int, Callable[[int, Any], bytes]]
_Plan = tuple[Callable[[Any], tuple[Any, ...]], list[_Writer]]


def _writers(kind: type[Command]) -> list[_Writer]:
    own = {one.name for one in fields(kind)}
    written = own if "received_field" in own else own | {"command_field"}
    return [
        (name, element, codec[0]) for name, (element, codec) in _ELEMENTS.items() if name in written
    ]


def _plan(kind: type[Command]) -> _Plan:
    writers = _writers(kind)
    return operator.attrgetter(*(name for name, _, _ in writers)), writers


_PLANS = {kind: _plan(kind) for kind in (*TYPES.values(), UnknownRQ, UnknownRSP)}
_NAMES = {kind: {one.name for one in fields(kind)} for kind in _PLANS}
_READERS = {element: (name, codec[1]) for name, (element, codec) in _ELEMENTS.items()}


def encode(command: Command) -> bytes:
    """Return the bytes of a command set, with the group length first.

    Elements whose value is None are left out.

    Raises
    ------
    ValueError
        If a value does not fit its element.

    Examples
    --------
    >>> from pacsroute.dimse.commands import CEchoRQ
    >>> decode(encode(CEchoRQ(message_id=7, affected_sop_class="1.2.840.10008.1.1")))
    CEchoRQ(has_data_set=False, message_id=7, affected_sop_class='1.2.840.10008.1.1')
    """
    if command.encoded is not None:
        return command.encoded
    kind: Any = type(command)
    usual = _USUAL.get(kind)
    try:
        if usual is not None and len(command.affected_sop_class or "") <= 64:  # type: ignore[attr-defined]
            number, values, _, second = usual
            end = b""
            for name, element, write in second:
                value = getattr(command, name)
                if value is not None:
                    end += write(element, value)
            before, after = _first_half(kind, values(command), len(end))
            return before + _US.pack(number(command)) + after + end
        body = _body(command)
    except (struct.error, UnicodeEncodeError) as error:
        raise ValueError(f"{kind.__name__}: {error}") from None
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def _body(command: Command) -> bytes:
    values, writers = _PLANS[type(command)]
    pairs = zip(writers, values(command), strict=True)
    return b"".join(
        [write(element, value) for (_, element, write), value in pairs if value is not None]
    )


class _Usual(NamedTuple):
    """The encoding of messages that differ only in their ID and second half.

    They are sent repeatedly; this takes a third of the time of encoding them in full.
    """

    number: Callable[[Any], int]  # gets the Message ID
    values: Callable[[Any], tuple[Any, ...]]  # gets the other values of the first half
    first: list[_Writer]  # before the SOP Instance UID
    second: list[_Writer]


def _usual(kind: type[Command]) -> _Usual:
    writers = _writers(kind)
    first = [writer for writer in writers if writer[1] < 0x1000]
    second = [writer for writer in writers if writer[1] >= 0x1000]
    number = next(name for name, element, _ in first if element in _IDS)
    names = [name for name, element, _ in first if element not in (_COMMAND_FIELD, *_IDS)]
    return _Usual(operator.attrgetter(number), operator.attrgetter(*names), first, second)


_IDS = (0x0110, 0x0120)
_USUAL: dict[type[Command], _Usual] = {
    kind: _usual(kind) for kind in (CEchoRSP, CStoreRQ, CStoreRSP, CFindRSP, CGetRSP, CMoveRSP)
}


@functools.lru_cache(maxsize=1024)
def _first_half(kind: Any, values: tuple[Any, ...], second: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after the Message ID in the first half of messages."""
    rest = iter(values)
    body, at = b"", 0
    for _, element, write in _USUAL[kind].first:
        if element in _IDS:
            body += write(element, 0)
            at = len(body)
        else:
            value = kind.command_field if element == _COMMAND_FIELD else next(rest)
            if value is not None:
                body += write(element, value)
    before = _GROUP_LENGTH.pack(0, 0, 4, len(body) + second) + body[: at - _US.size]
    return before, body[at:]


# The start of the elements that differ between messages.
_MESSAGE_IDS = {
    b"\0\0\x10\1\2\0\0\0": "message_id",
    b"\0\0\x20\1\2\0\0\0": "message_id_responded_to",
}
_INSTANCE = b"\0\0\0\x10"
_COUNTS = b"\0\0\x20\x10"  # of sub-operations
_SHORT = 512  # bytes: longer command sets are not cached


def _repeated(data: bytes) -> Command | None:
    """Return the command of bytes that differ from earlier ones in few elements; else None.

    A peer repeats the elements before the Message ID, and after it up to the SOP Instance UID or
    the numbers of sub-operations, in every message. They are read once, which takes two thirds of
    the time.
    """
    for message_id, name in _MESSAGE_IDS.items():
        before, found, rest = data.partition(message_id)
        if found and len(rest) >= _US.size:
            between, tag, last = rest[_US.size :].partition(_INSTANCE)
            if not tag:
                between, tag, last = between.partition(_COUNTS)
            make = _maker(before, between)
            if make is not None:
                own: dict[str, Any] = {name: int.from_bytes(rest[: _US.size], "little")}
                if tag == _INSTANCE and int.from_bytes(last[:4], "little") == len(last) - 4:
                    own["affected_sop_instance"] = _read_uid(last[4:])  # nothing follows it
                elif tag:
                    _elements(tag + last, own)
                return make(**own)
    return None


@functools.lru_cache(maxsize=1024)
def _maker(before: bytes, between: bytes) -> Callable[..., Command] | None:
    """Return a function that makes commands of the other elements; None if it cannot be known.

    If the elements are incomplete, the tag that was found after them is part of a value.
    """
    known: dict[str, Any] = {}
    for data in (before, between):
        try:
            end = _elements(data, known)
        except ProtocolError:
            return None
        if end != len(data):
            return None
    is_message = known.get("command_field") is not None
    is_repeated = is_message and known.keys().isdisjoint(_MESSAGE_IDS.values())
    return _made_of(known) if is_repeated else None


def _elements(data: bytes, known: dict[str, Any]) -> int:
    """Read elements, and return where the last one ends."""
    unpack, readers = _HEAD.unpack_from, _READERS
    position, end = 0, len(data)
    while position + 8 <= end:
        group, element, length = unpack(data, position)
        start = position + 8
        position = start + length
        if position > end:
            raise ProtocolError("a command set is cut short")
        if not group and element in readers:
            name, read = readers[element]
            known[name] = read(data[start:position])
    return position


def decode(data: bytes | bytearray | memoryview) -> Command:
    """Return the command encoded in the bytes of a command set.

    Elements of other groups are ignored: Orthanc adds the list of failed instances.

    Raises
    ------
    ProtocolError
        If they are not a command set.
    """
    data = bytes(data)
    try:
        command = _repeated(data) if len(data) <= _SHORT else None
    except TypeError:  # elements that do not belong to the message
        command = None
    if command is None:
        known: dict[str, Any] = {}
        _elements(data, known)
        command = _made_of(known)()
    return command


def _made_of(known: dict[str, Any]) -> functools.partial[Command]:
    """Return a function that makes the command of these values, of which it takes its own."""
    number = known.get("command_field")
    if number is None:
        raise ProtocolError("a command set without Command Field")
    kind = TYPES.get(number)
    if kind is None:
        kind = UnknownRSP if number & 0x8000 else UnknownRQ
        known["received_field"] = number
    if issubclass(kind, Response):
        known.setdefault("status", PROCESSING_FAILURE)
    return functools.partial(kind, **{name: known[name] for name in known.keys() & _NAMES[kind]})
