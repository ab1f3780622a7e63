"""The paths of DICOMweb below its root, and their transactions (PS3.18 §10)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestedRangeNotSatisfiable,
)
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from pacsroute import uids
from pacsroute.dataset import late
from pacsroute.framework.base import BaseApp
from pacsroute.web import (
    bulk_data,
    capabilities,
    frames,
    metadata,
    rendered,
    retrieve,
    search,
    store,
    workitems,
)
from pacsroute.web.caller import Caller
from pacsroute.web.exchange import Exchange
from pacsroute.web.statuses import RETRY_AFTER

logger = logging.getLogger("pacsroute")

Answer = Callable[..., Response]

_UIDS = {
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
}
_STUDY, _SERIES = "/studies/<study>", "/studies/<study>/series/<series>"
_INSTANCE = f"{_SERIES}/instances/<instance>"
_WORKITEM = "/workitems/<workitem>"
_PATHS: list[tuple[str, str, str]] = [
    ("/", "GET", "capabilities"),
    ("/studies", "GET", "search STUDY"),
    ("/series", "GET", "search SERIES"),
    ("/instances", "GET", "search IMAGE"),
    (f"{_STUDY}/series", "GET", "search SERIES"),
    (f"{_STUDY}/instances", "GET", "search IMAGE"),
    (f"{_SERIES}/instances", "GET", "search IMAGE"),
    *((path, "GET", "retrieve") for path in (_STUDY, _SERIES, _INSTANCE)),
    *((f"{path}/metadata", "GET", "metadata") for path in (_STUDY, _SERIES, _INSTANCE)),
    (f"{_INSTANCE}/frames/<numbers>", "GET", "frames"),
    *(
        (f"{path}/{name}", "GET", name)
        for path in (_STUDY, _SERIES, _INSTANCE, f"{_INSTANCE}/frames/<numbers>")
        for name in ("rendered", "thumbnail")
    ),
    ("/wado", "GET", "uri"),
    (f"{_INSTANCE}/bulkdata/<path:path>", "GET", "bulk data"),
    *((f"{path}/bulkdata", "GET", "all bulk data") for path in (_STUDY, _SERIES, _INSTANCE)),
    *((f"{path}/pixeldata", "GET", "pixel data") for path in (_STUDY, _SERIES, _INSTANCE)),
    ("/workitems", "GET", "search UPS"),
    ("/workitems", "POST", "create"),
    (_WORKITEM, "GET", "retrieve step"),
    (_WORKITEM, "POST", "update"),
    (f"{_WORKITEM}/state", "PUT", "state"),
    (f"{_WORKITEM}/cancelrequest", "POST", "cancel"),
    (f"{_WORKITEM}/subscribers/<aetitle>", "POST", "subscribe"),
    (f"{_WORKITEM}/subscribers/<aetitle>", "DELETE", "unsubscribe"),
    (f"{_WORKITEM}/subscribers/<aetitle>/suspend", "POST", "suspend"),
    ("/studies", "POST", "store"),
    (_STUDY, "POST", "store"),
]
_ANSWERS: dict[str, Answer] = {
    "capabilities": capabilities.answer,
    "retrieve": retrieve.answer,
    "metadata": metadata.answer,
    "frames": frames.answer,
    "bulk data": bulk_data.one,
    "all bulk data": bulk_data.every,
    "pixel data": bulk_data.pixels,
    "store": store.answer,
    "rendered": rendered.answer,
    "thumbnail": rendered.thumbnail,
    "uri": rendered.uri,
    "create": workitems.create,
    "retrieve step": workitems.retrieve,
    "update": workitems.update,
    "state": workitems.change_state,
    "cancel": workitems.request_cancel,
    "subscribe": workitems.subscribe,
    "unsubscribe": workitems.unsubscribe,
    "suspend": workitems.suspend,
}


def _rules() -> Iterable[Rule]:
    for path, method, name in _PATHS:
        for prefix in ("", "/aets/<aet>"):
            rule = prefix + path
            methods = [method, "OPTIONS"] if path == "/" else [method]
            yield Rule(rule, methods=methods, endpoint=name, strict_slashes=False)


_MAP = Map(list(_rules()), merge_slashes=False)
_PATHS_OF_ANY_HOST = _MAP.bind("localhost")  # bound once: binding encodes the name, which is slow


class DicomWeb:
    """Answers an app's requests below the DICOMweb root.

    Parameters
    ----------
    app : App
        The app whose handlers answer.
    """

    def __init__(self, app: BaseApp) -> None:
        self._app = app

    def find(self, http: Request, path: str) -> tuple[str, dict[str, Any]]:
        """Return the transaction for a path below the root, and the UIDs in the path.

        Raises
        ------
        werkzeug.exceptions.HTTPException
            If no transaction matches.
        """
        try:
            name, values = _PATHS_OF_ANY_HOST.match(path or "/", method=http.method)
            return str(name), dict(values)
        except NotFound:
            raise NotFound(f"there is no such resource below {self._app.config.web_root}") from None
        except MethodNotAllowed as error:
            if http.method != "OPTIONS":
                methods = ", ".join(sorted({*(error.valid_methods or ()), "OPTIONS"}))
                raise MethodNotAllowed(error.valid_methods, f"it takes {methods}") from None
            return "options", {"methods": error.valid_methods}

    def title(self, path: str) -> str:
        """Return the called AE title of a path below the root: the title in it, or the app's."""
        parts = path.split("/")
        return parts[2] if len(parts) > 2 and parts[1] == "aets" else self._app.ae_title

    def answer(self, http: Request, path: str, caller: Caller) -> Response:
        """Answer a request that was admitted.

        Parameters
        ----------
        http : werkzeug.Request
            The request.
        path : str
            The path below the root.
        caller : Caller
            The client.

        Raises
        ------
        werkzeug.exceptions.HTTPException
            If the request cannot be answered.
        """
        name, values = self.find(http, path)
        root = self._app.config.web_root.rstrip("/")
        title = values.pop("aet", None)
        if title is not None:
            root = f"{root}/aets/{quote(title, safe='')}"
        if name == "options":
            methods = {*values["methods"], "OPTIONS"}
            return Response(status=204, headers={"Allow": ", ".join(sorted(methods))})
        late.load()
        exchange = Exchange(self._app, http, caller, root)
        unique = {_UIDS[key]: values.pop(key) for key in _UIDS if key in values}
        for uid in unique.values():
            if not uids.is_uid(uid):
                raise BadRequest("a UID consists of digits and dots, 64 at the most")
        kind, _, level = name.partition(" ")
        if kind == "search":
            return search.answer(exchange, level, unique)
        return _ANSWERS[name](exchange, **values, **unique)


def refusal(error: HTTPException) -> Response:
    """Return a plain-text response that explains why a request failed."""
    if error.response is not None:
        return error.response  # type: ignore[return-value] # such as a request for credentials
    code = error.code or 500
    text = f"{error.description or error.name}\n"
    response = Response(text, status=code, content_type="text/plain; charset=utf-8")
    if code == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    if isinstance(error, RequestedRangeNotSatisfiable) and error.length is not None:
        response.headers["Content-Range"] = f"bytes */{error.length}"
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted({*error.valid_methods, "OPTIONS"}))
    return response
