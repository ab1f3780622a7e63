"""Instances received as separate metadata and bulk data (PS3.18 §8.7.2, §10.5.1.4).

They become files in the spool; bulk data is in memory only piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from pydicom.datadict import dictionary_VR, tag_for_keyword
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from pacsroute import uids
from pacsroute.dataset.from_json import pieces
from pacsroute.dataset.limits import Limits
from pacsroute.errors import DataSetError, DataSetTooLarge
from pacsroute.instances import part10
from pacsroute.instances.spool import Spool
from pacsroute.memory import Holding
from pacsroute.web.compressed import LOOK, described
from pacsroute.web.xml_model import XML, model_of

_PIXELS, _FRAMES = "7FE00010", "00280008"
_AVAILABLE_SYNTAX = "00083002"
_OBJECT, _LIST, _TEXT, _VALUE = 240, 64, 56, 32  # bytes of memory for each when parsed
_PIECE = 1 << 18
_ITEM = b"\xfe\xff\x00\xe0"
_RLE = "1.2.840.10008.1.2.5"


class Made(NamedTuple):
    """An instance in the spool.

    Parameters
    ----------
    spool : Spool or None
        Its file; None if there was an error.
    sop_class, sop_instance, transfer_syntax : str
        Its UIDs; empty if unknown.
    error : DataSetError, optional
        The reason for the missing file.
    """

    spool: Spool | None
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    error: DataSetError | None = None


class _Part(NamedTuple):
    """Bulk data in the spool."""

    content_type: str
    start: int
    size: int


@dataclass
class _Stored:
    """A value in the spool: bulk data as received, or as the items of compressed pixel data."""

    spool: Spool
    parts: list[_Part]
    is_encapsulated: bool = False

    def __len__(self) -> int:
        if not self.is_encapsulated:
            return sum(part.size for part in self.parts)
        return 8 + sum(8 + part.size + part.size % 2 for part in self.parts)

    def __iter__(self) -> Iterator[bytes]:
        if self.is_encapsulated:
            yield _ITEM + bytes(4)  # an empty Basic Offset Table
        with self.spool.open() as file:
            for part in self.parts:
                if self.is_encapsulated:
                    yield _ITEM + (part.size + part.size % 2).to_bytes(4, "little")
                file.seek(part.start)
                left = part.size
                while left and (piece := file.read(min(left, _PIECE))):
                    left -= len(piece)
                    yield piece
                if self.is_encapsulated and part.size % 2:
                    yield b"\0"


class Models:
    """Collects metadata and bulk data, and makes instances of them once all have arrived.

    The bulk data of a request share one spool, and parsed metadata counts towards ``max_memory``.

    Parameters
    ----------
    open_spool : callable
        Called with the SOP class of an instance and the head of its file; returns its spool.
    titles : dict of str to str
        AE titles for that head, as in `pacsroute.instances.part10.head`.
    limits : Limits
        The limits on a data set and on the memory of the process.
    longest : int
        The maximum length of the metadata in bytes: the setting ``max_set_length``.
    most : int
        The maximum number of instances: the setting ``max_web_parts``.
    """

    def __init__(
        self,
        open_spool: Callable[[str, bytes], Spool],
        titles: dict[str, str],
        limits: Limits,
        longest: int,
        most: int,
    ) -> None:
        self._open_spool = open_spool
        self._titles = titles
        self._spool = open_spool("", b"")
        self._limits = limits
        self._longest = longest
        self._most = most
        self._holding = Holding(limits.memory)
        self._text: bytearray | None = None
        self._is_xml = False
        self._found: list[Any] = []
        self._parts: dict[str, list[_Part]] = {}
        self._current = ""
        self._size = 0

    def begin_model(self, kind: str) -> None:
        """Begin a metadata part of a media type."""
        self._text = bytearray()
        self._is_xml = kind == XML

    def begin_bulk_data(self, location: str, content_type: str) -> None:
        """Begin a part with bulk data."""
        part = _Part(content_type, self._spool.size, 0)
        self._parts.setdefault(location, []).append(part)
        self._current = location

    def data(self, piece: memoryview) -> None:
        """Add data to the current part."""
        if self._text is None:
            self._spool.write(piece)
            return
        self._size += len(piece)
        if self._size > self._longest:
            raise BadRequest(f"metadata of more than {self._longest} bytes: max_set_length")
        self._hold(len(piece))
        self._text += piece

    def end(self) -> None:
        """End the current part."""
        if self._text is None:
            parts = self._parts[self._current]
            parts[-1] = parts[-1]._replace(size=self._spool.size - parts[-1].start)
            return
        text, self._text = self._text, None
        self._hold(_OBJECT * text.count(b"<") if self._is_xml else _weight(text))
        try:
            found = model_of(text, self._limits.depth) if self._is_xml else orjson.loads(text)
        except orjson.JSONDecodeError:
            raise BadRequest("the metadata are not JSON") from None
        except DataSetError as error:
            raise BadRequest(str(error)) from None
        self._found += found if isinstance(found, list) else [found]
        if len(self._found) > self._most:
            raise RequestEntityTooLarge(f"more than {self._most} instances: max_web_parts")

    def _hold(self, size: int) -> None:
        if not self._holding.grow(size):
            raise DataSetTooLarge(f"max_memory reached, {self._limits.memory} bytes of all peers")

    def close(self) -> None:
        """Release the spool and the memory."""
        self._found.clear()
        self._holding.close()
        self._spool.close()

    def __iter__(self) -> Iterator[Made]:
        """Yield each instance, or the reason for its failure, and release it afterwards."""
        self._found.reverse()
        while self._found:
            yield self._made(self._found.pop())

    def _made(self, model: Any) -> Made:
        if not isinstance(model, dict):
            return Made(None, "", "", "", DataSetError("metadata are objects"))
        sop_class, sop_instance = uid_in(model, "00080016"), uid_in(model, "00080018")
        try:
            model, syntax, values = self._with_pixels(model)
            found: list[Any] = pieces(model, lambda uri: values.get(uri) or self._stored(uri))
        except DataSetError as error:
            return Made(None, sop_class, sop_instance, "", error)
        first, second = (uid if uids.is_uid(uid) else "" for uid in (sop_class, sop_instance))
        spool = self._open_spool(first, part10.head(first, second, syntax, **self._titles))
        for piece in found:
            for data in piece if isinstance(piece, _Stored) else [piece]:
                spool.write(data)
        return Made(spool, sop_class, sop_instance, syntax)

    def _stored(self, uri: Any) -> _Stored:
        parts = self._parts.get(uri) if isinstance(uri, str) else None
        if parts is None:
            raise DataSetError("bulk data that did not arrive")
        if self._spool.error is not None:
            raise DataSetTooLarge("the bulk data could not be kept")
        return _Stored(self._spool, parts)

    def _with_pixels(self, model: dict[str, Any]) -> tuple[dict[str, Any], str, dict[str, _Stored]]:
        """Return the model to store, its transfer syntax, and its pixels if they are compressed."""
        model = {key: value for key, value in model.items() if key != _AVAILABLE_SYNTAX}
        pixels = model.get(_PIXELS)
        uri = pixels.get("BulkDataURI") if isinstance(pixels, dict) else None
        if not isinstance(uri, str) or uri not in self._parts:
            return model, uids.EXPLICIT_VR_LITTLE_ENDIAN, {}
        stored = self._stored(uri)
        kind, syntax = _described(stored.parts[0].content_type)
        if syntax in uids.NATIVE or (not syntax and kind in ("", "application/octet-stream")):
            return model, uids.EXPLICIT_VR_LITTLE_ENDIAN, {}
        if not syntax and kind == "image/dicom-rle":
            syntax = _RLE
        elif not syntax and kind.startswith("image/"):
            syntax = self._describe(model, stored)
        if not syntax:
            raise DataSetError(f"pixel data as {kind!a:.40} that name no transfer syntax")
        stored.is_encapsulated = True
        where = f"{uri}\n"  # unique: no header contains a line feed
        model[_PIXELS] = {"vr": "OB", "BulkDataURI": where}
        return model, syntax, {where: stored}

    def _describe(self, model: dict[str, Any], stored: _Stored) -> str:
        """Return the transfer syntax of compressed frames; add missing metadata."""
        found = None
        with self._spool.open() as file:
            for number, part in enumerate(stored.parts):
                file.seek(part.start)
                one = described(file.read(min(LOOK, part.size)))
                start, size = part.start + one.start, part.size - one.start
                stored.parts[number] = part._replace(start=start, size=size)
                found = found or one
        assert found is not None
        if len(stored.parts) > 1:
            model.setdefault(_FRAMES, {"vr": "IS", "Value": [len(stored.parts)]})
        for keyword, value in found.attributes.items():
            tag = tag_for_keyword(keyword) or 0
            model.setdefault(f"{tag:08X}", {"vr": dictionary_VR(tag)[:2], "Value": [value]})
        return found.transfer_syntax


def uid_in(model: dict[str, Any], key: str) -> str:
    """Return the UID in an element of a JSON data set; empty if there is none.

    Examples
    --------
    >>> uid_in({"00080018": {"vr": "UI", "Value": ["1.2"]}}, "00080018")
    '1.2'
    """
    element = model.get(key)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return uids.trim(first) if isinstance(first, str) else ""


def _weight(text: bytearray) -> int:
    """Estimate the memory for parsed JSON, in bytes; each distinct key is kept once."""
    texts = max(0, text.count(b'"') // 2 - text.count(b'":'))
    return (
        _OBJECT * text.count(b"{")
        + _LIST * text.count(b"[")
        + _TEXT * texts
        + _VALUE * text.count(b",")
    )


def _described(content_type: str) -> tuple[str, str]:
    """Return the media type of bulk data and its transfer syntax parameter."""
    kind, *parameters = content_type.split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "transfer-syntax":
            return kind.strip().lower(), value.strip('"')
    return kind.strip().lower(), ""
