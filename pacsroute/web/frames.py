"""WADO-RS frames, located in the file without reading all of it (PS3.18 §10.4.1.1.4, §8.7.3.3)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from werkzeug.exceptions import BadRequest, NotAcceptable, NotFound
from werkzeug.wrappers import Response

from pacsroute import uids
from pacsroute.errors import DataSetError
from pacsroute.instances.convert import can_convert
from pacsroute.instances.frames import Frames
from pacsroute.instances.instance import Instance
from pacsroute.web.accept import MediaRange
from pacsroute.web.exchange import Delivery, Exchange, Found, tag_of
from pacsroute.web.multipart import Multipart, Part, Region, is_plain

_OCTETS = "application/octet-stream"
_MOST = 10_000  # most frames of one request
_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
}
"""The media types of compressed frames (PS3.18 Table 8.7.3-5)."""


def answer(exchange: Exchange, numbers: str, **unique: str) -> Response:
    """Answer a retrieval of frames.

    Parameters
    ----------
    exchange : Exchange
        The request.
    numbers : str
        The frame numbers, from 1, separated by commas.
    **unique : str
        The unique keys of the instance.
    """
    wanted = numbers_of(numbers)
    found = exchange.instances("WADO-RS frames", **unique)
    with found.responding():
        try:
            return _respond(exchange, found, wanted, unique)
        except DataSetError as error:
            raise NotFound(str(error)) from None


def numbers_of(text: str) -> list[int]:
    """Parse the frame numbers in a path or parameter.

    Raises
    ------
    werkzeug.exceptions.BadRequest
        If the text is not a list of frame numbers.

    Examples
    --------
    >>> numbers_of("2,1")
    [2, 1]
    """
    parts = text.split(",")
    valid = len(parts) <= _MOST and all(
        part.isascii() and part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts
    )
    if not valid:
        raise BadRequest("frames must be numbers from 1, separated by commas")
    return [int(part) for part in parts]


def _respond(
    exchange: Exchange, found: Found, numbers: list[int], unique: dict[str, str]
) -> Response:
    instance = found.only()
    own = instance.transfer_syntax
    choice, take, first = _begun(exchange, found, numbers)
    kind, wanted = choice.kind, choice.wanted
    is_own = choice.as_stored and own not in uids.NATIVE
    syntax = own if is_own else uids.EXPLICIT_VR_LITTLE_ENDIAN
    label = f"{kind}; transfer-syntax={syntax}"
    coming = itertools.chain([first], map(take, numbers[1:]))
    if wanted.multipart is not False or len(numbers) > 1:
        body = Multipart(kind)
        parts = (
            Part(label, [data], exchange.url_of(unique, instance, "frames", str(number)), len(data))
            for number, data in zip(numbers, coming, strict=False)
        )
        first_part = next(parts)
        chunks = body.body(itertools.chain([first_part], parts))
        response = Response(Delivery(chunks, found), content_type=body.content_type)
        if len(numbers) == 1:
            response.content_length = body.length(first_part)
        return response
    delivery = Delivery(coming, found)
    response = Response(delivery, content_type=label)
    response.headers["Content-Length"] = str(len(first))
    return exchange.conditional(
        response, delivery, tag_of(instance, numbers[0], syntax), len(first)
    )


def _begun(
    exchange: Exchange, found: Found, numbers: list[int]
) -> tuple[Choice, Callable[[int], bytes], bytes]:
    """Return the representation of the frames, a function to read one by number, and the first.

    Frames that cannot be decoded are sent as stored, if the client accepts that.
    """
    instance, plain, frames = found.only(), None, None
    if instance.transfer_syntax not in uids.DEFLATED:
        file = found.held.enter_context(instance.open(whole=False))
        frames = Frames(file, instance.transfer_syntax)
        if max(numbers) > frames.image.number_of_frames:
            raise NotFound(f"it has {frames.image.number_of_frames} frames")
        in_place = exchange.sends_files and "Range" not in exchange.http.headers
        plain = file if in_place and is_plain(file) else None
    last: Exception | None = None
    for choice in choices(exchange, instance.transfer_syntax):
        take: Callable[[int], bytes] = functools.partial(_decoded, found, instance)
        if choice.as_stored and frames is not None:
            take = functools.partial(_stored, frames, plain)
        try:
            return choice, take, take(numbers[0])
        except DataSetError as error:
            last = error if choice.as_stored else NotAcceptable(str(error))
    assert last is not None
    raise last


def _stored(frames: Frames, file: BinaryIO | None, number: int) -> Any:
    """Return a frame as stored: its bytes, or its region in the file."""
    place = None if file is None else frames.place(number)
    return frames.read(number) if file is None or place is None else Region(file, *place)


class Choice(NamedTuple):
    """A representation in which frames may be sent.

    Parameters
    ----------
    as_stored : bool
        Whether frames keep the transfer syntax of their instance.
    kind : str
        The media type of the frames.
    wanted : MediaRange
        The media range that matches it.
    """

    as_stored: bool
    kind: str
    wanted: MediaRange


def choices(exchange: Exchange, own: str) -> list[Choice]:
    """Return the representations in which frames may be sent, most preferred first.

    By default, frames are sent decoded (PS3.18 Table 8.7.3-4), unless their compression is lossy or
    no decoder is available.

    Raises
    ------
    werkzeug.exceptions.NotAcceptable
        If the client accepts none of them.
    """
    if own in uids.NATIVE:  # also if the data set is deflated
        return [Choice(True, *exchange.negotiate(_OCTETS))]
    stored = _TYPES.get(own, _OCTETS)
    default = uids.EXPLICIT_VR_LITTLE_ENDIAN
    can_decode = can_convert(own, default)
    usual = [_OCTETS, stored] if can_decode and own not in uids.LOSSY else [stored, _OCTETS]
    found = []
    for kind, one in exchange.acceptable(*dict.fromkeys(usual)):
        asked = one.transfer_syntax
        if asked in ("*", own) or (not asked and (kind != _OCTETS or not can_decode)):
            found.append(Choice(True, kind, one))
        elif kind == _OCTETS and asked in ("", default) and can_decode:
            found.append(Choice(False, kind, one))
    if not found:
        raise NotAcceptable(f"its frames are {stored}, transfer-syntax={own}")
    return found


def _decoded(found: Found, instance: Instance, number: int) -> bytes:
    """Return a decompressed frame; the decoder runs in an isolated process."""
    frame = instance.frame(number, wanted=found.request.is_wanted)
    with frame.file as file:
        return file.read()
