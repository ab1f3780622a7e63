"""The head of a Part 10 file: preamble and File Meta Information (PS3.10 §7.1)."""

from __future__ import annotations

import struct
from functools import lru_cache

from pacsroute import uids

_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sHI")


@lru_cache(maxsize=1024)  # SOP classes, syntaxes and titles are the same again and again
def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) & 1:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(2, number, vr, len(value)) + value


_VERSION = _LONG.pack(2, 1, b"OB", 0, 2) + b"\0\1"
_WRITER = _element(0x12, b"UI", uids.IMPLEMENTATION_CLASS.encode()) + _element(
    0x13, b"SH", uids.IMPLEMENTATION_VERSION.encode()
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
    parts = [
        _VERSION,
        _element(0x02, b"UI", sop_class.encode("ascii")),
        _element(0x03, b"UI", sop_instance.encode("ascii")),
        _element(0x10, b"UI", transfer_syntax.encode("ascii")),
        _WRITER,
    ]
    for number, title in ((0x16, writer), (0x17, sender), (0x18, receiver)):
        if title:
            parts.append(_element(number, b"AE", title.encode("latin-1", "replace")[:16]))
    group = b"".join(parts)
    length = _SHORT.pack(2, 0, b"UL", 4) + len(group).to_bytes(4, "little")
    return bytes(128) + b"DICM" + length + group
