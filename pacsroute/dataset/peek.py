"""A look at the first elements of a data set, without parsing it."""

from __future__ import annotations

import struct
import zlib

from pacsroute import uids

LOOK = 4096
"""How many bytes are enough for it."""

_SOP_CLASS, _SOP_INSTANCE = 0x0016, 0x0018
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))
# Where the VR is implicit, its place holds the lower half of the length.
_IMPLICIT = struct.Struct("<HH2sH").unpack_from
_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_EXPLICIT_BIG = struct.Struct(">HH2sH").unpack_from


def sop_uids(data: bytes, transfer_syntax: str) -> tuple[str, str]:
    r"""Return the SOP Class and Instance UIDs that a data set begins with.

    Both stand among the first few elements; one that is not found there is empty.

    Parameters
    ----------
    data : bytes
        The beginning of the data set.
    transfer_syntax : str
        Its syntax; one that is not in the dictionary is looked at as explicit VR.

    Examples
    --------
    >>> sop_uids(b"\x08\0\x18\0UI\x06\x001.2.3\0", "1.2.840.10008.1.2.1")
    ('', '1.2.3')
    """
    if transfer_syntax in uids.DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, LOOK)
        except zlib.error:
            return "", ""
    little = transfer_syntax != uids.EXPLICIT_VR_BIG_ENDIAN
    if transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN:
        unpack = _IMPLICIT
    else:
        unpack = _EXPLICIT if little else _EXPLICIT_BIG
    sop_class = sop_instance = ""
    position, end = 0, len(data) - 8
    while position <= end:
        group, element, vr, length = unpack(data, position)
        if group > 8 or (group == 8 and element > _SOP_INSTANCE):
            break
        if unpack is _IMPLICIT:
            length = length << 16 | int.from_bytes(vr, "little")
        elif vr in _LONG:
            break
        position += 8
        if group == 8 and element in (_SOP_CLASS, _SOP_INSTANCE):
            value = data[position : position + length]
            if len(value) == length:
                uid = uids.trim(value.decode("latin-1"))
                if element == _SOP_CLASS:
                    sop_class = uid
                else:
                    return sop_class, uid
        position += length
    return sop_class, sop_instance
