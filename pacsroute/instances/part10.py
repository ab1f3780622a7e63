"""The head of a Part 10 file: preamble and File Meta Information (PS3.10 §7.1)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from pacsroute import uids
from pacsroute.errors import DataSetError

LOOK = 8192
"""How many bytes of a file are read to find its head: enough for most."""

_PREAMBLE = 128
_LONGEST = 256  # maximum bytes to read of a UID
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sHI")
_LONG_VRS = frozenset((b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))


def _element(number: int, text: str, vr: bytes = b"UI") -> bytes:
    value = text.encode("latin-1", "replace")
    if len(value) & 1:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(2, number, vr, len(value)) + value


_VERSION = _LONG.pack(2, 1, b"OB", 0, 2) + b"\0\1"
_WRITER = _element(0x12, uids.IMPLEMENTATION_CLASS) + _element(
    0x13, uids.IMPLEMENTATION_VERSION, b"SH"
)


def head(
    sop_class: str,
    sop_instance: str,
    transfer_syntax: str,
    *,
    writer: str = "",
    sender: str = "",
    receiver: str = "",
) -> bytes:
    """Return the bytes of a file before its data set.

    Parameters
    ----------
    sop_class, sop_instance, transfer_syntax : str
        UIDs of the instance and of the syntax of its data set.
    writer, sender, receiver : str
        AE titles of the file's writer (0002,0016), and of the instance's sender (0002,0017) and
        receiver (0002,0018). Empty ones are left out.

    Examples
    --------
    >>> head("1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.840.10008.1.2.1")[128:132]
    b'DICM'
    """
    instance = _element(0x03, sop_instance)
    before, after = _around(sop_class, transfer_syntax, writer, sender, receiver, len(instance))
    return before + instance + after


@lru_cache(maxsize=1024)
def _around(
    sop_class: str, transfer_syntax: str, writer: str, sender: str, receiver: str, instance: int
) -> tuple[bytes, bytes]:
    """Return the bytes around the SOP Instance UID, cached for an association's instances."""
    before = _VERSION + _element(0x02, sop_class)
    after = _element(0x10, transfer_syntax) + _WRITER
    for number, title in ((0x16, writer), (0x17, sender), (0x18, receiver)):
        if title:
            after += _element(number, title[:16], b"AE")
    length = len(before) + instance + len(after)
    group = _SHORT.pack(2, 0, b"UL", 4) + length.to_bytes(4, "little")
    return bytes(_PREAMBLE) + b"DICM" + group + before, after


class Head(NamedTuple):
    """The content of the head of a Part 10 file, and where it ends.

    Parameters
    ----------
    sop_class, sop_instance, transfer_syntax : str
        UIDs; empty if missing.
    sender : str
        The AE title of the sender (0002,0017); empty if missing.
    end : int
        The offset of the data set.
    is_whole : bool
        Whether the given bytes contain all of the head.
    """

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    sender: str
    end: int
    is_whole: bool


_NAMES = {0x02: "sop_class", 0x03: "sop_instance", 0x10: "transfer_syntax", 0x17: "sender"}
_START = _PREAMBLE + 4
_GROUP_LENGTH = b"DICM" + _SHORT.pack(2, 0, b"UL", 4)
_INSTANCE = _SHORT.pack(2, 3, b"UI", 0)[:-2]
_CACHED = 1024  # bytes: longer heads are not remembered


def read_head(data: bytes) -> Head:
    """Read the head of a file, even if its group length is wrong.

    Parameters
    ----------
    data : bytes
        The beginning of the file; if `Head.is_whole` is false, more bytes are needed.

    Raises
    ------
    DataSetError
        If it is no Part 10 file.

    Examples
    --------
    >>> read_head(head("1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.840.10008.1.2.1")).sop_instance
    '1.2.3'
    """
    if data[_PREAMBLE:_START] != b"DICM":
        raise DataSetError("not a Part 10 file: there is no DICM after a preamble")
    if (usual := _usual(data)) is not None:
        return usual
    found = dict.fromkeys(_NAMES.values(), "")
    end = _elements(data, _START, found)
    return Head(**found, end=end, is_whole=end + 8 <= len(data))


def _usual(data: bytes) -> Head | None:
    """Read a head that may differ from earlier ones only in its SOP Instance UID.

    Those of one writer do. The elements around the UID are read once, which saves two thirds.
    """
    start = _START + 12
    if data[_PREAMBLE : start - 4] != _GROUP_LENGTH:
        return None
    length = int.from_bytes(data[start - 4 : start], "little")
    end = start + length
    if length > _CACHED or end + 8 > len(data) or data[end : end + 2] == b"\2\0":
        return None
    before, _, rest = data[start:end].partition(_INSTANCE)
    behind = 2 + int.from_bytes(rest[:2], "little")
    found = _around_instance(before, rest[behind:])
    if found is None or behind > len(rest):
        return None
    sop_instance = uids.trim(rest[2:behind].decode("latin-1"))
    return Head(found[0], sop_instance, found[1], found[2], end, True)


@lru_cache(maxsize=256)
def _around_instance(before: bytes, after: bytes) -> tuple[str, str, str] | None:
    """Return the other values of a head; None unless these are whole elements of it."""
    found = dict.fromkeys(("sop_class", "transfer_syntax", "sender"), "")
    if _elements(before, 0, found) != len(before) or _elements(after, 0, found) != len(after):
        return None
    if "sop_instance" in found:  # a second one, which may be empty
        return None
    return found["sop_class"], found["transfer_syntax"], found["sender"]


def _elements(data: bytes, at: int, found: dict[str, str]) -> int:
    """Read the elements of group 0002 from an offset on; return where they end."""
    size = len(data)
    while at + 8 <= size:
        group, number, vr, length = _SHORT.unpack_from(data, at)
        if group != 2:
            break
        start = at + 8
        if vr in _LONG_VRS:
            length = int.from_bytes(data[start : start + 4], "little")
            start += 4
        elif not vr.isalpha():  # some programs write it in implicit VR
            length = int.from_bytes(data[at + 4 : start], "little")
        at = start + length
        if number in _NAMES:
            found[_NAMES[number]] = uids.trim(
                data[start : min(at, start + _LONGEST)].decode("latin-1")
            )
    return at


def head_of(file: BinaryIO) -> Head:
    """Read the head of a seekable file, and leave it positioned at the data set.

    Raises
    ------
    DataSetError
        If it is no Part 10 file.
    """
    look = LOOK
    while True:
        file.seek(0)
        first = file.read(look)
        found = read_head(first)
        if found.is_whole or len(first) < look:
            break
        look *= 8  # private information in the head may be long
    if found.end > len(first):
        raise DataSetError("not a Part 10 file: its head is longer than the file")
    file.seek(found.end)
    return found
