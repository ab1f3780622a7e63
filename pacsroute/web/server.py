"""The HTTP server: a thread per connection, cheroot's parser, and sockets shared by processes.

cheroot's own loop waits for request heads on its worker threads, makes TLS handshakes on the
accepting thread, and stops by connecting to its own address, which another process might accept.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from cheroot.wsgi import Server as CherootServer

from pacsroute.errors import SetupError
from pacsroute.framework.base import BaseApp, ServerView
from pacsroute.net.pace import Pace
from pacsroute.net.proxied import Balancers
from pacsroute.thread_pool import DaemonPool
from pacsroute.tls import TLS, explain
from pacsroute.web import viewer
from pacsroute.web.caller import check_start
from pacsroute.web.connection import Connection, Gateway
from pacsroute.web.console.page import Console
from pacsroute.web.statuses import Failed

logger = logging.getLogger("pacsroute")

_TICK = 0.25  # seconds between a waiting thread's checks for a stop
_AFTER_THREADS = 2
_AGAIN = 60.0  # seconds before the log repeats that there is no free place
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_LINGER = 2.0  # seconds for a client to read an early response


class WebServer(CherootServer):
    """Serves HTTP on a listening socket, with the `start` and `stop` of a listener.

    Parameters
    ----------
    listener : socket
        The listening socket; other processes may accept from it, too.
    app : App
        The app whose site answers.
    server : ServerView
        The DICOM server of this process, which the console shows.

    Raises
    ------
    SetupError
        If the address would be open to everyone, or TLS cannot be used.
    """

    ssl_adapter: Any = None

    def __init__(self, listener: socket.socket, app: Any, server: ServerView) -> None:
        config = app.config
        address = listener.getsockname()
        check_start(app, address[0])
        self._console: Console = app.web.console
        self._console.attend(server)
        viewer.check(config)
        super().__init__(address[:2], app.web, numthreads=1, server_name="pacsroute")
        self.software = "pacsroute"
        self.gateway = Gateway
        self.max_request_header_size = config.max_web_header
        self.timeout = config.network_timeout
        self.ready = True
        self._tls = _tls(app)
        if self._tls is not None:
            self.ssl_adapter = True  # cheroot only checks that there is one
        self._config = config
        self._balancers = Balancers(server.config.proxy_from)
        self.obstacle = server.obstacle
        self._listener = listener
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._connections_: dict[socket.socket, float | None] = {}  # start of idle time; None: busy
        self._silent_until = 0.0
        self._acceptor: threading.Thread | None = None
        self._after: DaemonPool | None = None

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Whether a client may send another request."""
        return not self._stop.is_set()

    # ------------------------------------------------------------- start and stop

    def start(self) -> None:
        """Start serving."""
        self._console.start()
        self._listener.setblocking(False)  # another process may accept first
        self._after = DaemonPool("pacsroute-web-after", _AFTER_THREADS)
        self._acceptor = threading.Thread(target=self._accept, name="pacsroute-web", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Accept no more connections; running requests have time to finish."""
        self._stop.set()
        self._console.stop()
        if self._acceptor is not None:
            self._acceptor.join(4 * _TICK)
        self._listener.close()
        deadline = time.monotonic() + self._config.grace
        while self._count() and time.monotonic() < deadline:
            time.sleep(0.05)
        with self._lock:
            for sock in self._connections_:
                _hang_up(sock)
        if self._after is not None:
            self._after.drain(lambda: False)

    def defer(self, function: Callable[[], object]) -> None:
        """Call a function on another thread, or on this one if no thread is available."""
        try:
            assert self._after is not None
            self._after.submit(function)
        except RuntimeError:
            function()

    def _count(self) -> int:
        with self._lock:
            return len(self._connections_)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Forward a log message of cheroot; a broken response is not logged as our error."""
        error = sys.exception()
        if isinstance(error, Failed):
            logger.warning("HTTP: an answer was cut off: %s", error.description)
            return
        logger.log(level, "HTTP: %s", msg, exc_info=traceback)

    # ------------------------------------------------------------- connections

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while not self._stop.is_set():
            if not poll.poll(_TICK * 1000):
                continue
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:  # another process accepted it
                continue
            except OSError as error:
                logger.error("HTTP: accept failed: %s", error.strerror)
                self._stop.wait(0.1)
                continue
            self._begin(sock, address)

    def _begin(self, sock: socket.socket, address: Any) -> None:
        sock.settimeout(self._config.network_timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._take(sock):
            with contextlib.suppress(OSError):
                sock.setblocking(False)
                if self._tls is None:
                    sock.send(_BUSY)
            sock.close()
            return
        thread = threading.Thread(
            target=self._serve, args=(sock, address), name="pacsroute-web", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            logger.error("HTTP: no thread for a connection: %s", error)
            self._leave(sock)

    def _take(self, sock: socket.socket) -> bool:
        """Take a place; if there is none, close the connection that has been idle longest."""
        with self._lock:
            if len(self._connections_) >= self._config.web_connections:
                idle = [(since, one) for one, since in self._connections_.items() if since]
                if not idle:
                    self._tell_full()
                    return False
                _, oldest = min(idle, key=lambda pair: pair[0])
                del self._connections_[oldest]
                _hang_up(oldest)
            self._connections_[sock] = None
            return True

    def _tell_full(self) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _AGAIN
            logger.warning("HTTP: web_connections reached")

    def _leave(self, sock: socket.socket) -> None:
        with self._lock:
            self._connections_.pop(sock, None)
        with contextlib.suppress(OSError):
            sock.close()

    def _serve(self, raw: socket.socket, address: Any) -> None:
        """Answer the requests of a connection, on its own thread."""
        sock: Any = raw
        balancer = None
        try:
            if self._balancers:
                source = self._balancers.source(raw, address[0])
                if source is None:
                    return
                balancer = address[0] if source.host else ""
                if source.host:  # otherwise the balancer is the client, as for health checks
                    address = source
            if self._tls is not None:
                raw.settimeout(self._config.artim)
                sock = self._tls.server().wrap_socket(raw, server_side=True)
                with self._lock:
                    if self._connections_.pop(raw, 0) == 0:
                        sock.close()
                        return
                    self._connections_[sock] = None
                sock.settimeout(self._config.network_timeout)
            self._answer(sock, address, balancer)
        except OSError as error:
            logger.info("HTTP from %s: %s", address[0], explain(error))
        except Exception:
            logger.exception("an HTTP connection failed")
        finally:
            self._leave(sock)

    def _answer(self, sock: Any, address: Any, balancer: str | None) -> None:
        config = self._config
        connection: Any = Connection(
            self, sock, Pace(config.network_timeout, config.min_rate), config.artim
        )
        connection.remote_addr, connection.remote_port = address[:2]
        connection.balancer = balancer
        connection.ssl_env = {}
        if self._tls is not None:
            connection.certificate = sock.getpeercert() or None
        while self._wait(connection):
            connection.input.begin_head()
            if not connection.communicate():
                _linger(sock)
                return

    def _wait(self, connection: Any) -> bool:
        """Wait for the next request; return whether it starts to arrive."""
        sock, deadline = connection.socket, time.monotonic() + self._config.web_idle
        self._mark(sock, time.monotonic())  # idle until the whole head has arrived: see `begun`
        if getattr(sock, "pending", lambda: 0)() or _is_buffered(connection):
            return True
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while time.monotonic() < deadline:
            if poll.poll(_TICK * 1000):  # once more after a stop: a client may have just connected
                return True
            if self._stop.is_set():
                break
        return False

    def begun(self, sock: Any) -> None:
        """Mark a connection as busy, so that it is not closed to make room for another."""
        self._mark(sock, None)

    def _mark(self, sock: Any, since: float | None) -> None:
        with self._lock:
            if sock in self._connections_:
                self._connections_[sock] = since


def _is_buffered(connection: Any) -> bool:
    """Return whether bytes of the next request were read with the last one."""
    connection.socket.setblocking(False)
    try:
        return bool(connection.rfile.peek(1))
    except (BlockingIOError, OSError):
        return False
    finally:
        connection.socket.settimeout(connection.server.timeout)


def _tls(app: BaseApp) -> TLS | None:
    config = app.config
    if not config.web_certificate:
        if config.web_key or config.web_ca:
            raise SetupError("web_key and web_ca need a web_certificate")
        return None
    tls = TLS(config.web_certificate, config.web_key, ca=config.web_ca)
    tls.server()
    return tls


def _hang_up(sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _linger(sock: Any) -> None:
    """Give a client time to read an early response (RFC 9112 §9.6)."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(_LINGER)
        deadline = time.monotonic() + _LINGER
        while time.monotonic() < deadline and sock.recv(1 << 16):
            pass
