"""The bytes of a few elements of a data set, without reading the others (PS3.5 §7.1).

An index needs forty elements of three hundred. Skipping an element costs a tenth of reading it.
"""

from __future__ import annotations

import struct
from collections.abc import Container

from pydicom.valuerep import VR

from pacsroute import uids
from pacsroute.dataset.dictionary import meant_vr
from pacsroute.dataset.vr import LONG_VRS

SPECIFIC_CHARACTER_SET = 0x0008_0005

_IMPLICIT = struct.Struct("<HHI").unpack_from
_LENGTH = struct.Struct("<I").unpack_from
_UNDEFINED = 0xFFFF_FFFF
_ITEMS, _ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE, 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_SEQUENCES = frozenset((b"SQ", b""))  # without a VR, tags decide
_WITH_ITEMS = _SEQUENCES | {b"OB", b"OW"}
_IN_ITEM = b"item"
_DEEPEST = 32  # sequences and items around one that is skipped here
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
        None if the data set must be parsed: in big endian or deflated syntaxes, with inconsistent
        lengths, or if tags are not in order.

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
    if implicit and data[4:6] in _VRS:  # it may be explicit in spite of its syntax
        return None
    found = []
    around: list[bytes] = []  # the VR of each sequence and value with fragments, and items
    vr = b""
    at, end, last = 0, len(data), -1
    while at + 8 <= end:
        start = at + 8
        group, number, length = _IMPLICIT(data, at)
        tag = group << 16 | number
        if group == _ITEMS:
            if not around:
                return None
            is_in_item = around[-1] is _IN_ITEM
            if tag == _ITEM and not is_in_item:
                if length == _UNDEFINED:
                    if around[-1] not in _SEQUENCES:
                        return None
                    around.append(_IN_ITEM)
                    length = 0
            elif tag == (_ITEM_END if is_in_item else _SEQUENCE_END) and length == 0:
                around.pop()
            else:
                return None
            at = start + length
            continue
        if not implicit:
            vr = data[at + 4 : at + 6]
            if vr in _SHORT:
                length >>= 16
            elif vr in _LONG and start + 4 <= end:
                (length,) = _LENGTH(data, start)
                start += 4
                if vr == b"UN" and not around and data[start : start + 2] == b"\xfe\xff":
                    return None  # maybe a sequence: the reader checks its items
            else:
                return None
        if around:
            if around[-1] is not _IN_ITEM:
                return None
        elif tag <= last:
            return None
        else:
            last = tag
            if tag in tags or tag == SPECIFIC_CHARACTER_SET:
                if length == _UNDEFINED:
                    return None
                found.append((tag, vr, at, start, start + length))
        if length == _UNDEFINED:
            if vr not in _WITH_ITEMS or len(around) > _DEEPEST:
                return None
            if implicit and meant_vr(tag, {}) not in ("SQ", "UN"):
                return None
            around.append(vr)
            length = 0
        at = start + length
    return found if at == end and not around else None
