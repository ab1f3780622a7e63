"""Instances that come as metadata in JSON and bulk data apart (PS3.18 §8.7.2, §10.5.1.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
from pydicom import Dataset
from pydicom.encaps import encapsulate
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from pacsroute import uids
from pacsroute.dataset import parse
from pacsroute.dataset.json_model import from_dicom_json
from pacsroute.dataset.limits import Limits
from pacsroute.errors import DataSetError, DataSetTooLarge
from pacsroute.instances.spool import Spool
from pacsroute.memory import Holding

_PIXELS = "7FE00010"
_AVAILABLE_SYNTAX = "00083002"
_OBJECT, _LIST, _TEXT, _VALUE = 240, 64, 56, 32  # bytes that each takes when it is read
_COPIES = 3  # of bulk data, while they become a data set


class _Part(NamedTuple):
    """Bulk data in the spool."""

    content_type: str
    start: int
    size: int


class Models:
    """Takes metadata and bulk data as they come; they become data sets once all are here.

    The bulk data of a request share one spool, and what becomes of them draws on ``max_memory``.

    Parameters
    ----------
    spool : Spool
        Where bulk data wait.
    limits : Limits
        How much a data set may be made of, and how much memory the process has.
    longest : int
        How many bytes the metadata may have: the setting ``max_set_length``.
    most : int
        How many instances there may be: the setting ``max_web_parts``.
    """

    def __init__(self, spool: Spool, limits: Limits, longest: int, most: int) -> None:
        self._spool = spool
        self._limits = limits
        self._longest = longest
        self._most = most
        self._holding = Holding(limits.memory)
        self._text: bytearray | None = None
        self._found: list[Any] = []
        self._parts: dict[str, list[_Part]] = {}
        self._current = ""
        self._size = 0

    def begin_model(self) -> None:
        """Take a part of metadata that begins."""
        self._text = bytearray()

    def begin_bulk_data(self, location: str, content_type: str) -> None:
        """Take a part of bulk data that begins."""
        part = _Part(content_type, self._spool.size, 0)
        self._parts.setdefault(location, []).append(part)
        self._current = location

    def data(self, piece: memoryview) -> None:
        """Take a piece of a part."""
        if self._text is None:
            self._spool.write(piece)
            return
        self._size += len(piece)
        if self._size > self._longest:
            raise BadRequest(f"metadata of more than {self._longest} bytes: max_set_length")
        self._hold(len(piece))
        self._text += piece

    def end(self) -> None:
        """Take the end of a part."""
        if self._text is None:
            parts = self._parts[self._current]
            parts[-1] = parts[-1]._replace(size=self._spool.size - parts[-1].start)
            return
        text, self._text = self._text, None
        self._hold(_weight(text))
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise BadRequest("the metadata are not JSON") from None
        self._found += found if isinstance(found, list) else [found]
        if len(self._found) > self._most:
            raise RequestEntityTooLarge(f"more than {self._most} instances: max_web_parts")

    def _hold(self, size: int) -> None:
        if not self._holding.grow(size):
            raise DataSetTooLarge(f"max_memory reached, {self._limits.memory} bytes of all peers")

    def close(self) -> None:
        """Hold nothing any more."""
        self._found.clear()
        self._holding.close()
        self._spool.close()

    def __iter__(self) -> Iterator[Dataset | DataSetError]:
        """Yield the data set of each instance, or why there is none; forget it then."""
        self._found.reverse()
        while self._found:
            before = self._holding.size
            try:
                yield self._dataset(self._found.pop())
            except DataSetError as error:
                yield error
            finally:
                self._holding.shrink(self._holding.size - before)

    def _fetch(self, uri: str) -> bytes:
        return b"".join(self._read(self._parts_at(uri)))

    def _parts_at(self, uri: Any) -> list[_Part]:
        parts = self._parts.get(uri) if isinstance(uri, str) else None
        if parts is None:
            raise DataSetError("bulk data that did not come")
        if self._spool.error is not None:
            raise DataSetTooLarge("the bulk data could not be kept")
        return parts

    def _read(self, parts: list[_Part]) -> list[bytes]:
        self._hold(_COPIES * sum(part.size for part in parts))
        found = []
        with self._spool.open() as file:
            for part in parts:
                file.seek(part.start)
                found.append(file.read(part.size))
        return found

    def _dataset(self, model: Any) -> Dataset:
        from pydicom import FileMetaDataset  # noqa: PLC0415 - pydicom, late
        from pydicom.uid import UID  # noqa: PLC0415

        if not isinstance(model, dict):
            raise DataSetError("metadata are objects")
        syntax, frames = self._frames(model)
        if frames:
            model = {key: value for key, value in model.items() if key != _PIXELS}
        data = from_dicom_json(model, bulk_data=self._fetch)
        dataset = parse(data, uids.EXPLICIT_VR_LITTLE_ENDIAN, limits=self._limits)
        dataset.pop(int(_AVAILABLE_SYNTAX, 16), None)
        whole = Dataset(dataset)
        whole.set_original_encoding(False, True, dataset.original_character_set)
        whole.file_meta = FileMetaDataset()
        whole.file_meta.TransferSyntaxUID = UID(syntax)
        if frames:
            whole.PixelData = encapsulate(frames)
            whole["PixelData"].VR = "OB"
            whole["PixelData"].is_undefined_length = True
        return whole

    def _frames(self, model: dict[str, Any]) -> tuple[str, list[bytes]]:
        """Return the transfer syntax, and the frames where they are compressed."""
        pixels = model.get(_PIXELS)
        uri = pixels.get("BulkDataURI") if isinstance(pixels, dict) else None
        if isinstance(uri, str) and uri in self._parts:
            syntax = _syntax(self._parts[uri][0].content_type)
            if syntax and syntax not in uids.NATIVE:
                return syntax, self._read(self._parts_at(uri))
        return uids.EXPLICIT_VR_LITTLE_ENDIAN, []


def _weight(text: bytearray) -> int:
    """Return about how many bytes JSON takes when it is read; its keys are kept once."""
    texts = max(0, text.count(b'"') // 2 - text.count(b'":'))
    return (
        _OBJECT * text.count(b"{")
        + _LIST * text.count(b"[")
        + _TEXT * texts
        + _VALUE * text.count(b",")
    )


def _syntax(content_type: str) -> str:
    """Return the transfer syntax that the media type of bulk data names."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "transfer-syntax":
            return value.strip('"')
    return ""
