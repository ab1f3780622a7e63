"""Connections through a balancer, which names the peer first."""

from __future__ import annotations

import logging
import socket
import time

from pacsroute.allow import within
from pacsroute.net.tls_socket import wait_for
from pacsroute.upper_layer.proxy import ProxyHeaderError, Source, missing, source

logger = logging.getLogger("pacsroute")

_PATIENCE = 5.0  # seconds that a header may take: the balancer sends it at once
_AGAIN = 60.0  # seconds after which what goes on failing is logged again


class Balancers:
    """The balancers that are trusted to name peers.

    Parameters
    ----------
    networks : tuple of str
        The setting ``proxy_from``; if it is empty, there are none, and peers connect themselves.

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
            Nothing was read from it yet; no byte after the header is read.
        host : str
            The address that it comes from.
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
            self._tell(host, f"no PROXY header came in {_PATIENCE:g} s")
        except OSError as error:
            logger.debug("%s: %s", host, error)
        return None

    def _tell(self, host: str, why: object) -> None:
        """Log why connections are closed, but not each time."""
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
