"""WADO-RS: rendered frames and thumbnails (PS3.18 §10.4.1.1.3, §10.4.1.1.6), and WADO-URI (§9)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator

from werkzeug import exceptions
from werkzeug.exceptions import BadRequest, HTTPException, NotAcceptable, NotFound
from werkzeug.wrappers import Response

from pacsroute import uids
from pacsroute.errors import DataSetError
from pacsroute.framework.results import Outcome
from pacsroute.instances.decoding.wall import decoders
from pacsroute.instances.frames import Frames
from pacsroute.instances.instance import Instance
from pacsroute.instances.pictures import Options
from pacsroute.status import SUB_OPERATIONS_WARNING, Status
from pacsroute.web import retrieve
from pacsroute.web.accept import MediaRange
from pacsroute.web.exchange import Delivery, Exchange, Found
from pacsroute.web.frames import numbers_of
from pacsroute.web.multipart import Multipart, Part, pieces, size_of
from pacsroute.web.picture_options import options_of, uri_options, usual, viewport_of
from pacsroute.web.statuses import Failed

logger = logging.getLogger("pacsroute")

_TYPES = ("image/jpeg", "image/png", "image/gif")
_THUMBNAIL = 128  # pixels of a side


def answer(exchange: Exchange, numbers: str = "", **unique: str) -> Response:
    """Answer with a picture of each frame, in parts if there are several.

    A client that takes no parts gets the first picture.
    """
    media_type, wanted = exchange.negotiate(*_TYPES)
    options = options_of(exchange.http.args, media_type)
    response = _shown(exchange, "WADO-RS rendered", numbers, options, wanted.multipart, unique)
    return _warned(exchange, response, ("annotation", "iccprofile"))


def thumbnail(exchange: Exchange, numbers: str = "", **unique: str) -> Response:
    """Answer with a small picture of a study, a series, an instance or a frame."""
    media_type, wanted = exchange.negotiate(*_TYPES)
    options = usual(media_type)._replace(size=(_THUMBNAIL, _THUMBNAIL))
    viewport = exchange.http.args.get("viewport")
    if viewport is not None:
        if viewport.count(",") != 1:
            raise BadRequest("the viewport of a thumbnail must be a width and height")
        options = options._replace(**viewport_of(viewport))
    multipart = wanted.multipart is True
    name = "WADO-RS thumbnail"
    return _shown(exchange, name, numbers, options, multipart, unique, only_one=True)


def uri(exchange: Exchange) -> Response:
    """Answer a request whose parameters name the instance and how it is wanted: WADO-URI."""
    arguments = exchange.http.args
    if arguments.get("requestType") != "WADO":
        raise BadRequest("requestType is WADO")
    names = ("studyUID", "seriesUID", "objectUID")
    if not all(uids.is_uid(arguments.get(name, "")) for name in names):
        raise BadRequest("studyUID, seriesUID and objectUID must be UIDs")
    unique = {
        keyword: arguments[name]
        for keyword, name in zip(
            ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), names, strict=True
        )
    }
    if "anonymize" in arguments:  # what names the patient never goes out instead
        raise exceptions.NotImplemented("instances are not anonymized here")
    text = arguments.get("contentType", "image/jpeg")
    if ";" in text:
        raise BadRequest("the media types of contentType have no parameters")
    wanted = [kind.strip().lower() for kind in text.split(",")]
    if retrieve.DICOM in wanted:
        return _uri_instance(exchange, arguments.get("transferSyntax", ""), unique)
    content_type = next((kind for kind in wanted if kind in _TYPES), None)
    if content_type is None:
        raise NotAcceptable(f"contentType must be {retrieve.DICOM}, {', '.join(_TYPES)}")
    options = uri_options(arguments, content_type)
    number = arguments.get("frameNumber", "1")
    if "," in number:
        raise BadRequest("frameNumber must be the number of one frame")
    response = _shown(exchange, "WADO-URI", number, options, False, unique)
    return _warned(exchange, response, ("annotation", "imageAnnotation", "presentationUID"))


def _uri_instance(exchange: Exchange, syntax: str, unique: dict[str, str]) -> Response:
    if syntax and not uids.is_uid(syntax):
        raise BadRequest("transferSyntax is a UID")
    found = exchange.instances("WADO-URI", **unique)
    try:
        return retrieve.one(exchange, found, [MediaRange(retrieve.DICOM, False, syntax, 1.0)])
    except BaseException as error:
        found.close(None if isinstance(error, HTTPException) else error)
        raise


def _warned(exchange: Exchange, response: Response, unsupported: tuple[str, ...]) -> Response:
    """Return a response that tells which of its parameters have changed nothing."""
    asked = [name for name in unsupported if name in exchange.http.args]
    if asked:
        exchange.warn(response, f"Not supported, and ignored: {', '.join(asked)}")
    return response


# ------------------------------------------------------------- pictures


def _shown(
    exchange: Exchange,
    name: str,
    numbers: str,
    options: Options,
    multipart: bool | None,
    unique: dict[str, str],
    *,
    only_one: bool = False,
) -> Response:
    """Return a response with pictures.

    Parameters
    ----------
    exchange : Exchange
        The request.
    name : str
        The transaction, for the log.
    numbers : str
        Those of the frames; all frames if it is empty.
    options : Options
        How they are shown.
    multipart : bool or None
        Whether they come in parts; None leaves it to how many there are.
    unique : dict
        The unique keys that the path names.
    only_one : bool
        Whether one picture stands for all.
    """
    wanted = numbers_of(numbers) if numbers else []
    found = exchange.instances(name, **unique)
    try:
        frames = _frames(found, wanted)
        if multipart is None:
            head = list(itertools.islice(frames, 2))
            multipart, frames = len(head) > 1, itertools.chain(head, frames)
        pictures = _pictures(exchange, found, frames, options, unique)
        first = next(pictures)  # a status can be sent before it only
        if multipart:
            body = Multipart(options.media_type)
            coming = [first] if only_one else itertools.chain([first], pictures)
            return Response(Delivery(body.body(coming), found), content_type=body.content_type)
        response = Response(Delivery(first.chunks, found), content_type=options.media_type)
        response.headers["Content-Length"] = str(first.size)
        return response
    except BaseException as error:
        found.close(None if isinstance(error, HTTPException) else error)
        raise


def _frames(found: Found, wanted: list[int]) -> Iterator[tuple[Instance, int]]:
    """Yield the frames of all instances that have pixels, or those that are wanted."""
    for instance in found:
        try:
            count = _count(instance)
        except (DataSetError, OSError) as error:
            if wanted:
                raise NotFound(str(error) if isinstance(error, DataSetError) else None) from None
            continue  # a report, a presentation state: nothing of it is shown
        if wanted and max(wanted) > count:
            raise NotFound(f"it has {count} frames")
        for number in wanted or range(1, count + 1):
            yield instance, number


def _count(instance: Instance) -> int:
    """Return how many frames an instance has."""
    if instance.transfer_syntax in uids.DEFLATED:
        image, file = instance.frame(1)
        file.close()
        return image.number_of_frames
    with instance.open(whole=False) as file:
        return Frames(file, instance.transfer_syntax).image.number_of_frames


def _pictures(
    exchange: Exchange,
    found: Found,
    frames: Iterable[tuple[Instance, int]],
    options: Options,
    unique: dict[str, str],
) -> Iterator[Part]:
    """Yield a picture of each frame that can be shown, then raise if there were others.

    Raises
    ------
    werkzeug.exceptions.NotFound
        If there is no picture at all.
    Failed
        Behind the last picture, if any are missing.
    """
    sent, lost, why = 0, 0, "none of it can be shown"
    for instance, number in frames:
        try:
            file = decoders().picture(
                instance.open(whole=False),
                instance.transfer_syntax,
                number,
                options,
                limits=exchange.limits,
                wanted=found.request.is_wanted,
            )
        except (DataSetError, OSError) as error:
            uid = instance.sop_instance_if_known
            logger.error("rendered: frame %d of %s is left out: %s", number, uid, error)
            lost, why = lost + 1, str(error) if isinstance(error, DataSetError) else why
            continue
        sent += 1
        where = exchange.url_of(unique, instance, "frames", str(number), "rendered")
        size = size_of(file)
        chunks = pieces(file, as_region=exchange.sends_files)
        yield Part(options.media_type, chunks, where, size)
    if not sent:
        raise NotFound(why)
    if lost:
        left_out = f"left out: {lost} of {lost + sent} frames"
        raise Failed(Outcome(Status(SUB_OPERATIONS_WARNING, left_out)))
