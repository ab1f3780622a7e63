"""WADO-RS bulk data: one value, or all of a study, series or instance (PS3.18 §10.4.1.1)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

from pydicom.encaps import generate_fragments
from werkzeug.exceptions import BadRequest, NotAcceptable, NotFound
from werkzeug.wrappers import Response

from pacsroute import dataset as data_sets
from pacsroute import uids
from pacsroute.dataset.value_writer import swapped
from pacsroute.dataset.vr import WORD_SIZES
from pacsroute.errors import DataSetError
from pacsroute.framework.results import Outcome
from pacsroute.instances.convert import is_video
from pacsroute.instances.frames import Frames
from pacsroute.instances.instance import DEFER_SIZE, Instance
from pacsroute.status import SUB_OPERATIONS_WARNING, Status
from pacsroute.web.accept import MediaRange
from pacsroute.web.exchange import Delivery, Exchange, Found, tag_of
from pacsroute.web.frames import choices
from pacsroute.web.multipart import Multipart, Part
from pacsroute.web.statuses import Failed

logger = logging.getLogger("pacsroute")

OCTETS = "application/octet-stream"
_LITTLE = f"{OCTETS}; transfer-syntax={uids.EXPLICIT_VR_LITTLE_ENDIAN}"
_PIXELS = "7FE00010"
_MPEG2 = ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101")  # and the fragmentable variants


def one(exchange: Exchange, path: str, **unique: str) -> Response:
    """Answer a retrieval of one value that the metadata names.

    Parameters
    ----------
    exchange : Exchange
        The request.
    path : str
        Tags; an item number follows each sequence tag.
    **unique : str
        The unique keys of the instance.
    """
    found = exchange.instances("WADO-RS bulk data", **unique)
    with found.responding():
        try:
            instance = found.only()
            where = exchange.url_of(unique, instance)
            kind, wanted, parts = _parts_of(exchange, found, instance, path, where)
            first, second = next(parts), next(parts, None)
            if wanted.multipart is True or second is not None:
                body, rest = Multipart(kind), [] if second is None else [second]
                chunks = body.body(itertools.chain([first], rest, parts))
                return Response(Delivery(chunks, found), content_type=body.content_type)
            delivery = Delivery(first.chunks, found)
            response = Response(delivery, content_type=first.content_type)
            response.headers["Content-Length"] = str(first.size)
            tag = tag_of(instance, path, first.content_type)
            return exchange.conditional(response, delivery, tag, first.size)
        except DataSetError as error:
            raise NotFound(str(error)) from None


def every(exchange: Exchange, *, only: str = "", **unique: str) -> Response:
    """Answer a retrieval of all bulk data of a study, series or instance, as a multipart body.

    Parameters
    ----------
    exchange : Exchange
        The request.
    only : str
        The tag of the requested values; empty for all.
    **unique : str
        The unique keys that the path names.
    """
    found = exchange.instances("WADO-RS bulk data", **unique)
    with found.responding():
        parts = _every(exchange, found, unique["StudyInstanceUID"], only)
        first = next(parts)  # errors after this can no longer set the status
        body = Multipart(first.content_type.partition(";")[0])
        chunks = body.body(itertools.chain([first], parts))
        return Response(Delivery(chunks, found), content_type=body.content_type)


def pixels(exchange: Exchange, **unique: str) -> Response:
    """Answer a retrieval of all pixel data of a study, series or instance."""
    return every(exchange, only=_PIXELS, **unique)


def _every(exchange: Exchange, found: Found, study: str, only: str) -> Iterator[Part]:
    """Yield all values, then raise if any are missing.

    Raises
    ------
    werkzeug.exceptions.NotFound, werkzeug.exceptions.NotAcceptable
        If there are no values at all.
    Failed
        After the last part, if values are missing.
    """
    sent, lost, last = 0, 0, None
    for instance in found:
        exchange.pause()
        try:
            series, paths = _paths(exchange, instance)
            uid = instance.sop_instance
            where = exchange.url("studies", study, "series", series, "instances", uid)
            for path in paths if not only else [one for one in paths if one == only]:
                for part in _parts_of(exchange, found, instance, path, where)[2]:
                    sent += 1
                    yield part
        except (DataSetError, OSError, NotAcceptable, NotFound) as error:
            known = instance.sop_instance_if_known
            logger.error("bulk data: %s is left out: %s", known or "an instance", error)
            lost, last = lost + 1, error
    if sent and lost:
        raise Failed(Outcome(Status(SUB_OPERATIONS_WARNING, f"left out: {lost} instances")))
    if not sent:
        raise last if isinstance(last, NotAcceptable) else NotFound("there are no bulk data")


def _paths(exchange: Exchange, instance: Instance) -> tuple[str, list[str]]:
    """Return the series of an instance, and the paths of its bulk data."""
    paths: list[str] = []

    def note(path: tuple[str, ...], vr: str, length: int) -> str:
        paths.append("/".join(path))
        return "elsewhere"

    with instance.open(whole=False) as file:
        model = data_sets.dicom_json(
            file, instance.transfer_syntax, bulk_data=note, limits=exchange.limits
        )
    if _PIXELS in model and _PIXELS not in paths:  # even if they are small
        paths.append(_PIXELS)
    return str((model.get("0020000E", {}).get("Value") or [""])[0]), paths


def _parts_of(
    exchange: Exchange, found: Found, instance: Instance, path: str, where: str
) -> tuple[str, MediaRange, Iterator[Part]]:
    """Return the media type of a value, its media range, and its parts.

    Compressed frames are sent as separate parts; other values, including native pixels, as one.
    """
    own, location = instance.transfer_syntax, f"{where}/bulkdata/{path}"
    if path != _PIXELS or own in uids.DEFLATED:
        _, wanted = exchange.negotiate(OCTETS)
        data = _value(instance, path, exchange)
        return OCTETS, wanted, iter([Part(_LITTLE, [data], location, len(data))])
    if is_video(own):
        usual = "video/mpeg" if own.startswith(_MPEG2) else "video/mp4"
        kind, wanted = exchange.negotiate(usual, OCTETS)
        data = _value(instance, path, exchange)
        return kind, wanted, iter([Part(_labelled(kind, own), [data], location, len(data))])
    last: Exception | None = None
    for as_stored, kind, wanted in choices(exchange, own):
        if own in uids.NATIVE:
            parts = _pixels(found, instance, location)
        elif as_stored:
            parts = _frames(found, instance, where, _labelled(kind, own))
        else:
            parts = _decoded(found, instance, location)
        try:
            first = next(parts)
            return kind, wanted, itertools.chain([first], parts)
        except DataSetError as error:
            last = error if as_stored else NotAcceptable(str(error))
    assert last is not None
    raise last


def _labelled(kind: str, syntax: str) -> str:
    return f"{kind}; transfer-syntax={syntax}"


def _opened(found: Found, instance: Instance) -> Frames:
    file = found.held.enter_context(instance.open(whole=False))
    return Frames(file, instance.transfer_syntax)


def _pixels(found: Found, instance: Instance, location: str) -> Iterator[Part]:
    """Yield native pixel data as one part, read piece by piece."""
    size, chunks = _opened(found, instance).value()
    yield Part(_LITTLE, chunks, location, size)


def _frames(found: Found, instance: Instance, where: str, label: str) -> Iterator[Part]:
    """Yield each frame as stored."""
    for number, data in enumerate(_opened(found, instance), 1):
        yield Part(label, [data], f"{where}/frames/{number}", len(data))


def _decoded(found: Found, instance: Instance, location: str) -> Iterator[Part]:
    """Yield all frames, decompressed, as one value."""
    count = _opened(found, instance).image.number_of_frames

    def frame(number: int) -> bytes:
        _, file = instance.frame(number, wanted=found.request.is_wanted)
        with file:
            return file.read()

    first = frame(1)
    chunks = itertools.chain([first], map(frame, range(2, count + 1)))
    yield Part(_LITTLE, chunks, location, len(first) * count)


def _value(instance: Instance, path: str, exchange: Exchange) -> bytes:
    syntax = instance.transfer_syntax
    with instance.open() as file:
        try:
            dataset: Any = data_sets.parse(
                file, syntax, defer_size=DEFER_SIZE, limits=exchange.limits
            )
            parts = path.split("/")
            for tag, number in zip(parts[:-1:2], parts[1::2], strict=False):
                dataset = dataset[int(tag, 16)].value[int(number) - 1]
            element = dataset[int(parts[-1], 16)]
        except (KeyError, IndexError, TypeError):
            raise NotFound("there is no such value") from None
        except ValueError:
            raise BadRequest("bulk data is named by its tag") from None
        value: Any = element.value
        if not isinstance(value, bytes):
            raise NotFound("there is no such value")
        if element.is_undefined_length:
            return b"".join(itertools.islice(generate_fragments(value), 1, None))
    if syntax == uids.EXPLICIT_VR_BIG_ENDIAN:
        return swapped(value, WORD_SIZES.get(element.VR, 1))
    return value
