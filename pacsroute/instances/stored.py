"""Instances in a storage, which keeps files by key; they are read in ranges."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

_TOKEN = os.urandom(3).hex()
_COUNT = itertools.count()
_AT_ONCE = 1 << 20  # bytes to read ahead: a request to a bucket takes milliseconds


@runtime_checkable
class Storage(Protocol):
    """A storage for `request.save`: see `pacsroute.storage` for two of them."""

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Store a file under a key, and return when it is durable.

        Raises
        ------
        OSError
            If it cannot be stored; nothing is then stored under the key.
        """

    def open(self, key: str, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Return a file to read, from an offset to the end, or for `length` bytes.

        Raises
        ------
        FileNotFoundError
            If there is nothing under the key.
        OSError
            If it cannot be read.
        """

    def delete(self, key: str) -> None:
        """Remove the object of a key, if there is one."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix of whole path components, in any order."""


class Stored(NamedTuple):
    """A file in a storage, as a source of an `Instance`.

    Parameters
    ----------
    storage : Storage
        Its storage.
    key : str
        Its name there.
    """

    storage: Storage
    key: str

    def open(self, at_once: int = 0) -> BinaryIO:
        """Return a file to read and to seek in; unread bytes are not fetched.

        Parameters
        ----------
        at_once : int
            A file of up to this many bytes is read immediately, because seeking would fetch it
            again.
        """
        file = _Ranges(self.storage, self.key)
        if file.size is not None and file.size <= at_once:
            with file:
                return io.BytesIO(file.read())
        return io.BufferedReader(file, _AT_ONCE)


def new_key(sop_instance: str) -> str:
    """Return a new key for storing an instance; keys of the same instance sort by time.

    Examples
    --------
    >>> first, second = new_key("1.2.3"), new_key("1.2.3")
    >>> first < second, first.split("/")[0]
    (True, '1.2.3')
    """
    return f"{sop_instance}/{time.time_ns():020d}-{next(_COUNT):08d}-{_TOKEN}.dcm"


class _Ranges(io.RawIOBase):
    """A file in a storage, opened at the current offset when it is read."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._position = 0
        self._stream: BinaryIO | None = None  # also if `open` raises: Python closes this object
        self._stream = storage.open(key)  # fails now if it was removed
        self._stream_at = 0
        self.size: int | None = getattr(self._stream, "size", None)
        self.name = key  # pydicom asks a file for its name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._stream is None or self._stream_at != self._position:
            self._drop()
            self._stream = self._storage.open(self._key, self._position)
            self._stream_at = self._position
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._position = self._stream_at = self._position + len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = self._end() if whence == os.SEEK_END else (0, self._position)[whence]
        self._position = max(0, start + offset)
        return self._position

    def _end(self) -> int:
        if self.size is None:  # the storage did not report it
            with self._storage.open(self._key) as file:
                self.size = sum(map(len, iter(lambda: file.read(_AT_ONCE), b"")))
        return self.size

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        if not self.closed:
            self._drop()
            super().close()


class Joined(io.RawIOBase):
    """The head of a Part 10 file and its data set, one after the other."""

    def __init__(self, head: bytes, data: BinaryIO) -> None:
        self._files = [io.BytesIO(head), data]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._files:
            data = self._files[0].read(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            self._files.pop(0).close()
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()
        super().close()
