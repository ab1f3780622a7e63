"""The pages of the console: made on the server, readable without JavaScript."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.utils import redirect, send_file
from werkzeug.wrappers import Request, Response

from pacsroute import uids
from pacsroute.framework.base import BaseApp, ServerView
from pacsroute.framework.route_table import HEADER, in_order, line_of
from pacsroute.web.caller import Caller
from pacsroute.web.console import charts, standing
from pacsroute.web.console.access import FIELD, Viewer, check_button, remember, viewer_of
from pacsroute.web.console.activity import KEPT, Activity
from pacsroute.web.console.rates import together
from pacsroute.web.console.times import ago, clock
from pacsroute.web.console.traces import explained

logger = logging.getLogger("pacsroute")

ROOT = "/console"

_HERE = Path(__file__).parent
_FILES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FORM = 65_536  # bytes of a form
_SHOWN = 200  # associations
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # without one, browsers hide which page sends a form
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TITLES = {title: title.capitalize().replace("Sop", "SOP") for title in HEADER}
_MAP = Map(
    [
        Rule("/", methods=["GET"], endpoint="overview"),
        Rule("/troubles/<number>", methods=["GET"], endpoint="trouble"),
        Rule(
            "/<any('console.css', 'console.js', 'icon.svg'):name>", methods=["GET"], endpoint="file"
        ),
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
_PAGES.globals |= {"version": uids.IMPLEMENTATION_VERSION, "field": FIELD, "kept": KEPT}


class Console:
    """Answers below ``/console``, and observes an app for it from when it is made.

    Parameters
    ----------
    app : App
        Of which it tells.
    """

    def __init__(self, app: BaseApp) -> None:
        self._app = app
        self._server: ServerView | None = None
        self._activity = Activity()
        self._began = time.time()
        app.observe(self._activity)

    def attend(self, server: ServerView) -> None:
        """Tell of a DICOM server from now on, too."""
        self._server = server

    def answer(self, http: Request, path: str, caller: Caller) -> Response:
        """Answer a request that was admitted.

        Parameters
        ----------
        http : werkzeug.Request
            The request.
        path : str
            What is behind ``/console``.
        caller : Caller
            Who asks.
        """
        viewer = None
        try:
            viewer = viewer_of(self._app, http, caller)
            response = self._respond(http, path, viewer)
        except HTTPException as error:
            response = self._refused(http, error)
        except Exception:
            logger.exception("a page of the console failed")
            response = self._refused(http, InternalServerError("the log says why"))
        response.headers.update(_HEADERS)
        if viewer is not None:
            remember(response, http, viewer)
        return response

    def _respond(self, http: Request, path: str, viewer: Viewer) -> Response:
        name, values = _MAP.bind(http.host, path_info=path or "/").match(method=http.method)
        if name == "file":
            return send_file(_HERE / values["name"], http.environ, mimetype=_FILES[values["name"]])
        if http.method == "POST":
            http.max_content_length = _FORM
            check_button(self._app, http, viewer)
        answers: dict[str, Callable[..., Response]] = {
            "overview": self._overview,
            "trouble": self._trouble,
        }
        return answers[name](http, viewer, **values)

    def _refused(self, http: Request, error: HTTPException) -> Response:
        if error.response is not None:
            return error.response  # type: ignore[return-value] # a redirection
        page = self._page(
            http, "refused.html", code=error.code, error=error.name, why=error.description
        )
        page.status_code = error.code or 500
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            page.headers["Allow"] = ", ".join(error.valid_methods)
        return page

    def _page(self, http: Request, template: str, **values: Any) -> Response:
        values |= {
            "title": self._app.ae_title,
            "root": f"{http.environ.get('SCRIPT_NAME', '')}{ROOT}",
            "now": time.time(),
        }
        return Response(
            _PAGES.get_template(template).render(values), content_type="text/html; charset=utf-8"
        )

    # ------------------------------------------------------------- pages

    def _overview(self, http: Request, viewer: Viewer) -> Response:
        snapshots = self._snapshots()
        associations = [one for each in snapshots for one in each["associations"]]
        troubles = [one for each in snapshots for one in each["troubles"]]
        routes = _routes(self._app)
        server = self._server
        return self._page(
            http,
            "overview.html",
            viewer=viewer,
            host=socket.gethostname(),
            process=os.getpid(),
            began=min(each["began"] for each in snapshots),
            obstacle="" if server is None else server.obstacle(),
            serves=server is not None,
            places=self._places(),
            ports=[] if server is None else list(standing.ports(server)),
            certificates=[] if server is None else list(standing.certificates(server)),
            rooms=list(standing.rooms(self._app)),
            associations=sorted(associations, key=lambda one: one["since"])[:_SHOWN],
            count=len(associations),
            troubles=sorted(troubles, key=lambda one: one["last"], reverse=True)[:KEPT],
            charts=charts.charts(together(each["rates"] for each in snapshots)),
            width=charts.WIDTH,
            height=charts.HEIGHT,
            columns=list(routes[0]),
            routes=routes,
        )

    def _places(self) -> dict[str, int] | None:
        if self._server is None:
            return None
        taken, most = self._server.associations, self._server.config.max_associations
        return {"taken": taken, "most": most, "left": max(0, most - taken)}

    def _snapshots(self) -> list[dict[str, Any]]:
        """Return what each process of the server has seen."""
        return [self._activity.snapshot() | {"began": self._began}]

    def _trouble(self, http: Request, viewer: Viewer, number: str) -> Response:
        """Show a failure with what a handler has said of it, and its trace."""
        troubles = [one for each in self._snapshots() for one in each["troubles"]]
        trouble = next((one for one in troubles if one["id"] == number), None)
        if trouble is None:
            raise NotFound(f"this is not among the last {KEPT} failures")
        recording = trouble["recording"]
        trace = explained(recording, values=viewer.values) if recording else ""
        return self._page(http, "trouble.html", viewer=viewer, trouble=trouble, trace=trace)


def _routes(app: BaseApp) -> list[dict[str, str]]:
    """Return the routes by columns, without the columns that say nothing."""
    lines = [line_of(route) for route in in_order(app)]
    said = [at for at in range(len(HEADER)) if any(line[at] not in ("", "*") for line in lines)]
    return [{_TITLES[HEADER[at]]: line[at] for at in said} for line in lines]


def to_console(http: Request) -> Response:
    """Return what leads from the root of the site to the console."""
    response: Any = redirect(f"{http.environ.get('SCRIPT_NAME', '')}{ROOT}")
    found: Response = response
    return found
