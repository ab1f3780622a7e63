"""One HTTP connection, on cheroot's parser: strict, paced, and with streamed bodies."""

from __future__ import annotations

import io
import math
import os
import select
import socket
import ssl
from typing import Any

from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.wsgi import Gateway_10

from pacsroute.net.pace import Pace
from pacsroute.web.chunked import Chunks
from pacsroute.web.headers import fault, read_headers
from pacsroute.web.multipart import Held, Region

_BUFFER = 65_536
_CORK: int | None = getattr(socket, "TCP_CORK", None)  # Linux only
_DRAINED = 1 << 20  # bytes of an unread body that are discarded to keep the connection


class PacedInput(socket.SocketIO):
    """The bytes from a client, with a time limit for the head and a minimum rate for the body.

    Parameters
    ----------
    sock : socket
        A socket with a timeout, which limits the time without a byte.
    head, body : float, Pace
        The time limit of a head in seconds, and the pace of a body.
    """

    def __init__(self, sock: Any, head: float, body: Pace) -> None:
        super().__init__(sock, "rb")
        self._head, self._body = Pace(head, math.inf), body
        self._pace = self._head
        self._size = 0

    def readinto(self, buffer: Any) -> int | None:
        """Read available bytes, or wait for the first."""
        self._pace.is_too_slow(self._size)  # the first call starts the clock
        count = super().readinto(buffer)
        self._size += count or 0
        if self._pace.is_too_slow(self._size):
            raise TimeoutError("timed out")
        return count

    def begin_head(self) -> None:
        """Start the time limit of a request's head."""
        self._head.begin_anew()
        self._pace = self._head

    def begin_body(self) -> None:
        """Start the pace of its body."""
        self._body.begin_anew()
        self._pace = self._body


class _Output:
    """The bytes to a client, sent with few system calls and no copies.

    The socket's timeout applies to each call, so a slow client has time as long as it reads.

    Parameters
    ----------
    sock : socket
        The socket to send to.
    plain : bool
        Whether the connection does not use TLS.
    """

    bytes_written = 0

    def __init__(self, sock: Any, plain: bool) -> None:
        self._sock = sock
        self._plain = plain
        self._held = b""
        self._is_corked = False
        self.holds = False  # whether to send the next write with the one after it
        self.closed = False

    def write(self, *data: bytes) -> int:
        """Send some pieces after the pending ones."""
        if self.holds:
            self._held += b"".join(data)
            return sum(map(len, data))
        held, self._held = self._held, b""
        views = [memoryview(piece) for piece in (held, *data) if piece]
        while views:
            sent = self._sock.sendmsg(views) if self._plain else self._sock.send(views[0])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]
        return sum(map(len, data))

    def send_file(self, region: Region) -> None:
        """Send a part of a file without reading it into this process."""
        if _CORK is not None and not self._is_corked and self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(
                socket.IPPROTO_TCP, _CORK, 1
            )  # avoids tiny packets before and after it
            self._is_corked = True
        if self._held:
            self.write()
        offset, left, fd = region.offset, len(region), region.file.fileno()
        while left:
            try:
                sent = os.sendfile(self._sock.fileno(), fd, offset, left)
            except BlockingIOError:
                self._wait()
                continue
            if not sent:
                raise OSError("the file has become shorter")
            offset, left = offset + sent, left - sent

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        if not poll.poll(1000 * self._sock.gettimeout()):
            raise TimeoutError("timed out")

    def flush(self) -> None:
        """Send the pending bytes, ours and the system's, at the end of a response."""
        if self._held:
            self.write()
        if self._is_corked:
            self._is_corked = False
            self._sock.setsockopt(socket.IPPROTO_TCP, _CORK, 0)

    def close(self) -> None:
        self.closed = True


class StrictRequest(HTTPRequest):
    """A request that must state its length once, which prevents request smuggling."""

    header_reader = staticmethod(read_headers)
    chunks: Chunks | None = None

    def read_request_line(self) -> bool:
        """Read the request line; refuse an invalid URL."""
        try:
            return bool(super().read_request_line())  # type: ignore[no-untyped-call]
        except ValueError:
            return self._refuse("400 Bad Request", "Malformed Request-URI")

    def read_request_headers(self) -> bool:
        """Read the headers; refuse ambiguous ones (RFC 9112 §6.3)."""
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        status, why = fault(self.inheaders, self.response_protocol)
        return self._refuse(status, why) if status else True

    def _refuse(self, status: str, why: str) -> bool:
        self.close_connection = True
        self.simple_response(status, why)
        return False

    def send_headers(self) -> None:
        """Send the headers without first reading the rest of a long request body."""
        if getattr(self.rfile, "remaining", 0) > _DRAINED:
            self.close_connection = True
        if self.chunked_read and not (self.chunks and self.chunks.is_whole):
            self.close_connection = True
        self.conn.wfile.holds = True  # sent together with the start of the body
        try:
            super().send_headers()
        finally:
            self.conn.wfile.holds = False

    def respond(self) -> None:
        """Send the response."""
        super().respond()
        self.conn.wfile.flush()

    def write(self, chunk: bytes | Region) -> None:
        """Send a part of the body."""
        out, size = self.conn.wfile, len(chunk)
        before, after = (b"%x\r\n" % size, b"\r\n") if self.chunked_write else (b"", b"")
        out.holds = True
        out.write(before)
        out.holds = isinstance(chunk, Held)
        if isinstance(chunk, Region):
            out.send_file(chunk)
            out.write(after)
        else:
            out.write(chunk, after)
        out.holds = False


class Connection(HTTPConnection):
    """A connection of the `WebServer`.

    Parameters
    ----------
    server : WebServer
        The server.
    sock : socket
        The client's socket, after the TLS handshake if the server uses TLS.
    pace : Pace
        The pace of bodies.
    head : float
        The time limit of a head, in seconds.
    """

    RequestHandlerClass = StrictRequest

    def __init__(self, server: Any, sock: Any, pace: Pace, head: float) -> None:
        self.input = PacedInput(sock, head, pace)

        def made(sock: Any, mode: str, size: int) -> Any:
            if "r" in mode:
                return io.BufferedReader(self.input, _BUFFER)
            return _Output(sock, not isinstance(sock, ssl.SSLSocket))

        super().__init__(server, sock, made)
        self.certificate: dict[str, Any] | None = None
        self.balancer: str | None = None  # its address; empty if it named no client


class Gateway(Gateway_10):
    """Calls the site with the connection's addresses."""

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the WSGI environment."""
        connection, server = self.req.conn, self.req.server
        if self.req.chunked_read:
            self.req.chunks = Chunks(connection.rfile)
            self.req.rfile = io.BufferedReader(self.req.chunks, _BUFFER)
        environ: Any = super().get_environ()  # type: ignore[no-untyped-call]
        connection.input.begin_body()
        server.begun(connection.socket)
        environ["pacsroute.served"] = True
        environ["pacsroute.sends_files"] = not isinstance(connection.socket, ssl.SSLSocket)
        environ["pacsroute.socket"] = connection.socket
        environ["pacsroute.defer"] = server.defer
        environ["pacsroute.obstacle"] = server.obstacle
        environ["pacsroute.certificate"] = connection.certificate
        environ["pacsroute.balancer"] = connection.balancer
        environ["SERVER_NAME"] = server.bind_addr[0]
        found: dict[str, Any] = environ
        return found

    def respond(self) -> None:
        """Send the site's response: bytes and parts of files."""
        response = self.req.server.wsgi_app(self.env, self.start_response)
        try:
            for chunk in response:
                if not isinstance(chunk, (bytes, Region)):
                    raise TypeError(f"a response must be bytes, not {type(chunk).__name__}")
                if chunk:
                    self.write(chunk)
        finally:
            self.req.ensure_headers_sent()
            if hasattr(response, "close"):
                response.close()
