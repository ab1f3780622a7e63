"""WADO-RS rendered frames and thumbnails (PS3.18 §10.4.1.1.3, §10.4.1.1.6), and WADO-URI (§9)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator

from werkzeug import exceptions
from werkzeug.exceptions import BadRequest, NotAcceptable, NotFound
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
_THUMBNAIL = 128  # longest side, in pixels


def answer(exchange: Exchange, numbers: str = "", **unique: str) -> Response:
    """Answer with an image of each frame, as a multipart body if there are several.

    A client that does not accept multipart gets the first image.
    """
    media_type, wanted = exchange.negotiate(*_TYPES)
    options = options_of(exchange.http.args, media_type)
    response = _shown(exchange, "WADO-RS rendered", numbers, options, wanted.multipart, unique)
    return _warned(exchange, response, ("annotation", "iccprofile"))


def thumbnail(exchange: Exchange, numbers: str = "", **unique: str) -> Response:
    """Answer with a thumbnail of a study, series, instance or frame."""
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
    """Answer a WADO-URI request, whose parameters name the instance and its format."""
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
    if "anonymize" in arguments:  # never send an identifiable instance instead
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
    with found.responding():
        return retrieve.one(exchange, found, [MediaRange(retrieve.DICOM, False, syntax, 1.0)])


def _warned(exchange: Exchange, response: Response, unsupported: tuple[str, ...]) -> Response:
    """Add a warning to a response that names the parameters without effect."""
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
    """Return a response with images.

    Parameters
    ----------
    exchange : Exchange
        The request.
    name : str
        The transaction, for the log.
    numbers : str
        The frame numbers; empty for all frames.
    options : Options
        The rendering options.
    multipart : bool or None
        Whether to send a multipart body; None means only for several images.
    unique : dict
        The unique keys in the path.
    only_one : bool
        Whether to send one image for all frames.
    """
    wanted = numbers_of(numbers) if numbers else []
    found = exchange.instances(name, **unique)
    with found.responding():
        frames = _frames(found, wanted)
        if multipart is None:
            head = list(itertools.islice(frames, 2))
            multipart, frames = len(head) > 1, itertools.chain(head, frames)
        pictures = _pictures(exchange, found, frames, options, unique)
        first = next(pictures)  # errors after this can no longer set the status
        if multipart:
            body = Multipart(options.media_type)
            coming = [first] if only_one else itertools.chain([first], pictures)
            return Response(Delivery(body.body(coming), found), content_type=body.content_type)
        response = Response(Delivery(first.chunks, found), content_type=options.media_type)
        response.headers["Content-Length"] = str(first.size)
        return response


def _frames(found: Found, wanted: list[int]) -> Iterator[tuple[Instance, int]]:
    """Yield the requested frames, or all, of the instances that have pixels."""
    for instance in found:
        try:
            count = _count(instance)
        except (DataSetError, OSError) as error:
            if wanted:
                raise NotFound(str(error) if isinstance(error, DataSetError) else None) from None
            continue  # nothing to render, such as a report or presentation state
        if wanted and max(wanted) > count:
            raise NotFound(f"it has {count} frames")
        for number in wanted or range(1, count + 1):
            yield instance, number


def _count(instance: Instance) -> int:
    """Return the number of frames in an instance."""
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
    """Yield an image of each frame that can be rendered, then raise if others could not.

    Raises
    ------
    werkzeug.exceptions.NotFound
        If no frame can be rendered.
    Failed
        After the last image, if any are missing.
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
