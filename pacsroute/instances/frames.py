"""The frames of an instance, one by one, as they are stored (PS3.5 §8, §A.4)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from pydicom.encaps import generate_frames, get_frame, parse_fragments

from pacsroute import uids
from pacsroute.dataset.value_writer import swapped
from pacsroute.dataset.vr import WORD_SIZES
from pacsroute.errors import DataSetError
from pacsroute.instances.pixel_data import ImagePixel, find_pixels

_PIECE = 1 << 18
_SHARE_SAMPLES = ("YBR_FULL_422", "YBR_PARTIAL_422")  # two samples per pixel on average, not three


class Frames:
    """The frames in a file with a data set, found without parsing it.

    Parameters
    ----------
    file : binary file
        Positioned at the data set, as `Instance.open` returns it; it must stay open.
    transfer_syntax : str
        The UID of its transfer syntax, which must not be deflated.

    Attributes
    ----------
    image : ImagePixel
        Their description in the data set.

    Raises
    ------
    DataSetError
        If it has no pixels, or does not describe their size.

    Examples
    --------
    >>> from io import BytesIO
    >>> from pacsroute.dataset.encoding import encode
    >>> row = {"NumberOfFrames": 2, "Rows": 1, "Columns": 3, "BitsAllocated": 8}
    >>> data = encode(row | {"PixelData": b"abcdef"}, "1.2.840.10008.1.2.1")
    >>> Frames(BytesIO(data), "1.2.840.10008.1.2.1").read(2)
    b'def'
    """

    def __init__(self, file: BinaryIO, transfer_syntax: str) -> None:
        found = find_pixels(file, transfer_syntax)
        if found is None:
            raise DataSetError("the instance has no pixels")
        self._file = file
        self._syntax = transfer_syntax
        self._where = found
        self.image: ImagePixel = found.image
        self._native_bits = found.image.frame_bits
        if found.image.photometric_interpretation in _SHARE_SAMPLES:
            self._native_bits = self._native_bits // 3 * 2

    @property
    def is_encapsulated(self) -> bool:
        """Whether frames are encapsulated, compressed or not."""
        return self._syntax not in uids.NATIVE and self._where.element.tag == 0x7FE00010

    @property
    def stored_length(self) -> int:
        """The approximate size of all frames in the file, in bytes."""
        start = self._where.element.offset
        return self._where.element.length or self._file.seek(0, 2) - start

    def check_count(self) -> None:
        """Raise a `DataSetError` if the pixel data is too short for Number of Frames."""
        if not self.is_encapsulated:
            there = self.stored_length * 8 >= self._native_bits * self.image.number_of_frames
        else:
            with _readable():
                self._file.seek(self._where.element.offset)
                count, _ = parse_fragments(self._file)
            there = count - 1 >= self.image.number_of_frames  # the first is the offset table
        if not there:
            raise DataSetError("it has fewer frames than it says")

    def read(self, number: int) -> bytes:
        """Return a frame as it is stored: compressed, or its pixels in little endian.

        Parameters
        ----------
        number : int
            From 1. Single-bit frames that do not begin at a byte boundary are shifted, so that the
            first pixel is the lowest bit of the first byte.

        Raises
        ------
        DataSetError
            If there is no such frame.
        """
        if not 1 <= number <= self.image.number_of_frames:
            raise DataSetError(f"it has no frame {number}")
        if not self.is_encapsulated:
            return self._native(number)
        with _readable():
            self._file.seek(self._where.element.offset)
            return get_frame(
                self._file,
                number - 1,
                number_of_frames=self.image.number_of_frames,
                extended_offsets=self._table(),
            )

    def value(self) -> tuple[int, Iterator[bytes]]:
        """Return the length of uncompressed pixels, and their bytes in little endian.

        The bytes are read in pieces.

        Raises
        ------
        DataSetError
            If they are compressed, or cut off.
        """
        element, end = self._where.element, self._file.seek(0, os.SEEK_END)
        if self.is_encapsulated or element.length is None:
            raise DataSetError("the pixels are compressed")
        if element.offset + element.length > end:
            raise DataSetError("the pixels are cut off")
        return element.length, self._pieces(element.offset, element.length)

    def _pieces(self, offset: int, left: int) -> Iterator[bytes]:
        self._file.seek(offset)
        while left and (data := self._file.read(min(left, _PIECE))):
            left -= len(data)
            word = WORD_SIZES.get(self._where.element.vr, 1)
            yield data if self._where.little else swapped(data, word)

    def place(self, number: int) -> tuple[int, int] | None:
        """Return the file offset and length of a frame whose bytes can be sent unchanged.

        None if they must be changed, or the frame is compressed.

        Raises
        ------
        DataSetError
            As for `read`.
        """
        element = self._where.element
        start, size = (number - 1) * self._native_bits // 8, self._native_bits // 8
        if self.is_encapsulated or self._native_bits % 8 or not self._where.little:
            return None
        if not 1 <= number <= self.image.number_of_frames:
            raise DataSetError(f"it has no frame {number}")
        end = self._file.seek(0, os.SEEK_END)
        if element.offset + start + size > end or (element.length or end) < start + size:
            raise DataSetError("the pixels are cut off")
        return element.offset + start, size

    def __iter__(self) -> Iterator[bytes]:
        """Yield all frames as `read` returns them, in one pass through the file."""
        numbers = range(1, self.image.number_of_frames + 1)
        if not self.is_encapsulated:
            yield from map(self._native, numbers)
            return
        self._file.seek(self._where.element.offset)
        with _readable():
            frames = generate_frames(
                self._file,
                number_of_frames=self.image.number_of_frames,
                extended_offsets=self._table(),
            )
            for _ in numbers:
                frame = next(frames, None)
                if frame is None:
                    raise DataSetError("it has fewer frames than it says")
                yield frame

    def _table(self) -> tuple[bytes, bytes] | None:
        """Return the Extended Offset Table, if it is complete (PS3.3 C.7.6.3.1.8)."""
        size = 8 * self.image.number_of_frames
        tables = (self._where.offsets, self._where.lengths)
        found = []
        for table in tables:
            if table is None or table.length != size:
                return None
            at = self._file.tell()
            self._file.seek(table.offset)
            found.append(self._file.read(size))
            self._file.seek(at)
        return found[0], found[1]

    def _native(self, number: int) -> bytes:
        element = self._where.element
        start = (number - 1) * self._native_bits
        end = start + self._native_bits
        # Whole words are swapped: the first and last may be shared with other frames.
        word = 1 if self._where.little else WORD_SIZES.get(element.vr, 1)
        first = start // 8 // word * word
        last = -(-end // (8 * word)) * word
        self._file.seek(element.offset + first)
        data = self._file.read(last - first)
        if len(data) < -(-end // 8) - first or (element.length or last) < -(-end // 8):
            raise DataSetError("the pixels are cut off")
        data = swapped(data, word)
        if start % 8 or end % 8:
            bits = int.from_bytes(data, "little") >> (start - 8 * first)
            bits &= (1 << self._native_bits) - 1
            return bits.to_bytes(-(-self._native_bits // 8), "little")
        return data[start // 8 - first : end // 8 - first]


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raise a `DataSetError` if pydicom cannot read the fragments."""
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        if isinstance(error, DataSetError):
            raise
        raise DataSetError("the frames cannot be told apart") from None
