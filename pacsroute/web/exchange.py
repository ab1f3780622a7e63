"""An HTTP request for a handler, with helpers to answer it."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import select
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import orjson
from werkzeug.exceptions import HTTPException, NotAcceptable, NotFound
from werkzeug.wrappers import Request, Response

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.parsing import identifier as parsed
from pacsroute.framework.answering import Answering
from pacsroute.framework.base import BaseApp
from pacsroute.framework.character_sets import default_charset
from pacsroute.framework.requests import GetRequest
from pacsroute.framework.requests import Request as HandlerRequest
from pacsroute.framework.results import DONE, Outcome
from pacsroute.framework.routes import Route
from pacsroute.instances.instance import Instance
from pacsroute.status import NOT_AUTHORIZED, SOP_CLASS_NOT_SUPPORTED, Status
from pacsroute.web.accept import MediaRange, acceptable, ranges
from pacsroute.web.caller import Caller
from pacsroute.web.coded_body import decoded
from pacsroute.web.multipart import Multipart, Part
from pacsroute.web.statuses import Failed
from pacsroute.web.xml_model import XML, xml_of

MODELS = ("application/dicom+json", "application/json", XML)
"""The media types of data sets (PS3.18 Table 8.7.3-3), the default first."""

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-\d{1,18})", re.ASCII)
NOTHING = "the server has nothing for this path"
"""The error for resources that do not exist or that the client may not see."""

_SMALL = 1024  # JSON of fewer bytes is not compressed
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

_Made = TypeVar("_Made", bound=HandlerRequest)


class Gone(Exception):
    """The client hung up before the response was written."""


@dataclass
class Exchange:
    """An admitted DICOMweb request.

    Parameters
    ----------
    app : App
        The app whose handlers answer.
    http : werkzeug.Request
        The request.
    caller : Caller
        The client.
    root : str
        The root of its path: that of DICOMweb, or of a called AE title.
    """

    app: BaseApp
    http: Request
    caller: Caller
    root: str
    parameters: dict[str, str] = field(default_factory=dict)

    # ------------------------------------------------------------- what the client wants

    @cached_property
    def _accepted(self) -> list[list[MediaRange]]:
        """The client's media ranges; the query parameter overrides the header (PS3.18 §8.7.8.1)."""
        asked, header = self.http.args.getlist("accept"), self.http.headers.get("Accept", "")
        return [ranges(*asked), ranges(header)] if asked else [ranges(header)]

    def acceptable(self, *offers: str) -> list[tuple[str, MediaRange]]:
        """Return the accepted media types, each with its media range.

        Parameters
        ----------
        *offers : str
            The media types that the server can send, the default first.

        Raises
        ------
        werkzeug.exceptions.NotAcceptable
            If none of them is accepted.
        """
        found = [pair for accepted in self._accepted for pair in acceptable(accepted, offers)]
        if not found:
            raise NotAcceptable(f"this is available as {', '.join(offers)}")
        return found

    def negotiate(self, *offers: str) -> tuple[str, MediaRange]:
        """Return the preferred media type with its media range: see `acceptable`."""
        return self.acceptable(*offers)[0]

    @cached_property
    def body(self) -> Any:
        """The body of the request, with its content coding removed: a file to read in pieces.

        Raises
        ------
        werkzeug.exceptions.UnsupportedMediaType
            If the coding is not supported.
        """
        coding = self.http.headers.get("Content-Encoding", "")
        return decoded(self.http.stream, coding, self.app.config.max_web_body)

    @property
    def length(self) -> int | None:
        """The length of `body` in bytes, if known."""
        return self.http.content_length if self.body is self.http.stream else None

    def url(self, *path: str) -> str:
        """Return the URL of a path below the root, as the client sees it."""
        return "/".join((f"{self._base}{self.root}", *path))

    def url_of(self, unique: Mapping[str, str], instance: Instance, *below: str) -> str:
        """Return the URL of a retrieved instance, or of a resource below it.

        Returns an empty string if the requested path names no series.

        Parameters
        ----------
        unique : mapping of str to str
            The unique keys that the path names.
        instance : Instance
            One of the instances found.
        *below : str
            The path below the instance.
        """
        study, series = unique["StudyInstanceUID"], unique.get("SeriesInstanceUID")
        if series is None:
            return ""
        uid = unique.get("SOPInstanceUID") or instance.sop_instance
        return self.url("studies", study, "series", series, "instances", uid, *below)

    @cached_property
    def _base(self) -> str:
        public = self.app.config.web_public_url
        if public:
            return public.rstrip("/")
        environ, http = self.http.environ, self.http
        host, port = http.host, str(environ.get("SERVER_PORT") or "")
        default = {"http": "80", "https": "443"}.get(http.scheme)
        has_port = host.rpartition(":")[2].isdecimal() and not host.endswith("]")
        behind_proxy = self.app.config.web_trust_proxy
        if not has_port and port and port != default and not behind_proxy:
            host = f"{host}:{port}"  # some clients omit the port
        return f"{http.scheme}://{host}{environ.get('SCRIPT_NAME', '')}"

    @property
    def sends_files(self) -> bool:
        """Whether the server can send parts of files without reading them: see `Region`."""
        return bool(self.http.environ.get("pacsroute.sends_files"))

    def pause(self) -> None:
        """Give other requests a turn between two steps of long work."""
        pause: Callable[[], object] | None = self.http.environ.get("pacsroute.pause")
        if pause is not None:
            pause()

    # ------------------------------------------------------------- to the handler

    def route_of(self, command: str, *names: str) -> tuple[str, Route]:
        """Return the first of some SOP classes (by short name) that has a route, and the route.

        Raises
        ------
        Failed
            If none of them has a route.
        """
        for name in names:
            sop_class = uids.sop_class(name, command)
            route = self.app.route(
                command, sop_class, self.caller.calling_ae, self.caller.called_ae
            )
            if route is not None:
                return sop_class, route
        raise Failed(Outcome(Status(SOP_CLASS_NOT_SUPPORTED, "nothing here answers that")))

    def make(self, kind: type[_Made], **values: Any) -> _Made:
        """Return the request that reaches the handler."""
        caller = self.caller
        request = kind(
            app=self.app,
            association=caller,
            calling_ae=caller.calling_ae,
            called_ae=caller.called_ae,
            remote_address=caller.remote_address,
            user=caller.user,
            transport="web",
            is_cancelled=self._is_gone,
            **values,
        )
        request.keep_failure = self.http.environ.get("pacsroute.keep_failure")
        return request

    def answering(
        self, name: str, request: HandlerRequest, *, size: int | None = None
    ) -> Answering:
        """Start answering a request; return the context manager."""
        defer: Callable[[Callable[[], object]], object] | None = self.http.environ.get(
            "pacsroute.defer"
        )
        found = Answering(self.app, self.caller, name, request.sop_class, size=size, defer=defer)
        found.__enter__()
        found.request = request
        return found

    def _is_gone(self) -> bool:
        """Return whether the client has hung up, without waiting."""
        sock: socket.socket | None = self.http.environ.get("pacsroute.socket")
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock, _GONE)
        return bool(poll.poll(0))

    @property
    def limits(self) -> Limits:
        """The limits on depth and size when parsing a data set."""
        config = self.app.config
        return Limits(
            config.max_depth,
            config.max_inflated,
            config.max_elements,
            config.max_memory,
            default_charset(config, self.caller.calling_ae),
        )

    # ------------------------------------------------------------- the instances of a retrieval

    def instances(self, name: str, **unique: str) -> Found:
        """Return the instances of a study, series or instance, from the handler of C-GET.

        Parameters
        ----------
        name : str
            The transaction, for the log.
        **unique : str
            Unique keys by keyword.

        Raises
        ------
        werkzeug.exceptions.HTTPException
            If there are no instances, or the handler refuses.
        """
        sop_class, route = self.route_of("get", "StudyRoot", "PatientRoot")
        level = ("STUDY", "SERIES", "IMAGE")[len(unique) - 1]
        # Encoded as if received over DIMSE; faster than setting pydicom attributes.
        syntax = uids.EXPLICIT_VR_LITTLE_ENDIAN
        identifier = parsed(encode({"QueryRetrieveLevel": level, **unique}, syntax), syntax)
        request = self.make(GetRequest, sop_class=sop_class, identifier=identifier)
        request.route = route
        return Found(self, name, request)

    # ------------------------------------------------------------- responses

    @cached_property
    def model_type(self) -> tuple[str, MediaRange]:
        """The media type of data sets in this response, with its media range."""
        try:
            return self.negotiate(*MODELS)
        except NotAcceptable:
            if self.http.method in ("GET", "HEAD"):
                raise
            # The upload was stored, so report it in the default media type (PS3.18 Table 8.7.3-1).
            return MODELS[0], MediaRange(MODELS[0], False, "", 0)

    @property
    def is_json(self) -> bool:
        """Whether data sets are sent in JSON."""
        return self.model_type[0] != XML

    def written(self, model: Mapping[str, Any]) -> bytes:
        """Encode a data set in the DICOM JSON Model for the response, as JSON or XML."""
        return orjson.dumps(model) if self.is_json else xml_of(model)

    def models(
        self, items: list[bytes], ends: Answering | Found, *, is_one: bool = False
    ) -> Response:
        """Return a response with data sets; the answering of the request ends after it.

        Parameters
        ----------
        items : list of bytes
            Encoded by `written`: thousands of dicts would slow down the garbage collector.
        ends : Answering or Found
            The answering that ends once the response has been sent.
        is_one : bool
            Whether the resource is a single data set, which needs no multipart body.
        """
        kind, wanted = self.model_type
        tag = hashlib.blake2b(b",".join(items), digest_size=12).hexdigest()
        if kind != XML:
            body = b"[" + b",".join(items) + b"]"
        elif not items:  # a multipart body needs at least one part (RFC 2046 §5.1.1)
            return Response(Delivery([], ends), status=204)
        elif is_one and not wanted.multipart:
            (body,) = items
        else:
            multipart = Multipart(XML)
            kind = multipart.content_type
            body = b"".join(multipart.body(Part(XML, [item]) for item in items))
        response = Response(content_type=kind)
        if len(body) > _SMALL and "gzip" in self.http.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, 1)
            tag = f"{tag}-gzip"
            response.headers["Content-Encoding"] = "gzip"
            response.headers["Vary"] = "Accept, Accept-Encoding"
        response.headers["Content-Length"] = str(len(body))
        delivery = Delivery([body], ends)
        response.response = delivery
        return self.conditional(response, delivery, tag)

    def warn(self, response: Response, text: str) -> None:
        """Add a Warning header to a response (RFC 7234 §5.5)."""
        response.headers.add("Warning", f'299 {self.url()} "{text}"')

    def conditional(
        self, response: Response, delivery: Delivery, tag: str, length: int | None = None
    ) -> Response:
        """Add an ETag to a response, so that content the client already has is not sent again.

        Parameters
        ----------
        response : werkzeug.Response
            A successful response.
        delivery : Delivery
            Its body.
        tag : str
            The ETag of the body; if empty, the response is returned unchanged.
        length : int, optional
            The length of the body in bytes; if given, clients may request a byte range.
        """
        if not tag:
            return response
        response.set_etag(tag)
        if length is not None:
            response.headers["Accept-Ranges"] = "bytes"
        takes_part = length is not None and _is_one_range(self.http.headers.get("Range", ""))
        response.make_conditional(
            self.http.environ, accept_ranges=takes_part, complete_length=length
        )
        delivery.is_part = response.status_code == 206
        return response


def _is_one_range(text: str) -> bool:
    """Return whether a Range header is supported; others are ignored (RFC 9110 §14.2)."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        return False
    return not (match[1] and match[2] and int(match[1]) > int(match[2]))


def tag_of(instance: Instance, *what: object) -> str:
    """Return an ETag that changes with the file of an instance; empty if it has no file."""
    path = instance.path
    if path is None:
        return ""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return "-".join(map(str, (f"{found.st_mtime_ns:x}", f"{found.st_size:x}", *what)))


class Found:
    """The instances that a handler yields, with the answering of its request.

    Iterate over it, or end it with `close`, which also ends the handler's generator and closes
    the files in `held`.

    Raises
    ------
    Failed, werkzeug.exceptions.NotFound
        On construction, if there are no instances or the handler refuses.
    """

    def __init__(self, exchange: Exchange, name: str, request: GetRequest) -> None:
        self.request = request
        self.answering = exchange.answering(name, request)
        self.held = ExitStack()
        self._answers: Generator[Any, None, Any] = exchange.app.handle(request)
        self._ended = False
        self._count = 0
        try:
            self._first = self._take()
        except BaseException as error:
            self.close(None if isinstance(error, HTTPException) else error)
            if isinstance(error, Failed) and error.outcome.status.code == NOT_AUTHORIZED:
                raise NotFound(NOTHING) from None  # its existence is confidential, too
            raise
        if self._first is None:
            self.close()
            raise NotFound(NOTHING)

    def _take(self) -> Instance | None:
        """Return the next instance; None after the last."""
        for row, outcome, _ in self._answers:
            if isinstance(row, Instance):
                self._count += 1
                return row
            self.answering.outcome = outcome or DONE
            if self.answering.outcome.status.category == "Failure":
                raise Failed(self.answering.outcome)
            return None
        return None

    def __iter__(self) -> Iterator[Instance]:
        found, self._first = self._first, None
        while found is not None:
            yield found
            found = self._take()

    def only(self) -> Instance:
        """Return the first instance."""
        assert self._first is not None
        return self._first

    @contextmanager
    def responding(self) -> Iterator[None]:
        """Close this if no response can be made; the body of a response closes it otherwise."""
        try:
            yield
        except BaseException as error:
            self.close(None if isinstance(error, HTTPException) else error)
            raise

    def close(self, lost: BaseException | None = None) -> None:
        """End the handler's generator and the answering."""
        if self._ended:
            return
        self._ended = True
        self.held.close()
        self._answers.close()
        if self.answering.outcome is None and lost is None:
            self.answering.outcome = DONE
        if self.answering.outcome is not None:
            self.answering.outcome = self.answering.outcome._replace(number=self._count)
        self.answering.__exit__(None if lost is None else type(lost), lost, None)


class Delivery:
    """The body of a response; the answering of the request ends after it.

    Parameters
    ----------
    chunks : iterable of bytes or Region
        The body.
    ends : Answering or Found
        The answering that ends with the body.

    Attributes
    ----------
    is_part : bool
        Whether the client requested only a part of it.
    """

    def __init__(self, chunks: Iterable[bytes], ends: Answering | Found) -> None:
        self._chunks = iter(chunks)
        self.is_part = False
        self._ends: Answering | Found | None = ends
        self._begun = self._whole = False
        self._lost: BaseException | None = None

    def __iter__(self) -> Delivery:
        return self

    def __next__(self) -> bytes:
        self._begun = True
        try:
            return next(self._chunks)
        except StopIteration:
            self._whole = True
            raise
        except BaseException as error:
            self._lost = error
            raise

    def close(self) -> None:
        """End the answering, whether the body was sent or the client gave up."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        ends, self._ends = self._ends, None
        if ends is None:
            return
        lost = self._lost
        if lost is None and self._begun and not (self._whole or self.is_part):
            lost = Gone()
        if isinstance(ends, Found):
            ends.close(lost)
        else:
            ends.__exit__(None if lost is None else type(lost), lost, None)
