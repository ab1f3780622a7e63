"""Value representations and transfer syntaxes: they decide how values are written (PS3.5 §6.2)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from pydicom.dataset import Dataset
from pydicom.uid import UID, PrivateTransferSyntaxes

from pacsroute import uids

Row: TypeAlias = "Mapping[str, Any] | Dataset"

TEXT_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
SINGLE_VRS = frozenset(("LT", "ST", "UR", "UT"))
STRING_VRS = TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
NUMBER_FORMATS = {
    "FD": "d",
    "FL": "f",
    "SL": "i",
    "SS": "h",
    "SV": "q",
    "UL": "I",
    "US": "H",
    "UV": "Q",
}
WORD_SIZES = {vr: struct.calcsize(f) for vr, f in NUMBER_FORMATS.items()} | {
    "AT": 2,
    "OB": 1,
    "OD": 8,
    "OF": 4,
    "OL": 4,
    "OV": 8,
    "OW": 2,
    "UN": 1,
}
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))

PIXEL_DATA = 0x7FE00010
WAVEFORMS = 0x5400
"""The group of waveforms (PS3.3 C.10.9)."""


class Syntax(NamedTuple):
    """How a transfer syntax encodes a data set (PS3.5 Annex A); `known` or guessed."""

    implicit: bool = False
    little: bool = True
    deflated: bool = False
    encapsulated: bool = False
    known: bool = True


@lru_cache(256)
def syntax(uid: str) -> Syntax:
    """How a transfer syntax encodes a data set.

    An unknown UID counts as an encapsulated syntax, hence explicit VR little endian (PS3.5 §A.4),
    unless it was registered with pydicom.

    Parameters
    ----------
    uid : str
        The transfer syntax.

    Examples
    --------
    >>> syntax("1.2.840.10008.1.2").implicit
    True
    """
    if uid in uids.IMPLICIT:
        return Syntax(implicit=True)
    known = UID(uid)
    if known in PrivateTransferSyntaxes:
        known = PrivateTransferSyntaxes[PrivateTransferSyntaxes.index(known)]
    if not known.is_transfer_syntax:
        return Syntax(encapsulated=True, known=False)
    deflated = known in uids.DEFLATED or known.is_deflated
    return Syntax(known.is_implicit_VR, known.is_little_endian, deflated, known.is_compressed)


def resolve_vr(vr: str, tag: int, value: Any, rows: Sequence[Row], implicit: bool) -> str:
    """The VR of an element that has a choice (PS3.5 §A.1, §A.2; PS3.3 C.7.6.3)."""
    if "US" not in vr:
        if tag == PIXEL_DATA:
            bits = _first(rows, "BitsAllocated")
        elif tag >> 16 == WAVEFORMS:
            bits = _first(rows, "WaveformBitsAllocated")
        else:
            bits = None
        return "OB" if not implicit and isinstance(bits, int) and bits <= 8 else "OW"
    if "OW" in vr and (value is None or isinstance(value, (bytes, bytearray, memoryview))):
        return "OW"
    if isinstance(value, (bytes, bytearray)):
        return "SS" if _first(rows, "PixelRepresentation") == 1 else "US"
    many = several(value)
    numbers = [v for v in (many if many is not None else (value,)) if isinstance(v, int)]
    if any(v < 0 for v in numbers):
        return "SS"
    # the first value of a LUT descriptor is a count, even if the pixels are signed
    signed = "SS" in vr and _first(rows, "PixelRepresentation") == 1
    return "SS" if signed and all(v < 0x8000 for v in numbers) else "US"


def _first(rows: Sequence[Row], keyword: str) -> Any:
    for row in rows:
        if (value := row.get(keyword)) is not None:
            return value
    return None


def several(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """The values of a multi-valued object; None if it is a single value."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return list(value)
    return None
