"""The HTTP server: slow, huge, malformed and hostile clients, TLS, and how it stops."""

import contextlib
import http.client
import os
import select
import signal
import socket
import ssl
import threading
import time
import tracemalloc

import pytest
from support.certificates import PKI
from support.names import WAIT
from support.processes import Running
from support.samples import FILES
from support.web import CT, ROOT, content, multipart, read

from pacsroute import App, Instance, SetupError, connect

pytestmark = pytest.mark.slow

GET = f"GET {ROOT}/studies HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def archive(**settings):
    app = App("ARCHIVE", **settings)

    @app.find("StudyRoot")
    def find(request):
        yield {"StudyInstanceUID": "1.2"}

    @app.store
    def store(request): ...

    @app.web.get("/hello")
    def hello():
        return "hello"

    @app.web.post("/length")
    def length():
        from flask import request

        return str(len(request.get_data()))

    return app


@pytest.fixture
def server():
    with archive().serve(port=0, web_port=0, network_timeout=5, artim=5, grace=2) as server:
        yield server


@contextlib.contextmanager
def client(server, timeout=WAIT):
    with socket.create_connection(("127.0.0.1", server.web_port), timeout=timeout) as sock:
        yield sock


def said(sock):
    """Return all that the server says until it closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(1 << 16):
            found += data
    return found


def ask(server, method="GET", path=f"{ROOT}/studies", **options):
    connection = http.client.HTTPConnection("127.0.0.1", server.web_port, timeout=WAIT)
    try:
        connection.request(method, path, **options)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_dimse_and_http_are_served_in_one_process_with_one_lifespan():
    app, begun = archive(), []

    @app.lifespan
    def once(app):
        begun.append(os.getpid())
        yield
        begun.append("ended")

    with app.serve(port=0, web_port=0) as server:
        with connect("127.0.0.1", server.port) as peer:
            assert peer.echo().code == 0
        assert ask(server)[0] == 200
        assert ask(server, path="/hello") == (200, b"hello")
    assert begun == [os.getpid(), "ended"]


def test_a_connection_is_kept_and_requests_may_follow_each_other(server):
    with client(server) as sock:
        sock.sendall(GET * 3)
        found = b""
        while found.count(b"HTTP/1.1 200 OK") < 3:
            found += sock.recv(1 << 16)


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_come_with_a_length_or_in_chunks(server, chunked):
    body, kind = multipart(content(CT))
    pieces = iter([body[:1000], body[1000:]])
    headers = {"Content-Type": kind}
    status, found = ask(
        server,
        "POST",
        body=pieces if chunked else body,
        headers=headers | ({"Transfer-Encoding": "chunked"} if chunked else {}),
        **({"encode_chunked": True} if chunked else {}),
    )
    assert status == 200
    assert read(CT).SOPInstanceUID.encode() in found


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 413),
        (b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde", 400),
        (
            b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ],
)
def test_requests_that_are_none_are_refused(server, head, status):
    with client(server) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(head)
        found = said(sock)
    assert found.startswith(f"HTTP/1.1 {status} ".encode())
    assert ask(server)[0] == 200


def test_a_body_that_is_cut_off_is_no_success(server):
    body, kind = multipart(content(CT))
    head = (
        f"POST {ROOT}/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with client(server) as sock:
        sock.sendall(head + body[:-100])
        sock.shutdown(socket.SHUT_WR)
        assert said(sock).startswith(b"HTTP/1.1 400 ")


CHUNKED = (
    f"POST {ROOT}/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/dicom\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"FFFFFFFFFFFFFFFF\r\nabc",
        b"-5\r\nabcde\r\n0\r\n\r\n",
        b"0x5\r\nabcde\r\n0\r\n\r\n",
        b"\r\n",
        b"5\r\nabcdefg\r\n0\r\n\r\n",
        b"5;" + b"x" * 10_000,
        b"0\r\n" + b"A: b\r\n" * 10_000,
        b"5\r\nabc",
    ],
)
def test_chunks_that_are_none_are_refused_without_a_traceback(server, caplog, body):
    with client(server) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(CHUNKED + body)
            sock.shutdown(socket.SHUT_WR)
        assert said(sock).startswith(b"HTTP/1.1 400 ")
    assert not [record for record in caplog.records if record.exc_info]
    assert ask(server)[0] == 200


def test_a_long_chunk_is_not_held_whole(server, caplog):
    tracemalloc.start()
    try:
        with client(server) as sock:
            sock.sendall(CHUNKED + b"10000000\r\n")
            for _ in range(64):
                sock.sendall(bytes(1 << 20))
            sock.shutdown(socket.SHUT_WR)
            assert said(sock).startswith(b"HTTP/1.1 400 ")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_host_that_is_none_is_refused_without_a_traceback(server, caplog):
    with client(server) as sock:
        sock.sendall(b"GET http://[::1 HTTP/1.1\r\nHost: [::1\r\n\r\n")
        assert said(sock).startswith(b"HTTP/1.1 400 ")
    assert not [record for record in caplog.records if record.exc_info]


def test_an_answer_that_breaks_off_is_one_line_in_the_log(caplog):
    app = App("ARCHIVE")

    @app.get("StudyRoot")
    def get(request):
        yield Instance(FILES / CT)
        yield Instance("missing.dcm")

    with app.serve(port=0, web_port=0) as server:
        with pytest.raises(http.client.IncompleteRead):
            ask(server, path=f"{ROOT}/studies/1.2")
    assert "an answer was cut off: left out: 1 of 2 instances" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_long_body_that_nobody_reads_is_not_read_into_memory(server):
    with client(server) as sock:
        sock.sendall(
            b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000000\r\n\r\n"
        )
        assert said(sock).startswith(b"HTTP/1.1 404 ")


def test_forty_stalled_peers_hold_nobody_up(server):
    body, kind = multipart(content(CT))
    half = (
        f"POST {ROOT}/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body[:5000]
    with contextlib.ExitStack() as stack:
        for beginning in (half, b"GET / HT", b""):
            for _ in range(40):
                stack.enter_context(client(server)).sendall(beginning)
        began = time.monotonic()
        assert ask(server)[0] == 200
        assert time.monotonic() - began < 20  # it takes milliseconds


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\nX: ", GET[:-2] + b"X: "])
def test_a_head_has_its_time_however_its_bytes_come(beginning):
    with archive(artim=0.5).serve(port=0, web_port=0) as server, client(server) as sock:
        sock.sendall(beginning)
        with contextlib.suppress(OSError):
            for _ in range(200):
                time.sleep(0.05)
                sock.sendall(b"y")
        assert b"408" in said(sock)[:20] or not said(sock)


def test_a_body_has_a_least_rate():
    app = archive(network_timeout=0.5, min_rate=100_000)
    with app.serve(port=0, web_port=0) as server, client(server) as sock:
        sock.sendall(b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n\r\n")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < WAIT:
                time.sleep(0.05)
                sock.sendall(b"y")
        assert time.monotonic() - began < WAIT


def test_handlers_at_work_are_bounded():
    app, at_once = App("ARCHIVE", web_threads=2), []
    lock, now = threading.Lock(), set()

    @app.find("StudyRoot")
    def find(request):
        with lock:
            now.add(threading.get_ident())
            at_once.append(len(now))
        time.sleep(0.05)  # a handler that works
        with lock:
            now.discard(threading.get_ident())
        return []

    with app.serve(port=0, web_port=0) as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(at_once) == 8
    assert max(at_once) <= 2


def test_connections_are_bounded_and_the_idle_ones_go_first():
    with archive(web_connections=2).serve(port=0, web_port=0) as server:
        with client(server) as idle, client(server) as other:
            for sock in (idle, other):
                sock.sendall(GET)
                found = b""
                while not found.endswith(b"]"):
                    found += sock.recv(1 << 16)
            deadline = time.monotonic() + WAIT
            status = None
            while status != 200 and time.monotonic() < deadline:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    status, _ = ask(server)
            assert status == 200
            ended, _, _ = select.select([idle, other], [], [], WAIT)
            assert [sock.recv(1) for sock in ended] == [b""]


def test_connections_beyond_the_limit_do_not_fill_the_log(caplog):
    app, begun, ending = App("ARCHIVE", web_connections=1), threading.Event(), threading.Event()

    @app.find("StudyRoot")
    def find(request):
        begun.set()
        ending.wait(WAIT)
        return []

    with app.serve(port=0, web_port=0) as server:
        with client(server) as sock:
            sock.sendall(GET)
            assert begun.wait(WAIT)
            assert [ask(server)[0] for _ in range(5)] == [503] * 5
            ending.set()
    assert caplog.text.count("web_connections reached") == 1


def test_slow_heads_keep_nobody_out():
    with archive(web_connections=2).serve(port=0, web_port=0) as server:
        with client(server) as first, client(server) as second:
            for sock in (first, second):
                sock.sendall(b"GET / HTT")
            deadline, status = time.monotonic() + WAIT, None
            while status != 200 and time.monotonic() < deadline:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    status, _ = ask(server)
            assert status == 200


def test_a_handler_sees_that_its_client_has_gone():
    app, seen, begun = App("ARCHIVE"), threading.Event(), threading.Event()

    @app.find("StudyRoot")
    def find(request):
        assert not request.cancelled
        begun.set()
        deadline = time.monotonic() + WAIT
        while not request.cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        if request.cancelled:
            seen.set()
        return []

    with app.serve(port=0, web_port=0) as server:
        with client(server) as sock:
            sock.sendall(GET)
            assert begun.wait(WAIT)
        assert seen.wait(WAIT)


def test_a_stop_lets_a_request_end():
    app, begun, go_on = App("ARCHIVE"), threading.Event(), threading.Event()

    @app.find("StudyRoot")
    def find(request):
        begun.set()
        go_on.wait(WAIT)
        yield {"StudyInstanceUID": "1.2"}

    found = []
    server = app.serve(port=0, web_port=0)
    server.start()
    thread = threading.Thread(target=lambda: found.append(ask(server)))
    thread.start()
    assert begun.wait(WAIT)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    time.sleep(0.3)  # it has closed its listener by now
    with pytest.raises(OSError):
        ask(server)
    go_on.set()
    thread.join(WAIT)
    stopping.join(WAIT)
    assert [status for status, _ in found] == [200]


def test_https_and_certificates_of_clients(tmp_path):
    pki = PKI(tmp_path)
    app = archive(web_certificate=pki.server.certificate, web_key=pki.server.key, web_ca=pki.ca)
    seen = []

    @app.before_association
    def look(association):
        seen.append(association.peer_certificate)

    def context(*files):
        made = ssl.create_default_context(cafile=pki.ca)
        made.check_hostname = False
        if files:
            made.load_cert_chain(*files)
        return made

    with app.serve(port=0, web_port=0) as server:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.web_port, context=context(*pki.client.files), timeout=WAIT
        )
        connection.request("GET", f"{ROOT}/studies")
        response = connection.getresponse()
        assert (response.status, b"https://127.0.0.1" in response.read()) == (200, True)
        connection.close()
        stranger = http.client.HTTPSConnection(
            "127.0.0.1", server.web_port, context=context(), timeout=WAIT
        )
        with contextlib.closing(stranger), pytest.raises(OSError):
            _refused(stranger)
        with client(server) as plain:
            plain.sendall(GET)
            assert b"200 OK" not in said(plain)
    assert len(seen) == 1
    assert seen[0]["subject"]


def _refused(stranger):
    stranger.request("GET", f"{ROOT}/studies")  # with TLS 1.3 the refusal comes behind it
    stranger.getresponse()


def test_a_key_without_its_certificate_is_an_error():
    with pytest.raises(SetupError, match="web_certificate"):
        archive(web_key="key.pem").serve(port=0, web_port=0)


RUN = """
import os
from pacsroute import App

app = App("WORKERS")

@app.find("StudyRoot")
def find(request):
    yield {"StudyInstanceUID": "1.2", "StudyDescription": str(os.getpid())}
"""


class Web:
    """Where a server in another process answers."""

    def __init__(self, running):
        self.web_port = int(running.until(r"DICOMweb at http://127\.0\.0\.1:(\d+)/")[1])


@pytest.mark.skipif(os.name != "posix", reason="gunicorn is for POSIX systems")
@pytest.mark.slow
def test_workers_share_the_port_and_a_reload_loses_no_request(tmp_path):
    (tmp_path / "app.py").write_text(RUN)
    arguments = ("run", "--port", "0", "--web-port", "0", "--workers", "2")
    with Running(tmp_path, *arguments) as running:
        server = Web(running)
        for _ in range(2):
            running.until(r"worker \d+ serves")
        path = f"{ROOT}/studies?includefield=StudyDescription"
        statuses, bodies, stop = [], set(), threading.Event()

        def go_on_asking():
            while not stop.is_set():
                status, body = ask(server, path=path)
                statuses.append(status)
                bodies.add(body)

        threads = [threading.Thread(target=go_on_asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        running.signal(signal.SIGHUP)
        for _ in range(2):
            running.until(r"worker \d+ serves")
        for _ in range(2):
            running.until(r"worker \d+ has ended")
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert len(bodies) >= 3  # two workers, and at least one of the new ones
        running.signal(signal.SIGTERM)
        assert running.ended() == 0


@pytest.mark.slow
def test_a_reload_keeps_the_port_while_the_app_is_broken(tmp_path):
    (tmp_path / "app.py").write_text(RUN)
    with Running(tmp_path, "run", "--port", "0", "--web-port", "0", "--reload") as running:
        server = Web(running)
        running.until("listening on")
        assert ask(server)[0] == 200
        (tmp_path / "app.py").write_text("broken")
        running.until("app.py is saved: restarting")
        with client(server) as waiting:  # the socket listens still
            waiting.sendall(GET)
            (tmp_path / "app.py").write_text(RUN)
            assert b"200 OK" in waiting.recv(1 << 16)


def test_another_wsgi_server_enters_the_lifespan_once():
    app, begun = archive(), []

    @app.lifespan
    def once(app):
        begun.append(True)
        yield

    client = app.web.test_client()
    assert client.get(f"{ROOT}/studies").status_code == 200
    assert client.get("/hello").text == "hello"
    assert begun == [True]
    assert not app.serving
