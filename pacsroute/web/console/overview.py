"""The overview: everything a server does, on one page."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from pacsroute.framework.base import BaseApp, ServerView
from pacsroute.framework.route_table import HEADER, in_order, line_of
from pacsroute.web.console import charts, standing
from pacsroute.web.console.activity import KEPT
from pacsroute.web.console.destinations import destinations, knows_others
from pacsroute.web.console.queue import instance_of, queue_of
from pacsroute.web.console.rates import together

_SHOWN = 200  # most associations on the page
_TITLES = {title: title.capitalize().replace("Sop", "SOP") for title in HEADER}


def overview(
    app: BaseApp, server: ServerView | None, snapshots: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the values of the page.

    Parameters
    ----------
    app : App
        The app.
    server : ServerView or None
        The DICOM server of this process.
    snapshots : sequence of dict
        The activity of each process of the server, this one's first.
    """
    associations = [one for each in snapshots for one in each["associations"]]
    troubles = [one for each in snapshots for one in each["troubles"]]
    echoes: dict[str, dict[str, Any]] = {}
    for each in snapshots:
        for title, echo in each["echoes"].items():
            if title not in echoes or echoes[title]["at"] < echo["at"]:
                echoes[title] = echo
    routes = _routes(app)
    return {
        "host": socket.gethostname(),
        "processes": [each["process"] for each in snapshots],
        "began": min(each["began"] for each in snapshots),
        "serves": server is not None,
        "obstacles": _obstacles(snapshots),
        "places": _places(snapshots),
        "ports": [] if server is None else list(standing.ports(server)),
        "certificates": [] if server is None else list(standing.certificates(server)),
        "rooms": list(standing.rooms(app, (each["spool"] for each in snapshots))),
        "associations": sorted(associations, key=lambda one: one["since"])[:_SHOWN],
        "count": len(associations),
        "troubles": sorted(troubles, key=lambda one: one["last"], reverse=True)[:KEPT],
        "charts": charts.charts(together(each["rates"] for each in snapshots)),
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
        "columns": list(routes[0]),
        "routes": routes,
        "destinations": destinations(app, echoes),
        "knows_others": knows_others(app),
        "queue": queue_of(app),
        "instance_of": instance_of,
    }


def _obstacles(snapshots: Sequence[dict[str, Any]]) -> list[str]:
    """Return the reasons why processes are not ready, without duplicates."""
    return list(dict.fromkeys(each["obstacle"] for each in snapshots if each["obstacle"]))


def _places(snapshots: Sequence[dict[str, Any]]) -> dict[str, int] | None:
    """Return the number of associations in all processes, and the limit."""
    taken, most = (sum(each["places"][at] for each in snapshots) for at in (0, 1))
    return {"taken": taken, "most": most, "left": max(0, most - taken)} if most else None


def _routes(app: BaseApp) -> list[dict[str, str]]:
    """Return the routes by column, without empty columns."""
    lines = [line_of(route) for route in in_order(app)]
    said = [at for at in range(len(HEADER)) if any(line[at] not in ("", "*") for line in lines)]
    return [{_TITLES[HEADER[at]]: line[at] for at in said} for line in lines]
