"""The studies that an app's handlers find, with patient data masked if necessary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Request, Response

from pacsroute import uids
from pacsroute.framework.base import BaseApp
from pacsroute.status import Status
from pacsroute.trace.layout import printable
from pacsroute.trace.safe import is_safe
from pacsroute.web.caller import Caller
from pacsroute.web.console.access import Visit
from pacsroute.web.statuses import Failed

Ask = Callable[[Request, str, Caller], Response]
"""Answers a request below the root of DICOMweb: `DicomWeb.answer`."""

PAGE = 25

_MODELS = "StudyRoot", "PatientRoot"
_SHOWN = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "StudyDate",
    "StudyDescription",
    "AccessionNumber",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
    "StudyInstanceUID",
)
_JSON = "application/dicom+json"
_OURS = ("HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING", "HTTP_IF_NONE_MATCH", "HTTP_RANGE")


class Field(NamedTuple):
    """A search field: its key, its label, and its input type."""

    name: str
    label: str
    kind: str = "text"
    hint: str = ""


_FIELDS = (
    Field("PatientName", "Patient name", hint="Doe^John"),
    Field("PatientID", "Patient ID"),
    Field("AccessionNumber", "Accession number"),
    Field("from", "From", "date"),
    Field("to", "To", "date"),
    Field("ModalitiesInStudy", "Modality", hint="CT"),
)
_MASKED_FIELDS = (
    Field("ModalitiesInStudy", "Modality", hint="CT"),
    Field("StudyInstanceUID", "Study Instance UID"),
)


def has_studies(app: BaseApp) -> bool:
    """Return whether an app answers DICOMweb searches for studies."""
    return _is_routed(app, "find")


def _is_routed(app: BaseApp, command: str) -> bool:
    title = app.config.web_ae_title
    return any(
        app.route(command, uids.sop_class(model, command), title, app.ae_title) is not None
        for model in _MODELS
    )


def studies(visit: Visit, ask: Ask) -> dict[str, Any]:
    """Return the values of the page: the search and one page of its matches.

    Parameters
    ----------
    visit : Visit
        The visit with the search parameters. Users who may not see patient data may not search
        for it either, because the number of matches would reveal it.
    ask : callable
        Answers the search.
    """
    arguments = visit.http.args
    fields = _FIELDS if visit.values else _MASKED_FIELDS
    said = {field.name: arguments.get(field.name, "").strip()[:64] for field in fields}
    offset = arguments.get("offset", "0")
    at = int(offset) if offset.isascii() and offset.isdecimal() and len(offset) < 8 else 0
    found: dict[str, Any] = {"rows": [], "trouble": "", "more": False}
    try:
        rows = _search(visit, ask, _keys(said), at)
        found |= {"rows": [_row(visit, row) for row in rows[:PAGE]], "more": len(rows) > PAGE}
    except HTTPException as error:
        found["trouble"] = _why(visit, error)
    query = {name: value for name, value in said.items() if value}
    return found | {
        "fields": fields,
        "said": said,
        "is_searched": bool(query),
        "offset": at,
        "before": _link(query, max(0, at - PAGE)) if at else "",
        "after": _link(query, at + PAGE) if found["more"] else "",
        "has_pictures": visit.values and _is_routed(visit.app, "get"),
        "has_viewer": visit.app.config.web_viewer is not None,
    }


def thumbnail(visit: Visit, ask: Ask, study: str) -> Response:
    """Return a thumbnail of a study; text in the image may be patient data.

    Raises
    ------
    werkzeug.exceptions.HTTPException
        If there is no image.
    """
    if not visit.values or not uids.is_uid(study):
        raise NotFound("there is no such picture")
    http = _request(visit, {}, "image/jpeg")
    return ask(http, f"/studies/{study}/thumbnail", visit.caller)


def _search(visit: Visit, ask: Ask, keys: Mapping[str, str], at: int) -> list[dict[str, Any]]:
    fields = ",".join(_SHOWN)
    query = {**keys, "includefield": fields, "limit": str(PAGE + 1), "offset": str(at)}
    response = ask(_request(visit, query, _JSON), "/studies", visit.caller)
    try:
        found: list[dict[str, Any]] = json.loads(b"".join(response.response))  # type: ignore[arg-type]
    finally:
        response.close()
    return found


def _why(visit: Visit, error: HTTPException) -> str:
    """Return why a search failed; a handler's comment may contain patient data."""
    if isinstance(error, Failed) and not visit.values:
        return str(Status(error.outcome.status.code))
    return printable(error.description or error.name)


def _request(visit: Visit, query: Mapping[str, str], accept: str) -> Request:
    """Return a DICOMweb request from the same sender."""
    environ = {name: value for name, value in visit.http.environ.items() if name not in _OURS}
    environ |= {"QUERY_STRING": urlencode(query), "HTTP_ACCEPT": accept}
    return Request(environ, populate_request=False)


def _keys(said: Mapping[str, str]) -> dict[str, str]:
    """Return the search keys: names match as prefixes, and dates as a range."""
    keys = {name: value for name, value in said.items() if value and name not in ("from", "to")}
    if (name := keys.get("PatientName")) and not any(mark in name for mark in "*?"):
        keys["PatientName"] = f"{name}*"
    first, last = (said.get(name, "").replace("-", "") for name in ("from", "to"))
    if first or last:
        keys["StudyDate"] = f"{first}-{last}"
    return keys


def _row(visit: Visit, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's attributes by keyword, as texts; a masked one is None."""
    row: dict[str, Any] = {}
    for keyword in _SHOWN:
        tag = tag_for_keyword(keyword) or 0
        values = [_text(value) for value in model.get(f"{tag:08X}", {}).get("Value") or []]
        safe = visit.values or not any(values) or is_safe(Tag(tag), values)
        row[keyword] = printable(", ".join(filter(None, values)))[:200] if safe else None
    for keyword in ("PatientBirthDate", "StudyDate"):
        row[keyword] = _date(row[keyword])
    row["PatientName"] = _name(row["PatientName"])
    if not uids.is_uid(row["StudyInstanceUID"] or ""):
        row["StudyInstanceUID"] = ""
    return row


def _text(value: Any) -> str:
    if isinstance(value, dict):  # a person name
        value = next((text for text in value.values() if text), "")
    return str(value)


def _date(text: str | None) -> str | None:
    if text and len(text) == 8 and text.isdecimal():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text


def _name(text: str | None) -> str | None:
    return text and ", ".join(part.strip() for part in text.split("^") if part.strip())


def _link(query: Mapping[str, str], offset: int) -> str:
    return urlencode({**query, "offset": offset} if offset else query)
