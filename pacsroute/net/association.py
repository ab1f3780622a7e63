"""An association over a socket: its negotiation and its messages."""

from __future__ import annotations

import itertools
import logging
import math
import socket
import ssl
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Unpack

from pacsroute.config import RESPONSE_TIMEOUT, Config, check_own
from pacsroute.dimse.commands import Command, CStoreRQ
from pacsroute.dimse.messages import Message, Sink, message_ids
from pacsroute.errors import (
    AssociationAborted,
    AssociationRejected,
    ConnectionRefused,
    ProtocolError,
    let_go,
)
from pacsroute.framework.admission import admit, left, tell_of_rejected
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Peer
from pacsroute.net.associating import ask, wait_for_request
from pacsroute.net.channel import Channel
from pacsroute.net.inbox import Inbox
from pacsroute.net.outbox import Outbox
from pacsroute.net.pace import Pace
from pacsroute.services.sinks import Memory, open_sink
from pacsroute.tls import TLS, explain
from pacsroute.upper_layer.connection import Event
from pacsroute.upper_layer.negotiation import AcceptedContext, agreed
from pacsroute.upper_layer.pdu import (
    Abort,
    AssociateRJ,
    AssociateRQ,
    PDataTF,
    ReleaseRQ,
    UserInformation,
)
from pacsroute.upper_layer.rejections import reason_of

if TYPE_CHECKING:
    from pacsroute.settings import ServerSettings

logger = logging.getLogger("pacsroute")

association_id = itertools.count(1).__next__


class Association:
    """An association with a peer.

    `accept` and `request` make one; a `pacsroute.Dispatcher`, or your own, calls `receive`, `send`,
    `cancelled`, `release` and `abort`.

    It has three parts: a `Channel` (the socket and its end), an `Outbox` (messages to send) and an
    `Inbox` (received messages). One thread reads; if operations overlap, other threads send
    responses, and wait for responses to their own requests.

    Attributes
    ----------
    id : int
        Its number in this process, for logs.
    role : {"acceptor", "requestor"}
        The role of this side.
    calling_ae, called_ae : str
        The AE titles, as negotiated.
    remote_address : str
        The peer's host.
    user : object
        The result of `@app.authenticate`.
    contexts : dict of int to AcceptedContext
        The presentation contexts that were accepted.
    peer_certificate : dict or None
        The result of `ssl.SSLSocket.getpeercert`; None without TLS, or without a verified
        certificate.
    state : types.SimpleNamespace
        A place for objects that hooks and handlers share.
    """

    keep_failure = None  # for tests in memory

    def __init__(
        self,
        sock: socket.socket,
        app: BaseApp,
        remote_address: str = "",
        *,
        role: Literal["acceptor", "requestor"] = "acceptor",
        defer: Callable[[Callable[[], object]], object] | None = None,
        tls: ssl.SSLContext | None = None,
        config: Config | None = None,
        alone: Callable[[], bool] | None = None,
        vacate: Callable[[], object] | None = None,
    ) -> None:
        self.app = app
        self.config = config or app.config
        self.role = role
        self.remote_address = remote_address
        self.id = association_id()
        self.state = SimpleNamespace()
        self.calling_ae = self.called_ae = ""
        self.user: Any = None
        self.proven_by = ""
        self.contexts: dict[int, AcceptedContext] = {}
        self.proposed: list[str] = []
        self.numbers = message_ids()
        self.window = 1
        self._alone = alone
        self._defer = defer
        self._vacate = vacate
        self._admitted = False
        self._fetches = False  # whether we offered the peer the SCU role, as for a C-GET
        self._idle = False  # this thread answers no request; others may
        self._inbox = Inbox(
            self._open_sink, self.config.max_command_length, self.config.max_identifier_length
        )
        self._channel = Channel(
            sock,
            self.config,
            role=role,
            remote_address=remote_address,
            tls=tls,
            alone=alone,
            on_end=self._inbox.wake,
        )
        self._outbox = Outbox(self._channel, app, self)
        self.peer_certificate = self._channel.peer_certificate

    @classmethod
    def accept(
        cls, sock: socket.socket, app: BaseApp, **options: Unpack[ServerSettings]
    ) -> Association:
        """Negotiate an association on a socket that a peer has connected to.

        Parameters
        ----------
        sock : socket.socket
            The socket; the association owns it from now on.
        app : App
            The app whose routes decide.
        **options
            The settings of `pacsroute.Server`.

        Raises
        ------
        AssociationRejected, AssociationAborted
            If there is no association; the socket is then closed.
        """
        check_own(options)
        sock.setblocking(True)
        try:
            host = str(sock.getpeername()[0])
        except (OSError, IndexError):
            host = ""  # not a TCP socket, or the peer has gone
        association = cls(sock, app, host, config=app.config.replace(**options))
        try:
            association.negotiate()
        except BaseException:
            association.close()
            raise
        return association

    @classmethod
    def request(
        cls,
        peer: Peer,
        request: AssociateRQ,
        app: BaseApp,
        *,
        alone: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Association:
        """Ask a peer for an association.

        Parameters
        ----------
        peer : Peer
            Its address.
        request : AssociateRQ
            The association request; see `pacsroute.upper_layer.negotiation.propose`.
        app : App
            The app that answers requests of the peer.
        alone : callable, optional
            As for `Channel`.
        **options
            As for `accept`.

        Raises
        ------
        AssociationRejected, AssociationAborted
            If there is none.
        """
        who = f"{request.called_ae} at {peer.host}:{peer.port}"
        config = app.config.replace(**options)
        context = peer.tls.client() if isinstance(peer.tls, TLS) else peer.tls
        try:
            sock = socket.create_connection((peer.host, peer.port), config.connect_timeout)
        except (OSError, UnicodeError) as error:  # the latter for an invalid host name
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            is_refused = isinstance(error, ConnectionRefusedError)
            raise (ConnectionRefused if is_refused else AssociationAborted)(
                None,
                message=f"{who} cannot be reached ({why}): "
                "check the address, and that the server is running",
            ) from None
        sock.settimeout(None)
        association = cls(
            sock, app, peer.host, role="requestor", tls=context, config=config, alone=alone
        )
        association.calling_ae, association.called_ae = request.calling_ae, request.called_ae
        try:
            association._associate(request, who)
        except BaseException:
            association.close()
            raise
        return association

    def _associate(self, request: AssociateRQ, who: str) -> None:
        deadline = time.monotonic() + self.config.artim
        try:
            self._channel.secure(deadline)
        except (OSError, ValueError) as error:  # the latter for an invalid host name
            raise AssociationAborted(
                None, message=f"{who}: the TLS handshake failed: {explain(error)}"
            ) from None
        self.peer_certificate = self._channel.peer_certificate
        self._channel.observe(self.app.taps)
        self._fetches = bool(request.user_information.roles)
        # A response has a fixed time; an instance, which only a C-GET brings, gets more for its
        # bytes.
        rate = self.config.min_rate if self._fetches else math.inf
        self._channel.coming = Pace(self.patience, rate)
        answer = ask(self._channel, request, who, deadline)
        self._limit(answer.user_information)
        self.contexts = agreed(request, answer)

    def _limit(self, user: UserInformation) -> None:
        maximum = user.maximum_length
        self._outbox.maximum_length = 16_384 if maximum is None else maximum

    @property
    def patience(self) -> float:
        """Seconds to wait for a response of the peer."""
        return self.config.idle_timeout

    @property
    def is_answering(self) -> bool:
        """Whether a request of the peer is being answered."""
        return not self._idle or self._outbox.owes

    @property
    def recording(self) -> str:
        """The file that the association is recorded in; empty if it is not recorded."""
        return self._channel.recording

    def connect(self, peer: Peer, request: AssociateRQ) -> Association:
        """Ask another peer for an association, with the same app and timeouts."""
        return type(self).request(
            peer,
            request,
            self.app,
            alone=self._alone,
            artim=self.config.artim,
            idle_timeout=min(self.config.idle_timeout, RESPONSE_TIMEOUT),
            network_timeout=self.config.network_timeout,
        )

    def defer(self, function: Callable[[], object]) -> None:
        """Call a function once the message is sent; without a server, call it immediately."""
        if self._defer is None:
            function()
        else:
            self._defer(function)

    def __enter__(self) -> Association:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.abort(2 if kind else 0)
        self.close()

    def negotiate(self, refuse: Callable[[str], AssociateRJ | None] | None = None) -> None:
        """Answer the peer's request for an association.

        Parameters
        ----------
        refuse : callable, optional
            Called with the calling AE title; returns the answer.
        """
        deadline = time.monotonic() + self.config.artim
        try:
            self._channel.secure(deadline)
        except OSError as error:
            why = f"TLS failed: {explain(error)}"
            tell_of_rejected(self.app, self, why)
            raise AssociationAborted(None, message=why) from None
        self.peer_certificate = self._channel.peer_certificate
        self._channel.observe(self.app.taps)
        request = wait_for_request(self._channel, deadline)
        self.calling_ae, self.called_ae = request.calling_ae, request.called_ae
        answer: Any = None if refuse is None else refuse(request.calling_ae)
        try:
            answer = answer or admit(self.app, self, request)
        except ProtocolError as error:
            self._channel.abort_for(error)
        except BaseException:
            # A hook's exception was logged above; the peer may try again.
            self._reject(AssociateRJ(2, 2, 1))
            raise
        if isinstance(answer, AssociateRJ):
            self._reject(answer)
            raise AssociationRejected(*answer)
        self._admitted = True
        self.proposed = [context.abstract_syntax for context in request.contexts]
        self._limit(request.user_information)
        self._overlap(answer.user_information)
        self._inbox.traffic = self.app.observer.accepted(self)
        self._channel.connection.accept(answer)
        self._channel.write_out()

    def _overlap(self, user: UserInformation) -> None:
        """Apply the negotiated number of overlapping operations."""
        if user.asynchronous_operations is not None:
            self.window = self._inbox.window = user.asynchronous_operations[0]
            self._outbox.overlapping = self.window > 1

    def _reject(self, answer: AssociateRJ) -> None:
        self.app.observer.rejected(self, answer)
        tell_of_rejected(self.app, self, reason_of(answer))
        self._channel.connection.reject(answer)
        self._channel.write_out()

    # ------------------------------------------------------------- sending

    def send(
        self,
        context_id: int,
        command: Command,
        data: bytes | BinaryIO | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Send a message.

        Parameters
        ----------
        context_id : int
            The ID of an accepted presentation context.
        command : Command
            The command set.
        data : bytes or binary file, optional
            The data set, in the context's transfer syntax; an odd number of bytes is made even with
            a NUL. A file is read from its position while it is sent; if reading fails, the
            association is aborted, because the peer has part of a message.
        more : bool
            Whether more messages follow immediately: then this one may wait for them, up to 50 ms.

        Raises
        ------
        AssociationAborted, AssociationReleased
            If the association has ended.
        """
        self._outbox.send(context_id, command, data, more=more)

    def pulse(self, make: Callable[[], tuple[int, Command]] | None) -> None:
        """Send a keep-alive message after each second of silence; None stops it.

        Parameters
        ----------
        make : callable
            Called by another thread, soon and between messages; returns a context ID and
            a command.
        """
        self._outbox.pulse(make)

    # ------------------------------------------------------------- receiving

    def receive(self, response_to: int | None = None) -> Message:
        """Return the next message, waiting for it.

        Parameters
        ----------
        response_to : int, optional
            The Message ID of our request, for its next response. Other messages wait.

        Raises
        ------
        AssociationReleased, AssociationAborted
            If the association has ended instead.
        """
        if response_to is None:
            self._outbox.free_room()
            self._idle = True
        if self.window > 1:
            return self._receive_shared(response_to)
        if response_to is not None:
            while (message := self._inbox.response(response_to)) is None:
                self._go_on()
            return message
        inbox = self._inbox
        while not inbox.waiting:
            self._go_on()
        self._idle = False
        return inbox.next()

    def answered(self, message_id: int) -> Message | None:
        """Return the response to our request; None if the peer sends a request first.

        Parameters
        ----------
        message_id : int
            The Message ID of the request.

        Raises
        ------
        AssociationReleased, AssociationAborted
            If the association has ended instead.
        """
        if self.window > 1:  # requests of the peer must not wait
            return self._receive_shared(message_id)
        while not self._inbox.waiting:
            self._go_on()
        return self._inbox.response(message_id)

    def _go_on(self) -> None:
        """Handle received bytes, or wait for some."""
        channel, inbox = self._channel, self._inbox
        if channel.ended is not None:
            raise channel.ended
        next_event = channel.connection.next_event
        if (event := next_event()) is None:
            channel.read(inbox.partial)
            event = next_event()
        while event is not None:
            self._take(event)
            event = None if inbox.waiting else next_event()

    def _receive_shared(self, response_to: int | None) -> Message:
        """Receive while operations overlap: one thread reads for all of them."""
        channel, inbox = self._channel, self._inbox
        if response_to is not None and not inbox.is_read_here:
            found = inbox.wait_for_response(response_to, self.patience)
            if found is None:
                raise channel.ended or AssociationAborted(None, message="no response received")
            return found
        inbox.read_here()
        while True:
            found = inbox.next_request() if response_to is None else inbox.response(response_to)
            if found is not None:
                if response_to is None:
                    self._outbox.owe(getattr(found.command, "message_id", 0))
                return found
            if channel.ended is not None:
                raise channel.ended
            event = channel.connection.next_event()
            if event is None:
                channel.read(inbox.partial)
            else:
                self._take(event)

    def _take(self, event: Event) -> None:
        """Handle an event; the reading thread calls it."""
        channel = self._channel
        if isinstance(event, PDataTF):
            try:
                if self._inbox.add(event, self.contexts):
                    channel.coming.begin_anew()
            except ProtocolError as error:
                channel.abort_for(error)
        elif isinstance(event, ReleaseRQ):
            if self._vacate is not None and self._idle and not self._outbox.owes:
                self._vacate()  # the peer may associate again as soon as it has the response
            channel.respond_release()
        elif isinstance(event, Abort):
            channel.aborted(event)

    def cancelled(self, message_id: int, max_age: float = 0.0) -> bool:
        """Return whether the peer has cancelled a request, or has disconnected; never waits.

        It makes at most one read, and none while several requests wait: a peer that sends too far
        ahead fills its own buffers.

        Parameters
        ----------
        message_id : int
            The Message ID of the request.
        max_age : float
            Seconds after the last read in which no other is needed.
        """
        channel, inbox = self._channel, self._inbox
        if self.window == 1 or inbox.is_read_here:
            looked = max_age > 0 and time.monotonic() - channel.read_at < max_age
            while channel.ended is None and not inbox.is_busy:
                event = channel.connection.next_event()
                if event is not None:
                    self._take(event)
                elif looked or not channel.read_now():
                    break
                else:
                    looked = True
        return channel.ended is not None or inbox.is_cancelled(message_id)

    def _open_sink(self, context_id: int, command: Command) -> Sink:
        # A requestor does not go by the agreed roles: some C-GET SCPs send instances without
        # answering role selection.
        is_fetched = self._fetches or self.role == "acceptor"
        if not is_fetched and isinstance(command, CStoreRQ):
            return Memory(0)
        claim = self._channel.connection.hand_over
        return open_sink(self.app, self, context_id, command, claim)

    # ------------------------------------------------------------- ending

    def ended(self) -> AssociationAborted | None:
        """Return how the association has ended, if it has."""
        how = self._channel.ended
        if how is None or isinstance(how, AssociationAborted):
            return how
        return AssociationAborted(None, message=str(how))

    def release(self) -> None:
        """Release the association and close it (PS3.8 §7.2)."""
        self._channel.release()
        self.close()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """Abort the association (PS3.8 §7.3)."""
        self._channel.abort(source, reason)

    def stop(self) -> None:
        """Make the association's thread abort it; called from another thread."""
        self._channel.stop()

    def close(self) -> None:
        """Call the hooks, and close the socket once the peer has closed its side."""
        if self._admitted:
            self._admitted = False
            ended = self._channel.ended
            lost = ended if isinstance(ended, AssociationAborted) else None
            left(self.app, self, lost)
            self.app.observer.ended(self, lost)
        self._outbox.close()
        self._inbox.close()
        self._channel.close()

    def dispose(self) -> None:
        """Close it; after that, its end cannot be queried."""
        self.close()
        if self._channel.ended is not None:
            let_go(self._channel.ended)
