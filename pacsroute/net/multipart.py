"""Multipart bodies of responses, read part by part as they arrive (RFC 2046 §5.1)."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from typing import Any

from pacsroute.errors import DataSetError

_PIECE = 1 << 18
_HEADERS = 16_384


class Parts:
    r"""The parts of a body, each an iterator of its pieces.

    Parameters
    ----------
    stream : binary file
        The body.
    content_type : str
        The Content-Type header, which names the boundary.

    Raises
    ------
    DataSetError
        If it is not a multipart body; while iterating, if it is cut off.

    Examples
    --------
    >>> from io import BytesIO
    >>> body = b"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--"
    >>> parts = Parts(BytesIO(body), "multipart/related; boundary=b")
    >>> [b"".join(part) for part in parts]
    [b'one', b'two']
    """

    def __init__(self, stream: Any, content_type: str) -> None:
        described = Message()
        described["Content-Type"] = content_type
        boundary = described.get_boundary()
        if described.get_content_maintype() != "multipart" or not boundary:
            raise DataSetError("the answer is not multipart")
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        self._buffer = b"\r\n"  # the body may begin with a delimiter

    def _more(self) -> None:
        piece = self._stream.read(_PIECE)
        if not piece:
            raise DataSetError("the answer is cut off")
        self._buffer += piece

    def __iter__(self) -> Iterator[Iterator[bytes]]:
        for _ in self._until_delimiter():  # the text before the first part is not a part
            pass
        while not self._is_last():
            part = self._part()
            yield part
            for _ in part:  # skip the unread rest of the part
                pass

    def _is_last(self) -> bool:
        """Return whether the delimiter was the closing one."""
        while len(self._buffer) < 2:
            self._more()
        return self._buffer[:2] == b"--"

    def _part(self) -> Iterator[bytes]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEADERS:
                raise DataSetError("the headers of a part have no end")
            self._more()
        self._buffer = self._buffer[end + 4 :]
        yield from self._until_delimiter()

    def _until_delimiter(self) -> Iterator[bytes]:
        """Yield the bytes before the next delimiter, and skip it."""
        keep = len(self._delimiter) - 1
        while (at := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > keep:
                yield self._buffer[:-keep]
                self._buffer = self._buffer[-keep:]
            self._more()
        if at:
            yield self._buffer[:at]
        self._buffer = self._buffer[at + len(self._delimiter) :]
