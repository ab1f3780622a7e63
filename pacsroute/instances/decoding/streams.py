"""A data set with values that are written in pieces, never all in memory."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

from pydicom import DataElement, Dataset
from pydicom.tag import BaseTag

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.vr import Syntax, syntax
from pacsroute.errors import DataSetError

UNDEFINED = 0xFFFFFFFF
"""The length of a value that ends with a delimiter."""


class Stream(NamedTuple):
    """A value that is written in pieces: its VR, length, and what yields the pieces."""

    vr: str
    length: int
    pieces: Iterable[Any]
    is_undefined: bool = False  # a sequence that ends with a delimiter


def write(dataset: Dataset, streams: dict[int, Stream], target: str, out: BinaryIO) -> None:
    """Write a data set, in which streams replace some values."""
    how = syntax(target)
    places = {tag: os.urandom(32) for tag in sorted(streams)}
    for tag, place in places.items():
        dataset[tag] = DataElement(BaseTag(tag), "OB", place)
    body = memoryview(encode(dataset, uids.EXPLICIT_VR_LITTLE_ENDIAN if how.deflated else target))
    sink: Any = _Deflating(out) if how.deflated else out
    flat, at = bytes(body), 0
    for tag, place in places.items():
        found = flat.index(place, at)
        sink.write(body[at : found - (8 if how.implicit else 12)])
        _write_stream(tag, streams[tag], how, sink)
        at = found + len(place)
    sink.write(body[at:])
    if how.deflated:
        sink.finish()


def _write_stream(tag: int, stream: Stream, how: Syntax, sink: Any) -> None:
    length, order = stream.length + (stream.length & 1), "<" if how.little else ">"
    sink.write(struct.pack(order + "HH", tag >> 16, tag & 0xFFFF))
    sink.write(b"" if how.implicit else stream.vr.encode() + b"\0\0")
    sink.write(struct.pack(order + "I", UNDEFINED if stream.is_undefined else length))
    written = 0
    for piece in stream.pieces:
        written += len(piece)
        sink.write(piece)
    if written != stream.length:
        raise DataSetError("a value is not as long as its length says")
    sink.write(b"\0" * (length - written))
    if stream.is_undefined:
        sink.write(struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0))


class _Deflating:
    """Deflates the written bytes (PS3.5 §A.5)."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        self._size = 0

    def write(self, data: Any) -> None:
        self._size += self._out.write(self._deflater.compress(data))

    def finish(self) -> None:
        self._size += self._out.write(self._deflater.flush())
        self._out.write(b"\0" * (self._size & 1))
