"""An association over a socket: its negotiation, and the messages that come and go."""

from __future__ import annotations

import itertools
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

from pacsroute.config import Config, check_own
from pacsroute.dimse.commands import CCancelRQ, Command, CStoreRQ, Response
from pacsroute.dimse.messages import Assembler, Message, message_ids
from pacsroute.errors import (
    AssociationAborted,
    AssociationRejected,
    AssociationReleased,
    ProtocolError,
    let_go,
)
from pacsroute.framework.admission import admit, left
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Peer
from pacsroute.net import transport
from pacsroute.net.outbox import Sender
from pacsroute.net.tapped import TappedSocket
from pacsroute.services.sinks import Memory, is_expected, open_sink
from pacsroute.tls import TLS, explain
from pacsroute.upper_layer.connection import Event, TransportClosed
from pacsroute.upper_layer.negotiation import SMALLEST_MAXIMUM_LENGTH, AcceptedContext, agreed
from pacsroute.upper_layer.pdu import (
    INVALID_PARAMETER,
    UNEXPECTED_PARAMETER,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    PDataTF,
    ReleaseRQ,
    UserInformation,
)
from pacsroute.upper_layer.rejections import why

logger = logging.getLogger("pacsroute")

RESPONSE_TIMEOUT = 120.0
"""Seconds without a message, in which a peer has to answer a request of ours."""

_WAITING = 4  # requests that are read ahead of the one being answered
_UNANSWERED = 64  # messages that a peer sends besides the response that is waited for
association_id = itertools.count(1).__next__


class Association(Sender):
    """An association with a peer.

    `accept` and `request` make one; `receive`, `send`, `cancelled`, `release` and `abort`
    are for a `pacsroute.Dispatcher`, or for those who write their own.

    Attributes
    ----------
    id : int
        Which one it is of this process: logs have it.
    role : {"acceptor", "requestor"}
        Ours: who has asked for it.
    calling_ae, called_ae : str
        The AE titles, as negotiated.
    remote_address : str
        The peer's host.
    user : object
        What `@app.authenticate` has returned.
    contexts : dict of int to AcceptedContext
        The presentation contexts that were accepted.
    peer_certificate : dict or None
        As `ssl.SSLSocket.getpeercert` has it; None without TLS, and where the peer has shown
        none or it was not verified.
    state : types.SimpleNamespace
        A place for what hooks and handlers share.
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
    ) -> None:
        super().__init__(sock, app, config or app.config, remote_address, role, tls)
        self.id = association_id()
        self.state = SimpleNamespace()
        self.calling_ae = self.called_ae = ""
        self.user: Any = None
        self.contexts: dict[int, AcceptedContext] = {}
        self.proposed: list[str] = []
        self.numbers = message_ids()
        self._defer = defer
        self._assembler = Assembler(self._open_sink, self.config.max_command_length)
        self._admitted = False
        self._fetches = False  # whether the peer was offered to be an SCU, as for a C-GET
        self._idle = False  # no request is being answered, but those of other threads
        self._messages: deque[Message] = deque()
        self._cancelled: set[int] = set()
        # Several threads share it where operations overlap; one of them reads.
        self._reader = 0
        self._arrived = threading.Condition()

    @classmethod
    def accept(cls, sock: socket.socket, app: BaseApp, **options: Any) -> Association:
        """Negotiate an association on a socket that a peer has connected to.

        Parameters
        ----------
        sock : socket.socket
            It belongs to the association from now on.
        app : App
            Whose routes say what is accepted.
        **options
            As the settings of `pacsroute.Server`.

        Raises
        ------
        AssociationRejected, AssociationAborted
            If there is none; the socket is closed then.
        """
        check_own(options)
        sock.setblocking(True)
        try:
            host = str(sock.getpeername()[0])
        except (OSError, IndexError):
            host = ""  # not a TCP socket, or the peer is gone already
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
        **options: Any,
    ) -> Association:
        """Ask a peer for an association.

        Parameters
        ----------
        peer : Peer
            Where it listens.
        request : AssociateRQ
            What is proposed; see `pacsroute.upper_layer.negotiation.propose`.
        app : App
            Which answers what the peer asks in return.
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
        except (OSError, UnicodeError) as error:  # the latter for what can be no host name
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AssociationAborted(
                None, message=f"{who} cannot be reached ({why}): is it on, and the port right?"
            ) from None
        sock.settimeout(None)
        association = cls(sock, app, peer.host, role="requestor", tls=context, config=config)
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
            self._secure(deadline)
        except (OSError, ValueError) as error:  # the latter for what can be no host name
            raise AssociationAborted(
                None, message=f"{who} does not speak TLS as we do: {explain(error)}"
            ) from None
        self._observe()
        self._fetches = bool(request.user_information.roles)
        self._connection.associate(request)
        self._connection.transport_connected()
        self._write_out()
        while (answer := self._connection.next_event()) is None:
            self._write_out()
            if self._connection.state != "Sta5":
                raise AssociationAborted(2, message=f"{who}: {self._connection.error}")
            if not self._read_before(deadline):
                closed = self._connection.transport_closed() is not None
                lost = closed and time.monotonic() < deadline
                how = "closed the connection" if lost else "did not answer in time"
                if isinstance(self._lost, ssl.SSLError):  # TLS 1.3 refuses certificates late
                    how += f": {explain(self._lost)}"
                elif lost and self._tls is None:
                    how += ": does it want TLS?"
                raise AssociationAborted(None, message=f"{who} {how}")
        if isinstance(answer, AssociateRJ):
            raise AssociationRejected(*answer, f"{who} rejected: {why(answer, request)}")
        if not isinstance(answer, AssociateAC):
            self._write_out()
            raise AssociationAborted(
                getattr(answer, "source", None), message=f"{who} aborted the request"
            )
        length = answer.user_information.maximum_length
        if length and length < SMALLEST_MAXIMUM_LENGTH:
            self._abort_for(
                ProtocolError(f"{who}: a maximum length of {length}", INVALID_PARAMETER)
            )
        self._peer_limit(answer.user_information)
        self.contexts = agreed(request, answer)

    def _peer_limit(self, user: UserInformation) -> None:
        self._peer_maximum = 16_384 if user.maximum_length is None else user.maximum_length

    @property
    def patience(self) -> float:
        """Seconds in which the peer has to answer a request of ours."""
        return self.config.idle_timeout

    def connect(self, peer: Peer, request: AssociateRQ) -> Association:
        """Ask another peer for an association, for the same app and with the same patience."""
        return type(self).request(
            peer,
            request,
            self.app,
            artim=self.config.artim,
            idle_timeout=min(self.config.idle_timeout, RESPONSE_TIMEOUT),
            network_timeout=self.config.network_timeout,
        )

    def defer(self, function: Callable[[], object]) -> None:
        """Have something done after what was sent: at once, where no server is around."""
        if self._defer is None:
            function()
        else:
            self._defer(function)

    def __enter__(self) -> Association:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ended is None:
            self.abort(2 if kind else 0)
        self.close()

    def negotiate(self, refuse: Callable[[str], AssociateRJ | None] | None = None) -> None:
        """Answer the peer's request for an association.

        Parameters
        ----------
        refuse : callable, optional
            Called with the calling AE title; what it returns is the answer.
        """
        deadline = time.monotonic() + self.config.artim
        try:
            self._secure(deadline)
        except OSError as error:
            raise AssociationAborted(None, message=f"TLS failed: {explain(error)}") from None
        self._observe()
        request = self._wait_request(deadline)
        self.calling_ae, self.called_ae = request.calling_ae, request.called_ae
        answer: Any = None if refuse is None else refuse(request.calling_ae)
        try:
            answer = answer or admit(self.app, self, request)
        except ProtocolError as error:
            self._abort_for(error)
        except BaseException:
            # What a hook raises is logged above; the peer may try again.
            self._reject(AssociateRJ(2, 2, 1))
            raise
        if isinstance(answer, AssociateRJ):
            self._reject(answer)
            raise AssociationRejected(*answer)
        self._admitted = True
        self.app.observer.accepted(self)
        self.proposed = [context.abstract_syntax for context in request.contexts]
        self._peer_limit(request.user_information)
        window = answer.user_information.asynchronous_operations
        self.window = 1 if window is None else window[0]
        self._connection.accept(answer)
        self._write_out()

    def _reject(self, answer: AssociateRJ) -> None:
        self.app.observer.rejected(self, answer)
        self._connection.reject(answer)
        self._write_out()

    def _observe(self) -> None:
        """Have the app's taps see the bytes; without any, nothing stands between."""
        if self.app.taps and not isinstance(self._socket, TappedSocket):
            self._socket = TappedSocket(self._socket, self.role, self.app.taps)

    def _wait_request(self, deadline: float) -> AssociateRQ:
        while True:
            event = self._connection.next_event()
            if isinstance(event, AssociateRQ):
                return event
            self._write_out()
            if self._connection.state != "Sta2":
                why = self._connection.error
                raise AssociationAborted(2, message=str(why or "the peer gave up"))
            if not self._read_before(deadline):
                self._connection.artim_expired()
                raise AssociationAborted(None, message="no association request came")

    # ------------------------------------------------------------- receiving

    def receive(self, response_to: int | None = None) -> Message:
        """Return the next message, waiting for it.

        Parameters
        ----------
        response_to : int, optional
            The Message ID of a request of ours, for its next response. Other messages
            wait.

        Raises
        ------
        AssociationReleased, AssociationAborted
            If the association has ended instead.
        """
        if response_to is None:
            self._room = None  # many associations wait for their next request
            self._idle = True
        if self.window > 1:
            return self._receive_shared(response_to)
        if response_to is None:
            while not self._messages:
                self._go_on()
            self._idle = False
            return self._messages.popleft()
        while (message := self._response(response_to)) is None:
            self._go_on()
        return message

    def answered(self, message_id: int) -> Message | None:
        """Return the response to a request of ours; None if the peer asks for something first.

        Parameters
        ----------
        message_id : int
            The Message ID of the request.

        Raises
        ------
        AssociationReleased, AssociationAborted
            If the association has ended instead.
        """
        if self.window > 1:  # what the peer asks for meanwhile is not kept waiting
            return self._receive_shared(message_id)
        while not self._messages:
            self._go_on()
        return self._response(message_id)

    def _go_on(self) -> None:
        """Take what has come; wait for more where nothing has."""
        if self._ended is not None:
            raise self._ended
        event = self._connection.next_event()
        if event is None:
            self._read()
            event = self._connection.next_event()
        while event is not None:
            self._take(event)
            event = None if self._messages else self._connection.next_event()

    def _response(self, message_id: int) -> Message | None:
        """Take the response to a request of ours from the messages that wait."""
        for message in self._messages:
            command = message.command
            if isinstance(command, Response) and command.message_id_responded_to == message_id:
                self._messages.remove(message)
                return message
        return None

    def _request(self) -> Message | None:
        """Take the next request from the messages that wait."""
        for message in self._messages:
            if not isinstance(message.command, Response):
                self._messages.remove(message)
                return message
        return None

    def _receive_shared(self, response_to: int | None) -> Message:
        """Receive where operations overlap: one thread reads for all of them."""
        if response_to is not None and threading.get_ident() != self._reader:
            with self._arrived:
                found = self._arrived.wait_for(
                    lambda: self._response(response_to) or self._ended, self.patience
                )
            if isinstance(found, Message):
                return found
            raise self._ended or AssociationAborted(None, message="no response came")
        self._reader = threading.get_ident()
        while True:
            with self._arrived:
                found = self._request() if response_to is None else self._response(response_to)
                if found is not None:
                    if response_to is None:
                        self._unanswered.add(getattr(found.command, "message_id", 0))
                    return found
                self._arrived.notify_all()
            if self._ended is not None:
                raise self._ended
            event = self._connection.next_event()
            if event is None:
                self._read()
            else:
                with self._arrived:
                    self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, PDataTF):
            try:
                for pdv in event.pdvs:
                    if pdv.context_id not in self.contexts:
                        raise ProtocolError(
                            f"a PDV on context {pdv.context_id}, which was not accepted",
                            UNEXPECTED_PARAMETER,
                        )
                    for message in self._assembler.add(pdv):
                        self._begun = 0.0
                        self._add(message)
            except ProtocolError as error:
                self._abort_for(error)
        elif isinstance(event, ReleaseRQ):
            if self._idle and not self._unanswered:
                self.vacate()  # the peer may associate anew as soon as it has the response
            self._connection.respond_release()
            self._write_end()
            self._ended = AssociationReleased("the peer released the association")
        elif isinstance(event, Abort):
            why = self._connection.error
            self._write_end()
            self._end(AssociationAborted(event.source, event.reason, str(why or "")))
        elif isinstance(event, TransportClosed):
            self._end(AssociationAborted(None, message="the connection was lost"))

    def _add(self, message: Message) -> None:
        """Have a message wait for who receives it; a cancel is for whoever asks for it."""
        command = message.command
        if isinstance(command, CCancelRQ):
            self._cancelled.add(command.message_id_responded_to)
            return
        if self._cancelled:
            # A cancel that came too late is not for a request of the same ID.
            self._cancelled.discard(getattr(command, "message_id", -1))
        self._messages.append(message)
        if len(self._messages) > _UNANSWERED + self.window:
            raise ProtocolError("more messages than anybody waits for")

    def cancelled(self, message_id: int) -> bool:
        """Tell whether the peer has cancelled a request, or is gone; never waits.

        It looks at what one read brings, and at nothing while several requests wait: a
        peer that sends more than it has answers for is left to its own buffers.
        """
        if self.window > 1 and threading.get_ident() != self._reader:
            return self._ended is not None or message_id in self._cancelled
        looked = False
        while self._ended is None and len(self._messages) < _WAITING:
            event = self._connection.next_event()
            if event is not None:
                self._take(event)
                continue
            if looked:
                break
            looked = True
            try:
                count = self._socket.recv_into(self._connection.get_buffer(), 0, transport.DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                count = 0
            if count:
                self._connection.buffer_updated(count)
            else:
                self._closed()
        return self._ended is not None or message_id in self._cancelled

    def _in_message(self) -> bool:
        return self._connection.partial or self._assembler.partial

    def _open_sink(self, context_id: int, command: Command) -> Any:
        if self.role == "acceptor":
            expected = is_expected(self.app, self, context_id, command)
        else:
            # Not by the roles agreed on: some that send for a C-GET do not answer them.
            expected = self._fetches or not isinstance(command, CStoreRQ)
        if not expected:
            return Memory(0)
        return open_sink(self.app, self, context_id, command)

    # ------------------------------------------------------------- ending

    def _end(self, how: AssociationAborted) -> None:
        super()._end(how)
        with self._arrived:  # who waits for a response may have looked a moment ago
            self._arrived.notify_all()

    def close(self) -> None:
        """Tell the hooks, and close the socket as soon as the peer has closed its side."""
        if self._admitted:
            self._admitted = False
            lost = self._ended if isinstance(self._ended, AssociationAborted) else None
            left(self.app, self, lost)
            self.app.observer.ended(self, lost)
        super().close()
        self._assembler.close()
        self._messages.clear()

    def dispose(self) -> None:
        """Close it, once nobody wants to know any more how it ended."""
        self.close()
        if self._ended is not None:
            let_go(self._ended)
