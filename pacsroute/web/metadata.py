"""WADO-RS: metadata, and the bulk data that it names (PS3.18 §10.4.1.1.2, §10.4.1.1.5)."""

from __future__ import annotations

import itertools
import logging
import secrets
from typing import Any

import orjson
from pydicom.encaps import generate_fragments
from werkzeug.exceptions import BadRequest, HTTPException, NotFound
from werkzeug.wrappers import Response

from pacsroute import dataset as data_sets
from pacsroute import uids
from pacsroute.dataset.value_writer import swapped
from pacsroute.dataset.vr import WORD_SIZES
from pacsroute.errors import DataSetError
from pacsroute.framework.results import DONE
from pacsroute.instances.instance import DEFER_SIZE, Instance
from pacsroute.web.exchange import Delivery, Exchange, tag_of
from pacsroute.web.json_texts import JsonTexts
from pacsroute.web.multipart import Multipart, Part

logger = logging.getLogger("pacsroute")

_OCTETS = "application/octet-stream"
_SERIES, _AVAILABLE_SYNTAX = 0x0020000E, 0x00083002


def answer(exchange: Exchange, **unique: str) -> Response:
    """Answer a retrieval of metadata: JSON, or XML, in which large values are URLs."""
    _ = exchange.model_type  # refused before the handler is asked
    found = exchange.instances("WADO-RS metadata", **unique)
    try:
        shown, lost = [], 0
        described = _Described(
            exchange, unique["StudyInstanceUID"], unique.get("SeriesInstanceUID")
        )
        for instance in found:
            exchange.pause()
            try:
                shown.append(described.written(instance))
            except (DataSetError, OSError) as error:
                uid = instance.sop_instance_if_known
                logger.error("metadata: %s is left out: %s", uid or "an instance", error)
                lost += 1
        if not shown:
            raise NotFound("nothing of that can be read")
        found.answering.outcome = (found.answering.outcome or DONE)._replace(
            note=f"{len(shown)} instances"
        )
        response = exchange.models(shown, found, is_one="SOPInstanceUID" in unique)
        if lost:
            response.status_code = 206
            title = exchange.app.ae_title.replace(" ", "_")
            why = f"left out, since they cannot be read: {lost} of {lost + len(shown)} instances"
            response.headers.add("Warning", f'299 {title} "{why}"')
        return response
    except BaseException as error:
        found.close(None if isinstance(error, HTTPException) else error)
        raise


class _Described:
    """Metadata of the instances of one response, as they are sent."""

    def __init__(self, exchange: Exchange, study: str, series: str | None) -> None:
        self._exchange = exchange
        self._study, self._series = study, series
        self._place = secrets.token_hex(16)  # of what comes before the path of a value in its URL
        self._texts = JsonTexts(exchange.limits, self._uri)

    def _uri(self, path: tuple[str, ...], vr: str, length: int) -> str:
        return "/".join((self._place, *path))

    def written(self, instance: Instance) -> bytes:
        """Return the metadata of an instance; of large values only the heads are read."""
        exchange, syntax = self._exchange, instance.transfer_syntax
        with instance.open(whole=False) as file:
            texts = self._texts.of(file, syntax)
        series = self._series
        if series is None:
            series = str(_value_of(texts.get(_SERIES)))
        # The path that was asked for holds, whatever a file says.
        path = ("studies", self._study, "series", series, "instances", instance.sop_instance)
        base = exchange.url(*path, "bulkdata")
        if _AVAILABLE_SYNTAX not in texts:
            text = orjson.dumps({f"{_AVAILABLE_SYNTAX:08X}": {"vr": "UI", "Value": [syntax]}})
            texts[_AVAILABLE_SYNTAX] = text[1:-1]
            texts = dict(sorted(texts.items()))
        written = b"{" + b",".join(texts.values()) + b"}"
        written = written.replace(self._place.encode("ascii"), base.encode("utf-8"))
        return written if exchange.is_json else exchange.written(orjson.loads(written))


def _value_of(text: bytes | None) -> Any:
    """Return the first value of an element in JSON."""
    if text is None:
        return ""
    ((_, element),) = orjson.loads(b"{" + text + b"}").items()
    return (element.get("Value") or [""])[0]


def bulk_data(exchange: Exchange, path: str, **unique: str) -> Response:
    """Answer a retrieval of one value that the metadata names.

    Parameters
    ----------
    exchange : Exchange
        The request.
    path : str
        Tags, with the number of an item behind each sequence's.
    **unique : str
        The unique keys of the instance.
    """
    _, wanted = exchange.negotiate(_OCTETS)
    found = exchange.instances("WADO-RS bulk data", **unique)
    try:
        data = _value(found.only(), path, exchange)
        if wanted.multipart is True:
            body = Multipart(_OCTETS)
            where = exchange.url_of(unique, found.only(), "bulkdata", path)
            parts = [Part(_OCTETS, [data], where)]
            return Response(Delivery(body.body(parts), found), content_type=body.content_type)
        delivery = Delivery([data], found)
        response = Response(delivery, content_type=_OCTETS)
        response.headers["Content-Length"] = str(len(data))
        return exchange.conditional(response, delivery, tag_of(found.only(), path), len(data))
    except BaseException as error:
        found.close(None if isinstance(error, HTTPException) else error)
        raise


def _value(instance: Instance, path: str, exchange: Exchange) -> bytes:
    syntax = instance.transfer_syntax
    with instance.open() as file:
        try:
            dataset = data_sets.parse(file, syntax, defer_size=DEFER_SIZE, limits=exchange.limits)
            parts = path.split("/")
            for tag, number in zip(parts[:-1:2], parts[1::2], strict=False):
                dataset = dataset[int(tag, 16)].value[int(number) - 1]
            element = dataset[int(parts[-1], 16)]
        except (KeyError, IndexError, TypeError):
            raise NotFound("there is no such value") from None
        except ValueError:
            raise BadRequest("bulk data is named by its tag") from None
        value = element.value
        if not isinstance(value, bytes):
            raise NotFound("there is no such value")
        if element.is_undefined_length:
            return b"".join(itertools.islice(generate_fragments(value), 1, None))
    if syntax == uids.EXPLICIT_VR_BIG_ENDIAN:
        return swapped(value, WORD_SIZES.get(element.VR, 1))
    return value
