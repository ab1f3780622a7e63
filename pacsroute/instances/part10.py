"""The head of a Part 10 file: preamble and File Meta Information (PS3.10 §7.1)."""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from typing import BinaryIO

from pacsroute import uids
from pacsroute.errors import DataSetError

_PREAMBLE = 128
_LONGEST = 256  # bytes that are read of a UID
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
    """Return what stands in a file before its data set.

    Parameters
    ----------
    sop_class, sop_instance, transfer_syntax : str
        UIDs of the instance and of the syntax of its data set.
    writer, sender, receiver : str
        AE titles: whose file it is (0002,0016), who sent the instance (0002,0017) and
        who received it (0002,0018). An empty one is left out.

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
    """Return what stands around the SOP Instance UID: the same for all of an association."""
    before = _VERSION + _element(0x02, sop_class)
    after = _element(0x10, transfer_syntax) + _WRITER
    for number, title in ((0x16, writer), (0x17, sender), (0x18, receiver)):
        if title:
            after += _element(number, title[:16], b"AE")
    length = len(before) + instance + len(after)
    group = _SHORT.pack(2, 0, b"UL", 4) + length.to_bytes(4, "little")
    return bytes(_PREAMBLE) + b"DICM" + group + before, after


_HINTS = {0x02: "sop_class", 0x03: "sop_instance", 0x10: "transfer_syntax"}


def file_meta(file: BinaryIO) -> dict[str, str]:
    """Read the UIDs of the File Meta Information; the file stands at the data set then.

    The group length is not relied on, since some write a wrong one.

    Raises
    ------
    DataSetError
        If it is no Part 10 file.
    """
    file.seek(_PREAMBLE)
    if file.read(4) != b"DICM":
        raise DataSetError("not a Part 10 file: there is no DICM behind a preamble")
    found = dict.fromkeys(_HINTS.values(), "")
    while (element := file.read(8))[:2] == b"\x02\0" and len(element) == 8:
        if not element[4:6].isalpha():  # some have written it in implicit VR
            length = element[4:]
        else:
            length = file.read(4) if element[4:6] in _LONG_VRS else element[6:]
        size = int.from_bytes(length, "little")
        number = int.from_bytes(element[2:4], "little")
        if number in _HINTS:
            found[_HINTS[number]] = uids.trim(file.read(min(size, _LONGEST)).decode("latin-1"))
            size = max(0, size - _LONGEST)
        file.seek(size, os.SEEK_CUR)
    if not element and not found["transfer_syntax"]:
        raise DataSetError("not a Part 10 file: its head has no end")
    file.seek(-len(element), os.SEEK_CUR)
    return found
