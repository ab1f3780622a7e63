"""The HTTP server for monitoring: /metrics, /health and /ready."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from pacsroute.framework.base import BaseApp

logger = logging.getLogger("pacsroute")

_PATIENCE = 5.0  # seconds for a client to send its request, and to read the answer
_HEAD = 8192  # bytes of a request
_CLIENTS = 16
_TICK = 0.2
_PLAIN = "text/plain; charset=utf-8"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_END = (b"\r\n\r\n", b"\n\n")


class Monitor(ThreadingMixIn, TCPServer):
    """Reports the state of a server over HTTP.

    Clients have a few seconds each, and their number is limited: a new client replaces the oldest.

    Parameters
    ----------
    listener : socket
        The listening socket; other processes may accept from it, too.
    app : App
        The app of the metrics.
    obstacle : callable
        Returns the reason why no association would be accepted now, or an empty text.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, app: BaseApp, obstacle: Callable[[], str]) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.port: int = self.server_address[1]
        listener.setblocking(False)  # another process may accept first
        self.obstacle = obstacle
        self.metrics = _metrics(app)
        self._clients: dict[Any, None] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start answering."""
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_TICK,), name="pacsroute-monitor", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        if self._thread is not None:
            self.shutdown()
        self.server_close()
        with self._lock:
            for client in self._clients:
                _hang_up(client)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client on its own thread."""
        with self._lock:
            if len(self._clients) >= _CLIENTS:
                oldest = next(iter(self._clients))
                del self._clients[oldest]
                _hang_up(oldest)
            self._clients[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection to a client."""
        with self._lock:
            self._clients.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error, and go on with the next client."""
        logger.exception("an answer over HTTP failed")


def _metrics(app: BaseApp) -> Callable[[], bytes] | None:
    """Start counting an app's metrics, and return the function that renders them."""
    try:
        from pacsroute.net.metrics import Metrics  # noqa: PLC0415 - only where prometheus_client is
    except ModuleNotFoundError as error:
        logger.warning("/metrics needs %s: pip install 'pacsroute[metrics]'", error.name)
        return None
    known = (one for one in app.observers if isinstance(one, Metrics))
    return (next(known, None) or Metrics(app)).render


def _hang_up(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: Monitor
    server_version, sys_version = "pacsroute", ""

    def handle(self) -> None:
        """Answer one request."""
        self.rfile = io.BufferedReader(io.BytesIO(_head(self.connection)))
        self.connection.settimeout(_PATIENCE)
        with contextlib.suppress(OSError):
            self.handle_one_request()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health":
            self._answer(HTTPStatus.OK, b"alive\n")
        elif path == "/ready":
            why = self.server.obstacle()
            status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
            self._answer(status, f"{why or 'ready'}\n".encode())
        elif path == "/metrics" and self.server.metrics is not None:
            self._answer(HTTPStatus.OK, self.server.metrics(), _PROMETHEUS)
        elif path == "/metrics":
            self._answer(HTTPStatus.NOT_IMPLEMENTED, b"pip install 'pacsroute[metrics]'\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"/metrics, /health and /ready are here\n")

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = _PLAIN) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Log nothing: requests come every few seconds."""


def _head(client: socket.socket) -> bytes:
    """Return a request without its body; empty if it does not arrive in time.

    A socket timeout alone would restart with every byte that a client sends.
    """
    deadline = time.monotonic() + _PATIENCE
    head = b""
    try:
        while not any(end in head for end in _END):
            client.settimeout(max(deadline - time.monotonic(), 0.001))
            data = client.recv(_HEAD - len(head))
            if not data:
                return b""
            head += data
    except OSError:
        return b""
    return head
