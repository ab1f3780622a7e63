"""The app: what a user makes one of, and the one door to its handlers."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from pydicom import Dataset

from pacsroute import uids
from pacsroute.errors import Failure, IdentifierError, SetupError
from pacsroute.requests import FindRequest, Request
from pacsroute.routing import Route, Router, choose_syntax
from pacsroute.status import (
    IDENTIFIER_MISMATCH,
    PENDING,
    PENDING_WARNING,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNABLE_TO_PROCESS,
    Status,
)
from pacsroute.upper_layer.connection import DEFAULT_MAXIMUM_LENGTH

if TYPE_CHECKING:
    from pacsroute.net.server import Server

logger = logging.getLogger("pacsroute")

_ECHO_ROUTE = Route("echo", None, None, (), False, lambda request: None)


class Outcome(NamedTuple):
    """How a request went: its status, and what else the response is to say."""

    status: Status
    elements: Mapping[str, Any] = {}


_DONE = Outcome(Status(SUCCESS))


class Answer(NamedTuple):
    """One of the answers that a generator gives; `row` is None in the last, the final one."""

    row: Mapping[str, Any] | Dataset | None
    outcome: Outcome
    complete: bool = True


class App(Router):
    """A DICOM application: an AE title and the handlers behind it.

    Parameters
    ----------
    ae_title : str
        Its own title, 1 to 16 characters. Other called AE titles are answered too.
    spool : path, optional
        The folder for data sets that are too large for memory while they come; on the
        archive's file system saving is a rename. By default the system's own.
    maximum_length : int
        The maximum length of P-DATA-TF that is offered to peers, in bytes.
    charset : str, optional
        The Specific Character Set of responses, where it has all their characters; by
        default the request's own, and ISO_IR 192 where that has not.

    Raises
    ------
    SetupError
        If one of them is not possible.

    Examples
    --------
    >>> app = App("ARCHIVE")
    >>> @app.echo
    ... def verify(request): ...
    >>> app.handle(EchoRequest(app=app)).status.code
    0
    """

    def __init__(
        self,
        ae_title: str = "PACSROUTE",
        *,
        spool: str | os.PathLike[str] | None = None,
        maximum_length: int = DEFAULT_MAXIMUM_LENGTH,
        charset: str | None = None,
    ) -> None:
        super().__init__()
        title = ae_title.strip(" ")
        if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable():
            raise SetupError(f"an AE title has 1 to 16 ASCII characters: {ae_title!r} has not")
        if "\\" in title:
            raise SetupError(f"an AE title has no backslash: {ae_title!r}")
        if not 4096 <= maximum_length <= 0x0FFF_FFFF:
            raise SetupError("maximum_length is 4,096 to 268,435,455: it bounds a buffer")
        self.ae_title = title
        self.spool = None if spool is None else os.fspath(spool)
        self.maximum_length = maximum_length
        self.charset = charset
        self.state = SimpleNamespace()
        self._lifespans: list[Callable[[App], Iterator[None]]] = []

    def lifespan(
        self, function: Callable[[App], Iterator[None]]
    ) -> Callable[[App], Iterator[None]]:
        """Register what is made before the first association and put away after the last.

        Parameters
        ----------
        function : generator function
            Called with the app once in each serving process; it yields once.

        Examples
        --------
        >>> app = App()
        >>> @app.lifespan
        ... def resources(app):
        ...     app.state.ready = True
        ...     yield
        ...     app.state.ready = False
        """
        if not inspect.isgeneratorfunction(function):
            raise SetupError(
                f"@app.lifespan: {getattr(function, '__qualname__', function)!s} needs one yield, "
                "between what is done at the start and at the stop"
            )
        self._lifespans.append(function)
        return function

    @contextlib.contextmanager
    def running(self) -> Iterator[App]:
        """Hold the app's lifespan: what a server and a test client do around their work."""
        with contextlib.ExitStack() as stack:
            for function in self._lifespans:
                stack.enter_context(contextlib.contextmanager(function)(self))
            yield self

    # ------------------------------------------------------------- negotiation

    def policy(self, calling_ae: str) -> Policy:
        """Return what the routes say of the contexts that a peer may have."""
        return Policy(self, calling_ae)

    # ------------------------------------------------------------- the one door

    def find_route(self, request: Request, *others: str) -> Route | None:
        """Return the route of a request: by its SOP class, else by one of the others."""
        for sop_class in (request.sop_class, *others):
            route = self.route(request.command, sop_class, request.calling_ae)
            if route is not None:
                return route
        if request.command == "echo":
            return _ECHO_ROUTE
        return None

    def handle(self, request: Request, route: Route | None = None) -> Any:
        """Have the handler of a request answer it.

        Parameters
        ----------
        request : Request
            An `EchoRequest`, `StoreRequest` or `FindRequest`.
        route : Route, optional
            Its route, where that is known already.

        Returns
        -------
        Outcome or iterator of Answer
            For a find the answers as the handler yields them, the final one without a
            row. Whatever the handler raises is a status in it.
        """
        route = route or self.find_route(request)
        if isinstance(request, FindRequest):
            return self._answers(request, route)
        if route is None:
            return Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
        try:
            result = route.handler(request)
            return _DONE if result is None else Outcome(final_status(result))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the association lives on
            return failed(request, error, PROCESSING_FAILURE)

    def _answers(self, request: FindRequest, route: Route | None) -> Iterator[Answer]:
        if route is None:
            yield Answer(None, Outcome(Status(SOP_CLASS_NOT_SUPPORTED)))
            return
        rows: Iterator[Any] | None = None
        source: Any = None
        result: Any = None
        try:
            source = route.handler(request)
            rows = _rows(source, route)
            while True:
                try:
                    item = next(rows)
                except StopIteration as stop:
                    result = stop.value
                    break
                yield _answer(item)
            outcome = Outcome(final_status(result))
        except (Exception, SystemExit) as error:  # noqa: BLE001
            outcome = failed(request, error, UNABLE_TO_PROCESS)
        finally:
            _close(rows, source)
        yield Answer(None, outcome)

    # ------------------------------------------------------------- doors to the upper floors

    def serve(self, host: str = "127.0.0.1", port: int = 11112, **options: Any) -> Server:
        """Return a server of this app that listens already, to be used with ``with``.

        Parameters
        ----------
        host, port : str and int
            Where it listens; port 0 is a free one, see the server's `port`.
        **options
            As in `pacsroute.Server`.

        Examples
        --------
        >>> with App().serve(port=0) as server:
        ...     server.port > 0
        True
        """
        from pacsroute.net.server import Server  # noqa: PLC0415 - upstairs, only when asked

        return Server(self, host, port, **options)

    def run(self, host: str = "127.0.0.1", port: int = 11112, **options: Any) -> None:
        """Serve until SIGINT or SIGTERM; the options are those of `serve`."""
        self.serve(host, port, **options).run()


class Policy:
    """What the routes of an app say of a peer's presentation contexts."""

    def __init__(self, app: App, calling_ae: str) -> None:
        self._app = app
        self._calling_ae = calling_ae

    def _route(self, sop_class: str) -> Route | None:
        if sop_class == uids.VERIFICATION:
            return self._app.route("echo", sop_class, self._calling_ae) or _ECHO_ROUTE
        for command in ("store", "find"):
            route = self._app.route(command, sop_class, self._calling_ae)
            if route is not None:
                return route
        return None

    def serves(self, sop_class: str) -> bool:
        """Tell whether a route answers for the SOP class."""
        return self._route(sop_class) is not None

    def uses(self, sop_class: str) -> bool:
        """Tell whether this side may be the SCU of the class: not without a get route."""
        return False

    def choose(self, sop_class: str, proposed: tuple[str, ...]) -> str | None:
        """Return the transfer syntax for a context."""
        route = self._route(sop_class)
        return None if route is None else choose_syntax(route, proposed)


def final_status(result: object) -> Status:
    """Return the status that a handler's return value means.

    Raises
    ------
    TypeError, ValueError
        If it means none.
    """
    if result is None:
        return Status(SUCCESS)
    if isinstance(result, Status):
        status = result
    elif isinstance(result, int) and not isinstance(result, bool):
        status = Status(result)
    else:
        raise TypeError(f"a handler returns None, an int or a Status, not {type(result).__name__}")
    if status.category in ("Unknown", "Pending"):
        raise ValueError(f"0x{status.code:04X} is no final status")
    return status


def failed(request: Request, error: BaseException, code: int) -> Outcome:
    """Return the outcome of a request whose handler raised, and log what is not meant."""
    if isinstance(error, Failure):
        status = Status(error.status, error.comment)
        if status.category not in ("Unknown", "Pending", "Success"):
            return Outcome(status, error.elements)
        error = ValueError(f"Failure(0x{error.status:04X}): no status of a failure")
    if isinstance(error, IdentifierError):
        logger.warning("C-%s from %s: %s", request.command.upper(), request.calling_ae, error)
        return Outcome(Status(IDENTIFIER_MISMATCH, str(error)))
    if isinstance(error, OSError) and request.command == "store":
        code = 0xA700
    logger.error(
        "C-%s from %s: the handler failed",
        request.command.upper(),
        request.calling_ae,
        exc_info=error,
    )
    # The text of an exception may hold patient data; the name of its type does not.
    return Outcome(Status(code, f"the handler failed: {type(error).__name__}"))


def _rows(result: object, route: Route) -> Iterator[Any]:
    if result is None or isinstance(result, (str, bytes, os.PathLike, Mapping, Dataset)):
        raise TypeError(
            f"{route.where} returned {type(result).__name__}, not something to iterate: "
            "yield each answer, or return a list of them"
        )
    if not isinstance(result, Iterable):
        raise TypeError(f"{route.where} returned {type(result).__name__}, which has no answers")
    return iter(result)


def _answer(item: object) -> Answer:
    row, status = item if isinstance(item, tuple) and len(item) == 2 else (item, PENDING)
    if not isinstance(row, (Mapping, Dataset)):
        raise TypeError(f"a find yields dicts or Datasets, not {type(row).__name__}")
    code = int(status[0] if isinstance(status, Status) else status)
    if code not in (PENDING, PENDING_WARNING):
        raise ValueError(f"a row has the status 0xFF00 or 0xFF01, not 0x{code:04X}")
    return Answer(row, Outcome(Status(code)), code == PENDING)


def _close(*things: object) -> None:
    for thing in things:
        close = getattr(thing, "close", None)
        if close is not None:
            try:
                close()
            except (Exception, SystemExit):
                logger.exception("closing the answers of a handler failed")
