"""The resources of DICOMweb that an app's handlers answer (PS3.18 §10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pacsroute import uids
from pacsroute.framework.routes import Route

_STUDY, _SERIES = "studies/{study}", "studies/{study}/series/{series}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_FRAMES = f"{_INSTANCE}/frames/{{frames}}"
_BELOW: dict[str, dict[str, tuple[str, ...]]] = {
    "find": {
        "GET": (
            *("studies", "series", "instances"),
            *(f"{_STUDY}/series", f"{_STUDY}/instances", f"{_SERIES}/instances"),
        )
    },
    "get": {
        "GET": (
            *(_STUDY, _SERIES, _INSTANCE, _FRAMES, f"{_INSTANCE}/bulkdata/{{path}}", "wado"),
            *(
                f"{path}/{name}"
                for path in (_STUDY, _SERIES, _INSTANCE)
                for name in ("metadata", "bulkdata", "pixeldata")
            ),
            *(
                f"{path}/{picture}"
                for path in (_STUDY, _SERIES, _INSTANCE, _FRAMES)
                for picture in ("rendered", "thumbnail")
            ),
        )
    },
    "store": {"POST": ("studies", _STUDY)},
}
_STEP = "workitems/{workitem}"
_STEPS: dict[tuple[str, int | None], dict[str, tuple[str, ...]]] = {
    ("find", None): {"GET": ("workitems",)},
    ("n_create", None): {"POST": ("workitems",)},
    ("n_get", None): {"GET": (_STEP,)},
    ("n_set", None): {"POST": (_STEP,)},
    ("n_action", 1): {"PUT": (f"{_STEP}/state",)},
    ("n_action", 2): {"POST": (f"{_STEP}/cancelrequest",)},
    ("n_action", 3): {"POST": (f"{_STEP}/subscribers/{{aetitle}}",)},
    ("n_action", 4): {"DELETE": (f"{_STEP}/subscribers/{{aetitle}}",)},
    ("n_action", 5): {"POST": (f"{_STEP}/subscribers/{{aetitle}}/suspend",)},
}


def resources(routes: Iterable[Route]) -> list[tuple[str, list[str]]]:
    """Return the paths below the root of DICOMweb, with their methods.

    Parameters
    ----------
    routes : iterable of Route
        The registered routes.

    Examples
    --------
    >>> from pacsroute import App
    >>> app = App()
    >>> @app.store
    ... def store(request): ...
    >>> resources(app.routes)
    [('studies', ['POST']), ('studies/{study}', ['POST'])]
    """
    found: dict[str, set[str]] = {}
    for route in routes:
        for method, paths in _answered(route):
            for path in paths:
                found.setdefault(path, set()).add(method)
    return sorted((path, sorted(methods)) for path, methods in found.items())


def _answered(route: Route) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the resources of a route, by method."""
    if any(route.covers(uid) for uid in uids.UPS):
        for (command, kind), below in _STEPS.items():
            if command == route.command and route.kind in (None, kind):
                yield from below.items()
    elif route.command == "store" or any(
        route.covers(uid) for uid in uids.QUERY_RETRIEVE.get(route.command, {}).values()
    ):
        yield from _BELOW.get(route.command, {}).items()
