"""``pacsroute routes``: what an app answers, and which function does it."""

from __future__ import annotations

import functools
import inspect
import json
import os
import shutil
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from pacsroute import uids
from pacsroute.app import App
from pacsroute.cli.loading import load
from pacsroute.framework.presentation_contexts import ECHO
from pacsroute.framework.resources import resources
from pacsroute.framework.routes import BARE, Handler, Route, name_of

_GAP = "  "
_WRAPPED = ("SOP CLASS", "TRANSFER SYNTAX")


class Line(NamedTuple):
    """The columns that are shown of a route, in their order."""

    command: str
    sop_class: str
    transfer_syntax: str
    called: str
    calling: str
    blueprint: str
    handler: str
    where: str


_HEADER = Line(
    "COMMAND", "SOP CLASS", "TRANSFER SYNTAX", "TO", "FROM", "BLUEPRINT", "HANDLER", "WHERE"
)


@click.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option("--json", "as_json", is_flag=True, help="As a list of objects, with all UIDs.")
def routes(app: str | None, as_json: bool) -> None:
    """List what APP answers, and the function that does it.

    The routes of a called AE title and command stand in the order in which they are tried:
    the first that covers a request has it. APP is named as in pacsroute run.
    """
    found = load(app)
    ordered = in_order(found)
    if as_json:
        click.echo(json.dumps([described(route) for route in ordered], indent=2))
        return
    lines = [_line(route) for route in ordered]
    color = False if os.environ.get("NO_COLOR") else None
    for line in _table(lines, _width()):
        click.echo(line, color=color)
    if found.config.web_port is not None:
        click.echo(f"\nBelow {found.config.web_root}, over HTTP:")
        for path, methods in resources(found.routes):
            click.echo(f"{_GAP}{', '.join(methods):<10}{path}")


def in_order(app: App) -> list[Route]:
    """Return the routes by called AE title and command, those first that win over others.

    A C-ECHO without a route of its own has the built-in one.
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
    """Return all of a route, for other programs; None stands for any."""
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


def _line(route: Route) -> Line:
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
    """Return a handler's name, and whether any other route that covers the same is asked first."""
    if route.handler is ECHO.handler:
        return "built in"
    return f"{route.where} (default)" if route.default else route.where


def _place(handler: Handler) -> tuple[str | None, int | None]:
    """Return the file and line of a handler, where it has any of its own."""
    found: Any = handler
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found)
    if not hasattr(found, "__code__") and not inspect.isclass(found):
        found = type(found).__call__  # an object that can be called
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


# ---- columns


def _width() -> int | None:
    """Return the width of the terminal; None where the lines go elsewhere and stay whole."""
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return None
    return shutil.get_terminal_size().columns


def _table(lines: list[Line], width: int | None) -> list[str]:
    """Return the lines of a table that fits, without the columns that say nothing.

    What is too wide is wrapped within its column; where that does not help, each route has
    a paragraph of its own.
    """
    columns = [
        (title, [line[at] for line in lines])
        for at, title in enumerate(_HEADER)
        if any(line[at] not in ("", "*") for line in lines)
    ]
    widths = [max(map(len, (title, *cells))) for title, cells in columns]
    least = [max(map(len, f"{title} {' '.join(cells)}".split())) for title, cells in columns]
    room = None if width is None else width - len(_GAP) * (len(columns) - 1)
    while room is not None and sum(widths) > room:
        wide = [
            at
            for at, (title, _) in enumerate(columns)
            if title in _WRAPPED and widths[at] > max(least[at], len(title))
        ]
        if not wide:
            return _paragraphs(lines, width or 0)
        widths[max(wide, key=lambda at: widths[at])] -= 1
    titles = [title.ljust(size) for (title, _), size in zip(columns, widths, strict=True)]
    shown = [click.style(_GAP.join(titles).rstrip(), bold=True)]
    for cells in zip(*(cells for _, cells in columns), strict=True):
        wrapped = [textwrap.wrap(cell, size) for cell, size in zip(cells, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            parts = [part[number] if number < len(part) else "" for part in wrapped]
            padded = [part.ljust(size) for part, size in zip(parts, widths, strict=True)]
            shown.append(_GAP.join(padded).rstrip())
    return shown


def _paragraphs(lines: list[Line], width: int) -> list[str]:
    """Return each route as a line, and what else there is to say indented below it."""
    indent = " " * (max(len(line.command) for line in lines) + len(_GAP))
    shown = []
    for line in lines:
        blueprint = f"{line.blueprint}: " if line.blueprint else ""
        facts = [
            *([f"to {line.called}"] if line.called != "*" else []),
            *([f"from {line.calling}"] if line.calling != "*" else []),
            f"in {line.transfer_syntax}",
            f"{blueprint}{line.handler}",
            *([line.where] if line.where else []),
        ]
        first, *rest = textwrap.wrap(line.sop_class, max(20, width - len(indent))) or [""]
        shown.append(click.style(line.command.ljust(len(indent)), bold=True) + first)
        shown += [indent + part for part in rest]
        shown += textwrap.wrap(
            "; ".join(facts),
            max(40, width),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return shown
