"""WADO-RS retrieval of a study, a series or an instance (PS3.18 §10.4)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import BinaryIO

from werkzeug.exceptions import NotAcceptable, NotFound
from werkzeug.wrappers import Response

from pacsroute import uids
from pacsroute.errors import DataSetError
from pacsroute.framework.results import Outcome
from pacsroute.instances import part10
from pacsroute.instances.convert import can_convert
from pacsroute.instances.instance import Instance
from pacsroute.status import SUB_OPERATIONS_WARNING, Status
from pacsroute.web import bulk_data
from pacsroute.web.accept import MediaRange
from pacsroute.web.exchange import Delivery, Exchange, Found, tag_of
from pacsroute.web.multipart import Multipart, Part, pieces, size_of
from pacsroute.web.statuses import Failed

logger = logging.getLogger("pacsroute")

DICOM = "application/dicom"


def answer(exchange: Exchange, **unique: str) -> Response:
    """Answer a retrieval of instances.

    Parameters
    ----------
    exchange : Exchange
        The request.
    **unique : str
        The unique keys in the path.
    """
    offers = [
        (kind, one)
        for kind, one in exchange.acceptable(DICOM, bulk_data.OCTETS)
        if kind == DICOM or not one.wildcards  # */* is the default (PS3.18 §8.7.7)
    ]
    if offers and offers[0][0] == bulk_data.OCTETS:
        return bulk_data.every(exchange, **unique)
    ranges = [one for kind, one in offers if kind == DICOM]
    if not ranges:
        raise NotAcceptable(f"this is available as {DICOM}")
    found = exchange.instances("WADO-RS", **unique)
    with found.responding():
        if "SOPInstanceUID" in unique and ranges[0].multipart is False:
            return one(exchange, found, ranges)
        body = Multipart(DICOM)
        parts = _parts(exchange, found, ranges, unique)
        first = next(parts)  # errors after this can no longer set the status
        chunks = body.body(itertools.chain([first], parts))
        response = Response(Delivery(chunks, found), content_type=body.content_type)
        if found.request.count == 1:
            response.content_length = body.length(first)
        return response


def one(exchange: Exchange, found: Found, ranges: list[MediaRange]) -> Response:
    """Return a response with a single instance as its whole body.

    Parameters
    ----------
    exchange : Exchange
        The request.
    found : Found
        The instance.
    ranges : list of MediaRange
        The media ranges that match it, most preferred first.

    Raises
    ------
    werkzeug.exceptions.NotAcceptable
        If the instance is not available in a requested transfer syntax.
    """
    instance = found.only()
    try:
        syntax, file = _opened(instance, ranges, found, exchange.sends_files)
    except DataSetError as error:
        raise NotAcceptable(str(error)) from None
    found.held.enter_context(file)
    head = _head(exchange, instance, syntax)
    size = size_of(file)
    whole = exchange.sends_files and "Range" not in exchange.http.headers
    delivery = Delivery(pieces(file, head, as_region=whole), found)
    response = Response(delivery, content_type=f"{DICOM}; transfer-syntax={syntax}")
    response.headers["Content-Length"] = str(size + len(head))
    tag = tag_of(instance, syntax)
    return exchange.conditional(response, delivery, tag, size + len(head))


def _parts(
    exchange: Exchange, found: Found, ranges: list[MediaRange], unique: dict[str, str]
) -> Iterator[Part]:
    """Yield a part for each readable instance, then raise if others could not be read.

    Unreadable ones are logged. After the first part, an exception ends the body without the closing
    boundary, so that no client takes the body for complete.

    Raises
    ------
    werkzeug.exceptions.NotAcceptable, werkzeug.exceptions.NotFound
        If there are no parts at all.
    Failed
        After the last part, if instances are missing.
    """
    sent = lost = 0
    last: Exception | None = None
    for instance in found:
        try:
            syntax, file = _opened(instance, ranges, found, exchange.sends_files)
            head = _head(exchange, instance, syntax)
        except (DataSetError, OSError, NotAcceptable) as error:
            uid = instance.sop_instance_if_known
            logger.error("WADO-RS: %s is left out: %s", uid or "an instance", error)
            lost, last = lost + 1, error
            continue
        sent += 1
        kind, where = f"{DICOM}; transfer-syntax={syntax}", exchange.url_of(unique, instance)
        chunks = pieces(file, head, as_region=exchange.sends_files)
        yield Part(kind, chunks, where, len(head) + size_of(file))
    if lost and sent:
        why = f"left out: {lost} of {lost + sent} instances"
        raise Failed(Outcome(Status(SUB_OPERATIONS_WARNING, why)))
    if isinstance(last, NotAcceptable):
        raise last
    if lost:
        raise NotFound("no instance of it can be read")


def _head(exchange: Exchange, instance: Instance, syntax: str) -> bytes:
    return part10.head(
        instance.sop_class, instance.sop_instance, syntax, writer=exchange.app.ae_title
    )


def _opened(
    instance: Instance, ranges: list[MediaRange], found: Found, in_place: bool
) -> tuple[str, BinaryIO]:
    """Return the transfer syntax in which to send an instance, and its data set in that syntax.

    Raises
    ------
    werkzeug.exceptions.NotAcceptable, DataSetError
        If no available syntax is accepted, or the conversion fails.
    """
    own, last = instance.transfer_syntax, None
    for one in ranges:
        for syntax in _syntaxes(own, one.transfer_syntax):
            try:
                if syntax == own:
                    return syntax, instance.open(whole=not in_place)
                return syntax, instance.open_as(syntax, wanted=found.request.is_wanted)
            except DataSetError as error:
                last = error
    raise last or NotAcceptable(f"it is in {uids.name(own)}")


def _syntaxes(own: str, asked: str) -> list[str]:
    """Return the transfer syntaxes that may be sent, in the order to try them.

    The default is explicit VR little endian (PS3.18 §8.7.3.4). An instance with lossy compression,
    or one that cannot be decoded, is sent unchanged.

    Parameters
    ----------
    own : str
        The transfer syntax in which it is stored.
    asked : str
        The requested UID, ``*`` for any, or empty if none was requested.
    """
    default = uids.EXPLICIT_VR_LITTLE_ENDIAN
    if asked in ("*", own):
        return [own]
    if asked:
        return [asked] if can_convert(own, asked) else []
    if own in uids.NATIVE:
        return [default]
    return [own] if own in uids.LOSSY or not can_convert(own, default) else [default, own]
