"""Multipart bodies of responses (RFC 2046 §5.1, RFC 2387, PS3.18 §8.6.1.2)."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

_PIECE = 1 << 18


class Region:
    """A part of a file that the server can send without reading it.

    Other code treats it as opaque bytes.

    Parameters
    ----------
    file : binary file
        A file that stays open until it has been sent.
    offset, size : int
        The offset and the length of the part, in bytes.

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
        """Return its length in bytes."""
        return self._size


class Held(bytes):
    """Bytes that may be held back and sent with the next ones."""


class Part(NamedTuple):
    """A part of a multipart body.

    Parameters
    ----------
    content_type : str
        Its media type.
    chunks : iterable of bytes or Region
        Its content.
    location : str
        Its URL, if it has one.
    size : int, optional
        The length of its content in bytes, if known; for a list it is known.
    """

    content_type: str
    chunks: Iterable[bytes]
    location: str = ""
    size: int | None = None

    def head(self) -> str:
        """Return the headers of the part (PS3.18 Table 8.6.1-1)."""
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
        The media type of the parts.
    """

    def __init__(self, media_type: str) -> None:
        self.boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self.boundary}'

    def body(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield the body; if a part fails, the closing boundary is not sent."""
        for part in parts:
            yield self._head(part)
            yield from part.chunks
        yield self._end()

    def length(self, part: Part) -> int:
        """Return the length of the body if this is its only part; its size must be known."""
        assert part.size is not None
        return len(self._head(part)) + part.size + len(self._end())

    def _head(self, part: Part) -> bytes:
        return Held(f"\r\n--{self.boundary}\r\n{part.head()}\r\n".encode("latin-1"))

    def _end(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode("ascii")


def size_of(file: BinaryIO) -> int:
    """Return the number of bytes from the current position to the end of a file."""
    at = file.tell()
    size = file.seek(0, os.SEEK_END) - at
    file.seek(at)
    return size


def pieces(file: BinaryIO, head: bytes = b"", *, as_region: bool = False) -> Iterator[bytes]:
    """Yield a head and then a file in pieces; the file is closed at the end.

    Parameters
    ----------
    file : binary file
        The file, read from its current position.
    head : bytes
        The head of the part.
    as_region : bool
        Whether to yield regular files as a `Region`, for the server to send.
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
    """Return whether a file is a regular file of the system, not a wrapper around other files."""
    raw = getattr(file, "raw", file)
    return isinstance(raw, io.FileIO)
