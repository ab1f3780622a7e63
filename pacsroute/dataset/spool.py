"""Where the bytes of a data set wait: in memory while few, in a temporary file beyond."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import weakref
from typing import BinaryIO

THRESHOLD = 131_072
"""How many bytes of one data set are held in memory, before they go to a file."""


_IOV_MAX = 512


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of the data; a disk that fills up may take a part of it."""
    written = os.write(fd, data)
    while written < len(data):
        data = memoryview(data)[written:]
        written = os.write(fd, data)


def _remove(fd: int, path: str) -> None:
    os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


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
        self._cleanup: weakref.finalize[..., Spool] | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Take the next fragment; never raises, see `error`."""
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

    def _to_file(self) -> None:
        try:
            if self._folder is not None:
                os.makedirs(self._folder, exist_ok=True)
            fd, path = tempfile.mkstemp(".part", ".pacsroute-", self._folder)
            self._fd, self._path = fd, path
            self._cleanup = weakref.finalize(self, _remove, fd, path)
            write_all(fd, b"".join((self.head, *self._chunks)))
            self._chunks.clear()
        except OSError as error:
            self.error = error

    def first(self) -> bytes:
        """Return the beginning of the data set, for a look at its first elements."""
        if self._chunks:
            return self._chunks[0]
        return os.pread(self._fd, 4096, len(self.head)) if self._fd >= 0 else b""

    def open(self) -> BinaryIO:
        """Return a file to read, at the beginning of the data set."""
        if self._fd < 0:
            return io.BytesIO(b"".join(self._chunks))
        # Reopened by path for a file position of its own; it outlives a rename or removal.
        file = open(self._path, "rb")  # noqa: SIM115 - the caller closes it
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

    def link_to(self, path: str, *, durable: bool) -> bool:
        """Give the temporary file a second name; return False where that cannot be done.

        The spool keeps the first one until `moved`, so that it outlives a save that fails.
        """
        if self._cleanup is None or not self._cleanup.alive:
            return False
        if durable:
            os.fsync(self._fd)
        try:
            os.link(self._path, path)
        except OSError:
            return False  # another file system: copied instead, which tells what is wrong
        # mkstemp's mode is for secrets; a saved file has the one that the umask gives.
        os.fchmod(self._fd, 0o666 & ~_UMASK)
        return True

    def moved(self, path: str) -> None:
        """Say that the temporary file has its final name, and is to stay under that."""
        os.unlink(self._path)
        self._path = path
        if self._cleanup is not None:
            self._cleanup.detach()
            weakref.finalize(self, os.close, self._fd)
            self._cleanup = None


# Read once: os.umask changes it for all threads while it tells.
_UMASK = os.umask(0o022)
os.umask(_UMASK)
