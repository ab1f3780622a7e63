"""An upper-layer connection over a socket: bytes in and out, deadlines, TLS, and its end."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from pacsroute.config import Config
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    AssociationReleased,
    ProtocolError,
    let_go,
)
from pacsroute.net import transport
from pacsroute.net.tls_socket import TLSSocket
from pacsroute.tls import HANDSHAKE, explain
from pacsroute.upper_layer.connection import Connection, Event, TransportClosed
from pacsroute.upper_layer.pdu import ReleaseRP, ReleaseRQ

_SMALL_READ = 16_384
_SOON = 100e-6  # seconds that a quick peer is waited for without going to sleep
_yield_cpu = getattr(os, "sched_yield", lambda: None)
_AFTER_ABORT = 1.0  # seconds that a peer has to close after our A-ABORT
_FOR_OTHERS = 0.5  # seconds that another thread has to finish what it sends


class Channel:
    """What an association is made of below its messages.

    Parameters
    ----------
    sock : socket.socket
        It belongs to the channel from now on.
    config : Config
        Whose limits and times hold.
    remote_address : str
        The peer's host.
    role : {"acceptor", "requestor"}
        Who asks for the association.
    tls : ssl.SSLContext, optional
        What to speak TLS with.
    """

    def __init__(
        self,
        sock: socket.socket,
        config: Config,
        remote_address: str,
        role: Literal["acceptor", "requestor"],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.config = config
        self.remote_address = remote_address
        self.peer_certificate: dict[str, Any] | None = None
        self.alone: Callable[[], bool] = lambda: False  # a server knows
        self.vacate: Callable[[], object] = lambda: None  # and has its place back
        self._tls = tls
        self.role = role
        # A whole number of them is `idle_timeout`, which is counted in them.
        shortest = min(config.artim, config.network_timeout, config.idle_timeout)
        self._tick = config.idle_timeout / math.ceil(config.idle_timeout / shortest)
        self._connection = Connection(
            role,
            maximum_length=config.maximum_length,
            maximum_associate_length=config.max_associate_length,
        )
        self._begun = 0.0  # when the message that is coming has begun
        self._quick, self._small = True, False
        self._ended: AssociationError | None = None
        self._stopping = False
        self._lost: OSError | None = None
        self._lock = threading.RLock()  # who sends has it
        self._halfway = False  # a part of a PDU has gone, and its rest has not
        self._socket: transport.Socket = sock
        transport.set_up(sock, self._tick, config.network_timeout)
        if isinstance(sock, ssl.SSLSocket):
            self._socket = TLSSocket(sock, self._tick, config.network_timeout)
            self.peer_certificate = self._socket.peer_certificate()

    def _take(self, event: Event) -> None:
        """Do what an event asks for."""
        raise NotImplementedError

    def _in_message(self) -> bool:
        """Tell whether the beginning of a message waits for its rest."""
        return self._connection.partial

    def _secure(self, deadline: float) -> None:
        """Begin to speak TLS, where that is to be spoken, before a deadline."""
        sock = self._socket
        if self._tls is None or not isinstance(sock, socket.socket):
            return
        acceptor = self.role == "acceptor"
        if acceptor:
            # What is no TLS is said so, and not left to OpenSSL's many words for it.
            if not transport.readable(sock, deadline - time.monotonic()):
                raise TimeoutError("nothing came")
            first = sock.recv(1, socket.MSG_PEEK)
            if not first:
                raise ConnectionError("the peer gave up")
            if first[0] != HANDSHAKE:
                raise ConnectionError("the peer does not speak it, as it has to on this port")
        wrapped = self._tls.wrap_socket(
            sock,
            server_side=acceptor,
            server_hostname=None if acceptor else self.remote_address,
            do_handshake_on_connect=False,
        )
        self._socket = TLSSocket(wrapped, self._tick, self.config.network_timeout)
        if self._stopping:  # it was the socket of before that was shut down
            raise ConnectionError("the server stops")
        try:
            self.peer_certificate = self._socket.handshake(deadline - time.monotonic())
        except BlockingIOError:
            raise TimeoutError(f"the handshake took {self.config.artim:g} s") from None

    # ------------------------------------------------------------- receiving

    def _read(self) -> None:
        """Wait for bytes of the peer."""
        silent = 0.0
        if self._in_message():
            self._keep_up()
            if self._ended is not None:
                return
        while True:
            try:
                count = self._receive()
            except BlockingIOError:
                if self._ended is not None:  # by another thread, and the peer does not close
                    return
                silent += self._tick
                if silent >= self.config.network_timeout and self._in_message():
                    self._give_up("nothing came in the middle of a message")
                    return
                if silent >= self.config.idle_timeout:
                    self._give_up(f"no message came for {self.config.idle_timeout:g} s")
                    return
                continue
            except OSError:
                count = 0
            if count == 0:
                self._closed()
                return
            self._connection.buffer_updated(count)
            self._small = count < _SMALL_READ
            return

    def _keep_up(self) -> None:
        """Do what waiting in the middle of a message asks for: bound it, and hurry the peer.

        A peer with Nagle's algorithm on, such as DCMTK's tools at their defaults, waits for
        our acknowledgment of a small piece before it sends the rest. At once instead of after
        40 ms, that makes 1,000 instances of 40 KB a second out of 22. In the middle of a bulk
        transfer reads are larger, and it would only cost.
        """
        now = time.monotonic()
        self._begun = self._begun or now
        if now - self._begun > self.config.message_timeout:
            self._give_up(f"a message did not come within {self.config.message_timeout:g} s")
        elif self._small and transport.QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, transport.QUICKACK, 1)

    def _receive(self, flags: int = 0) -> int:
        """Read what comes next into the connection's buffer; BlockingIOError if nothing does."""
        room = self._connection.get_buffer()
        if self._quick and self.alone():
            count = self._soon(room)
            if count >= 0:
                return count
        started = time.perf_counter()
        count = self._socket.recv_into(room, 0, flags)
        self._quick = time.perf_counter() - started < _SOON
        return count

    def _soon(self, room: memoryview) -> int:
        """Read what comes at once, or return -1: the thread may as well go to sleep.

        Falling asleep and being woken up costs more than most messages. A peer that has
        been quick is given a moment, if this is the only association: echoes 1.6 times,
        instances of 40 KB 1.15 times as many a second on one machine. A peer across a
        network, or one that reads from a disk in between, is not that quick; finding out
        costs a tenth of a millisecond.
        """
        deadline = time.perf_counter() + _SOON
        while True:
            try:
                return self._socket.recv_into(room, 0, transport.DONTWAIT)
            except BlockingIOError:
                if time.perf_counter() > deadline:
                    self._quick = False
                    return -1
                _yield_cpu()

    def _read_before(self, deadline: float) -> bool:
        """Read what comes before a deadline; tell whether anything did."""
        while (left := deadline - time.monotonic()) > 0:
            flags = 0
            # A read ends by itself after a tick, which is near enough for most deadlines.
            if left < 0.9 * self._tick:
                if not transport.readable(self._socket, left):
                    return False
                flags = transport.DONTWAIT
            try:
                count = self._receive(flags)
            except BlockingIOError:
                continue  # nothing, or less than a record of TLS
            except OSError as error:
                let_go(error)
                self._lost = error
                count = 0
            self._connection.buffer_updated(count)
            return count > 0
        return False

    def _closed(self) -> None:
        if self._stopping:
            self._give_up("stopped by this side")
        else:
            self._take(self._connection.transport_closed() or TransportClosed())

    # ------------------------------------------------------------- sending

    def _write_out(self, deadline: float = 0.0) -> None:
        buffers = self._connection.data_to_send()
        if not buffers:
            return
        try:
            deadline = deadline or time.monotonic() + self.config.message_timeout
            self._halfway = True  # also where a KeyboardInterrupt ends it
            transport.send_all(self._socket, buffers, deadline)
            self._halfway = False
        except OSError as error:
            self._end(AssociationAborted(None, message=f"sending failed: {explain(error)}"))
            self._connection.transport_closed()
            assert self._ended is not None
            raise self._ended from None

    def _write_end(self) -> None:
        """Send what ends the association; cut the connection where it would end up in a PDU.

        In the middle of an instance it would be taken for a part of it, and stored.
        """
        if self._lock.acquire(timeout=_FOR_OTHERS):
            try:
                if not self._halfway:
                    self._write_out()
                    return
            finally:
                self._lock.release()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------- ending

    def ended(self) -> AssociationAborted | None:
        """Return how the association has ended, if it has."""
        if self._ended is None or isinstance(self._ended, AssociationAborted):
            return self._ended
        return AssociationAborted(None, message=str(self._ended))

    def release(self) -> None:
        """Release the association in good order, and close it (PS3.8 §7.2)."""
        if self._ended is None:
            self._ended = AssociationReleased("released by this side")
            deadline = time.monotonic() + self.config.artim
            with contextlib.suppress(AssociationError):
                self._connection.release()
                self._write_out()
                while self._connection.state not in ("Sta1", "Sta13"):
                    event = self._connection.next_event()
                    if isinstance(event, ReleaseRQ | ReleaseRP):
                        # Both sides at the same time: the requestor answers first (Sta9, Sta12).
                        if self._connection.state in ("Sta9", "Sta12"):
                            self._connection.respond_release()
                            self._write_out()
                    elif event is None and not self._read_before(deadline):
                        break
        self.close()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """End the association at once (PS3.8 §7.3)."""
        if self._ended is None:
            self._end(AssociationAborted(source, reason, "aborted by this side"))
            with contextlib.suppress(AssociationError):
                self._connection.abort(source, reason)
                self._write_end()

    def _abort_for(self, error: ProtocolError) -> None:
        self._end(AssociationAborted(2, error.reason, str(error)))
        self._connection.abort(2, error.reason)
        self._write_end()
        assert self._ended is not None
        raise self._ended

    def _give_up(self, why: str) -> None:
        self._end(AssociationAborted(0, message=why))
        with contextlib.suppress(AssociationError):
            self._connection.abort()
            self._write_end()

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
        if self._connection.state == "Sta13" and not self._stopping:
            # Who asked for the association and aborts it is not waiting for anything more.
            in_a_hurry = self.role == "requestor" and self.ended() is not None
            patience = min(self.config.artim, _AFTER_ABORT) if in_a_hurry else self.config.artim
            deadline = time.monotonic() + patience
            with contextlib.suppress(AssociationError):
                while self._connection.state == "Sta13" and self._read_before(deadline):
                    self._connection.next_event()
                    self._write_out()
        with self._lock, contextlib.suppress(OSError):  # not while another thread sends
            self._socket.close()
