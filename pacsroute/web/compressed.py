"""Attributes read from compressed pixels if the metadata lacks them (PS3.18 §10.5.2)."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from pacsroute.errors import DataSetError

LOOK = 65_536
"""Bytes of compressed pixels that are examined."""

_JPEG, _JPEG_2000, _JP2 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF0 to SOF15, SOF55
_SCAN, _APP14, _SIZE, _STYLE = 0xDA, 0xEE, 0x51, 0x52
_SYNTAX = "1.2.840.10008.1.2.4."


class Compressed(NamedTuple):
    """A compressed frame, as its own header describes it.

    Parameters
    ----------
    start : int
        The offset of the code stream: in a JPEG 2000 file, boxes precede it.
    transfer_syntax : str
        Its transfer syntax.
    attributes : dict
        Attributes of the Image Pixel Description Macro, by keyword (PS3.3 §C.7.6.3).
    """

    start: int
    transfer_syntax: str
    attributes: dict[str, Any]


def described(data: bytes) -> Compressed:
    """Return the attributes in the header of a compressed frame.

    Parameters
    ----------
    data : bytes
        The beginning of a JPEG, JPEG-LS or JPEG 2000 frame.

    Raises
    ------
    DataSetError
        If it is another format.
    """
    try:
        if data.startswith(_JPEG):
            return _jpeg(data)
        if data.startswith((_JPEG_2000, _JP2)):
            return _jpeg_2000(data)
    except (struct.error, IndexError, KeyError):
        raise DataSetError("compressed pixels whose header cannot be read") from None
    raise DataSetError("compressed pixels that do not say what they are")


def _jpeg(data: bytes) -> Compressed:
    """Parse a JPEG (ITU-T T.81 §B.2) or JPEG-LS (T.87 §C.2)."""
    at, process = 2, 0
    precision = rows = columns = samples = 0
    shares = is_rgb = False
    while data[at + 1] != _SCAN:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if marker in _FRAMES:
            process = marker
            precision, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 4)
            shares, is_rgb = data[at + 11] != 0x11, data[at + 10 : at + 19 : 3] == b"RGB"
        elif marker == _APP14 and data[at + 4 : at + 9] == b"Adobe":
            is_rgb = data[at + 15] == 0
        at += 2 + length
    selection = data[at + 5 + 2 * data[at + 4]]  # the predictor; in JPEG-LS, the error bound
    syntaxes = {0xC0: 50, 0xC1: 51, 0xC3: 70 if selection == 1 else 57}
    number = syntaxes | {0xF7: 81 if selection else 80}
    is_rgb = is_rgb or process in (0xC3, 0xF7)
    colours = "RGB" if is_rgb else "YBR_FULL_422" if shares else "YBR_FULL"
    attributes = _attributes(rows, columns, samples, precision, colours)
    return Compressed(0, f"{_SYNTAX}{number[process]}", attributes)


def _jpeg_2000(data: bytes) -> Compressed:
    """Parse the main header of a JPEG 2000 code stream (ITU-T T.800 §A.5, §A.6)."""
    start = data.index(_JPEG_2000) if _JPEG_2000 in data else len(data)
    at, samples = start + 2, 0
    right = below = left = above = depth = 0
    while data[at + 1] != _STYLE:
        length = struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] == _SIZE:
            right, below, left, above = struct.unpack_from(">4I", data, at + 6)
            samples, depth = struct.unpack_from(">HB", data, at + 38)
        at += 2 + length
    transforms, reversible = data[at + 8], data[at + 13] == 1
    colours = ("YBR_RCT" if reversible else "YBR_ICT") if transforms else "RGB"
    attributes = _attributes(below - above, right - left, samples, (depth & 0x7F) + 1, colours)
    attributes["PixelRepresentation"] = depth >> 7
    return Compressed(start, f"{_SYNTAX}{90 if reversible else 91}", attributes)


def _attributes(rows: int, columns: int, samples: int, bits: int, colours: str) -> dict[str, Any]:
    found = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "MONOCHROME2" if samples == 1 else colours,
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8 if bits <= 8 else 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    return found | ({"PlanarConfiguration": 0} if samples > 1 else {})
