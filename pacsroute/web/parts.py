"""Multipart bodies of requests, read piece by piece in constant memory (RFC 2387).

Parts of multipart/related have no Content-Disposition, which few parsers accept. A truncated part
is an error, never a shorter body.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

_PIECE = 1 << 18
_SILENT = logging.Logger("multipart", logging.CRITICAL)
_HEADERS = 16_384  # limit for the headers of a part, in bytes


class Receiver(Protocol):
    """Receives the parts of a body."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a part, with its headers by lower-case name."""

    def data(self, piece: memoryview) -> None:
        """Add data to the part."""

    def end(self) -> None:
        """End the part."""


def receive(stream: Any, content_type: str, receiver: Receiver, most: int) -> str:
    """Read a multipart body to its end; return the media type of its parts.

    Parameters
    ----------
    stream : binary file
        The body.
    content_type : str
        The Content-Type header, with the boundary.
    receiver : Receiver
        The receiver of the parts.
    most : int
        The maximum number of parts: the setting ``max_web_parts``.

    Raises
    ------
    werkzeug.exceptions.HTTPException
        If the body is not multipart, is truncated, or has too many parts.
    """
    kind, boundary = _described(content_type)
    reader = _Reader(receiver, most)
    parser = MultipartParser(boundary, reader.callbacks)
    parser.logger = _SILENT  # its messages quote bytes of the body
    try:
        piece = _without_preamble(stream.read(_PIECE), boundary)
        while piece:
            parser.write(piece)
            piece = stream.read(_PIECE)
    except FormParserError:
        raise BadRequest("the body is not multipart, or its parts are broken") from None
    finally:
        reader.callbacks.clear()  # they keep the reader and its spooled data alive
    if parser.state != MultipartState.END:
        raise BadRequest("the body is cut off")
    return kind


def _without_preamble(piece: bytes, boundary: bytes) -> bytes:
    """Return the start of a body, from its first boundary on (RFC 2046 §5.1.1)."""
    first = b"--" + boundary
    if piece.startswith((first, b"\r\n" + first)):
        return piece
    at = piece.find(b"\r\n" + first)
    return piece[at:] if at >= 0 else piece


def _described(content_type: str) -> tuple[str, bytes]:
    main, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if main.lower() != b"multipart/related":
        raise UnsupportedMediaType("the body must be multipart/related or application/dicom")
    if not 1 <= len(boundary) <= 200:
        raise BadRequest("the header Content-Type names no boundary")
    return options.get(b"type", b"").decode("latin-1").lower(), boundary


class _Reader:
    """Collects the headers of each part, and passes its data on."""

    def __init__(self, receiver: Receiver, most: int) -> None:
        self._receiver = receiver
        self._most = self._left = most
        self._headers: dict[str, str] = {}
        self._name, self._value = b"", b""
        self._size = 0
        self.callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._more,
            "on_header_end": self._header,
            "on_headers_finished": self._finished,
            "on_part_data": self._data,
            "on_part_end": receiver.end,
        }

    def _begin(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise RequestEntityTooLarge(f"more than {self._most} parts: max_web_parts")
        self._headers, self._size = {}, 0

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _more(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > _HEADERS:
            raise BadRequest("the headers of a part are too long")

    def _header(self) -> None:
        name = self._name.decode("latin-1").strip().lower()
        self._headers[name] = self._value.decode("latin-1").strip()
        self._name, self._value = b"", b""

    def _finished(self) -> None:
        self._receiver.begin(self._headers)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._receiver.data(memoryview(data)[start:end])
