"""Connections through a load balancer, which first sends the peer's address."""

from __future__ import annotations

import logging
import socket
import time

from pacsroute.allow import within
from pacsroute.net.tls_socket import wait_for
from pacsroute.upper_layer.proxy import ProxyHeaderError, Source, missing, source

logger = logging.getLogger("pacsroute")

_PATIENCE = 5.0  # seconds for the header, which the balancer sends at once
_AGAIN = 60.0  # seconds before a continuing failure is logged again


class Balancers:
    """The load balancers that are trusted to send peers' addresses.

    Parameters
    ----------
    networks : tuple of str
        The setting ``proxy_from``; if it is empty, peers connect directly.

    Examples
    --------
    >>> bool(Balancers(())), bool(Balancers(("10.0.0.0/8",)))
    (False, True)
    """

    def __init__(self, networks: tuple[str, ...]) -> None:
        self._networks = networks
        self._told = -_AGAIN

    def __bool__(self) -> bool:
        return bool(self._networks)

    def source(self, sock: socket.socket, host: str) -> Source | None:
        """Read the peer of a connection; None if it must be closed.

        Parameters
        ----------
        sock : socket.socket
            Nothing was read from it yet; bytes after the header are left unread.
        host : str
            The address of the other side.
        """
        if not any(within(host, network) for network in self._networks):
            self._tell(host, "it is not in proxy_from")
            return None
        try:
            header = _read(sock)
            return source(header) if header else None
        except ProxyHeaderError as error:
            self._tell(host, error)
        except TimeoutError:
            self._tell(host, f"no PROXY header received in {_PATIENCE:g} s")
        except OSError as error:
            logger.debug("%s: %s", host, error)
        return None

    def _tell(self, host: str, why: object) -> None:
        """Log why connections are closed, at a limited rate."""
        now = time.monotonic()
        if now - self._told >= _AGAIN:
            self._told = now
            logger.warning("%s: the connection is closed: %s", host, why)


def _read(sock: socket.socket) -> bytes:
    """Read a header; return nothing if the other side closes without a byte."""
    deadline, data = time.monotonic() + _PATIENCE, b""
    while count := missing(data):
        left = deadline - time.monotonic()
        if left <= 0 or not wait_for(sock, left):
            raise TimeoutError
        piece = sock.recv(count)
        if not piece:
            if data:
                raise ProxyHeaderError("the PROXY header is cut off")
            break
        data += piece
    return data
