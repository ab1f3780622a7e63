"""`App.web`: a Flask application that also serves DICOMweb."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import threading
from collections.abc import Iterable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    InternalServerError,
    RequestEntityTooLarge,
)
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from pacsroute.errors import SetupError
from pacsroute.framework.admission import left
from pacsroute.framework.base import BaseApp
from pacsroute.web import viewer
from pacsroute.web.caller import Caller, admitted
from pacsroute.web.console.access import ROOT as CONSOLE
from pacsroute.web.console.page import Console, to_console
from pacsroute.web.dicomweb import DicomWeb, refusal
from pacsroute.web.tapped import Tapped
from pacsroute.web.turns import Input, Output, Turn, Turns

logger = logging.getLogger("pacsroute")

Environ = dict[str, Any]
_READY = "/ready"
_RESERVED = (CONSOLE, viewer.ROOT)
_ALLOWED_HEADERS = "Accept, Authorization, Content-Encoding, Content-Type, Range, If-None-Match"
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
_EXPOSED_HEADERS = "Content-Location, ETag, Location, Warning"


class _Client(FlaskClient):
    """Flask's test client; it waits until the response has ended and its hooks have run."""

    def open(self, *arguments: Any, buffered: bool = True, **options: Any) -> TestResponse:
        return super().open(*arguments, buffered=buffered, **options)


class Site(Flask):
    """The Flask application of an app: DICOMweb and the app's own routes.

    It is made by `App.web`. Access control applies to both.

    Parameters
    ----------
    app : App
        The app whose handlers answer DICOMweb.
    """

    test_client_class = _Client

    def __init__(self, app: BaseApp) -> None:
        super().__init__("pacsroute.web", static_folder=None, template_folder=None)
        self.dicom_app = app
        self._dicomweb = DicomWeb(app)
        self._turns: Turns | None = None
        self._entering = threading.Lock()
        self._entered = False

    @functools.cached_property
    def console(self) -> Console:
        """The console, which observes the app from the first use of this property on."""
        return Console(self.dicom_app, self._dicomweb.answer)

    def add_url_rule(self, rule: str, *arguments: Any, **options: Any) -> None:
        """Register a route; its path must not be below a reserved one."""
        reserved = (*_RESERVED, self.dicom_app.config.web_root)
        if any(_is_below(rule, path) for path in reserved if path != "/"):
            raise SetupError(f"app.web: {rule} is below one of {', '.join(reserved)}")
        super().add_url_rule(rule, *arguments, **options)

    def wsgi_app(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Answer a WSGI request (PEP 3333)."""
        if "wsgi_app" in vars(self):  # the user's middleware only handles bytes
            environ.pop("pacsroute.sends_files", None)
        if "pacsroute.served" not in environ:
            self._enter_lifespan()
        elif environ.get("PATH_INFO") == _READY and not self._has_rule(_READY):
            return _readiness(environ)(environ, start_response)
        proxies = self.dicom_app.config.web_trust_proxy
        answer: Any = self._in_turn
        if proxies:
            answer = ProxyFix(answer, proxies, proxies, proxies, proxies, proxies)
        if self.dicom_app.http_taps:
            answer = Tapped(answer, self.dicom_app.http_taps, self.dicom_app.config.web_root)
        found: Iterable[bytes] = answer(environ, start_response)
        return found

    def _in_turn(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if self._turns is None:
            self._turns = Turns(self.dicom_app.config.web_threads)
        turn = Turn(self._turns)
        environ["pacsroute.pause"] = turn.pause
        environ["pacsroute.away"] = turn.while_away
        environ["wsgi.input"] = Input(environ["wsgi.input"], turn)
        with turn:
            chunks = self._answer(environ, start_response)
        return Output(chunks, turn)

    def _answer(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        config, http = self.dicom_app.config, Request(environ)
        http.max_content_length = config.max_web_body or None
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        is_dicom = _is_below(path, config.web_root)
        below = path[len(config.web_root.rstrip("/")) :] if is_dicom else ""
        if http.method == "OPTIONS" and "Access-Control-Request-Method" in http.headers:
            return self._with_headers(http, Response(status=204))(environ, start_response)
        try:
            if (http.content_length or 0) > config.max_web_body:
                raise RequestEntityTooLarge(f"longer than {config.max_web_body}: max_web_body")
            title = self._dicomweb.title(below)
            caller = admitted(self.dicom_app, environ, title)
        except HTTPException as error:
            self.console.refused(str(environ.get("REMOTE_ADDR") or ""), error)
            return self._with_headers(http, refusal(error))(environ, start_response)
        if _is_below(path, CONSOLE):
            response = self.console.answer(http, path[len(CONSOLE) :], caller)
            response.call_on_close(lambda: left(self.dicom_app, caller, None))
            return response(environ, start_response)
        if config.web_viewer is not None and _is_below(path, viewer.ROOT):
            response = self._viewer(http, path, caller)
            return self._with_headers(http, response)(environ, start_response)
        if not is_dicom:
            if path == "/" and not self._has_rule("/"):
                response = to_console(http)
                response.call_on_close(lambda: left(self.dicom_app, caller, None))
                return response(environ, start_response)
            environ["pacsroute.caller"] = caller
            ended = _Ending(super().wsgi_app(environ, start_response), self.dicom_app, caller)
            return ended
        self.console.over_http(http)
        response = self._respond(http, below, caller)
        response.call_on_close(lambda: left(self.dicom_app, caller, None))
        return self._with_headers(http, response)(environ, start_response)

    def _has_rule(self, path: str) -> bool:
        """Return whether the app has a route of its own for a path."""
        return any(rule.rule == path for rule in self.url_map.iter_rules())

    def _viewer(self, http: Request, path: str, caller: Caller) -> Response:
        try:
            if path == viewer.ROOT:
                response: Any = redirect(f"{http.environ.get('SCRIPT_NAME', '')}{viewer.ROOT}/")
            else:
                response = viewer.answer(self.dicom_app.config, http, path[len(viewer.ROOT) :])
        except HTTPException as error:
            response = refusal(error)
        response.call_on_close(lambda: left(self.dicom_app, caller, None))
        found: Response = response
        return found

    def _respond(self, http: Request, below: str, caller: Caller) -> Response:
        try:
            return self._dicomweb.answer(http, below, caller)
        except HTTPException as error:
            return refusal(error)
        except OSError as error:  # the client hung up, or sent less than it announced
            logger.warning("HTTP from %s: %s", caller.remote_address, error)
            return refusal(BadRequest("the request is incomplete"))
        except Exception:
            logger.exception("an answer over HTTP failed")
            return refusal(InternalServerError("the request could not be answered"))

    def _with_headers(self, http: Request, response: Response) -> Response:
        """Add the common headers: no caching, and CORS for allowed origins."""
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        origins = self.dicom_app.config.web_cors
        origin = http.headers.get("Origin", "")
        if origin and (origin in origins or "*" in origins):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            response.headers["Access-Control-Allow-Methods"] = (
                "GET, HEAD, POST, PUT, DELETE, OPTIONS"
            )
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
            response.headers.add("Vary", "Origin")
        return response

    def _enter_lifespan(self) -> None:
        """Run the lifespan in a process of another WSGI server, from the first request on."""
        with self._entering:
            if self._entered:
                return
            stack = contextlib.ExitStack()
            app = self.dicom_app
            if app.config.web_jobs:
                stack.enter_context(app.serving_peers())
            else:
                stack.enter_context(app.running())
                app.tell_auditors("start")
                stack.callback(app.tell_auditors, "stop")
            atexit.register(stack.close)
            self._entered = True


class _Ending:
    """The body of a Flask response; the caller's hooks run after it."""

    def __init__(self, chunks: Iterable[bytes], app: BaseApp, caller: Caller) -> None:
        self._chunks, self._app, self._caller = chunks, app, caller

    def __iter__(self) -> Any:
        return iter(self._chunks)

    def close(self) -> None:
        try:
            close = getattr(self._chunks, "close", None)
            if close is not None:
                close()
        finally:
            left(self._app, self._caller, None)


def _readiness(environ: Environ) -> Response:
    """Report readiness to a load balancer without login, like the metrics port."""
    why = environ["pacsroute.obstacle"]()
    headers = {"Cache-Control": "no-store"}
    return Response(f"{why or 'ready'}\n", 503 if why else 200, headers, mimetype="text/plain")


def _is_below(path: str, root: str) -> bool:
    root = root.rstrip("/")
    return path == root or path.startswith(f"{root}/")
