"""An association over a socket: the blocking shell around the upper layer and DIMSE."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pacsroute.app import App
from pacsroute.dimse.commands import CCancelRQ, Command
from pacsroute.dimse.messages import Assembler, Message, fragment
from pacsroute.dispatcher import open_sink
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    ProtocolError,
)
from pacsroute.net.flusher import flusher
from pacsroute.upper_layer.connection import Connection, Event, TransportClosed
from pacsroute.upper_layer.negotiation import AcceptedContext, negotiate
from pacsroute.upper_layer.pdu import (
    UNEXPECTED_PARAMETER,
    Abort,
    AssociateRJ,
    AssociateRQ,
    Buffer,
    PDataTF,
    ReleaseRQ,
    UserInformation,
)

logger = logging.getLogger("pacsroute")

ARTIM = 30.0
"""Seconds that a peer has for its association request, and for closing after the end."""

IDLE_TIMEOUT = 900.0
"""Seconds that an association may be without a message; modalities wait for many minutes."""

NETWORK_TIMEOUT = 60.0
"""Seconds without a byte in the middle of a message, or without one taken when we send."""

_HELD_BACK = 65_536  # bytes of answers that are sent together at the most
_SMALL_READ = 16_384
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux has it
_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Association:
    """An association with a peer, as acceptor.

    `accept` makes one; `receive`, `send`, `cancelled`, `release` and `abort` are for a
    `pacsroute.Dispatcher`, or for those who write their own.

    Attributes
    ----------
    calling_ae, called_ae : str
        The AE titles, as negotiated.
    remote_address : str
        The peer's host.
    contexts : dict of int to AcceptedContext
        The presentation contexts that were accepted.
    """

    def __init__(
        self,
        sock: socket.socket,
        app: App,
        remote_address: str = "",
        *,
        artim: float = ARTIM,
        idle_timeout: float = IDLE_TIMEOUT,
        network_timeout: float = NETWORK_TIMEOUT,
        defer: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        self.app = app
        self.calling_ae = self.called_ae = ""
        self.user: Any = None
        self.contexts: dict[int, AcceptedContext] = {}
        self._socket = sock
        self.remote_address = remote_address
        self._artim = artim
        self._idle_timeout = idle_timeout
        self._network_timeout = network_timeout
        self._tick = min(artim, network_timeout, idle_timeout)
        self._defer = defer
        self._connection = Connection("acceptor", maximum_length=app.maximum_length)
        self._peer_maximum = 0
        self._assembler = Assembler(self._open_sink)
        self._messages: deque[Message] = deque()
        self._cancelled: set[int] = set()
        self._ended: AssociationError | None = None
        self._stopping = False
        self._lock = threading.Lock()
        self._held: list[Buffer] = []
        self._held_size = 0
        self._holding = False
        with contextlib.suppress(OSError):  # not a TCP socket, or the peer is gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            # As socket options they cost nothing for each call, which settimeout does.
            _set_timeout(sock, socket.SO_RCVTIMEO, self._tick)
            _set_timeout(sock, socket.SO_SNDTIMEO, network_timeout)

    @classmethod
    def accept(cls, sock: socket.socket, app: App, **options: Any) -> Association:
        """Negotiate an association on a socket that a peer has connected to.

        Parameters
        ----------
        sock : socket.socket
            It belongs to the association from now on.
        app : App
            Whose routes say what is accepted.
        **options
            `artim`, `idle_timeout` and `network_timeout`, in seconds.

        Raises
        ------
        AssociationRejected, AssociationAborted
            If there is none; the socket is closed then.
        """
        sock.setblocking(True)
        try:
            host = str(sock.getpeername()[0])
        except (OSError, IndexError):
            host = ""  # not a TCP socket, or the peer is gone already
        association = cls(sock, app, host, **options)
        try:
            association.negotiate()
        except AssociationError:
            association.close()
            raise
        return association

    def __enter__(self) -> Association:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ended is None:
            self.abort(2 if kind else 0)
        self.close()

    def negotiate(self, refusal: AssociateRJ | None = None) -> None:
        """Answer the peer's request for an association, with a refusal if one is given."""
        request = self._wait_request()
        self.calling_ae, self.called_ae = request.calling_ae, request.called_ae
        answer: Any = refusal
        if answer is None:
            try:
                answer, self.contexts = negotiate(
                    request, self.app.policy(request.calling_ae), self.app.maximum_length
                )
            except ProtocolError as error:
                self._abort_for(error)
        if isinstance(answer, AssociateRJ):
            self._connection.reject(answer)
            self._write_out()
            raise AssociationRejected(*answer)
        user: UserInformation = request.user_information
        self._peer_maximum = 16_384 if user.maximum_length is None else user.maximum_length
        self._connection.accept(answer)
        self._write_out()

    def _wait_request(self) -> AssociateRQ:
        deadline = time.monotonic() + self._artim
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

    def receive(self) -> Message:
        """Return the next message, waiting for it.

        Raises
        ------
        AssociationReleased, AssociationAborted
            If the association has ended instead.
        """
        while not self._messages:
            if self._ended is not None:
                raise self._ended
            event = self._connection.next_event()
            if event is None:
                self._read()
            else:
                self._take(event)
        return self._messages.popleft()

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
                        if isinstance(message.command, CCancelRQ):
                            self._cancelled.add(message.command.message_id_responded_to)
                        else:
                            # A cancel that came too late is not for a request of the same ID.
                            self._cancelled.discard(getattr(message.command, "message_id", -1))
                            self._messages.append(message)
            except ProtocolError as error:
                self._abort_for(error)
        elif isinstance(event, ReleaseRQ):
            self._connection.respond_release()
            self._write_out()
            self._ended = AssociationReleased("the peer released the association")
        elif isinstance(event, Abort):
            why = self._connection.error
            self._write_out()
            self._end(AssociationAborted(event.source, event.reason, str(why or "")))
        elif isinstance(event, TransportClosed):
            self._end(AssociationAborted(None, message="the connection was lost"))

    def _read(self) -> None:
        """Wait for bytes of the peer."""
        silent = 0.0
        while True:
            try:
                count = self._socket.recv_into(self._connection.get_buffer())
            except BlockingIOError:
                silent += self._tick
                if silent >= self._network_timeout and (
                    self._connection.partial or self._assembler.partial
                ):
                    self._give_up("nothing came in the middle of a message")
                    return
                if silent >= self._idle_timeout:
                    self._give_up("the association was idle for too long")
                    return
                continue
            except OSError:
                count = 0
            if count == 0:
                self._closed()
                return
            self._connection.buffer_updated(count)
            if count < _SMALL_READ and self._assembler.partial and _QUICKACK is not None:
                # A peer with Nagle's algorithm on waits for our acknowledgment before it
                # sends the rest of its message: 40 ms, unless it goes at once. In the
                # middle of a bulk transfer reads are larger, and it would only cost.
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            return

    def _closed(self) -> None:
        if self._stopping:
            self._give_up("the server stops")
        else:
            self._take(self._connection.transport_closed() or TransportClosed())

    def _read_before(self, deadline: float) -> bool:
        """Read what comes before a deadline; tell whether anything did."""
        left = deadline - time.monotonic()
        # A read ends by itself after a tick, which is near enough for most deadlines.
        if left <= 0 or (left < 0.9 * self._tick and not _readable(self._socket, left)):
            return False
        try:
            count = self._socket.recv_into(self._connection.get_buffer())
        except OSError:
            count = 0
        self._connection.buffer_updated(count)
        return count > 0

    def cancelled(self, message_id: int) -> bool:
        """Tell whether the peer has cancelled a request, or is gone; never waits."""
        while self._ended is None:
            event = self._connection.next_event()
            if event is not None:
                self._take(event)
                continue
            try:
                count = self._socket.recv_into(self._connection.get_buffer(), 0, _DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                count = 0
            if count:
                self._connection.buffer_updated(count)
            else:
                self._closed()
        return self._ended is not None or message_id in self._cancelled

    def ended(self) -> AssociationAborted | None:
        """Return how the association has ended, if it has."""
        if self._ended is None or isinstance(self._ended, AssociationAborted):
            return self._ended
        return AssociationAborted(None, message=str(self._ended))

    def _open_sink(self, context_id: int, command: Command) -> Any:
        return open_sink(self.app, self, context_id, command)

    # ------------------------------------------------------------- sending

    def send(
        self, context_id: int, command: Command, data: bytes | None = None, *, more: bool = False
    ) -> None:
        """Send a message.

        Parameters
        ----------
        context_id : int
            Of an accepted presentation context.
        command : Command
            The command set.
        data : bytes, optional
            The data set, in the context's transfer syntax.
        more : bool
            Whether others follow at once. The message may wait for them then, up to 50 ms.

        Raises
        ------
        AssociationAborted, AssociationReleased
            If the association has ended.
        """
        if self._ended is not None:
            raise self._ended
        buffers = fragment(context_id, command, data, self._peer_maximum)
        if not (more or self._holding):  # the lock is for answers that are held back
            self._connection.send_data(buffers)
            self._write_out()
            return
        with self._lock:
            self._held += buffers
            if more:
                self._held_size += sum(map(len, buffers))
                if not self._holding:
                    self._holding = True
                    flusher.add(self)
                if self._held_size < _HELD_BACK:
                    return
            else:
                self._holding = False
                flusher.remove(self)
            self._flush()

    def _flush(self) -> None:
        """Send what is held back; the lock is ours."""
        self._connection.send_data(self._held)
        self._held, self._held_size = [], 0
        self._write_out()

    def flush_waiting(self) -> None:
        """Send answers that wait for a slow handler, as far as that needs no waiting."""
        if not self._lock.acquire(blocking=False):
            return  # the association's own thread is sending
        try:
            if self._held and self._ended is None:
                data = b"".join(self._held)
                sent = self._socket.send(data, _DONTWAIT)
                self._held = [data[sent:]] if sent < len(data) else []
                self._held_size = len(data) - sent
        except OSError:
            pass  # the association's own thread meets it too, and knows what to do
        finally:
            self._lock.release()

    def _write_out(self) -> None:
        buffers = self._connection.data_to_send()
        try:
            if len(buffers) == 1:
                self._socket.sendall(buffers[0])
            elif buffers:
                _send_all(self._socket, buffers)
        except OSError as error:
            self._end(AssociationAborted(None, message=f"sending failed: {error.strerror}"))
            self._connection.transport_closed()
            assert self._ended is not None
            raise self._ended from None

    def defer(self, function: Callable[[], object]) -> None:
        """Have something done after what was sent: at once, where no server is around."""
        if self._defer is None:
            function()
        else:
            self._defer(function)

    # ------------------------------------------------------------- ending

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """End the association at once (PS3.8 §7.3)."""
        if self._ended is None:
            self._end(AssociationAborted(source, reason, "aborted by this side"))
            with contextlib.suppress(AssociationError):
                self._connection.abort(source, reason)
                self._write_out()

    def _abort_for(self, error: ProtocolError) -> None:
        self._end(AssociationAborted(2, error.reason, str(error)))
        self._connection.abort(2, error.reason)
        self._write_out()
        assert self._ended is not None
        raise self._ended

    def _give_up(self, why: str) -> None:
        self._end(AssociationAborted(0, message=why))
        with contextlib.suppress(AssociationError):
            self._connection.abort()
            self._write_out()

    def _end(self, how: AssociationAborted) -> None:
        if self._ended is None:
            self._ended = how

    def stop(self) -> None:
        """Have the association aborted by its own thread; called from another one."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket, as soon as the peer has closed its side, or ARTIM ends.

        Closing first could destroy what was sent, on its way (PS3.8 §9.2.1, Sta13).
        """
        if self._holding:
            self._holding = False
            flusher.remove(self)
        if self._connection.state == "Sta13" and not self._stopping:
            deadline = time.monotonic() + self._artim
            with contextlib.suppress(AssociationError):
                while self._read_before(deadline):
                    self._connection.next_event()
                    self._write_out()
        with contextlib.suppress(OSError):
            self._socket.close()


def _set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    if sys.platform == "win32":
        sock.setsockopt(socket.SOL_SOCKET, option, int(seconds * 1000))
    else:
        whole = int(seconds)
        value = struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, option, value)


def _readable(sock: socket.socket, seconds: float) -> bool:
    try:
        if hasattr(select, "poll"):  # unlike select, not limited to 1,024 descriptors
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        return bool(select.select([sock], [], [], seconds)[0])
    except (OSError, ValueError):
        return False


_IOV_MAX = 512


def _send_all(sock: socket.socket, buffers: list[Buffer]) -> None:
    """Send buffers without joining the large ones."""
    if sum(map(len, buffers)) <= 2 * _HELD_BACK:
        sock.sendall(b"".join(buffers))
        return
    waiting = deque(memoryview(buffer) for buffer in buffers)
    while waiting:
        sent = sock.sendmsg([waiting[i] for i in range(min(len(waiting), _IOV_MAX))])
        while waiting and sent >= len(waiting[0]):
            sent -= len(waiting.popleft())
        if sent:
            waiting[0] = waiting[0][sent:]
