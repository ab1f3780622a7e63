"""A TLS connection that behaves like a plain socket with time-outs as options."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from pacsroute.upper_layer.pdu import Buffer

_RECORD = 16_384  # bytes in a TLS record
_LINGER = 1.0  # seconds


class Descriptor(Protocol):
    """An object that can be waited for."""

    def fileno(self) -> int:
        """Return the number of its file descriptor."""


def wait_for(sock: Descriptor, seconds: float, *, writes: bool = False) -> bool:
    """Return whether a socket can be read, or written, within a time in seconds."""
    try:
        if hasattr(select, "poll"):  # unlike select, not limited to 1,024 descriptors
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLOUT if writes else select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        one = [sock.fileno()]
        return any(select.select([] if writes else one, one if writes else [], [], seconds))
    except (OSError, ValueError):
        return False


class TLSSocket:
    """A TLS connection that behaves like a plain socket with time-outs as options.

    Two threads must not use it at once, but one waits for the peer while another one sends. So the
    underlying socket never blocks: each TLS step holds a lock, and waiting does not.

    Parameters
    ----------
    sock : ssl.SSLSocket
        The socket, before or after its handshake.
    receive, send : float
        Seconds that a read, and each step of a write, may wait before BlockingIOError.
    """

    def __init__(self, sock: ssl.SSLSocket, receive: float, send: float) -> None:
        self._socket = sock
        self._receive = receive
        self._send = send
        self._lock = threading.Lock()
        sock.setblocking(False)
        self.fileno = sock.fileno
        self.setsockopt = sock.setsockopt
        self.getsockname = sock.getsockname
        self.getpeername = sock.getpeername

    def handshake(self, seconds: float) -> dict[str, Any] | None:
        """Do the handshake; return the peer's certificate, if it was asked for and verified."""
        try:
            self._step(self._socket.do_handshake, (), seconds)
        except ssl.SSLError:
            self._linger()
            raise
        return self.peer_certificate()

    def _linger(self) -> None:
        """Wait until the peer has read the alert; closing at once could discard it."""
        deadline = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0 and wait_for(self._socket, left):
                if not socket.socket.recv(self._socket, 65_536):
                    break

    def peer_certificate(self) -> dict[str, Any] | None:
        """Return the peer's certificate, if it was asked for and verified."""
        return self._socket.getpeercert() or None

    def pending(self) -> int:
        """Return how many decrypted bytes can be read without the system's socket."""
        with self._lock:
            return self._socket.pending()

    def recv_into(self, view: memoryview, size: int = 0, flags: int = 0) -> int:
        """Read available bytes; with `DONTWAIT`, without waiting."""
        count: int = self._step(self._socket.recv_into, (view,), 0 if flags else self._receive)
        return count

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send the data; with `DONTWAIT`, as much as possible without waiting.

        The caller must pass the rest again, at the beginning of the next data.
        """
        view, sent = memoryview(data), 0
        try:
            while sent < len(view):  # each step has its own timeout
                step = (view[sent : sent + _RECORD],)
                sent += self._step(self._socket.send, step, 0 if flags else self._send)
        except BlockingIOError:
            if not (flags and sent):
                raise
        return sent

    sendall = send

    def sendmsg(self, buffers: list[memoryview]) -> int:
        """Send the buffers."""
        return self.send(b"".join(buffers))

    def _step(self, step: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
        deadline = None
        while True:
            try:
                with self._lock:
                    return step(*arguments)
            except ssl.SSLWantReadError:
                writes = False
            except ssl.SSLWantWriteError:
                writes = True
            if seconds > 0:
                now = time.monotonic()
                deadline = deadline or now + seconds
                if now < deadline and wait_for(self._socket, deadline - now, writes=writes):
                    continue
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def shutdown(self, how: int) -> None:
        """Shut down the underlying socket, which wakes a thread that waits for the peer."""
        socket.socket.shutdown(self._socket, how)  # ssl's own method also drops the TLS state

    def close(self) -> None:
        """Send a TLS close_notify, without waiting for the peer's, and close."""
        with self._lock:
            with contextlib.suppress(OSError, ValueError):
                self._socket.unwrap()
            self._socket.close()
