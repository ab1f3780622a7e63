"""Peers behind a balancer: their own addresses count, and nobody else speaks for them."""

import socket
import threading
import time
import urllib.request

import flask
import pytest
from support.balancers import LOCAL, UNKNOWN, binary, line
from support.certificates import gone
from support.names import EXPLICIT, WAIT
from support.raw_peer import RawPeer

from pacsroute import App, SetupError, uids
from pacsroute.net import proxied
from pacsroute.upper_layer import pdu

CONTEXTS = [(uids.VERIFICATION, EXPLICIT)]
HEADERS = [line, binary]
HERE = ["127.0.0.1"]


@pytest.fixture
def served():
    """Return a function that serves an app behind a balancer at this machine."""
    servers = []

    def start(proxy_from=HERE, **settings):
        app = App("ARCHIVE", **settings)
        app.state.peers = []

        @app.echo
        def echo(request):
            app.state.peers.append(request.remote_address)

        server = app.serve(port=0, grace=1, proxy_from=proxy_from)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


def through(server, header):
    """Connect as a balancer does; return the socket, to be closed by the caller."""
    sock = socket.create_connection(("127.0.0.1", server.port), WAIT)
    sock.sendall(header)
    return sock


def is_closed(sock):
    """Tell that the other side closes without a word."""
    with sock:
        return gone(sock)


def is_rejected(server, header):
    """Tell that an association is rejected."""
    with RawPeer(server.port, CONTEXTS, before=header) as peer:
        return isinstance(peer.answer, pdu.AssociateRJ)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("host", ["10.1.0.7", "fd00::7"])
def test_peer_has_its_own_address(served, caplog, header, host):
    caplog.set_level("INFO")
    server = served()
    with RawPeer(server.port, CONTEXTS, before=header(host)) as peer:
        assert peer.echo() == 0
        peer.release()
    assert server.app.state.peers == [host]
    assert f"associated from {host}" in caplog.text


@pytest.mark.parametrize("header", HEADERS)
def test_limit_of_a_host_is_that_of_the_peer(served, header):
    server = served(max_associations_per_host=1)
    with (
        RawPeer(server.port, CONTEXTS, before=header("10.1.0.7")) as one,
        RawPeer(server.port, CONTEXTS, before=header("10.1.0.8")) as other,
    ):
        assert (one.echo(), other.echo()) == (0, 0)
        assert is_rejected(server, header("10.1.0.7"))


@pytest.mark.parametrize("header", HEADERS)
def test_allow_is_about_the_peer(served, header):
    server = served(allow=["10.1.0.7"])
    with RawPeer(server.port, CONTEXTS, before=header("10.1.0.7")) as peer:
        assert peer.echo() == 0
    assert is_rejected(server, header("10.1.0.8"))


@pytest.mark.parametrize("header", HEADERS)
def test_header_of_an_unknown_sender_is_not_read(served, caplog, header):
    server = served(proxy_from=["10.0.0.0/8"])
    for _ in range(3):
        assert is_closed(through(server, header()))
    assert caplog.text.count("127.0.0.1: the connection is closed: it is not in proxy_from") == 1
    assert server.app.state.peers == []


def test_header_that_a_peer_forges_behind_the_balancer_is_no_header(served, caplog):
    """The balancer says who it is; what the peer says after that is not DICOM."""
    server = served()
    with through(server, line("10.1.0.7") + line("10.9.9.9") + bytes(200)) as sock:
        sock.settimeout(WAIT)
        assert sock.recv(1) == b"\x07", "A-ABORT"
    server.stop()
    assert "a peer (10.1.0.7): the association ended: no PDU has the type 50H" in caplog.text
    assert server.app.state.peers == []


@pytest.mark.parametrize(
    "header", [b"\x01\0\0\0\0\xcd\0\1", b"PROXY TCP4 nonsense\r\n", b"PROXY TCP4 " + b"1" * 4000]
)
def test_what_is_not_a_header_closes_the_connection(served, caplog, header):
    server = served()
    assert is_closed(through(server, header))
    assert "the connection is closed" in caplog.text


def test_header_that_does_not_come_is_not_waited_for(served, caplog, monkeypatch):
    monkeypatch.setattr(proxied, "_PATIENCE", 0.2)
    server = served()
    for beginning in (b"", b"PROXY TCP4 10.1", binary()[:20]):
        assert is_closed(through(server, beginning))
    assert "no PROXY header received in 0.2 s" in caplog.text


@pytest.mark.parametrize("header", [b"", LOCAL, UNKNOWN])
def test_health_checks_are_no_peers_and_leave_no_line(served, caplog, header):
    server = served()
    before = caplog.text
    for _ in range(3):
        sock = through(server, header)
        if header:
            assert is_closed(sock)
        sock.close()
    with RawPeer(server.port, CONTEXTS, before=line()) as peer:
        assert peer.echo() == 0
        peer.release()
    log = caplog.text.removeprefix(before)
    assert "127.0.0.1" not in log
    assert "WARNING" not in log


def test_what_is_no_network_is_a_set_up_error():
    with pytest.raises(SetupError, match="is not a network"):
        App("ARCHIVE", proxy_from=["balancer"])


@pytest.mark.parametrize("header", HEADERS)
def test_header_comes_before_tls(served, pki, header):
    server = served(**pki.serving)
    context = pki.trusting().client()
    with through(server, header()) as sock:
        secure = context.wrap_socket(sock, server_hostname="pacs.example")
        with RawPeer(0, CONTEXTS, sock=secure) as peer:
            assert peer.echo() == 0
    assert server.app.state.peers == ["10.1.0.7"]


@pytest.mark.parametrize("header", [b"", LOCAL])
def test_health_check_of_a_port_for_tls_leaves_no_line(served, pki, caplog, header):
    server = served(**pki.serving)
    before = caplog.text
    through(server, header).close()
    server.stop()
    assert "127.0.0.1" not in caplog.text.removeprefix(before)


# ------------------------------------------------------------- over HTTP


def over_http(server, header, path="/who"):
    """Return the status line and the body of an answer."""
    with socket.create_connection(("127.0.0.1", server.web_port), WAIT) as sock:
        sock.sendall(header)
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], body


@pytest.fixture
def site():
    app = App("ARCHIVE", proxy_from=HERE, web_open=True)

    @app.web.route("/who")
    def who():
        return flask.request.remote_addr

    with app.serve(port=0, web_port=0, metrics_port=0, grace=1) as server:
        yield server


@pytest.mark.parametrize("header", HEADERS)
def test_http_client_has_its_own_address(site, header):
    assert over_http(site, header("10.1.0.7")) == (b"HTTP/1.1 200 OK", b"10.1.0.7")


@pytest.mark.parametrize("header", [LOCAL, UNKNOWN])
def test_balancer_asks_whether_it_is_ready_over_http(site, header):
    assert over_http(site, header, "/ready") == (b"HTTP/1.1 200 OK", b"ready\n")


@pytest.mark.parametrize(
    ("header", "status"),
    [(line("127.0.0.1"), 200), (line("10.1.0.7"), 403), (LOCAL, 403), (UNKNOWN, 403)],
)
def test_client_that_the_balancer_does_not_name_is_not_this_machine(site, header, status):
    site.app.config.web_open = False
    answer, _ = over_http(site, header, "/console")
    assert int(answer.split()[1]) == status


def test_http_without_a_header_is_closed(site):
    with socket.create_connection(("127.0.0.1", site.web_port), WAIT) as sock:
        sock.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert gone(sock)


def test_metrics_port_takes_no_header(site):
    url = f"http://127.0.0.1:{site.metrics_port}/ready"
    with urllib.request.urlopen(url, timeout=WAIT) as answer:
        assert answer.read() == b"ready\n"


# ------------------------------------------------------------- drain


def test_server_that_drains_serves_on_and_is_not_ready():
    app = App("ARCHIVE", drain=600.0)
    with app.serve(port=0, web_port=0, grace=1) as server:
        assert over_http(server, b"", "/ready") == (b"HTTP/1.1 200 OK", b"ready\n")
        drains = threading.Thread(target=server.drain, daemon=True)
        drains.start()
        deadline = time.monotonic() + WAIT
        while over_http(server, b"", "/ready")[1] != b"it is draining\n":
            assert time.monotonic() < deadline
        with RawPeer(server.port, CONTEXTS) as peer:
            assert peer.echo() == 0
        assert over_http(server, b"", "/ready")[0] == b"HTTP/1.1 503 SERVICE UNAVAILABLE"
        assert drains.is_alive()
        server.hurry()  # as a second signal does
        drains.join(WAIT)
        assert not drains.is_alive()
