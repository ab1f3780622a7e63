"""A client that is connected to an app in memory."""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from pacsroute.dimse import command_set
from pacsroute.dimse.commands import CCancelRQ, Command, Response
from pacsroute.dimse.messages import Message, Sink, message_ids
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    ReadFailed,
    RequestFailed,
)
from pacsroute.framework.admission import admit, left, tell_of_rejected
from pacsroute.framework.base import BaseApp
from pacsroute.framework.reach import Reach
from pacsroute.framework.requests import Peer
from pacsroute.net.association import Association, association_id
from pacsroute.net.client import Client
from pacsroute.net.pool import Context, Opener, Pool
from pacsroute.services.dispatcher import Dispatcher
from pacsroute.services.exchange import Exchange
from pacsroute.services.sinks import open_sink
from pacsroute.testing.jobs import jobs_in_memory
from pacsroute.upper_layer import pdu as pdus
from pacsroute.upper_layer.negotiation import AcceptedContext, agreed
from pacsroute.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ, UserIdentity
from pacsroute.upper_layer.rejections import reason_of

if TYPE_CHECKING:
    from flask.testing import FlaskClient

logger = logging.getLogger("pacsroute")

WAIT = 30.0
"""Seconds after which a test that waits for a message has failed."""

_PIECE = 65_536
_Pdu = TypeVar("_Pdu", AssociateRQ, AssociateAC | AssociateRJ)


class MemoryAssociation:
    """One end of an association without a network; a `Dispatcher` serves it like any other.

    Negotiation and commands are encoded and decoded, so that values that cannot be encoded fail
    here, too.
    """

    def __init__(
        self,
        app: BaseApp,
        request: AssociateRQ,
        contexts: dict[int, AcceptedContext],
        role: Literal["acceptor", "requestor"],
    ) -> None:
        self.app = app
        self.id = association_id()
        self.role = role
        self.calling_ae, self.called_ae = request.calling_ae, request.called_ae
        self.remote_address = "memory"
        self.peer_certificate: dict[str, Any] | None = None
        self.user: Any = None
        self.proven_by = ""
        self.state = SimpleNamespace()
        self.contexts = contexts
        self._admitted = False
        self.failure: BaseException | None = None
        self.window = 1
        self.patience = WAIT
        self.numbers = message_ids()
        self.peer: MemoryAssociation = self
        self.serving: threading.Thread | None = None
        self.peers: Mapping[str, BaseApp] = {}
        self._coming: queue.Queue[Message | AssociationError] = queue.Queue()
        self._messages: deque[Message] = deque()
        self._cancelled: set[int] = set()
        self._ended: AssociationError | None = None

    @classmethod
    def pair(
        cls,
        request: AssociateRQ,
        app: BaseApp,
        requestor: BaseApp,
        peers: Mapping[str, BaseApp],
        user: Any = None,
    ) -> tuple[MemoryAssociation, MemoryAssociation]:
        """Return both ends of a new association: the requestor's, and the app's.

        Raises
        ------
        AssociationRejected
            If the app rejects it.
        """
        request = _carried(request)
        theirs = cls(app, request, {}, "acceptor")
        answer = _carried(admit(app, theirs, request, user=user))
        if isinstance(answer, AssociateRJ):
            tell_of_rejected(app, theirs, reason_of(answer))
            raise AssociationRejected(*answer)
        theirs._admitted = True
        ours = cls(requestor, request, agreed(request, answer), "requestor")
        ours.peer, theirs.peer = theirs, ours
        ours.peers = theirs.peers = peers
        return ours, theirs

    def send(
        self,
        context_id: int,
        command: Command,
        data: bytes | BinaryIO | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Pass a message to the other end."""
        if self._ended is not None:
            raise self._ended
        command.has_data_set = data is not None
        arrived = command_set.decode(command_set.encode(command))
        if isinstance(arrived, CCancelRQ):
            self.peer._cancelled.add(arrived.message_id_responded_to)
            return
        sink = None
        if data is not None:
            sink = open_sink(self.peer.app, self.peer, context_id, arrived)
            self._pour(io.BytesIO(data) if isinstance(data, bytes) else data, sink)
        self.peer._coming.put(Message(context_id, arrived, sink))

    def _pour(self, data: BinaryIO, sink: Sink) -> None:
        """Write a data set into a sink, padded to an even length; a read error aborts."""
        size = 0
        try:
            for piece in iter(lambda: data.read(_PIECE), b""):
                sink.write(memoryview(piece))
                size += len(piece)
        except (OSError, EOFError) as error:
            self.abort()
            why = getattr(error, "strerror", None) or error
            raise ReadFailed(0, message=f"reading an instance failed: {why}") from None
        if size & 1:
            sink.write(memoryview(b"\0"))

    def receive(self, response_to: int | None = None) -> Message:
        """Return the next message, or the next response to a request of ours."""
        while True:
            for message in self._messages:
                command = message.command
                if response_to is None or (
                    isinstance(command, Response) and command.message_id_responded_to == response_to
                ):
                    self._messages.remove(message)
                    return message
            self._go_on()

    def answered(self, message_id: int) -> Message | None:
        """Return the response to a request of ours; None if the other end sends a request first."""
        while not self._messages:
            self._go_on()
        command = self._messages[0].command
        if isinstance(command, Response) and command.message_id_responded_to == message_id:
            return self._messages.popleft()
        return None

    def _go_on(self) -> None:
        """Handle the next message."""
        if self._ended is not None:
            raise self._ended
        try:
            self._take(self._coming.get(timeout=WAIT))
        except queue.Empty:
            raise AssociationAborted(None, message=f"no message for {WAIT:g} s") from None

    def _take(self, what: Message | AssociationError) -> None:
        if isinstance(what, Message):
            self._messages.append(what)
        else:
            self._ended = what

    def keep_failure(self, error: BaseException) -> None:
        """Keep an unintended exception of a handler: the test raises it."""
        self.failure = error

    def cancelled(self, message_id: int, max_age: float = 0.0) -> bool:
        """Return whether the other end has cancelled a request, or has disconnected."""
        with contextlib.suppress(queue.Empty):
            while self._ended is None:
                self._take(self._coming.get_nowait())
        return self._ended is not None or message_id in self._cancelled

    def ended(self) -> AssociationAborted | None:
        """Return how the association has ended, if it has."""
        if self._ended is None or isinstance(self._ended, AssociationAborted):
            return self._ended
        return AssociationAborted(None, message=str(self._ended))

    def defer(self, function: Callable[[], object]) -> None:
        """Call the function at once: the response has been sent."""
        function()

    def pulse(self, make: Callable[[], tuple[int, Command]] | None) -> None:
        """Send nothing: in memory there is no timeout."""

    def connect(self, peer: Peer, request: AssociateRQ) -> MemoryAssociation | Association:
        """Request an association with another app, or a real peer if the test has no such app."""
        app = self.peers.get(request.called_ae)
        if app is None:
            return Association.request(peer, request, self.app)
        return associate(request, app, self.app, self.peers)

    def release(self) -> None:
        """Release the association; by then, the other end's `request.after` functions have run."""
        self._end(AssociationReleased("released"), AssociationReleased("released by the peer"))
        if self.serving is not None:
            self.serving.join(WAIT)

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """Abort the association."""
        error = AssociationAborted(source, reason)
        self._end(error, error)

    def stop(self) -> None:
        """Make the waiting thread end the association; called from another thread."""
        error = AssociationAborted(0)
        self._coming.put(error)
        self.peer._coming.put(error)

    def close(self) -> None:
        """Call the app's hooks; there is no socket to close."""
        if self._admitted:
            self._admitted = False
            lost = self._ended if isinstance(self._ended, AssociationAborted) else None
            left(self.app, self, lost)

    def _end(self, ours: AssociationError, theirs: AssociationError) -> None:
        if self._ended is None:
            self._ended = ours
            self.peer._coming.put(theirs)


def _carried(pdu: _Pdu) -> _Pdu:
    """Return a PDU as the other end of a connection receives it."""
    return pdus.decode(pdus.encode(pdu))  # type: ignore[return-value]


def associate(
    request: AssociateRQ,
    app: BaseApp,
    requestor: BaseApp,
    peers: Mapping[str, BaseApp],
    user: Any = None,
) -> MemoryAssociation:
    """Associate with an app in memory; a thread serves the other end."""
    ours, theirs = MemoryAssociation.pair(request, app, requestor, peers, user)

    def serve() -> None:
        try:
            Dispatcher(app, theirs).run()
        except AssociationError as error:
            logger.debug("the association ended: %s", error)
        except BaseException as error:
            theirs.failure = error
            theirs.abort(2)
            raise
        finally:
            theirs.close()

    ours.serving = threading.Thread(target=serve, name="pacsroute-test", daemon=True)
    ours.serving.start()
    return ours


class InMemory(Reach):
    """The connection of an app to the peers of a test.

    Parameters
    ----------
    peers : mapping of str to BaseApp
        The apps behind AE titles; other titles are on the network.
    """

    def __init__(self, peers: Mapping[str, BaseApp]) -> None:
        self._peers = peers

    def settle(self, ae_title: str, peer: Peer) -> Peer:
        """Return the peer under its title in the test, whatever its own title is."""
        return peer._replace(ae_title=ae_title) if ae_title in self._peers else peer

    def opener(self, ae_title: str) -> Opener | None:
        """Return the opener of associations in memory with the peers of the test."""
        if ae_title not in self._peers:
            return None

        def opener(request: AssociateRQ, requestor: BaseApp) -> MemoryAssociation:
            return associate(request, self._peers[ae_title], requestor, self._peers)

        return opener


class _FrankPool(Pool):
    """Raises the exception of the other end's handler instead of a failure."""

    @contextlib.contextmanager
    def use(
        self, contexts: Collection[Context], scp_of: frozenset[str] = frozenset()
    ) -> Iterator[tuple[Exchange, AcceptedContext]]:
        theirs: MemoryAssociation | None = None
        try:
            with super().use(contexts, scp_of) as (association, context):
                assert isinstance(association, MemoryAssociation)
                theirs = association.peer
                theirs.failure = None
                yield association, context
        except (RequestFailed, AssociationError):
            # Raised here, so that the association survives, as it does over a socket.
            if theirs is not None and theirs.failure is not None:
                raise theirs.failure from None
            raise


class TestClient(Client):
    """A `pacsroute.Client` of an app without a socket; made by `App.test_client`.

    An unintended exception of a handler is raised in the test, too.
    """

    __test__ = False  # pytest collects classes named Test…
    _pool_class = _FrankPool

    def __init__(
        self,
        app: BaseApp,
        *,
        calling_ae: str = "TEST",
        called_ae: str | None = None,
        user: Any = None,
        identity: str | tuple[str, str] | UserIdentity | None = None,
        peers: Mapping[str, BaseApp] | None = None,
        jobs: bool = True,
    ) -> None:
        self.app = app
        self._has_jobs = jobs and hasattr(app, "connect")
        self._peers = dict(peers or {})
        self._running = contextlib.ExitStack()
        self._serving: list[threading.Thread] = []

        def opener(request: AssociateRQ, requestor: BaseApp) -> MemoryAssociation:
            association = associate(request, app, requestor, self._peers, user)
            assert association.serving is not None
            self._serving.append(association.serving)
            return association

        self._user = user
        self._do_jobs: Callable[[], None] = lambda: None
        called_ae = called_ae or app.ae_title
        super().__init__(opener, called_ae=called_ae, calling_ae=calling_ae, user=identity)

    def __enter__(self) -> TestClient:
        with contextlib.ExitStack() as stack:
            for other in dict.fromkeys((self.app, *self._peers.values())):
                stack.enter_context(other.running())
            stack.enter_context(known(self.app, self._peers))
            if self._has_jobs:
                self._do_jobs = stack.enter_context(jobs_in_memory(self.app))
            self._running = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        super().__exit__(kind)
        if kind is None:
            self.run_jobs()
        for thread in self._serving:  # also of aborted associations, whose hooks may still run
            thread.join(WAIT)
        self._running.close()

    @property
    def web(self) -> FlaskClient:
        """Flask's test client for `App.web`, as a client on this machine.

        Examples
        --------
        >>> from pacsroute import App
        >>> with App().test_client() as client:
        ...     client.web.get("/dicom-web/studies").status_code
        501
        """
        client: FlaskClient = self.app.web.test_client()  # type: ignore[attr-defined]
        base: dict[str, Any] = client.environ_base
        base |= {"pacsroute.served": True, "pacsroute.user": self._user}
        return client

    def run_jobs(self) -> None:
        """Run all waiting durable work: deliveries, jobs, and functions of `App.quiet`.

        Delays pass immediately. Instances that a destination among the `peers` refuses are tried
        again until they are given up. The end of the ``with`` block does it, too.
        """
        self._do_jobs()


@contextlib.contextmanager
def known(app: BaseApp, peers: Mapping[str, BaseApp]) -> Iterator[None]:
    """Make an app reach the peers of a test in memory."""
    before, app.destinations = app.destinations, app.destinations.copy()
    reach, app.reach = app.reach, InMemory(peers)
    app.destinations |= {title: Peer("memory", 104, title) for title in peers}
    try:
        yield
    finally:
        app.destinations, app.reach = before, reach
