"""A look at the first elements of a data set, without parsing it."""

from __future__ import annotations

import struct
import zlib

from pacsroute import uids

LOOK = 4096
"""How many bytes are enough for it."""

_SOP_CLASS, _SOP_INSTANCE = 0x0016, 0x0018
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))
_HEADS = {
    (True, True): struct.Struct("<HHI"),
    (False, True): struct.Struct("<HH2sH"),
    (False, False): struct.Struct(">HH2sH"),
}


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
    if transfer_syntax == uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, LOOK)
        except zlib.error:
            return "", ""
    implicit = transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN
    little = transfer_syntax != uids.EXPLICIT_VR_BIG_ENDIAN
    unpack = _HEADS[implicit, little].unpack_from
    sop_class = sop_instance = ""
    position, end = 0, len(data) - 8
    while position <= end:
        group, element, *vr, length = unpack(data, position)
        if group > 8 or (group == 8 and element > _SOP_INSTANCE) or (vr and vr[0] in _LONG):
            break
        position += 8
        value = data[position : position + length]
        position += length
        if group == 8 and len(value) == length:
            if element == _SOP_CLASS:
                sop_class = uids.trim(value.decode("latin-1"))
            elif element == _SOP_INSTANCE:
                sop_instance = uids.trim(value.decode("latin-1"))
    return sop_class, sop_instance
