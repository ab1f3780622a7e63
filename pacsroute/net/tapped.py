"""The seam where the bytes of an association are observed."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from pacsroute.net.tls_socket import TLSSocket
from pacsroute.upper_layer.pdu import Buffer
from pacsroute.upper_layer.tap import Link, Tap, TapFactory

logger = logging.getLogger("pacsroute")


class TappedSocket:
    """A socket with observed bytes; without observers, a plain socket is used.

    Parameters
    ----------
    sock : socket.socket or TLSSocket
        The socket that it wraps.
    role : {"acceptor", "requestor"}
        Ours in the association.
    factories : sequence of TapFactory
        Functions that make the observers. An observer that raises is logged, and not called again.
    """

    def __init__(
        self,
        sock: socket.socket | TLSSocket,
        role: Literal["acceptor", "requestor"],
        factories: Sequence[TapFactory],
    ) -> None:
        self._socket = sock
        self.fileno = sock.fileno
        self.setsockopt = sock.setsockopt
        self.shutdown = sock.shutdown
        self.pending: Callable[[], int] = getattr(sock, "pending", lambda: 0)
        self._taps: list[Tap] = []
        link = Link(role, _address(sock.getsockname), _address(sock.getpeername))
        for factory in factories:
            with self._guarded():
                self._taps.append(factory(link))

    @property
    def recording(self) -> str:
        """The file that the bytes are recorded in; empty if they are not."""
        return next((str(tap.path) for tap in self._taps if hasattr(tap, "path")), "")

    @contextlib.contextmanager
    def _guarded(self, tap: Tap | None = None) -> Iterator[None]:
        """Keep an observer's exceptions away from the association."""
        try:
            yield
        except Exception as error:
            if tap in self._taps:
                self._taps.remove(tap)
            if isinstance(error, OSError):
                logger.error("recording or tracing of an association ends: %s", error.strerror)
            else:
                logger.exception("recording or tracing of an association failed")

    def _tell(self, event: Callable[[Tap], object]) -> None:
        for tap in tuple(self._taps):
            with self._guarded(tap):
                event(tap)

    def recv_into(self, view: memoryview, size: int = 0, flags: int = 0) -> int:
        """Read available bytes."""
        count = self._socket.recv_into(view, size, flags)
        if count:
            self._tell(lambda tap: tap.received(view[:count]))
        return count

    def sending(self, data: Buffer) -> socket.socket | TLSSocket:
        """Show data to the observers before it is sent, and return the socket to send it on."""
        self._tell(lambda tap: tap.sent(data))
        return self._socket

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send some of the data."""
        sent = self._socket.send(data, flags)
        self._tell(lambda tap: tap.sent(data[:sent]))
        return sent

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        self._tell(lambda tap: tap.closed())
        self._taps.clear()


def _address(name: Callable[[], Any]) -> str:
    try:
        host, port = name()[:2]
    except (OSError, ValueError):  # the peer has gone, or it is not a TCP socket
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
