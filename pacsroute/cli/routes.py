"""``pacsroute routes``: the services of an app, and their handlers."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator

import click

from pacsroute.app import App
from pacsroute.cli.loading import load
from pacsroute.framework.resources import resources
from pacsroute.framework.route_table import HEADER, Line, described, in_order, line_of

_GAP = "  "
_WRAPPED = ("SOP CLASS", "TRANSFER SYNTAX")


@click.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list of objects, with all UIDs."
)
def routes(app: str | None, as_json: bool) -> None:
    """List the services of APP with their handlers.

    The routes of a called AE title and command are listed in the order in which they are tried: the
    first one that matches a request answers it. APP is named as in pacsroute run.
    """
    found = load(app)
    ordered = in_order(found)
    if as_json:
        click.echo(json.dumps([described(route) for route in ordered], indent=2))
        return
    lines = [line_of(route) for route in ordered]
    color = False if os.environ.get("NO_COLOR") else None
    for line in _table(lines, _width()):
        click.echo(line, color=color)
    if found.config.web_port is not None:
        click.echo(f"\nBelow {found.config.web_root}, over HTTP:")
        for path, methods in _resources(found):
            click.echo(f"{_GAP}{', '.join(methods):<10}{path}")
        _show_own(found)


def _resources(app: App) -> Iterator[tuple[str, list[str]]]:
    """Yield the DICOMweb resources; each called AE title has its own path."""
    titles = sorted({route.called_ae or "" for route in app.routes})
    for title in titles:
        routes = [route for route in app.routes if (route.called_ae or "") == title]
        for path, methods in resources(routes):
            yield (f"aets/{title}/{path}" if title else path), methods


def _show_own(app: App) -> None:
    """Print the routes of `app.web` that are the app's own, if it has any."""
    site = app.__dict__.get("web")  # made when it is first asked for
    rules = sorted(site.url_map.iter_rules(), key=str) if site is not None else []
    if rules:
        click.echo("\nOf its own, over HTTP:")
    for rule in rules:
        methods = sorted(rule.methods - {"HEAD", "OPTIONS"})
        click.echo(f"{_GAP}{', '.join(methods):<10}{rule.rule}")


# ---- columns


def _width() -> int | None:
    """Return the width of the terminal; None if the lines go elsewhere and stay whole."""
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return None
    return shutil.get_terminal_size().columns


def _table(lines: list[Line], width: int | None) -> list[str]:
    """Return the lines of a table that fits, without the columns that say nothing.

    Wide cells are wrapped; if that does not help, each route has its own paragraph.
    """
    columns = [
        (title, [line[at] for line in lines])
        for at, title in enumerate(HEADER)
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
    """Return each route as a line, with its options indented below."""
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
