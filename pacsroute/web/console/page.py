"""The pages of the console: rendered on the server, usable without JavaScript."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
)
from werkzeug.routing import Map, Rule
from werkzeug.utils import redirect, send_file
from werkzeug.wrappers import Request, Response

from pacsroute.framework.base import BaseApp, ServerView
from pacsroute.web.caller import Caller
from pacsroute.web.console import charts, queue
from pacsroute.web.console.access import FIELD, ROOT, Visit, check_button, remember, visit_of
from pacsroute.web.console.activity import KEPT, Activity
from pacsroute.web.console.destinations import Echoes
from pacsroute.web.console.neighbours import Neighbours
from pacsroute.web.console.overview import overview
from pacsroute.web.console.studies import Ask, has_studies, studies, thumbnail
from pacsroute.web.console.times import ago, clock
from pacsroute.web.console.traces import explained

logger = logging.getLogger("pacsroute")

_HERE = Path(__file__).parent
_FILES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_TICK = 1.0  # seconds between two counts of the requests
_FORM = 65_536  # limit for a form, in bytes
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # otherwise browsers hide which page sent a form
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_MAP = Map(
    [
        Rule("/", methods=["GET"], endpoint="overview"),
        Rule("/troubles/<number>", methods=["GET"], endpoint="trouble"),
        Rule("/studies", methods=["GET"], endpoint="studies"),
        Rule("/thumbnails/<study>", methods=["GET"], endpoint="thumbnail"),
        Rule("/echo", methods=["POST"], endpoint="echo"),
        Rule("/queue", methods=["POST"], endpoint="queue"),
        *(Rule(f"/{name}", methods=["GET"], endpoint=f"file {name}") for name in _FILES),
    ],
    strict_slashes=False,
)

_PAGES = Environment(
    loader=PackageLoader("pacsroute.web.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters |= {"clock": clock, "ago": ago, "number": charts.number, "size": charts.size}
_PAGES.globals |= {"version": version("pacsroute"), "field": FIELD, "kept": KEPT}


class Console:
    """Answers requests below ``/console``, and observes the app from its creation on.

    Parameters
    ----------
    app : App
        The app.
    ask : callable
        Answers the DICOMweb requests that some pages make.
    """

    def __init__(self, app: BaseApp, ask: Ask) -> None:
        self._app = app
        self._ask = ask
        self._server: ServerView | None = None
        self._activity = Activity()
        self._echoes = Echoes()
        self._began = time.time()
        self._neighbours: Neighbours | None = None
        self._over = threading.Event()
        app.observe(self._activity)

    def attend(self, server: ServerView) -> None:
        """Also show a DICOM server from now on."""
        self._server = server
        self._neighbours = None
        if server.neighbours is not None:
            self._neighbours = Neighbours(server.neighbours, self._snapshot)

    def start(self) -> None:
        """Start counting, and answering the consoles of the server's other processes."""
        self._over.set()  # ends the thread of a previous start
        self._over = over = threading.Event()
        threading.Thread(
            target=self._settle, args=(over,), name="pacsroute-console-counts", daemon=True
        ).start()
        if self._neighbours is not None:
            self._neighbours.start()

    def stop(self) -> None:
        """Stop counting and answering."""
        self._over.set()
        if self._neighbours is not None:
            self._neighbours.stop()

    def over_http(self, http: Request) -> None:
        """Count a DICOMweb request."""
        self._activity.over_http(http.content_length or 0)

    def refused(self, address: str, error: HTTPException) -> None:
        """Record an HTTP request that was not admitted."""
        if error.code == Forbidden.code:  # an Unauthorized only asks for credentials
            sender = Caller(self._app.config.web_ae_title, self._app.ae_title, address)
            self._activity.refused(sender, error.description or error.name)

    def _settle(self, over: threading.Event) -> None:
        while not over.wait(_TICK):
            self._activity.settle()

    def answer(self, http: Request, path: str, caller: Caller) -> Response:
        """Answer a request that was admitted.

        Parameters
        ----------
        http : werkzeug.Request
            The request.
        path : str
            The path after ``/console``.
        caller : Caller
            The client.
        """
        http.max_content_length = _FORM
        visit = None
        try:
            visit = visit_of(self._app, http, caller)
            response = self._respond(visit, path)
        except HTTPException as error:
            response = self._refused(http, error)
        except Exception:
            logger.exception("a page of the console failed")
            response = self._refused(http, InternalServerError("the log says why"))
        response.headers.update(_HEADERS)
        if visit is not None:
            remember(response, visit)
        return response

    def _respond(self, visit: Visit, path: str) -> Response:
        http = visit.http
        name, values = _MAP.bind(http.host, path_info=path or "/").match(method=http.method)
        kind, _, file = name.partition(" ")
        if kind == "file":
            return send_file(_HERE / file, http.environ, mimetype=_FILES[file])
        if http.method == "POST":
            check_button(visit)
        answers: dict[str, Callable[..., Response]] = {
            "overview": self._overview,
            "trouble": self._trouble,
            "studies": self._studies,
            "thumbnail": lambda visit, study: thumbnail(visit, self._ask, study),
            "echo": self._echo,
            "queue": self._change,
        }
        return answers[kind](visit, **values)

    def _refused(self, http: Request, error: HTTPException) -> Response:
        if error.response is not None:
            return error.response  # type: ignore[return-value] # a redirection
        why = error.description
        page = self._page(http, None, "refused.html", error=error.name, why=why)
        page.status_code = error.code or 500
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            page.headers["Allow"] = ", ".join(error.valid_methods)
        return page

    def _page(self, http: Request, visit: Visit | None, template: str, **values: Any) -> Response:
        site = http.environ.get("SCRIPT_NAME", "")
        values |= {
            "title": self._app.ae_title,
            "site": site,
            "root": f"{site}{ROOT}",
            "now": time.time(),
            "zone": time.strftime("%Z"),
            "visit": visit,
            "part": template.removesuffix(".html"),
            "has_studies": visit is not None and has_studies(self._app),
        }
        html = _PAGES.get_template(template).render(values)
        return Response(html, content_type="text/html; charset=utf-8")

    # ------------------------------------------------------------- pages

    def _overview(self, visit: Visit) -> Response:
        snapshots, silent = self._snapshots()
        values = overview(self._app, self._server, snapshots)
        return self._page(visit.http, visit, "overview.html", silent=silent, **values)

    def _snapshot(self) -> dict[str, Any]:
        """Return the activity of this process."""
        server = self._server
        facts: dict[str, Any] = {"places": (0, 0), "obstacle": ""}
        if server is not None:
            places = server.associations, server.config.max_associations
            facts = {"places": places, "obstacle": server.obstacle()}
        facts |= {"process": os.getpid(), "began": self._began, "echoes": self._echoes.snapshot()}
        facts["spool"] = self._app.room.used, self._app.config.max_spool
        return self._activity.snapshot() | facts

    def _snapshots(self) -> tuple[list[dict[str, Any]], int]:
        """Return the activity of each process of the server, and the number that did not answer."""
        others, silent = ([], 0) if self._neighbours is None else self._neighbours.others()
        return [self._snapshot(), *others], silent

    def _trouble(self, visit: Visit, number: str) -> Response:
        """Show a failure with the handler's comment and the trace."""
        snapshots, _ = self._snapshots()
        troubles = [one for each in snapshots for one in each["troubles"]]
        trouble = next((one for one in troubles if one["id"] == number), None)
        if trouble is None:
            raise NotFound(f"this is not among the last {KEPT} failures")
        recording = trouble["recording"]
        trace = explained(recording, values=visit.values) if recording else ""
        if visit.values:
            visit.tell(f"failure {number}, {trouble['what']}")
        return self._page(visit.http, visit, "trouble.html", trouble=trouble, trace=trace)

    def _studies(self, visit: Visit) -> Response:
        if not has_studies(self._app):
            raise NotFound("the app answers no searches for studies")
        return self._page(visit.http, visit, "studies.html", **studies(visit, self._ask))

    # ------------------------------------------------------------- buttons

    def _echo(self, visit: Visit) -> Response:
        title = visit.http.form.get("title", "").strip()
        away = visit.http.environ["pacsroute.away"]  # gives up the turn while waiting for a peer
        good = away(self._echoes.ask, self._app, title)
        visit.tell(f"echo {title}", action="E", failed=not good)
        return _back(visit, "destinations")

    def _change(self, visit: Visit) -> Response:
        queue.change(visit)
        return _back(visit, "jobs")


def _back(visit: Visit, part: str) -> Response:
    response: Any = redirect(f"{visit.root}#{part}", 303)
    found: Response = response
    return found


def to_console(http: Request) -> Response:
    """Redirect from the root of the site to the console."""
    response: Any = redirect(f"{http.environ.get('SCRIPT_NAME', '')}{ROOT}")
    found: Response = response
    return found
