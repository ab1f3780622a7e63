"""A socket and the upper-layer connection over it: bytes in and out, deadlines, TLS, the end."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

from pacsroute.config import Config
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    AssociationReleased,
    ProtocolError,
    let_go,
)
from pacsroute.net import transport
from pacsroute.net.at_work import ASSOCIATIONS
from pacsroute.net.pace import Pace
from pacsroute.net.tapped import TappedSocket
from pacsroute.net.tls_socket import TLSSocket
from pacsroute.tls import HANDSHAKE, explain
from pacsroute.upper_layer.connection import Connection
from pacsroute.upper_layer.pdu import Abort, ReleaseRP, ReleaseRQ
from pacsroute.upper_layer.tap import TapFactory

_SMALL_READ = 16_384
_SOON = transport.SOON
_CROWDED = 0.1  # seconds without polling after other programs needed the CPU
_yield_cpu = transport.yield_cpu
_AFTER_ABORT = 1.0  # seconds that a peer has to close after our A-ABORT
_FOR_OTHERS = 0.5  # seconds for another thread to finish sending


def _never() -> bool:
    return False


class NothingCame(AssociationAborted):
    """The peer has closed the connection before it sent a byte, as health checks do."""


class Channel:
    """A socket, the upper-layer connection over it, and how it ended.

    One thread at a time reads and takes the connection's events. Any thread may send while it holds
    `sending`, and any thread may end the channel; `ended` is set once.

    Parameters
    ----------
    sock : socket.socket
        The socket; the channel owns it from now on.
    config : Config
        The limits and timeouts.
    role : {"acceptor", "requestor"}
        Whether this side requests the association or accepts it.
    remote_address : str
        The peer's host.
    tls : ssl.SSLContext, optional
        The TLS context.
    alone : callable, optional
        Returns whether no other association needs the CPU; if so, the thread polls briefly for a
        quick peer instead of sleeping.
    on_end : callable, optional
        Called once, by the thread that ends the channel.

    Attributes
    ----------
    coming : Pace
        The minimum rate of an incoming message; the reading thread uses it and restarts it for each
        message.
    connection : Connection
        The upper layer.
    ended : AssociationError or None
        How the association ended.
    lost : OSError or None
        The error of the socket when the peer was lost during negotiation.
    peer_certificate : dict or None
        The result of `ssl.SSLSocket.getpeercert`.
    read_at : float
        The time of the last read, by `time.monotonic`; one that found nothing counts.
    sending : threading.RLock
        Held by the thread that sends.
    """

    def __init__(
        self,
        sock: socket.socket,
        config: Config,
        *,
        role: Literal["acceptor", "requestor"] = "acceptor",
        remote_address: str = "",
        tls: ssl.SSLContext | None = None,
        alone: Callable[[], bool] | None = None,
        on_end: Callable[[], object] | None = None,
    ) -> None:
        self.config = config
        self.role = role
        self.remote_address = remote_address
        self.peer_certificate: dict[str, Any] | None = None
        self.connection = Connection(
            role,
            maximum_length=config.maximum_length,
            maximum_associate_length=config.max_associate_length,
        )
        self.ended: AssociationError | None = None
        self.lost: OSError | None = None
        self.read_at = 0.0
        self.sending = threading.RLock()
        self.coming = self._pace()
        self._tls = tls
        self._alone = alone or _never
        self._on_end = on_end
        # `idle_timeout` is a whole number of ticks, because it is counted in ticks.
        shortest = min(config.artim, config.network_timeout, config.idle_timeout)
        self._tick = config.idle_timeout / math.ceil(config.idle_timeout / shortest)
        self._quick, self._small = True, False
        self._crowded = 0.0  # the time until which polling is off
        self._stopping = False
        self._halfway = False  # part of a PDU was sent, and the rest was not
        self._socket: transport.Socket = sock
        transport.set_up(sock, self._tick, config.network_timeout)
        if isinstance(sock, ssl.SSLSocket):
            self._socket = TLSSocket(sock, self._tick, config.network_timeout)
            self.peer_certificate = self._socket.peer_certificate()

    def _pace(self) -> Pace:
        return Pace(self.config.network_timeout, self.config.min_rate)

    @property
    def secured(self) -> bool:
        """Whether the connection uses TLS."""
        return self._tls is not None

    def secure(self, deadline: float) -> None:
        """Complete the TLS handshake before a deadline, if the port uses TLS.

        Raises
        ------
        NothingCame
            If the peer has already gone.
        OSError
            If the peer does not speak TLS.
        """
        sock = self._socket
        if self._tls is None or not isinstance(sock, socket.socket):
            return
        acceptor = self.role == "acceptor"
        if acceptor:
            # Report bytes that are not TLS plainly, instead of with OpenSSL's message.
            if not transport.readable(sock, deadline - time.monotonic()):
                raise TimeoutError("nothing received")
            try:
                first = sock.recv(1, socket.MSG_PEEK)
            except ConnectionError:
                first = b""
            if not first:
                raise NothingCame(
                    None, message="the peer closed the connection without sending a byte"
                )
            if first[0] != HANDSHAKE:
                raise ConnectionError("the peer is not speaking TLS, which this port requires")
        wrapped = self._tls.wrap_socket(
            sock,
            server_side=acceptor,
            server_hostname=None if acceptor else self.remote_address,
            do_handshake_on_connect=False,
        )
        self._socket = TLSSocket(wrapped, self._tick, self.config.network_timeout)
        if self._stopping:  # `stop` shut down the previous socket
            raise ConnectionError("the server stops")
        try:
            self.peer_certificate = self._socket.handshake(deadline - time.monotonic())
        except BlockingIOError:
            raise TimeoutError(f"the handshake took {self.config.artim:g} s") from None

    def observe(self, taps: Sequence[TapFactory]) -> None:
        """Show the bytes to taps; without taps, the socket is not wrapped."""
        if taps and not isinstance(self._socket, TappedSocket):
            self._socket = TappedSocket(self._socket, self.role, taps)

    @property
    def recording(self) -> str:
        """The file that the bytes are recorded in; empty if they are not."""
        return self._socket.recording if isinstance(self._socket, TappedSocket) else ""

    # ------------------------------------------------------------- receiving

    def read(self, size: int | None = None) -> None:
        """Wait for bytes from the peer.

        Parameters
        ----------
        size : int, optional
            The bytes received so far of an incomplete message, without those of an incomplete PDU;
            None between messages.
        """
        silent = 0.0
        in_message = size is not None or self.connection.partial > 0
        if in_message:
            self._keep_up(size or 0)
            if self.ended is not None:
                return
        while True:
            try:
                count = self._receive()
            except BlockingIOError:
                if self.ended is not None:  # another thread ended it, and the peer does not close
                    return
                silent += self._tick
                if silent >= self.config.network_timeout and in_message:
                    self.give_up("nothing received in the middle of a message")
                    return
                if silent >= self.config.idle_timeout:
                    self.give_up(f"no message received for {self.config.idle_timeout:g} s")
                    return
                continue
            except OSError:
                count = 0
            if count == 0:
                self._closed()
                return
            ASSOCIATIONS.seen = True
            self.read_at = time.monotonic()
            self.connection.buffer_updated(count)
            self._small = count < _SMALL_READ
            return

    def _keep_up(self, size: int) -> None:
        """Bound the wait in the middle of a message, and acknowledge early.

        A peer with Nagle's algorithm on, such as DCMTK's tools at their defaults, waits for our
        acknowledgment of a small piece before it sends the rest. Acknowledging at once instead of
        after 40 ms raises the rate from 22 to 1,000 instances of 40 KB a second. Reads in a bulk
        transfer are larger, and do not need it.
        """
        if self.coming.is_too_slow(size + self.connection.partial):
            self.give_up(f"a message did not arrive in time: {self.coming}")
        elif self._small and transport.QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, transport.QUICKACK, 1)

    def _receive(self, flags: int = 0) -> int:
        """Read into the connection's buffer; BlockingIOError without bytes."""
        room = self.connection.get_buffer()
        started = time.perf_counter()
        if self._quick and started > self._crowded and self._alone():
            count = self._soon(room, started + _SOON)
            if count >= 0:
                return count
            started = time.perf_counter()
        count = self._socket.recv_into(room, 0, flags)
        self._quick = time.perf_counter() - started < _SOON
        return count

    def _soon(self, room: memoryview, deadline: float) -> int:
        """Poll for bytes and read them; return -1 if the thread should sleep instead.

        Sleeping and waking up costs more than most messages. So the thread polls briefly for a peer
        that was quick before, if this is the only association: on one machine, that gives 1.6 times
        as many echoes and 1.15 times as many instances of 40 KB a second. A peer across a network,
        or one that reads from a disk in between, is not that quick; finding out costs a tenth of a
        millisecond.

        If other programs need the CPU, yielding to them takes milliseconds, while a sleeping thread
        is woken before them. So polling stops: 3 times as many echoes on a busy machine.
        """
        while True:
            try:
                return self._socket.recv_into(room, 0, transport.DONTWAIT)
            except BlockingIOError:
                before = time.perf_counter()
                if before > deadline:
                    self._quick = False
                    return -1
                _yield_cpu()
                after = time.perf_counter()
                if after - before > _SOON:
                    self._crowded = after + _CROWDED

    def read_now(self) -> bool:
        """Read available bytes without waiting; return whether there were any, or the end."""
        self.read_at = time.monotonic()
        try:
            count = self._socket.recv_into(self.connection.get_buffer(), 0, transport.DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            count = 0
        if count:
            ASSOCIATIONS.seen = True
            self.connection.buffer_updated(count)
        else:
            self._closed()
        return True

    def read_before(self, deadline: float) -> bool:
        """Read bytes before a deadline; return whether any came."""
        while (left := deadline - time.monotonic()) > 0:
            flags = 0
            # A read times out after a tick, which is precise enough for most deadlines.
            if left < 0.9 * self._tick:
                if not transport.readable(self._socket, left):
                    return False
                flags = transport.DONTWAIT
            try:
                count = self._receive(flags)
            except BlockingIOError:
                continue  # nothing, or an incomplete TLS record
            except OSError as error:
                let_go(error)
                self.lost = error
                count = 0
            self.connection.buffer_updated(count)
            return count > 0
        return False

    def _closed(self) -> None:
        if self._stopping:
            self.give_up("stopped by this side")
        else:
            self.connection.transport_closed()
            self.end(AssociationAborted(None, message="the connection was lost"))

    # ------------------------------------------------------------- sending

    def write_out(self) -> None:
        """Send the connection's bytes; the caller holds `sending`.

        During negotiation no other thread knows the channel, and nobody needs it.

        Raises
        ------
        AssociationAborted
            If the peer does not read the bytes, or reads them too slowly.
        """
        buffers = self.connection.data_to_send()
        if not buffers:
            return
        try:
            self._halfway = True  # stays set if a KeyboardInterrupt ends it
            transport.send_all(self._socket, buffers, self._pace)
            self._halfway = False
        except OSError as error:
            self.end(AssociationAborted(None, message=f"sending failed: {explain(error)}"))
            self.connection.transport_closed()
            assert self.ended is not None
            raise self.ended from None

    def send_now(self, data: bytes) -> int:
        """Send as much of whole PDUs as possible without waiting; return the number of bytes sent.

        The caller holds `sending`, and sends the rest before anything else.
        """
        sent = self._socket.send(data, transport.DONTWAIT)
        self._halfway = sent < len(data)
        return sent

    def _write_end(self) -> None:
        """Send the PDU that ends the association; in the middle of another PDU, cut the connection.

        The peer would take it for part of that PDU, and perhaps store it.
        """
        if self.sending.acquire(timeout=_FOR_OTHERS):
            try:
                if not self._halfway:
                    self.write_out()
                    return
            finally:
                self.sending.release()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------- ending

    def end(self, how: AssociationError) -> None:
        """Record the end; the first record counts."""
        if self.ended is None:
            self.ended = how
            if self._on_end is not None:
                self._on_end()

    def release(self) -> None:
        """Release the association (PS3.8 §7.2); the caller then closes the channel."""
        if self.ended is not None:
            return
        self.end(AssociationReleased("released by this side"))
        deadline = time.monotonic() + self.config.artim
        with contextlib.suppress(AssociationError):
            self.connection.release()
            self.write_out()
            while self.connection.state not in ("Sta1", "Sta13"):
                event = self.connection.next_event()
                if isinstance(event, ReleaseRQ | ReleaseRP):
                    # Both sides release at the same time: the requestor answers first (Sta9,
                    # Sta12).
                    if self.connection.state in ("Sta9", "Sta12"):
                        self.connection.respond_release()
                        self.write_out()
                elif event is None and not self.read_before(deadline):
                    break

    def respond_release(self) -> None:
        """Answer the peer's request to release (PS3.8 §7.2)."""
        self.connection.respond_release()
        self._write_end()
        self.end(AssociationReleased("the peer released the association"))

    def aborted(self, abort: Abort) -> None:
        """Handle an A-ABORT: the peer's, or the connection's own for a violation."""
        why = self.connection.error
        self._write_end()
        self.end(AssociationAborted(abort.source, abort.reason, str(why or "")))

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """End the association at once (PS3.8 §7.3)."""
        self._abort_with(AssociationAborted(source, reason, "aborted by this side"))

    def abort_for(self, error: ProtocolError) -> NoReturn:
        """End the association for a violation by the peer, and raise the resulting error."""
        self.end(AssociationAborted(2, error.reason, str(error)))
        self.connection.abort(2, error.reason)
        self._write_end()
        assert self.ended is not None
        raise self.ended

    def give_up(self, why: str) -> None:
        """End the association for a reason that is logged."""
        self._abort_with(AssociationAborted(0, message=why))

    def _abort_with(self, how: AssociationAborted) -> None:
        if self.ended is None:
            self.end(how)
            with contextlib.suppress(AssociationError):
                self.connection.abort(how.source or 0, how.reason)
                self._write_end()

    def stop(self) -> None:
        """Make the reading thread abort the association; called from another thread."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket once the peer has closed its side, or ARTIM expires.

        Closing first could discard data that is still being sent (PS3.8 §9.2.1, Sta13).
        """
        if self.connection.state == "Sta13" and not self._stopping:
            # A requestor that aborts does not wait.
            in_a_hurry = self.role == "requestor" and self.ended is not None
            patience = min(self.config.artim, _AFTER_ABORT) if in_a_hurry else self.config.artim
            deadline = time.monotonic() + patience
            with contextlib.suppress(AssociationError):
                while self.connection.state == "Sta13" and self.read_before(deadline):
                    self.connection.next_event()
                    self.write_out()
        with self.sending, contextlib.suppress(OSError):  # not while another thread sends
            self._socket.close()
