"""Bodies of several parts, as they are sent (RFC 2046 §5.1, RFC 2387, PS3.18 §8.6.1.2)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

_PIECE = 1 << 18


class Part(NamedTuple):
    """A part of a body.

    Parameters
    ----------
    content_type : str
        Its media type.
    chunks : iterable of bytes
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
    """A multipart body with a boundary that nobody can guess.

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
            yield f"\r\n--{self.boundary}\r\n{part.head()}\r\n".encode("latin-1")
            yield from part.chunks
        yield f"\r\n--{self.boundary}--\r\n".encode("ascii")


def pieces(open_it: Callable[[], BinaryIO], head: bytes = b"") -> Iterator[bytes]:
    """Yield a head and then a file in pieces; the file is closed behind its end."""
    with open_it() as file:
        first = file.read(_PIECE)
        yield head + first
        while len(first) == _PIECE and (piece := file.read(_PIECE)):
            yield piece
