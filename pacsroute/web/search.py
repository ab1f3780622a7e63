"""QIDO-RS searches (PS3.18 §10.6)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from werkzeug.wrappers import Response

from pacsroute import uids
from pacsroute.dataset.encoding import RowEncoder
from pacsroute.dataset.json_model import dicom_json
from pacsroute.errors import DataSetError
from pacsroute.framework.handling import failed
from pacsroute.framework.requests import FindRequest
from pacsroute.framework.results import DONE, Answer, Outcome
from pacsroute.logs import counted
from pacsroute.web.exchange import Exchange
from pacsroute.web.query import Search, search
from pacsroute.web.statuses import Failed

logger = logging.getLogger("pacsroute")

_COUNTED = 10_000  # most results counted after a page
_KEPT = ("InstanceAvailability",)
_PARTS = {"STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}
_KEYS = {
    "STUDY": ("0020000D", "StudyInstanceUID"),
    "SERIES": ("0020000E", "SeriesInstanceUID"),
    "IMAGE": ("00080018", "SOPInstanceUID"),
}
_URL, _LEVEL, _TRANSACTION = "00081190", "00080052", "00081195"


def answer(exchange: Exchange, level: str, above: Mapping[str, str]) -> Response:
    """Answer a search for studies, series or instances.

    Parameters
    ----------
    exchange : Exchange
        The request.
    level : str
        ``STUDY``, ``SERIES`` or ``IMAGE``; or ``UPS``, for procedure steps.
    above : mapping of str to str
        The unique keys in the path.
    """
    _ = exchange.model_type  # refuses a bad Accept header before the handler runs
    config = exchange.app.config
    asked = search(exchange.http.args, level, above, exchange.limits, config.max_web_parameters)
    models = ("UPS",) if level == "UPS" else ("StudyRoot", "PatientRoot")
    sop_class, route = exchange.route_of("find", *models)
    most = config.max_results if asked.limit is None else min(asked.limit, config.max_results)
    request = exchange.make(
        FindRequest,
        sop_class=sop_class,
        identifier=asked.identifier,
        transfer_syntax=uids.EXPLICIT_VR_LITTLE_ENDIAN,
        limit=most + 1,  # one extra reveals that there are more
        offset=asked.offset,
    )
    request.route = route
    answering = exchange.answering("QIDO-RS", request)
    try:
        shown, left = _rows(exchange, request, asked, most, level, above)
    except BaseException as error:
        answering.outcome = error.outcome if isinstance(error, Failed) else None
        answering.__exit__(None, None if isinstance(error, Failed) else error, None)
        raise
    answering.outcome = DONE._replace(note=counted(len(shown), "answer"), number=len(shown))
    response = exchange.models(shown, answering)
    if left:
        exchange.warn(response, f"There are {left} additional results that can be requested")
    if asked.fuzzy:
        exchange.warn(
            response,
            "The fuzzymatching parameter is not supported. Only literal matching has been "
            "performed.",
        )
    if asked.ignored:
        exchange.warn(response, f"Not supported, and ignored: {', '.join(asked.ignored)}")
    return response


def _rows(
    exchange: Exchange,
    request: FindRequest,
    asked: Search,
    most: int,
    level: str,
    above: Mapping[str, str],
) -> tuple[list[bytes], str]:
    """Return the encoded rows of a page, and how many results follow it; empty if none do."""
    encoder = RowEncoder(
        uids.EXPLICIT_VR_LITTLE_ENDIAN,
        None if asked.everything else asked.identifier,
        kept=() if asked.everything else _KEPT,
        charset="ISO_IR 192",
    )
    answers = exchange.app.handle(request)
    found: list[bytes] = []
    try:
        matches = _matches(answers)
        first = next(matches, None)  # by now, the handler has set whether it pages
        if first is None:
            return found, ""
        rows: Iterator[Any] = itertools.chain([first], matches)
        if not request.paged:
            rows = itertools.islice(rows, asked.offset, None)
        for row in rows:
            exchange.pause()
            if len(found) >= most:
                return found, _left(request, asked.offset + most, rows)
            model = dicom_json(_encoded(encoder, row), uids.EXPLICIT_VR_LITTLE_ENDIAN)
            if not found:  # keys missing from a row are ignored (PS3.4 §C.2.2.1.3)
                asked.ignored.extend(
                    name for name, key in asked.matched.items() if key not in model
                )
            found.append(exchange.written(_shown(exchange, model, asked, level, above)))
        return found, ""
    except Failed:
        raise
    except DataSetError as error:
        raise Failed(failed(request, error)) from None
    finally:
        answers.close()


def _left(request: FindRequest, before: int, rows: Iterator[Any]) -> str:
    """Return how many results follow a page, not counting one already read.

    Parameters
    ----------
    request : FindRequest
        The request, with the paging that its handler set.
    before : int
        The number of results on this page and those before it.
    rows : iterator
        The remaining answers.
    """
    most = before + _COUNTED
    if not request.paged:
        found = before + 1 + sum(1 for _ in itertools.islice(rows, _COUNTED - 1))
    elif request.total is not None:
        found = request.total(most)
    else:
        return "some"
    left = max(1, found - before)
    return f"at least {left}" if found >= most else str(left)


def _matches(answers: Iterator[Answer]) -> Iterator[Any]:
    for row, outcome, _ in answers:
        if row is not None:
            yield row
            continue
        final: Outcome = outcome or DONE
        if final.status.category in ("Failure", "Cancel"):
            raise Failed(final)


def _encoded(encoder: RowEncoder, row: Any) -> bytes:
    try:
        return encoder.encode(row)[0]
    except Exception:  # noqa: BLE001 - pydicom may raise any exception for a Dataset
        data, lost = encoder.encode_what_fits(row)
        logger.warning("QIDO-RS: a match is sent without %s: invalid for the VR", ", ".join(lost))
        return data


def _shown(
    exchange: Exchange, row: dict[str, Any], asked: Search, level: str, above: Mapping[str, str]
) -> dict[str, Any]:
    """Return a row with its URL, and with empty values for missing required attributes."""
    row.pop(_LEVEL, None)
    row.pop(_TRANSACTION, None)  # only the performer of a step knows it (PS3.4 §CC.1.1)
    path: list[str] = []
    for one, part in _PARTS.items() if level != "UPS" else ():
        key, keyword = _KEYS[one]
        if not row.get(key, {}).get("Value") and keyword in above:
            row[key] = {"vr": "UI", "Value": [above[keyword]]}
        path += [part, *map(str, row.get(key, {}).get("Value", []))]
        if one == level:
            break
    if level != "UPS":
        row[_URL] = {"vr": "UR", "Value": [exchange.url(*path)]}
    for keyword in asked.returned:
        tag = tag_for_keyword(keyword)
        key = f"{tag:08X}"
        if key not in row and tag is not None:
            row[key] = {"vr": dictionary_VR(tag)[:2]}
    return dict(sorted(row.items()))
