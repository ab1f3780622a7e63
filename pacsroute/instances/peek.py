"""A look at the first elements of a data set, without parsing it (PS3.5 §7.1)."""

from __future__ import annotations

import struct
import zlib

from pacsroute import uids

LOOK = 4096
"""The number of bytes that suffice."""

_SOP_CLASS, _SOP_INSTANCE = 0x0016, 0x0018
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # have 32-bit lengths
# In implicit VR, these bytes are the lower half of the length.
_LITTLE = struct.Struct("<HH2sH").unpack_from
_BIG = struct.Struct(">HH2sH").unpack_from


def sop_uids(data: bytes, transfer_syntax: str) -> tuple[str, str]:
    r"""Return the SOP Class and Instance UIDs that a data set begins with.

    Both are among the first few elements; if one is not found, it is empty.

    Parameters
    ----------
    data : bytes
        The beginning of the data set.
    transfer_syntax : str
        Its syntax; an unknown one is read as explicit VR little endian.

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
    implicit = transfer_syntax in uids.IMPLICIT
    unpack = _BIG if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else _LITTLE
    sop_class = ""
    position, end = 0, len(data) - 8
    while position <= end:
        group, element, vr, length = unpack(data, position)
        if group > 8 or (group == 8 and element > _SOP_INSTANCE):
            break
        if implicit:
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
    return sop_class, ""
