"""The bytes of a few elements of a data set, without reading the others (PS3.5 §7.1).

An index needs forty elements of three hundred. Skipping an element costs a tenth of reading it.
"""

from __future__ import annotations

import struct
from collections.abc import Container

from pydicom.valuerep import VR

from pacsroute import uids
from pacsroute.dataset.vr import LONG_VRS

SPECIFIC_CHARACTER_SET = 0x0008_0005

_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHI").unpack_from
_LENGTH = struct.Struct("<I").unpack_from
_UNDEFINED = 0xFFFF_FFFF
_LONG = {vr.encode(): vr for vr in LONG_VRS}
_SHORT = {str(vr).encode(): str(vr) for vr in VR if len(vr) == 2 and vr not in LONG_VRS}
_VRS = _LONG | _SHORT


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
    found = _found(data, transfer_syntax, tags)
    return None if found is None else b"".join([data[at:stop] for _, _, at, _, stop in found])


def raw_values(
    data: bytes, transfer_syntax: str, tags: Container[int]
) -> dict[int, tuple[str, bytes]] | None:
    r"""Return the VR and the bytes of elements with some tags, and the Specific Character Set.

    The VR is empty in Implicit VR. Parameters and None are as for `reduced`.

    Examples
    --------
    >>> data = b"\x08\0\x60\0CS\2\0CT" + b"\x10\0\x20\0LO\2\0A "
    >>> raw_values(data, "1.2.840.10008.1.2.1", {0x0010_0020})
    {1048608: ('LO', b'A ')}
    """
    found = _found(data, transfer_syntax, tags)
    if found is None:
        return None
    return {tag: (_VRS.get(vr, ""), data[start:stop]) for tag, vr, _, start, stop in found}


def _found(
    data: bytes, transfer_syntax: str, tags: Container[int]
) -> list[tuple[int, bytes, int, int, int]] | None:
    """Return tag, VR, beginning, beginning of the value and end of elements with some tags."""
    if transfer_syntax in uids.DEFLATED or transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN:
        return None
    implicit = transfer_syntax in uids.IMPLICIT
    found = []
    vr = b""
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
        if tag in tags or tag == SPECIFIC_CHARACTER_SET:
            found.append((tag, vr, at, start, stop))
        at, last = stop, tag
    return found if at == end else None
