"""Where the bytes of a data set wait: in memory while few, in a temporary file beyond."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
from typing import Any, BinaryIO

from pacsroute.instances.atomic_files import draft, make_folder, publish, write_all
from pacsroute.instances.peek import LOOK

THRESHOLD = 131_072
"""How many bytes of one data set are held in memory, before they go to a file."""

_MANY = 1024  # fragments that are held apart


class Room:
    """How many bytes all spools of an app have in files."""

    def __init__(self) -> None:
        self.used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        """Take so many bytes, or give them back if they are negative; return what is in use."""
        with self._lock:
            self.used += count
            return self.used


def check_room(used: int, most: int | None) -> None:
    """Raise an `OSError` if spools have more bytes in files than they may."""
    if most is not None and used > most:
        raise OSError(errno.ENOSPC, f"max_spool reached, {most} bytes")


class _Reader(io.RawIOBase):
    """Reads an open file at a position of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

    @property
    def name(self) -> int:
        """Return what it is opened by, as Python's own files do: pydicom asks."""
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
    """Return a file that reads from a descriptor, which it closes, at a position of its own."""
    file = io.BufferedReader(_Reader(fd))
    file.seek(at)
    return file


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
    most : int, optional
        How many bytes there may be.
    room : Room, optional
        What it shares with others.
    most_of_all : int, optional
        How many bytes they may have in files together.

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

    def __init__(
        self,
        head: bytes,
        folder: str | None = None,
        threshold: int = THRESHOLD,
        *,
        most: int | None = None,
        room: Room | None = None,
        most_of_all: int | None = None,
    ) -> None:
        self.head = head
        self.size = 0
        self.error: OSError | None = None
        self._folder = folder
        self._threshold = threshold
        self._chunks: list[bytes] = []
        self._first = b""
        self._fd = -1
        self._path = ""
        self._temporary = False
        self._most = most
        self._room = room
        self._most_of_all = most_of_all
        self._taken = 0

    @property
    def in_memory(self) -> int:
        """How many bytes of it are not in a file."""
        return 0 if self._fd >= 0 or self.error is not None else self.size

    def write(self, data: bytes | memoryview) -> None:
        """Take the next fragment; never raises, see `error`."""
        if not data:
            return
        self.size += len(data)
        if self._fd < 0 and self.error is None:
            if self.size <= self._threshold and (self._most is None or self.size <= self._most):
                self._chunks.append(bytes(data))
                if len(self._chunks) == _MANY:  # of two bytes each take 20 times the memory
                    self._chunks = [b"".join(self._chunks)]
                return
            self._to_file(data)
        elif self.error is None:
            try:
                self._take(len(data))
                write_all(self._fd, data)
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Make room at once: what came so far is of no use."""
        self.error = error.with_traceback(None)  # whose frames would keep this spool
        self.close()

    def _take(self, count: int) -> None:
        if self._most is not None and self.size > self._most:
            raise OSError(errno.EFBIG, f"longer than max_dataset_length, {self._most} bytes")
        if self._room is not None:
            self._taken += count
            used = self._room.take(count)
            check_room(used, self._most_of_all)

    def _give_back(self) -> None:
        if self._room is not None and self._taken:
            self._room.take(-self._taken)
            self._taken = 0

    def close(self) -> None:
        """Drop what came, but for a file that has its final name."""
        self._chunks.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            if self._temporary and self._path:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
        self._give_back()

    __del__ = close

    def _to_file(self, data: bytes | memoryview) -> None:
        """Write what came so far, and the next fragment."""
        try:
            self._fd, self._path = draft(self._folder)
            self._temporary = True
            self._take(self.size)
            write_all(self._fd, self.head, *self._chunks, data)
            self._first = b"".join((*self._chunks, data[:LOOK]))[:LOOK]
            self._chunks.clear()
        except OSError as error:
            self._fail(error)

    def first(self) -> bytes:
        """Return the beginning of the data set, for a look at its first elements."""
        if self._fd >= 0:
            if len(self._first) < min(LOOK, self.size):
                return os.pread(self._fd, LOOK, len(self.head))
            return self._first
        if self._chunks and len(self._chunks[0]) >= LOOK:
            return self._chunks[0]
        return b"".join(self._chunks)[:LOOK]

    def open(self) -> BinaryIO:
        """Return a file to read, at the beginning of the data set."""
        if self._fd < 0:
            return io.BytesIO(b"".join(self._chunks))
        # Not by its path: under that there may be another instance by now.
        return reader(os.dup(self._fd), len(self.head))

    def copy_to(self, fd: int) -> None:
        """Write the Part 10 file to an open one."""
        if self._fd < 0:
            write_all(fd, self.head, *self._chunks)
            return
        position, end = 0, len(self.head) + self.size
        while position < end:
            data = os.pread(self._fd, min(1 << 20, end - position), position)
            if not data:
                raise OSError(errno.EIO, "the file was made shorter under its name")
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
        if durable:
            os.fsync(self._fd)
        try:
            try:
                publish(self._fd, self._path, target, replace=replace)
            except FileNotFoundError:  # the first in its folder, as in one for each series
                make_folder(os.path.dirname(target))
                publish(self._fd, self._path, target, replace=replace)
        except FileExistsError:
            raise
        except OSError:
            return False  # another file system: copied instead, which tells what is wrong
        self._temporary = False
        self._give_back()
        return True
