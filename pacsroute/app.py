"""The app: what a user makes one of, and the one door to its handlers."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from pydicom import Dataset, config

from pacsroute import extended, uids
from pacsroute.dataset.instance import Instance
from pacsroute.errors import AssociationError, Failure, IdentifierError, SetupError
from pacsroute.requests import (
    FindRequest,
    GetRequest,
    MoveRequest,
    NormalizedRequest,
    Peer,
    QueryRequest,
    Request,
)
from pacsroute.routing import Route, Router, check_callable, choose_syntax, name_of
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
    from pacsroute.net.client import Client
    from pacsroute.net.server import Server
    from pacsroute.testing import TestClient

logger = logging.getLogger("pacsroute")

Destination = Callable[[str, Any], "Peer | None"]

_ECHO_ROUTE = Route("echo", None, None, (), False, lambda request: None)


class Outcome(NamedTuple):
    """How a request went: its status, what else the response is to say, and a note for the log."""

    status: Status
    elements: Mapping[str, Any] = {}
    note: str = ""
    data: Mapping[str, Any] | Dataset | None = None


_DONE = Outcome(Status(SUCCESS))


class Answer(NamedTuple):
    """One of the answers that a generator gives; `row` is None in the last, the final one.

    Its outcome is None where the handler left the final status to the service.
    """

    row: Mapping[str, Any] | Dataset | Instance | None
    outcome: Outcome | None
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
    outstanding : int
        How many operations a peer may have outstanding on one association, if it asks for
        more than one (PS3.7 §D.3.3.3). They are handled on as many threads then, and
        answered in whatever order they are ready.

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

    loaded_by_command = False

    def __init__(
        self,
        ae_title: str = "PACSROUTE",
        *,
        spool: str | os.PathLike[str] | None = None,
        maximum_length: int = DEFAULT_MAXIMUM_LENGTH,
        charset: str | None = None,
        outstanding: int = 1,
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
        if not 1 <= outstanding <= 1000:
            raise SetupError("outstanding is 1 to 1000: it is a number of threads")
        self.outstanding = outstanding
        self.state = SimpleNamespace()
        self.destinations: dict[str, Peer] = {}
        self.in_memory: Mapping[str, App] = {}  # the peers of a test, by AE title
        self._lifespans: list[Callable[[App], Iterator[None]]] = []
        self._destination: Callable[[str, MoveRequest | None], Peer | None] | None = None

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
        if not callable(function):
            raise SetupError("@app.lifespan is put on a function, without parentheses")
        check_callable("lifespan", function, 1)
        if not inspect.isgeneratorfunction(function):
            raise SetupError(
                f"@app.lifespan: {getattr(function, '__qualname__', function)!s} needs one yield, "
                "between what is done at the start and at the stop"
            )
        self._lifespans.append(function)
        return function

    def destination(self, function: Destination) -> Destination:
        """Register where a C-MOVE sends, and what `connect` connects to.

        Parameters
        ----------
        function : callable
            Called with an AE title and the `MoveRequest`, which is None for `connect`;
            returns a `Peer`, or None where it knows none: 0xA801, move destination
            unknown. `App.destinations` is asked then.

        Examples
        --------
        >>> app = App()
        >>> @app.destination
        ... def destination(ae_title, request):
        ...     return {"WORKSTATION": Peer("10.0.0.7", 11112)}.get(ae_title)
        >>> app.resolve("WORKSTATION").port
        11112
        """
        if self._destination is not None:
            raise SetupError("@app.destination: there is one already; it sees every title")
        check_callable("destination", function, 2)
        self._destination = function
        return function

    def resolve(self, ae_title: str, request: MoveRequest | None = None) -> Peer | None:
        """Return where an AE title is to be found, or None."""
        peer = None if self._destination is None else self._destination(ae_title, request)
        if peer is not None and not isinstance(peer, Peer):
            raise TypeError(f"@app.destination returns a Peer or None, not {type(peer).__name__}")
        return peer or self.destinations.get(ae_title)

    @contextlib.contextmanager
    def running(self) -> Iterator[App]:
        """Hold the app's lifespan: what a server and a test client do around their work."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_quiet_reading())
            for function in self._lifespans:
                stack.enter_context(contextlib.contextmanager(function)(self))
            yield self

    # ------------------------------------------------------------- negotiation

    def policy(self, calling_ae: str) -> Policy:
        """Return what the routes say of the contexts that a peer may have."""
        return Policy(self, calling_ae)

    # ------------------------------------------------------------- the one door

    def find_route(self, request: Request) -> Route | None:
        """Return the route of a request."""
        kind = getattr(request, "action_type", getattr(request, "event_type", None))
        route = self.route(request.command, request.sop_class, request.calling_ae, kind)
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
            An `EchoRequest`, `StoreRequest`, `FindRequest`, `GetRequest` or `MoveRequest`.
        route : Route, optional
            Its route, where that is known already.

        Returns
        -------
        Outcome or iterator of Answer
            For a find, get or move the answers as the handler yields them, rows or
            instances, and then the final one without. Whatever the handler raises is a
            status in it.
        """
        route = route or self.find_route(request)
        if isinstance(request, FindRequest):
            return self._answers(request, route, _find_rows, UNABLE_TO_PROCESS)
        if isinstance(request, GetRequest):
            return self._answers(request, route, _instances, UNABLE_TO_PROCESS)
        if route is None:
            return Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
        try:
            result = route.handler(request)
            if isinstance(request, NormalizedRequest):
                return _reply(result)
            return _DONE if result is None else Outcome(final_status(result))
        except BaseException as error:  # noqa: BLE001 - the association lives on
            code = UNABLE_TO_PROCESS if request.command == "store" else PROCESSING_FAILURE
            return failed(request, error, code)

    def _answers(
        self,
        request: QueryRequest,
        route: Route | None,
        items: Callable[[Any, Any, Iterator[Any]], Generator[Answer, None, Any]],
        code: int,
    ) -> Iterator[Answer]:
        if route is None:
            yield Answer(None, Outcome(Status(SOP_CLASS_NOT_SUPPORTED)))
            return
        rows: Iterator[Any] | None = None
        source: Any = None
        outcome: Outcome | None = None
        try:
            source = route.handler(request)
            rows = _rows(source, route)
            result = yield from items(request, source, rows)
            if result is not None or isinstance(request, FindRequest):
                outcome = Outcome(final_status(result))
        except GeneratorExit:  # not the handler's: whoever iterates has closed this generator
            raise
        except BaseException as error:  # noqa: BLE001
            outcome = failed(request, error, code)
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

    def connect(self, ae_title: str, **options: Any) -> Client:
        """Return a client of an AE title, which is resolved as a C-MOVE does it.

        The app's own handlers answer what the peer asks in return.

        Parameters
        ----------
        ae_title : str
            What `destination` or `destinations` knows.
        **options
            `user` and `timeout`, as in `pacsroute.connect`.

        Raises
        ------
        AssociationError
            If nobody knows that title.
        """
        from pacsroute.net.client import client_of  # noqa: PLC0415 - upstairs, only when asked

        peer = self.resolve(ae_title)
        if peer is None:
            raise AssociationError(
                f"nobody knows where {ae_title!r} is: say so in @app.destination, or with "
                f"--destination {ae_title}=HOST:PORT"
            )
        if ae_title in self.in_memory:
            from pacsroute.testing import client_in_memory  # noqa: PLC0415

            return client_in_memory(self, ae_title)
        peer = peer._replace(ae_title=peer.ae_title or ae_title)
        return client_of(peer, self.ae_title, app=self, **options)

    def test_client(
        self,
        *,
        calling_ae: str = "TEST",
        called_ae: str | None = None,
        user: Any = None,
        peers: Mapping[str, App] | None = None,
    ) -> TestClient:
        """Return a client that speaks to this app in memory, for tests; to be used with ``with``.

        Parameters
        ----------
        calling_ae, called_ae : str
            The AE titles of the association; the app's own is called by default.
        user : object
            What `request.user` is.
        peers : mapping of str to App, optional
            The apps that a C-MOVE reaches, and `connect`, by AE title.

        Examples
        --------
        >>> app = App()
        >>> with app.test_client() as client:
        ...     client.echo().category
        'Success'
        """
        from pacsroute.testing import TestClient  # noqa: PLC0415 - upstairs, only when asked

        return TestClient(self, calling_ae=calling_ae, called_ae=called_ae, user=user, peers=peers)

    def run(self, host: str = "127.0.0.1", port: int = 11112, **options: Any) -> None:
        """Serve until SIGINT or SIGTERM; the options are those of `serve`.

        A file that does this where it is imported can be served by ``pacsroute run`` all
        the same, which leaves the call out.
        """
        if App.loaded_by_command:
            logger.warning("app.run() is left out: the command serves the app")
            return
        self.serve(host, port, **options).run()


@contextlib.contextmanager
def _quiet_reading() -> Iterator[None]:
    """Have pydicom not complain about values that it reads: its warnings quote them.

    They are patient data, and Python remembers each warning for as long as it runs.
    """
    settings = config.settings
    before = settings.reading_validation_mode
    if before == config.WARN:
        settings.reading_validation_mode = config.IGNORE
    try:
        yield
    finally:
        settings.reading_validation_mode = before


class Policy:
    """What the routes of an app say of a peer's presentation contexts."""

    def __init__(self, app: App, calling_ae: str) -> None:
        self._app = app
        self._calling_ae = calling_ae

    def _routes(self, sop_class: str) -> list[Route]:
        """Return the routes for which this side is the SCP of a class."""
        found = [
            route
            for route in self._app.routes_of(sop_class, self._calling_ae)
            if route.command != "n_event_report"
        ]
        if sop_class == uids.VERIFICATION:
            found.append(_ECHO_ROUTE)
        return found

    def serves(self, sop_class: str) -> bool:
        """Tell whether a route answers for the SOP class."""
        return bool(self._routes(sop_class))

    def uses(self, sop_class: str) -> bool:
        """Tell whether this side may be the SCU of the class.

        It is that of what a C-GET fetches, and of what events are reported to it.
        """
        if any(
            route.command == "n_event_report"
            for route in self._app.routes_of(sop_class, self._calling_ae)
        ):
            return True
        return uids.is_storage(sop_class) and any(
            route.command == "get" and route.calling_ae in (None, self._calling_ae)
            for route in self._app.routes
        )

    @property
    def window(self) -> int:
        """How many operations may be outstanding at once."""
        return self._app.outstanding

    def extended(self, sop_class: str, offered: bytes) -> bytes:
        """Return the answer to an extended negotiation; empty where no route has any."""
        for route in self._routes(sop_class):
            if route.extended:
                return extended.answer(route.command, route.extended, offered)
        return b""

    def choose(self, sop_class: str, proposed: tuple[str, ...]) -> str | None:
        """Return the transfer syntax for a context."""
        for route in self._app.routes_of(sop_class, self._calling_ae) + self._routes(sop_class):
            return choose_syntax(route, proposed)
        # What a C-GET sends is in any syntax, and is converted if it can be.
        return next(iter(proposed), None) if self.uses(sop_class) else None


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


def _reply(result: object) -> Outcome:
    """Return the outcome that the handler of an N-service means: status, data set, or both."""
    parts = result if isinstance(result, tuple) and not isinstance(result, Status) else (result,)
    data = [part for part in parts if isinstance(part, (Mapping, Dataset))]
    rest = [part for part in parts if not isinstance(part, (Mapping, Dataset))]
    if len(data) > 1 or len(rest) > 1:
        raise TypeError("a handler returns a status, a dict or Dataset, or one of each")
    status = final_status(rest[0] if rest else None)
    return Outcome(status, data=data[0] if data else None)


def failed(request: Request, error: BaseException, code: int) -> Outcome:
    """Return the outcome of a request whose handler raised, and log what is not meant."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, Failure):
        status = Status(error.status, error.comment)
        if status.category not in ("Unknown", "Pending", "Success"):
            return Outcome(status, error.elements)
        error = ValueError(f"Failure(0x{error.status:04X}): no status of a failure")
    if isinstance(error, IdentifierError):
        logger.warning("%s from %s: %s", name_of(request.command), request.calling_ae, error)
        return Outcome(Status(IDENTIFIER_MISMATCH, str(error)))
    if request.association is not None:
        request.association.failure = error
    if isinstance(error, OSError) and request.command == "store":
        code = 0xA700
    logger.error(
        "%s from %s: the handler failed",
        name_of(request.command),
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


def _find_rows(request: Any, source: Any, rows: Iterator[Any]) -> Generator[Answer, None, Any]:
    while True:
        try:
            item = next(rows)
        except StopIteration as stop:
            return stop.value
        row, status = item if isinstance(item, tuple) and len(item) == 2 else (item, PENDING)
        if not isinstance(row, (Mapping, Dataset)):
            raise TypeError(f"a find yields dicts or Datasets, not {type(row).__name__}")
        code = int(status[0] if isinstance(status, Status) else status)
        if code not in (PENDING, PENDING_WARNING):
            raise ValueError(f"a row has the status 0xFF00 or 0xFF01, not 0x{code:04X}")
        yield Answer(row, Outcome(Status(code)), code == PENDING)


def _instances(
    request: GetRequest, source: Any, rows: Iterator[Any]
) -> Generator[Answer, None, Any]:
    """Yield instances, with `request.count` known before the first."""
    result = None

    def instances() -> Iterator[Instance]:
        nonlocal result
        while True:
            try:
                item = next(rows)
            except StopIteration as stop:
                result = stop.value
                return
            if not isinstance(item, (str, os.PathLike, Dataset, Instance)):
                raise TypeError(
                    f"a {request.command} yields paths, Datasets or Instances, "
                    f"not {type(item).__name__}"
                )
            yield item if isinstance(item, Instance) else Instance(item)

    coming = instances()
    first = next(coming, None)  # a generator has set the count by now, if it ever does
    if request.count is None and hasattr(source, "__len__"):
        request.count = len(source)
    if first is not None and request.count is None:
        spool = None if request.app is None else request.app.spool
        known = [first.set_aside(spool), *(instance.set_aside(spool) for instance in coming)]
        request.count = len(known)
        first, coming = known[0], iter(known[1:])
    if first is not None:
        yield Answer(first, None)
    for instance in coming:
        yield Answer(instance, None)
    return result


def _close(*things: object) -> None:
    for thing in things:
        close = getattr(thing, "close", None)
        if close is not None:
            try:
                close()
            except BaseException:
                logger.exception("closing the answers of a handler failed")
