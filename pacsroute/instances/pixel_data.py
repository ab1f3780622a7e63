"""Find the pixels of a data set and their description (PS3.3 C.7.6.3, PS3.5 §8).

Nothing is parsed or decoded, and sequences are skipped, so finding a frame is fast even if the
instance has many elements.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pacsroute import uids
from pacsroute.errors import DataSetError

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VALUE = 64  # bytes; values that describe an image are shorter
_DEPTH = 200
_LOOK = 16_384  # bytes to read at once

_IMAGES = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_NUMBERS = {
    0x00280002: "samples_per_pixel",
    0x00280006: "planar_configuration",
    0x00280010: "rows",
    0x00280011: "columns",
    0x00280100: "bits_allocated",
    0x00280101: "bits_stored",
    0x00280102: "high_bit",
    0x00280103: "pixel_representation",
}
_PHOTOMETRIC, _FRAMES = 0x00280004, 0x00280008
_OFFSETS, _LENGTHS = 0x7FE00001, 0x7FE00002
_TOLD = frozenset((*_IMAGES, *_NUMBERS, _PHOTOMETRIC, _FRAMES, _OFFSETS, _LENGTHS))


class Element(NamedTuple):
    """The location of an element's value in a file; the length is None if undefined."""

    tag: int
    vr: str
    offset: int
    length: int | None


class ImagePixel(NamedTuple):
    """The description of its pixels in a data set (PS3.3 C.7.6.3.1).

    Attributes
    ----------
    keyword : str
        ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
    number_of_frames : int
        One by default.

    Examples
    --------
    >>> ImagePixel(rows=3, columns=3, bits_allocated=1, number_of_frames=8).frame_length
    2
    """

    rows: int
    columns: int
    bits_allocated: int
    number_of_frames: int = 1
    samples_per_pixel: int = 1
    bits_stored: int = 0
    high_bit: int = 0
    pixel_representation: int = 0
    planar_configuration: int = 0
    photometric_interpretation: str = "MONOCHROME2"
    keyword: str = "PixelData"

    @property
    def frame_bits(self) -> int:
        """The number of bits of one uncompressed frame."""
        return self.rows * self.columns * self.samples_per_pixel * self.bits_allocated

    @property
    def frame_length(self) -> int:
        """The number of bytes of one uncompressed frame, rounded up."""
        return -(-self.frame_bits // 8)

    @property
    def length(self) -> int:
        """The number of bytes of all frames, uncompressed."""
        return -(-self.frame_bits * self.number_of_frames // 8)


class PixelData(NamedTuple):
    """The pixels of a data set in a file.

    `offsets` and `lengths` are the Extended Offset Table, if there is one.
    """

    image: ImagePixel
    element: Element
    little: bool
    offsets: Element | None = None
    lengths: Element | None = None


def find_pixels(file: BinaryIO, transfer_syntax: str) -> PixelData | None:
    """Return the location of a data set's pixels; None if it has none.

    Parameters
    ----------
    file : binary file
        Positioned at the data set, which must not be deflated; its position changes.
    transfer_syntax : str
        The UID of its syntax.

    Raises
    ------
    DataSetError
        If it cannot be read that far, or does not describe the size of its pixels.
    """
    values: dict[str, int | str] = {}
    tables: dict[int, Element] = {}
    heads = _Heads(file, transfer_syntax)
    for element in heads.at_the_top():
        if element.tag in _IMAGES:
            little = transfer_syntax != uids.EXPLICIT_VR_BIG_ENDIAN
            values["keyword"] = _IMAGES[element.tag]
            image = _described(values)
            return PixelData(image, element, little, tables.get(_OFFSETS), tables.get(_LENGTHS))
        if element.tag in (_OFFSETS, _LENGTHS):
            tables[element.tag] = element
        else:
            values |= _value(heads.value(element), element, transfer_syntax)
    return None


def _value(value: bytes, element: Element, transfer_syntax: str) -> dict[str, int | str]:
    """Return the value of an element of the Image Pixel module, or nothing."""
    text = value.decode("latin-1").strip(" \0")
    if element.tag in _NUMBERS:
        order = ">H" if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<H"
        if len(value) < 2:
            return {}
        return {_NUMBERS[element.tag]: struct.unpack_from(order, value)[0]}
    if element.tag == _PHOTOMETRIC:
        return {"photometric_interpretation": text}
    if not text:
        return {}
    if not text.lstrip("+").isdecimal() or int(text) < 1:
        raise DataSetError("its Number of Frames is invalid")
    return {"number_of_frames": int(text)}


def _described(values: dict[str, int | str]) -> ImagePixel:
    bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(str(values["keyword"]))
    if bits:
        values["bits_allocated"] = values["bits_stored"] = bits
    missing = [name for name in ("rows", "columns", "bits_allocated") if not values.get(name)]
    if missing:
        names = ", ".join(name.replace("_", " ") for name in missing)
        raise DataSetError(f"it has pixels, but does not say its {names}")
    image = ImagePixel(**values)  # type: ignore[arg-type]
    return image._replace(bits_stored=image.bits_stored or image.bits_allocated)


class _Heads:
    """Reads the heads of elements in a file, many of them at once.

    Parameters
    ----------
    file : binary file
        Positioned at the data set.
    transfer_syntax : str
        The UID of its syntax.
    """

    def __init__(self, file: BinaryIO, transfer_syntax: str) -> None:
        self._file = file
        self._start = file.tell()
        self._chunk = b""
        self._chunk_at = self._start
        order = ">" if transfer_syntax == uids.EXPLICIT_VR_BIG_ENDIAN else "<"
        self._tag_length = struct.Struct(order + "HHI").unpack_from
        self._long = struct.Struct(order + "I").unpack_from
        self._short = struct.Struct(order + "H").unpack_from
        self._explicit = struct.Struct(order + "HH2sH").unpack_from

    def at_the_top(self) -> Iterator[Element]:
        """Yield the elements that describe the pixels, then the pixels; sequences are skipped."""
        at = self._start
        first = self._bytes(at, 6)[4:]
        implicit = not (first.isalpha() and first.isupper())
        while True:
            if not implicit:
                at = self._behind_others(at)
            head = self._read(at, implicit)
            if head is None:
                return
            tag, code, offset, length = head
            if tag in _TOLD:
                yield self._element(head)
            if length == _UNDEFINED:
                # The items of a sequence of VR UN are in implicit VR (PS3.5 §6.2.2).
                at = self._skip(offset, implicit or code == b"UN")
            else:
                at = offset + length

    def _behind_others(self, at: int) -> int:
        """Return the offset of the next relevant or unusual element."""
        chunk, base, unpack = self._chunk, self._chunk_at, self._explicit
        start, most = at - base, len(self._chunk) - 12
        while 0 <= start <= most:
            group, number, code, length = unpack(chunk, start)
            if code in _LONG or group == 0xFFFE or group << 16 | number in _TOLD:
                break
            start += 8 + length
        return base + start

    def value(self, element: Element) -> bytes:
        """Return a short value."""
        return self._bytes(element.offset, min(element.length or 0, _SHORT_VALUE))

    def _element(self, head: tuple[int, bytes, int, int]) -> Element:
        tag, code, offset, length = head
        return Element(
            tag, code.decode("latin-1"), offset, None if length == _UNDEFINED else length
        )

    def _bytes(self, at: int, size: int) -> bytes:
        """Return this many bytes from a position on, or fewer at the end."""
        start = at - self._chunk_at
        if start < 0 or start + size > len(self._chunk):
            self._file.seek(at)
            self._chunk, self._chunk_at, start = self._file.read(_LOOK), at, 0
        return self._chunk[start : start + size]

    def _read(self, at: int, implicit: bool) -> tuple[int, bytes, int, int] | None:
        """Return the tag, the VR, the offset and the length of a value; None at the end."""
        start = at - self._chunk_at
        if start < 0 or start + 12 > len(self._chunk):
            if len(self._bytes(at, 12)) < 8:
                return None
            start = at - self._chunk_at
        chunk = self._chunk
        group, number, length = self._tag_length(chunk, start)
        tag = group << 16 | number
        if implicit or group == 0xFFFE:
            return tag, b"", at + 8, length
        code = chunk[start + 4 : start + 6]
        if code not in _LONG:
            return tag, code, at + 8, self._short(chunk, start + 6)[0]
        if start + 12 > len(chunk):
            return None
        return tag, code, at + 12, self._long(chunk, start + 8)[0]

    def _skip(self, at: int, implicit: bool) -> int:
        """Return the offset after a value of undefined length."""
        inside = [implicit]
        while inside:
            found = self._read(at, inside[-1])
            if found is None:
                raise DataSetError("a sequence or its pixels are cut off")
            tag, code, at, length = found
            if tag in (_ITEM_END, _SEQUENCE_END):
                inside.pop()
            elif length != _UNDEFINED:
                at += length
            else:
                inside.append(inside[-1] or code == b"UN")
                if len(inside) > _DEPTH:
                    raise DataSetError("sequences are nested too deeply")
        return at
