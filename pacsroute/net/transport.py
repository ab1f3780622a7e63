"""What an association needs of a socket beyond the standard library's, plain or TLS."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
from collections import deque

from pacsroute.upper_layer.pdu import Buffer

DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux has it

_IOV_MAX = 512
_JOINED = 131_072  # bytes up to which joining buffers costs less than sending several


class TLSSocket:
    """A TLS connection that behaves like a plain socket with time-outs as options.

    Parameters
    ----------
    sock : ssl.SSLSocket
        After its handshake.
    seconds : float
        How long a read or a write may take; a read raises BlockingIOError then.
    """

    def __init__(self, sock: ssl.SSLSocket, seconds: float) -> None:
        self._socket = sock
        self._socket.settimeout(seconds)
        self.fileno = sock.fileno
        self.setsockopt = sock.setsockopt
        self.shutdown = sock.shutdown
        self.close = sock.close
        self.sendall = sock.sendall
        self.pending = sock.pending

    def recv_into(self, view: memoryview, size: int = 0, flags: int = 0) -> int:
        """Read what is there; with `DONTWAIT`, only that."""
        if flags and not (self.pending() or readable(self, 0)):
            raise BlockingIOError
        try:
            return self._socket.recv_into(view)
        except (TimeoutError, ssl.SSLWantReadError):
            raise BlockingIOError from None
        except ssl.SSLEOFError:
            return 0  # closed without a close_notify, as many do

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send some of the data."""
        return self._socket.send(data)

    def sendmsg(self, buffers: list[memoryview]) -> int:
        """Send some of the buffers."""
        return self._socket.send(b"".join(buffers))


Socket = socket.socket | TLSSocket


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
    """Tell whether something can be read within a time, in seconds."""
    if isinstance(sock, TLSSocket) and sock.pending():
        return True
    try:
        if hasattr(select, "poll"):  # unlike select, not limited to 1,024 descriptors
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        return bool(select.select([sock.fileno()], [], [], seconds)[0])
    except (OSError, ValueError):
        return False


def send_all(sock: Socket, buffers: list[Buffer]) -> None:
    """Send buffers, without joining the large ones."""
    if len(buffers) == 1:
        sock.sendall(buffers[0])
        return
    if sum(map(len, buffers)) <= _JOINED:
        sock.sendall(b"".join(buffers))
        return
    waiting = deque(memoryview(buffer) for buffer in buffers)
    while waiting:
        sent = sock.sendmsg([waiting[i] for i in range(min(len(waiting), _IOV_MAX))])
        while waiting and sent >= len(waiting[0]):
            sent -= len(waiting.popleft())
        if sent:
            waiting[0] = waiting[0][sent:]
