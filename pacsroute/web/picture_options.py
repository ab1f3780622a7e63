"""The query parameters of rendered images (PS3.18 §8.3.5, §9.5.1.2)."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

from werkzeug import exceptions
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest

from pacsroute.instances.pictures import Options

_NEEDED = ("numpy", "PIL")
_ANNOTATIONS = {"patient", "technique"}
_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}


def options_of(arguments: MultiDict[str, str], media_type: str) -> Options:
    """Return the options in the parameters of WADO-RS (PS3.18 §8.3.5.1)."""
    options = usual(media_type)
    values: dict[str, Any] = {}
    if "quality" in arguments:
        values["quality"] = int(_between(arguments["quality"], 1, 100, "quality"))
    if "viewport" in arguments:
        values |= viewport_of(arguments["viewport"])
    if "window" in arguments:
        parts = arguments["window"].split(",")
        function = _FUNCTIONS.get(parts[-1].strip().lower())
        if len(parts) != 3 or function is None:
            raise BadRequest(f"window must be its centre, width, and {' or '.join(_FUNCTIONS)}")
        values["window"] = _window(parts[0], parts[1], function)
    if not _ANNOTATIONS.issuperset(arguments.get("annotation", "patient").split(",")):
        raise BadRequest(f"annotation must be {' or '.join(sorted(_ANNOTATIONS))}")
    return options._replace(**values)


def uri_options(arguments: MultiDict[str, str], media_type: str) -> Options:
    """Return the options in the parameters of WADO-URI (PS3.18 §9.4.1)."""
    options = usual(media_type)
    values: dict[str, Any] = {}
    if "imageQuality" in arguments:
        values["quality"] = int(_between(arguments["imageQuality"], 1, 100, "imageQuality"))
    if "rows" in arguments or "columns" in arguments:
        sides = (arguments.get("columns", "0"), arguments.get("rows", "0"))
        values["size"] = tuple(int(_between(side, 0, 1e6, "a size")) for side in sides)
        if values["size"] == (0, 0):
            raise BadRequest("rows and columns must be numbers of pixels")
    if "region" in arguments:
        left, top, right, bottom = _numbers(arguments["region"], 4, "region")
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise BadRequest("region must have two corners, from 0 to 1")
        values |= {"region": (left, top, right - left, bottom - top), "is_relative": True}
    if "windowCenter" in arguments or "windowWidth" in arguments:
        centre, width = arguments.get("windowCenter", ""), arguments.get("windowWidth", "")
        values["window"] = _window(centre, width, "LINEAR")
    return options._replace(**values)


def usual(media_type: str) -> Options:
    """Return the default options for a media type."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise exceptions.NotImplemented(
            f"pictures need {missing[0]}: pip install 'pacsroute[web,pixels]'"
        )
    return Options(media_type)


def viewport_of(text: str) -> dict[str, Any]:
    """Parse a viewport: width and height, and the region of the image to show."""
    parts = text.split(",")
    if not 2 <= len(parts) <= 6:
        raise BadRequest("viewport must be a width and height, and a region of the image")
    size = tuple(int(_between(part, 1, 1e6, "viewport")) for part in parts[:2])
    if len(parts) == 2:
        return {"size": size}
    given = [part.strip() for part in parts[2:]] + [""] * (6 - len(parts))
    left, top = (abs(_numbers(part or "0", 1, "viewport")[0]) for part in given[:2])
    width, height = (_numbers(part, 1, "viewport")[0] if part else math.inf for part in given[2:])
    if not width or not height:
        raise BadRequest("the region of viewport must be four numbers of pixels within the image")
    return {"size": size, "region": (left, top, width, height)}


def _window(centre: str, width: str, function: str) -> tuple[float, float, str]:
    found = _numbers(f"{centre},{width}", 2, "a window")
    if found[1] <= 0:
        raise BadRequest("the width of a window must be more than 0")
    return found[0], found[1], function


def _numbers(text: str, count: int, what: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise BadRequest(f"{what} must have {count} numbers") from None
    if len(found) != count or not all(abs(one) < 1e6 for one in found):
        raise BadRequest(f"{what} must have {count} numbers")
    return found


def _between(text: str, low: float, high: float, what: str) -> float:
    (found,) = _numbers(text, 1, what)
    if not low <= found <= high:
        raise BadRequest(f"{what} must be from {low:g} to {high:g}")
    return found
