"""WADO-RS metadata (PS3.18 §10.4.1.1.2)."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import orjson
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from pacsroute.errors import DataSetError
from pacsroute.framework.results import DONE
from pacsroute.instances.instance import Instance
from pacsroute.web.exchange import Exchange
from pacsroute.web.json_texts import JsonTexts

logger = logging.getLogger("pacsroute")

_SERIES, _AVAILABLE_SYNTAX = 0x0020000E, 0x00083002


def answer(exchange: Exchange, **unique: str) -> Response:
    """Answer a retrieval of metadata, as JSON or XML with URLs for large values."""
    _ = exchange.model_type  # refuses a bad Accept header before the handler runs
    found = exchange.instances("WADO-RS metadata", **unique)
    with found.responding():
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
            raise NotFound("no instance of it can be read")
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


class _Described:
    """Encodes the metadata of the instances of one response."""

    def __init__(self, exchange: Exchange, study: str, series: str | None) -> None:
        self._exchange = exchange
        self._study, self._series = study, series
        self._place = secrets.token_hex(16)  # placeholder for the URL before a value's path
        self._texts = JsonTexts(exchange.limits, self._uri)

    def _uri(self, path: tuple[str, ...], vr: str, length: int) -> str:
        return "/".join((self._place, *path))

    def written(self, instance: Instance) -> bytes:
        """Return the metadata of an instance; only the heads of large values are read."""
        exchange, syntax = self._exchange, instance.transfer_syntax
        with instance.open(whole=False) as file:
            texts = self._texts.of(file, syntax)
        series = self._series
        if series is None:
            series = str(_value_of(texts.get(_SERIES)))
        # The requested path takes precedence over the UIDs in the file.
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
