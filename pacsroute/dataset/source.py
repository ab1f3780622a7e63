"""A file that can be sliced like bytes."""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

_CHUNK = 1 << 16


class File:
    """A file as a sequence of bytes, read in chunks, from its current position.

    Parameters
    ----------
    file : binary file
        It has to be seekable.

    Attributes
    ----------
    base : int
        The position at which the file was.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.base = file.tell()
        self._length = file.seek(0, 2) - self.base
        self._at = 0
        self._chunk = b""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._length)
        if self._at <= start and stop <= self._at + len(self._chunk):
            return self._chunk[start - self._at : stop - self._at]
        self._file.seek(self.base + start)
        if stop - start > _CHUNK:
            return self._file.read(stop - start)
        self._at, self._chunk = start, self._file.read(_CHUNK)
        return self._chunk[: max(stop - start, 0)]


class Pages(mmap.mmap):
    """Memory as a file, returned to the system as soon as it is not needed.

    The allocator of C keeps memory that many threads free: several times the amount in use.

    Examples
    --------
    >>> pages = Pages(2).with_room(3)
    >>> pages.write(b"abc"), pages.tell(), len(pages) >= 3
    (3, 3, True)
    """

    def __new__(cls, size: int = 1 << 16) -> Pages:
        """Return pages for this many bytes."""
        return super().__new__(cls, -1, size)

    def with_room(self, count: int) -> Pages:
        """Return pages with the same bytes and position, and room for more."""
        used = self.tell()
        if used + count <= len(self):
            return self
        larger = Pages(2 * (used + count))
        larger.write(memoryview(self)[:used])
        self.close()
        return larger

    def __deepcopy__(self, memo: object) -> Pages:
        """Return the same pages: they are only read."""
        return self


def unpacker(data: Any, head: struct.Struct) -> Callable[[int], tuple[Any, ...]]:
    """Return a function that unpacks a struct at a place in some bytes, or in a File.

    Parameters
    ----------
    data : bytes-like or File
        The bytes.
    head : struct.Struct
        The layout of the bytes at the given offsets.

    Examples
    --------
    >>> unpacker(b"..ab", struct.Struct("<2s"))(2)
    (b'ab',)
    """
    if isinstance(data, File):
        return lambda at: head.unpack(data[at : at + head.size])
    return functools.partial(head.unpack_from, data)
