"""The routes of an app as a table, for the command and the console."""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pacsroute import uids
from pacsroute.framework.base import BaseApp
from pacsroute.framework.presentation_contexts import ECHO
from pacsroute.framework.routes import BARE, Handler, Route, name_of


class Line(NamedTuple):
    """The columns of a route, in order."""

    command: str
    sop_class: str
    transfer_syntax: str
    called: str
    calling: str
    blueprint: str
    handler: str
    where: str


HEADER = Line(
    "COMMAND", "SOP CLASS", "TRANSFER SYNTAX", "TO", "FROM", "BLUEPRINT", "HANDLER", "WHERE"
)


def in_order(app: BaseApp) -> list[Route]:
    """Return the routes by called AE title and command, the winning ones first.

    The built-in route of C-ECHO is included if there is no other.
    """
    titles: list[str | None] = [*dict.fromkeys(title for _, title in app.families if title), None]
    commands = dict.fromkeys(("echo", *(route.command for route in app.routes)))
    found = [
        route
        for title in titles
        for command in commands
        for route in sorted(app.routes, key=lambda route: route.rank)
        if (route.called_ae, route.command) == (title, command)
    ]
    if app.route("echo", uids.VERIFICATION) not in found:
        found.append(replace(ECHO, sop_class=uids.VERIFICATION))
    return found


def described(route: Route) -> dict[str, Any]:
    """Return all properties of a route, for other programs; None means any."""
    file, line = _place(route.handler)
    return {
        "command": name_of(route.command),
        "sop_class": route.sop_class,
        "covers": _covered(route),
        "type": route.kind,
        "transfer_syntaxes": list(route.transfer_syntaxes) or None,
        "called_ae": route.called_ae,
        "calling_ae": route.calling_ae,
        "blueprint": _blueprint(route) or None,
        "default": route.default,
        "handler": "built in" if route.handler is ECHO.handler else route.where,
        "file": file,
        "line": line,
    }


def line_of(route: Route) -> Line:
    """Return the columns of a route."""
    file, line = _place(route.handler)
    syntaxes = ", ".join(map(uids.written, route.transfer_syntaxes))
    return Line(
        name_of(route.command),
        _covered(route),
        syntaxes or ("any" if route.command == "store" else "any uncompressed"),
        route.called_ae or "*",
        route.calling_ae or "*",
        _blueprint(route),
        _name(route),
        f"{file}:{line}" if file else "",
    )


def _covered(route: Route) -> str:
    """Return the SOP classes of a route as they are written in decorators."""
    kind = "" if route.kind is None else f", type {route.kind}"
    if route.sop_class is not None:
        return uids.written(route.sop_class, route.command) + kind
    if route.command == "store":
        return "every storage class" + (", unknown ones too" if route.unknown else "")
    if route.command == "echo":
        return uids.written(uids.VERIFICATION)
    return ", ".join(sorted(uids.written(uid, route.command) for uid in BARE[route.command]))


def _blueprint(route: Route) -> str:
    return ".".join(scope.name for scope in route.scopes[1:])


def _name(route: Route) -> str:
    """Return a handler's name, marked if any other route for the same requests replaces it."""
    if route.handler is ECHO.handler:
        return "built in"
    return f"{route.where} (default)" if route.default else route.where


def _place(handler: Handler) -> tuple[str | None, int | None]:
    """Return the file and line of a handler, if it has them."""
    found: Any = handler
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found)
    if not hasattr(found, "__code__") and not inspect.isclass(found):
        found = type(found).__call__  # a callable object
    if handler is ECHO.handler:
        return None, None
    try:
        code = getattr(found, "__code__", None)
        file = code.co_filename if code else inspect.getfile(found)
        line = code.co_firstlineno if code else inspect.getsourcelines(found)[1]
    except (OSError, TypeError):
        return None, None
    here = Path.cwd()
    path = Path(file)
    return str(path.relative_to(here) if path.is_relative_to(here) else path), line
