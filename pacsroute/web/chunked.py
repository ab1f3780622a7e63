"""A chunked request body (RFC 9112 §7.1), read without holding it in memory.

cheroot's own reader loads each chunk into memory, whatever length the client states.
"""

from __future__ import annotations

import io
import re
from typing import Any

_LINE = 4096  # limit in bytes for a chunk's size line, and for all trailers
_LENGTH = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r?\n", re.DOTALL)


class Chunks(io.RawIOBase):
    r"""Read the content of chunks.

    Parameters
    ----------
    file : io.BufferedReader
        The file with the chunks.

    Attributes
    ----------
    is_whole : bool
        Whether all chunks have been read.

    Examples
    --------
    >>> chunks = Chunks(io.BufferedReader(io.BytesIO(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")))
    >>> io.BufferedReader(chunks).read(), chunks.is_whole
    (b'abcde', True)
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._left = 0
        self.is_whole = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes from the current chunk.

        Raises
        ------
        OSError
            If the body ends before its last chunk, or a chunk is invalid.
        """
        if not self._left and not self.is_whole:
            self._begin()
        if self.is_whole:
            return 0
        count = self._file.readinto1(memoryview(buffer)[: self._left])
        if not count:
            raise OSError("the body is cut off")
        self._left -= count
        if not self._left and self._file.read(2) != b"\r\n":
            raise OSError("a chunk does not end where it says")
        return count

    def _begin(self) -> None:
        found = _LENGTH.fullmatch(self._file.readline(_LINE))
        if found is None:
            raise OSError("a chunk has no length")
        self._left = int(found[1], 16)
        if not self._left:
            self._pass_trailers()

    def _pass_trailers(self) -> None:
        left = _LINE
        while (line := self._file.readline(left)) not in (b"\r\n", b"\n"):
            left -= len(line)
            if not line or left <= 0:
                raise OSError("the trailers do not end")
        self.is_whole = True
