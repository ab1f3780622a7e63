"""WADO-RS: rendered frames and thumbnails (PS3.18 §10.4.1.1.3, §10.4.1.1.6), and WADO-URI (§9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from werkzeug import exceptions
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, HTTPException, NotAcceptable, NotFound
from werkzeug.wrappers import Response

from pacsroute import uids
from pacsroute.errors import DataSetError, DataSetTooLarge
from pacsroute.framework.results import Outcome
from pacsroute.status import OUT_OF_RESOURCES, Status
from pacsroute.web import retrieve
from pacsroute.web.accept import MediaRange
from pacsroute.web.exchange import Delivery, Exchange, Found
from pacsroute.web.frames import numbers_of
from pacsroute.web.statuses import Failed

if TYPE_CHECKING:
    from pacsroute.web.rendering import Options

_TYPES = ("image/jpeg", "image/png", "image/gif")
_THUMBNAIL = 128  # pixels of a side
_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}


def answer(exchange: Exchange, numbers: str = "1", **unique: str) -> Response:
    """Answer with a picture of a frame: the first of those that are asked for.

    Of a study or series, it is a picture of the first instance that has one.
    """
    media_type, _ = exchange.negotiate(*_TYPES)
    options = _options(exchange.http.args, media_type)
    found = exchange.instances("WADO-RS rendered", **unique)
    return _respond(exchange, found, numbers_of(numbers)[0], options)


def thumbnail(exchange: Exchange, numbers: str = "1", **unique: str) -> Response:
    """Answer with a small picture of a study, a series, an instance or a frame."""
    media_type, _ = exchange.negotiate(*_TYPES)
    options = _options(exchange.http.args, media_type)
    if options.size is None:
        options = options._replace(size=(_THUMBNAIL, _THUMBNAIL))
    found = exchange.instances("WADO-RS thumbnail", **unique)
    return _respond(exchange, found, numbers_of(numbers)[0], options)


def uri(exchange: Exchange) -> Response:
    """Answer a request whose parameters name the instance and how it is wanted: WADO-URI."""
    arguments = exchange.http.args
    if arguments.get("requestType") != "WADO":
        raise BadRequest("requestType is WADO")
    names = ("studyUID", "seriesUID", "objectUID")
    if not all(uids.is_uid(arguments.get(name, "")) for name in names):
        raise BadRequest("studyUID, seriesUID and objectUID are UIDs")
    unique = {
        keyword: arguments[name]
        for keyword, name in zip(
            ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), names, strict=True
        )
    }
    content_type = arguments.get("contentType", "image/jpeg").split(";")[0].strip()
    if content_type == retrieve.DICOM:
        wanted = [MediaRange(retrieve.DICOM, False, arguments.get("transferSyntax", ""), 1.0)]
        found = exchange.instances("WADO-URI", **unique)
        try:
            return retrieve.one(exchange, found, wanted)
        except BaseException as error:
            found.close(None if isinstance(error, HTTPException) else error)
            raise
    if content_type not in _TYPES:
        raise NotAcceptable(f"contentType is {retrieve.DICOM}, {', '.join(_TYPES)}")
    options = _uri_options(arguments, content_type)
    number = numbers_of(arguments.get("frameNumber", "1"))[0]
    return _respond(exchange, exchange.instances("WADO-URI", **unique), number, options)


def _respond(exchange: Exchange, found: Found, number: int, options: Options) -> Response:
    from pacsroute.web.rendering import rendered  # noqa: PLC0415 - `_options` has imported it

    why = "nothing of that can be shown"
    try:
        for instance in found:
            try:
                data = rendered(instance, number, options, exchange.limits, found.request.is_wanted)
            except DataSetTooLarge as error:
                raise Failed(Outcome(Status(OUT_OF_RESOURCES, str(error)))) from None
            except (DataSetError, OSError) as error:
                why = str(error) if isinstance(error, DataSetError) else why
                continue
            response = Response(Delivery([data], found), content_type=options.media_type)
            response.headers["Content-Length"] = str(len(data))
            return response
        raise NotFound(why)
    except BaseException as error:
        found.close(None if isinstance(error, HTTPException) else error)
        raise


# ------------------------------------------------------------- parameters


def _options(arguments: MultiDict[str, str], media_type: str) -> Options:
    """Return what the parameters say (PS3.18 §8.3.5.1)."""
    options = _usual(media_type)
    values: dict[str, Any] = {}
    if "quality" in arguments:
        values["quality"] = int(_between(arguments["quality"], 1, 100, "quality"))
    if "viewport" in arguments:
        values |= _viewport(arguments["viewport"])
    if "window" in arguments:
        parts = arguments["window"].split(",")
        if len(parts) not in (2, 3):
            raise BadRequest("window is its centre, width and function")
        function = _FUNCTIONS.get(parts[2].strip().lower()) if len(parts) == 3 else "LINEAR"
        if function is None:
            raise BadRequest(f"the function of a window is {', '.join(_FUNCTIONS)}")
        values["window"] = _window(parts[0], parts[1], function)
    return options._replace(**values)


def _uri_options(arguments: MultiDict[str, str], media_type: str) -> Options:
    """Return what the parameters of WADO-URI say (PS3.18 §9.4.1)."""
    options = _usual(media_type)
    values: dict[str, Any] = {}
    if "imageQuality" in arguments:
        values["quality"] = int(_between(arguments["imageQuality"], 1, 100, "imageQuality"))
    if "rows" in arguments or "columns" in arguments:
        sides = (arguments.get("columns", "0"), arguments.get("rows", "0"))
        values["size"] = tuple(int(_between(side, 0, 1e6, "a size")) for side in sides)
        if values["size"] == (0, 0):
            raise BadRequest("rows and columns are numbers of pixels")
    if "region" in arguments:
        left, top, right, bottom = _numbers(arguments["region"], 4, "region")
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise BadRequest("region has two corners, from 0 to 1")
        values |= {"region": (left, top, right - left, bottom - top), "is_relative": True}
    if "windowCenter" in arguments or "windowWidth" in arguments:
        centre, width = arguments.get("windowCenter", ""), arguments.get("windowWidth", "")
        values["window"] = _window(centre, width, "LINEAR")
    return options._replace(**values)


def _usual(media_type: str) -> Options:
    """Return how a frame is shown when nothing is said."""
    try:
        from pacsroute.web.rendering import Options  # noqa: PLC0415 - NumPy and Pillow, if asked for
    except ModuleNotFoundError as error:
        raise exceptions.NotImplemented(
            f"pictures need {error.name}: pip install 'pacsroute[web,pixels]'"
        ) from None
    return Options(media_type)


def _viewport(text: str) -> dict[str, Any]:
    """Return the size, and the region, of a viewport: width, height, and what of the image."""
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise BadRequest("viewport is a width and height, and a region of the image")
    size = tuple(int(_between(part, 1, 1e6, "viewport")) for part in parts[:2])
    if len(parts) == 2:
        return {"size": size}
    left, top, width, height = _numbers(",".join(parts[2:]), 4, "viewport")
    if left < 0 or top < 0 or not width or not height:
        raise BadRequest("viewport has a region of the image")
    return {"size": size, "region": (left, top, width, height)}


def _window(centre: str, width: str, function: str) -> tuple[float, float, str]:
    found = _numbers(f"{centre},{width}", 2, "a window")
    if found[1] <= 0:
        raise BadRequest("the width of a window is more than 0")
    return found[0], found[1], function


def _numbers(text: str, count: int, what: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise BadRequest(f"{what} has {count} numbers") from None
    if len(found) != count or not all(abs(one) < 1e6 for one in found):
        raise BadRequest(f"{what} has {count} numbers")
    return found


def _between(text: str, low: float, high: float, what: str) -> float:
    (found,) = _numbers(text, 1, what)
    if not low <= found <= high:
        raise BadRequest(f"{what} is {low:g} to {high:g}")
    return found
