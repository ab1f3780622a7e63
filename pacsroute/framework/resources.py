"""The resources of DICOMweb that an app's handlers stand behind (PS3.18 §10)."""

from __future__ import annotations

from collections.abc import Iterable

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
            *(f"{path}/metadata" for path in (_STUDY, _SERIES, _INSTANCE)),
            *(
                f"{path}/{picture}"
                for path in (_STUDY, _SERIES, _INSTANCE, _FRAMES)
                for picture in ("rendered", "thumbnail")
            ),
        )
    },
    "store": {"POST": ("studies", _STUDY)},
}


def resources(commands: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return the paths below the root of DICOMweb, with their methods.

    Parameters
    ----------
    commands : iterable of str
        Those that have a route.

    Examples
    --------
    >>> resources(["store"])
    [('studies', ['POST']), ('studies/{study}', ['POST'])]
    """
    found: dict[str, list[str]] = {}
    for command in sorted(set(commands) & _BELOW.keys()):
        for method, paths in _BELOW[command].items():
            for path in paths:
                found.setdefault(path, []).append(method)
    return sorted(found.items())
