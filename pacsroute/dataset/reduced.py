"""The bytes of a few elements of a data set, without reading the others (PS3.5 §7.1).

An index needs forty elements of three hundred. Skipping an element costs a tenth of reading it.
"""

from __future__ import annotations

import struct
from collections.abc import Container

from pydicom.valuerep import VR

from pacsroute import uids
from pacsroute.dataset.vr import LONG_VRS

_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHI").unpack_from
_LENGTH = struct.Struct("<I").unpack_from
_UNDEFINED = 0xFFFF_FFFF
_SPECIFIC_CHARACTER_SET = 0x0008_0005
_LONG = frozenset(vr.encode() for vr in LONG_VRS)
_SHORT = frozenset(str(vr).encode() for vr in VR if len(vr) == 2) - _LONG


def reduced(data: bytes, transfer_syntax: str, tags: Container[int]) -> bytes | None:
    r"""Return the elements with some tags, and the Specific Character Set, as they are.

    Parameters
    ----------
    data : bytes
        A whole data set.
    transfer_syntax : str
        Its Transfer Syntax UID.
    tags : container of int
        The tags to read.

    Returns
    -------
    bytes or None
        None if the data set must be parsed: in big endian or deflated syntaxes, with undefined or
        inconsistent lengths, or if tags are not in order.

    Examples
    --------
    >>> data = b"\x08\0\x60\0CS\2\0CT" + b"\x10\0\x20\0LO\2\0A "
    >>> reduced(data, "1.2.840.10008.1.2.1", {0x0010_0020})
    b'\x10\x00 \x00LO\x02\x00A '
    >>> reduced(data[:-1], "1.2.840.10008.1.2.1", {0x0010_0020}) is None
    True
    """
    if transfer_syntax in uids.DEFLATED or transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN:
        return None
    implicit = transfer_syntax in uids.IMPLICIT
    pieces = []
    at, end, last = 0, len(data), -1
    while at + 8 <= end:
        start = at + 8
        if implicit:
            group, number, length = _IMPLICIT(data, at)
        else:
            group, number, vr, length = _EXPLICIT(data, at)
            if vr in _LONG:
                if start + 4 > end:
                    return None
                (length,) = _LENGTH(data, start)
                start += 4
            elif vr not in _SHORT:
                return None
        tag = group << 16 | number
        if length == _UNDEFINED or tag <= last:
            return None
        stop = start + length
        if tag in tags or tag == _SPECIFIC_CHARACTER_SET:
            pieces.append(data[at:stop])
        at, last = stop, tag
    return b"".join(pieces) if at == end else None
