"""Sockets for associations, plain or TLS: functions that the standard library lacks."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pacsroute.net.pace import Pace
from pacsroute.net.tapped import TappedSocket
from pacsroute.net.tls_socket import TLSSocket, wait_for
from pacsroute.upper_layer.pdu import Buffer

DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # only on Linux
SOON = 100e-6  # seconds to poll for a quick peer before sleeping
yield_cpu = getattr(os, "sched_yield", lambda: None)

_IOV_MAX = 512
_JOINED = 131_072  # bytes up to which joining buffers is cheaper than sending several


Socket = socket.socket | TLSSocket | TappedSocket


def set_up(sock: socket.socket, receive: float, send: float) -> None:
    """Prepare a plain socket: send small messages at once, and set timeouts in seconds.

    Timeouts as socket options cost nothing per call, unlike `settimeout`.
    """
    with contextlib.suppress(OSError):  # the peer is gone already, or it is not a TCP socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeout(receive))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeout(send))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@lru_cache(maxsize=64)
def _timeout(seconds: float) -> int | bytes:
    """Return a time as the options of a socket have it."""
    if sys.platform == "win32":
        return int(seconds * 1000)
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))


def readable(sock: Socket, seconds: float) -> bool:
    """Return whether something can be read within a time, in seconds.

    With TLS it may be an incomplete record, so that a read returns nothing yet.
    """
    if isinstance(sock, TLSSocket | TappedSocket) and sock.pending():
        return True
    return wait_for(sock, seconds)


def send_all(sock: Socket, buffers: list[Buffer], make_pace: Callable[[], Pace]) -> None:
    """Send buffers, without joining the large ones.

    Parameters
    ----------
    make_pace : callable
        Returns the minimum rate; called if they cannot all be sent at once.

    Raises
    ------
    OSError
        If the peer does not read them; TimeoutError if it reads them too slowly.
    """
    if isinstance(sock, TappedSocket):  # it shows all data to the observers first
        buffers = [b"".join(buffers)]
        sock = sock.sending(buffers[0])
    if len(buffers) == 1:  # most responses
        whole = len(buffers[0])
    elif (whole := sum(map(len, buffers))) <= _JOINED:
        buffers = [b"".join(buffers)]
    gone = sent = _send(sock, buffers)
    if sent == whole:  # the usual case
        return
    waiting, pace = deque(memoryview(buffer) for buffer in buffers), make_pace()
    while True:
        while waiting and sent >= len(waiting[0]):
            sent -= len(waiting.popleft())
        if not waiting:
            return
        if pace.is_too_slow(gone):
            raise TimeoutError("the peer takes the data too slowly")
        waiting[0] = waiting[0][sent:]
        sent = _send(sock, list(itertools.islice(waiting, _IOV_MAX)))
        gone += sent


def _send(sock: socket.socket | TLSSocket, buffers: list[Any]) -> int:
    if len(buffers) == 1:
        return sock.send(buffers[0])
    return sock.sendmsg(buffers[:_IOV_MAX])
