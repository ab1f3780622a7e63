"""Open files that several readers share, each at its own position."""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO


class _Reader(io.RawIOBase):
    """Reads an open file at its own position."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

    @property
    def name(self) -> int:
        """Return its name, as Python's own files do: pydicom asks for it."""
        return self._fd

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._fd, [buffer], self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = (0, self._position, os.fstat(self._fd).st_size)[whence]
        self._position = start + offset
        return self._position

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)


def reader(fd: int, at: int = 0) -> BinaryIO:
    """Return a file that reads from a descriptor at its own position, and closes it."""
    file = io.BufferedReader(_Reader(fd))
    file.seek(at)
    return file
