"""Request bodies with a content coding (RFC 9110 §8.4, PS3.18 Table 10.5.1-2)."""

from __future__ import annotations

import zlib
from typing import Any

from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

_PIECE = 1 << 16
_EITHER = zlib.MAX_WBITS | 32  # gzip or zlib, detected from the header
_CODINGS = ("gzip", "x-gzip", "deflate")


class Inflated:
    """Decompresses a gzip or deflate body in constant memory.

    Parameters
    ----------
    stream : binary file
        The compressed body.
    most : int
        The most bytes after decompression: the setting ``max_web_body``; 0 for no limit.
    """

    def __init__(self, stream: Any, most: int) -> None:
        self._stream = stream
        self._most = most
        self._decoder = zlib.decompressobj(_EITHER)
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes, or all.

        Raises
        ------
        werkzeug.exceptions.HTTPException
            If the body is corrupt, truncated or too long.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        while not self._decoder.eof:
            data = self._decoder.unconsumed_tail or self._stream.read(_PIECE)
            if not data:
                raise BadRequest("the body is cut off")
            try:
                found = self._decoder.decompress(data, size)
            except zlib.error:
                raise BadRequest("the body is not in its content coding") from None
            self._size += len(found)
            if self._most and self._size > self._most:
                raise RequestEntityTooLarge(f"longer than {self._most}: max_web_body")
            if found:
                return found
        if self._decoder.unused_data or self._stream.read(1):
            raise BadRequest("there are bytes after the end of the body")
        return b""


def decoded(stream: Any, coding: str, most: int) -> Any:
    """Return a body without its content coding.

    Parameters
    ----------
    stream, most : binary file, int
        As for `Inflated`.
    coding : str
        The value of the Content-Encoding header.

    Raises
    ------
    werkzeug.exceptions.UnsupportedMediaType
        If the coding is not supported.

    Examples
    --------
    >>> import gzip, io
    >>> decoded(io.BytesIO(gzip.compress(b"abc")), "gzip", 0).read()
    b'abc'
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return stream
    if coding not in _CODINGS:
        raise UnsupportedMediaType("the codings of a body must be gzip or deflate")
    return Inflated(stream, most)
