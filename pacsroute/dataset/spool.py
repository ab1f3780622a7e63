"""Where the bytes of a data set wait: in memory while few, in a temporary file beyond."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import secrets
import tempfile
from typing import Any, BinaryIO

from pacsroute.dataset.peek import LOOK

THRESHOLD = 131_072
"""How many bytes of one data set are held in memory, before they go to a file."""


_IOV_MAX = 512


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of the data; a disk that fills up may take a part of it."""
    written = os.write(fd, data)
    while written < len(data):
        data = memoryview(data)[written:]
        written = os.write(fd, data)


_TOKEN = f".pacsroute-{secrets.token_hex(6)}"
_COUNT = itertools.count()


def partial_name() -> str:
    """Return a name for a file that is not whole yet: nobody else's, and soon made.

    `tempfile` asks the system for random bytes each time, which costs as much as opening
    the file.
    """
    return f"{_TOKEN}-{os.getpid()}-{next(_COUNT)}.part"


class _Reader(io.RawIOBase):
    """Reads an open file at a position of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

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


class Spool:
    """Takes the fragments of one data set as they come.

    Parameters
    ----------
    head : bytes
        What stands before the data set in a Part 10 file, so that the temporary file is
        one already.
    folder : str or None
        Where a temporary file goes; None is the system's folder for them.
    threshold : int
        How many bytes are held in memory before that.

    Attributes
    ----------
    size : int
        The bytes of the data set that have come.
    error : OSError or None
        Why they could not be kept; what comes after it is dropped, so that the rest of a
        message can be read to its end.

    Examples
    --------
    >>> spool = Spool(b"")
    >>> spool.write(b"ab"), spool.write(b"cd"), spool.open().read()
    (None, None, b'abcd')
    """

    def __init__(self, head: bytes, folder: str | None = None, threshold: int = THRESHOLD) -> None:
        self.head = head
        self.size = 0
        self.error: OSError | None = None
        self._folder = folder
        self._threshold = threshold
        self._chunks: list[bytes] = []
        self._fd = -1
        self._path = ""
        self._temporary = False

    def write(self, data: bytes | memoryview) -> None:
        """Take the next fragment; never raises, see `error`."""
        if not data:
            return
        self.size += len(data)
        if self._fd < 0 and self.error is None:
            if self.size <= self._threshold:
                self._chunks.append(bytes(data))
                return
            self._to_file()
        if self.error is None:
            try:
                write_all(self._fd, data)
            except OSError as error:
                self.error = error

    def close(self) -> None:
        """Drop what came, but for a file that has its final name."""
        self._chunks.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            if self._temporary:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)

    __del__ = close

    def _to_file(self) -> None:
        try:
            folder = tempfile.gettempdir() if self._folder is None else self._folder
            path = os.path.join(folder, partial_name())
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            try:
                self._fd = os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(folder, exist_ok=True)
                self._fd = os.open(path, flags, 0o600)
            self._path, self._temporary = path, True
            write_all(self._fd, b"".join((self.head, *self._chunks)))
            self._chunks.clear()
        except OSError as error:
            self.error = error

    def first(self) -> bytes:
        """Return the beginning of the data set, for a look at its first elements."""
        if self._fd >= 0:
            return os.pread(self._fd, LOOK, len(self.head))
        if self._chunks and len(self._chunks[0]) >= LOOK:
            return self._chunks[0]
        return b"".join(self._chunks)[:LOOK]

    def open(self) -> BinaryIO:
        """Return a file to read, at the beginning of the data set."""
        if self._fd < 0:
            return io.BytesIO(b"".join(self._chunks))
        # Not by its path: under that there may be another instance by now.
        file = io.BufferedReader(_Reader(os.dup(self._fd)))
        file.seek(len(self.head))
        return file

    def copy_to(self, fd: int) -> None:
        """Write the Part 10 file to an open one."""
        if self._fd < 0:
            pieces = [self.head, *self._chunks]
            whole = len(self.head) + self.size
            written = os.writev(fd, pieces[:_IOV_MAX])
            if written < whole:
                write_all(fd, memoryview(b"".join(pieces))[written:])
            return
        position, end = 0, len(self.head) + self.size
        while position < end:
            data = os.pread(self._fd, 1 << 20, position)
            write_all(fd, data)
            position += len(data)

    def move_to(self, target: str, *, replace: bool, durable: bool) -> bool:
        """Give the temporary file its final name; return False where it has to be copied.

        Raises
        ------
        FileExistsError
            If there is a file of that name, and it is not to be replaced.
        """
        if not self._temporary:
            return False
        # The mode was for secrets; a saved file has the one that the umask gives.
        os.fchmod(self._fd, 0o666 & ~_UMASK)
        if durable:
            os.fsync(self._fd)
        try:
            if replace:
                os.rename(self._path, target)
            else:
                os.link(self._path, target)
                os.unlink(self._path)
        except FileExistsError:
            raise
        except OSError:
            return False  # another file system: copied instead, which tells what is wrong
        self._path, self._temporary = target, False
        return True


# Read once: os.umask changes it for all threads while it tells.
_UMASK = os.umask(0o022)
os.umask(_UMASK)
