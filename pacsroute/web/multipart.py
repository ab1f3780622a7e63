"""Bodies of several parts, as they are sent (RFC 2046 §5.1, RFC 2387, PS3.18 §8.6.1.2)."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

_PIECE = 1 << 18


class Region:
    """A part of a file, in a response of a server that sends it without reading it.

    The code in between takes it for opaque bytes.

    Parameters
    ----------
    file : binary file
        It has to stay open until it is sent.
    offset, size : int
        Where the part begins, and how many bytes it has.

    Examples
    --------
    >>> with open(__file__, "rb") as file:
    ...     len(Region(file, offset=100, size=20))
    20
    """

    __slots__ = ("_size", "file", "offset")

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self.file, self.offset, self._size = file, offset, size

    def __len__(self) -> int:
        """Return how many bytes it has."""
        return self._size


class Held(bytes):
    """Bytes that may wait for the next ones."""


class Part(NamedTuple):
    """A part of a body.

    Parameters
    ----------
    content_type : str
        Its media type.
    chunks : iterable of bytes or Region
        Its content.
    location : str
        Its URL, if it has one.
    size : int, optional
        How many bytes it has, if that is known; of a list, it is.
    """

    content_type: str
    chunks: Iterable[bytes]
    location: str = ""
    size: int | None = None

    def head(self) -> str:
        """Return its headers (PS3.18 Table 8.6.1-1)."""
        found, size = f"Content-Type: {self.content_type}\r\n", self.size
        if isinstance(self.chunks, list):
            size = sum(map(len, self.chunks))
        if size is not None:
            found += f"Content-Length: {size}\r\n"
        return found + (f"Content-Location: {self.location}\r\n" if self.location else "")


class Multipart:
    """A multipart body with a random boundary.

    Parameters
    ----------
    media_type : str
        That of the parts.
    """

    def __init__(self, media_type: str) -> None:
        self.boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self.boundary}'

    def body(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield the body. Where a part breaks off, the closing boundary is never sent."""
        for part in parts:
            yield self._head(part)
            yield from part.chunks
        yield self._end()

    def length(self, part: Part) -> int:
        """Return how many bytes the body has if this is its only part, whose size is known."""
        assert part.size is not None
        return len(self._head(part)) + part.size + len(self._end())

    def _head(self, part: Part) -> bytes:
        return Held(f"\r\n--{self.boundary}\r\n{part.head()}\r\n".encode("latin-1"))

    def _end(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode("ascii")


def size_of(file: BinaryIO) -> int:
    """Return how many bytes of a file are left."""
    at = file.tell()
    size = file.seek(0, os.SEEK_END) - at
    file.seek(at)
    return size


def pieces(file: BinaryIO, head: bytes = b"", *, as_region: bool = False) -> Iterator[bytes]:
    """Yield a head and then a file in pieces; the file is closed behind its end.

    Parameters
    ----------
    file : binary file
        It is read from its current position.
    head : bytes
        The head of the part.
    as_region : bool
        Whether a file of the system is left to a server that sends it.
    """
    with file:
        if as_region and is_plain(file):
            yield Held(head)
            region: Any = Region(file, file.tell(), size_of(file))
            yield region
            return
        first = file.read(_PIECE)
        yield head + first
        while len(first) == _PIECE and (piece := file.read(_PIECE)):
            yield piece


def is_plain(file: BinaryIO) -> bool:
    """Return whether a file is one of the system, and nothing that reads from others."""
    raw = getattr(file, "raw", file)
    return isinstance(raw, io.FileIO)
