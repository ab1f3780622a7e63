"""What an association needs of a socket beyond the standard library's, plain or TLS."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pacsroute.net.tapped import TappedSocket
from pacsroute.upper_layer.pdu import Buffer

DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux has it

_IOV_MAX = 512
_RECORD = 16_384  # bytes in a record of TLS
_LINGER = 1.0  # seconds
_JOINED = 131_072  # bytes up to which joining buffers costs less than sending several


class TLSSocket:
    """A TLS connection that behaves like a plain socket with time-outs as options.

    Two threads must not use it at once, but one waits for the peer while another one
    sends. So the socket beneath never blocks: a lock is held for each step of TLS, and
    waiting is done without it.

    Parameters
    ----------
    sock : ssl.SSLSocket
        Before or after its handshake.
    receive, send : float
        Seconds that a read, and each step of a write, may wait; BlockingIOError then.
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
        """Let the peer read why it was refused; closing at once could destroy that."""
        deadline = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0 and _ready(self._socket, left):
                if not socket.socket.recv(self._socket, 65_536):
                    break

    def peer_certificate(self) -> dict[str, Any] | None:
        """Return the peer's certificate, if it was asked for and verified."""
        return self._socket.getpeercert() or None

    def pending(self) -> int:
        """Return how many bytes are there already, and in no buffer of the system's."""
        with self._lock:
            return self._socket.pending()

    def recv_into(self, view: memoryview, size: int = 0, flags: int = 0) -> int:
        """Read what is there; with `DONTWAIT`, only that."""
        count: int = self._step(self._socket.recv_into, (view,), 0 if flags else self._receive)
        return count

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send the data; with `DONTWAIT`, what goes at once.

        What is left then has to come again, at the beginning of the next data.
        """
        view, sent = memoryview(data), 0
        try:
            while sent < len(view):  # each step in a time of its own
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
                if now < deadline and _ready(self._socket, deadline - now, writes=writes):
                    continue
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def shutdown(self, how: int) -> None:
        """Shut the connection down beneath TLS, which wakes who waits for the peer."""
        socket.socket.shutdown(self._socket, how)  # ssl's own also forgets that it is TLS

    def close(self) -> None:
        """Tell the peer that nothing more comes, without waiting for it, and close."""
        with self._lock:
            with contextlib.suppress(OSError, ValueError):
                self._socket.unwrap()
            self._socket.close()


Socket = socket.socket | TLSSocket | TappedSocket


def set_up(sock: socket.socket, receive: float, send: float) -> None:
    """Prepare a plain socket: small messages at once, and time-outs in seconds.

    As socket options these cost nothing for each call, which `settimeout` does.
    """
    with contextlib.suppress(OSError):  # not a TCP socket, or the peer is gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        _set_timeout(sock, socket.SO_RCVTIMEO, receive)
        _set_timeout(sock, socket.SO_SNDTIMEO, send)


def _set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    if sys.platform == "win32":
        sock.setsockopt(socket.SOL_SOCKET, option, int(seconds * 1000))
    else:
        whole = int(seconds)
        value = struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, option, value)


def readable(sock: Socket, seconds: float) -> bool:
    """Tell whether something can be read within a time, in seconds.

    With TLS it may be less than a record, and give nothing yet.
    """
    if isinstance(sock, TLSSocket | TappedSocket) and sock.pending():
        return True
    return _ready(sock, seconds)


def _ready(sock: Socket, seconds: float, *, writes: bool = False) -> bool:
    try:
        if hasattr(select, "poll"):  # unlike select, not limited to 1,024 descriptors
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLOUT if writes else select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        one = [sock.fileno()]
        return any(select.select([] if writes else one, one if writes else [], [], seconds))
    except (OSError, ValueError):
        return False


def send_all(sock: Socket, buffers: list[Buffer], deadline: float = math.inf) -> None:
    """Send buffers, without joining the large ones.

    Raises
    ------
    OSError
        If the peer does not take them; TimeoutError if it takes a few bytes now and then, until
        a deadline of `time.monotonic`.
    """
    if isinstance(sock, TappedSocket):  # which tells all of it before it goes
        buffers = [b"".join(buffers)]
        sock = sock.sending(buffers[0])
    whole = sum(map(len, buffers))
    if len(buffers) > 1 and whole <= _JOINED:
        buffers = [b"".join(buffers)]
    sent = _send(sock, buffers)
    if sent == whole:  # as most are
        return
    waiting = deque(memoryview(buffer) for buffer in buffers)
    while True:
        while waiting and sent >= len(waiting[0]):
            sent -= len(waiting.popleft())
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the peer took too long")
        waiting[0] = waiting[0][sent:]
        sent = _send(sock, list(itertools.islice(waiting, _IOV_MAX)))


def _send(sock: socket.socket | TLSSocket, buffers: list[Any]) -> int:
    if len(buffers) == 1:
        return sock.send(buffers[0])
    return sock.sendmsg(buffers[:_IOV_MAX])
