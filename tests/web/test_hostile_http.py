"""HTTP that is malformed or meant ill: a clear refusal, no traceback, and nobody else held."""

import contextlib
import gzip
import io
import logging
import random
import socket
import time
import zlib

import pytest
from support.names import WAIT
from support.web import CT, ROOT, content, multipart

from pacsroute import App
from pacsroute.web.accept import ranges
from pacsroute.web.headers import read_headers

HOST = b"Host: localhost\r\n"
POST = b"POST /echo HTTP/1.1\r\n" + HOST
CHUNKS = b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def server():
    from flask import request

    app = App("ARCHIVE", web_open=True, max_web_parts=100)
    app.store(lambda request: None)
    app.find("StudyRoot")(lambda request: [])

    @app.web.route("/echo", methods=["GET", "POST"])
    def echo():
        return f"{len(request.get_data())} {request.headers.get('X-Forwarded-For')}"

    with app.serve(port=0, web_port=0) as server:
        yield server


def answers(server, data, end=True):
    """Return all that the server says to some bytes."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.web_port), timeout=WAIT) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(1 << 16):
                found += piece
    return found


def statuses(found):
    return [int(part[:3]) for part in found.split(b"HTTP/1.1 ")[1:]]


@pytest.fixture
def quiet(caplog):
    """Look at the end whether there was a traceback."""
    with caplog.at_level(logging.INFO):
        yield
    assert not [record for record in caplog.records if record.exc_info], caplog.text


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("lengths that differ", b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
        ("lengths that agree", b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde"),
        ("a list of lengths", b"Content-Length: 5, 5\r\n\r\nabcde"),
        ("a length with a blank before the colon", b"Content-Length : 5\r\n\r\nabcde"),
        ("a length in other digits", b"Content-Length: \xd9\xa5\r\n\r\nabcde"),
        ("no length", b"Content-Length: \r\n\r\n"),
        ("a line that goes on", b"X: 1\r\n 2\r\nContent-Length: 5\r\n\r\nabcde"),
        ("a length in a line that goes on", b"X: 1\r\n Content-Length: 3\r\n\r\nabc"),
        ("a line without a colon", b"Rubbish\r\n\r\n"),
        ("a carriage return in a value", b"X: a\rContent-Length: 3\r\n\r\nabc"),
        ("a NUL in a value", b"X: a\0b\r\n\r\n"),
        ("a NUL in a name", b"X\0: ab\r\n\r\n"),
        ("a line feed alone", b"X: a\nContent-Length: 3\n\nabc"),
        ("chunks twice", b"Transfer-Encoding: chunked, chunked" + CHUNKS),
        ("two encodings", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x" + CHUNKS),
        ("an encoding behind a control character", b"Transfer-Encoding: \x0bchunked" + CHUNKS),
        ("an encoding with a blank before the colon", b"Transfer-Encoding : chunked" + CHUNKS),
        ("a second host", b"Host: evil\r\n\r\n"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_what_two_programs_may_read_in_two_ways_is_refused(server, name, rest):
    assert statuses(answers(server, POST + rest)) == [400]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /echo HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
        (b"POST /echo HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked" + CHUNKS, 400),
        (POST + b"Transfer-Encoding: gzip, chunked" + CHUNKS, 501),
        (POST + b"Transfer-Encoding: identity" + CHUNKS, 501),
        (POST + b"Expect: something\r\nContent-Length: 5\r\n\r\nabcde", 417),
        (b"GET /echo HTTP/1.1\r\nHost: localhost@evil\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: localhost, evil\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: localhost:80:80\r\n\r\n", 400),
        (b"GET /echo\r\n\r\n", 400),  # HTTP/0.9
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),  # TLS
        (b"\x01\x00\x00\x00\x00\xcd\x00\x01\x00\x00" + bytes(200), 400),  # DIMSE
        (f"GET {ROOT}/studies/%00 HTTP/1.1\r\n".encode() + HOST + b"\r\n", 400),
        (f"GET {ROOT}/studies/%ff%fe HTTP/1.1\r\n".encode() + HOST + b"\r\n", 400),
        (f"GET {ROOT}/studies?%ff=%fe HTTP/1.1\r\n".encode() + HOST + b"\r\n", 400),
        (f"GET {ROOT}/../echo HTTP/1.1\r\n".encode() + HOST + b"\r\n", 404),
        (f"TRACE {ROOT}/studies HTTP/1.1\r\n".encode() + HOST + b"\r\n", 405),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_what_is_not_http_is_refused(server, request_, status):
    assert statuses(answers(server, request_)) == [status]


@pytest.mark.usefixtures("quiet")
def test_a_name_with_an_underscore_does_not_stand_for_one_with_a_hyphen(server):
    spoofed = b"GET /echo HTTP/1.1\r\n" + HOST + b"X_Forwarded_For: 10.0.0.7\r\n\r\n"
    assert answers(server, spoofed).endswith(b"0 None")
    lengthless = POST + b"Content_Length: 5\r\n\r\n"
    assert answers(server, lengthless).endswith(b"0 None")


@pytest.mark.usefixtures("quiet")
def test_a_body_is_never_taken_for_the_next_request(server):
    hidden = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for path in (f"{ROOT}/studies", f"{ROOT}/nonsense"):
        length = f"GET {path} HTTP/1.1\r\nContent-Length: {len(hidden)}\r\n".encode()
        found = statuses(answers(server, length + HOST + b"\r\n" + hidden))
        assert len(found) == 1
        chunked = f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n".encode() + HOST
        pieces = f"\r\n{len(hidden):x}\r\n".encode() + hidden + b"\r\n0\r\n\r\n"
        assert len(statuses(answers(server, chunked + pieces))) == 1


# ------------------------------------------------------------- bodies

BODY, KIND = multipart(content(CT))


def stow(server, body, kind=KIND, headers=""):
    head = (
        f"POST {ROOT}/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return answers(server, head.encode() + body)


def boundary(text):
    return f"multipart/related; boundary={text}"


PART = b"--b\r\nContent-Type: application/dicom\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        (BODY, "multipart/related", 400, "names no boundary"),
        (BODY, boundary(""), 400, "names no boundary"),
        (BODY, boundary("b" * 300), 400, "names no boundary"),
        (BODY, boundary("c"), 400, "not multipart"),
        (BODY, boundary("bb"), 400, "not multipart"),
        (BODY[:-6], KIND, 400, "cut off"),
        (b"", KIND, 400, "cut off"),
        (b"--b--\r\n", KIND, 400, "no instance"),
        (BODY.replace(b"\r\n", b"\n"), KIND, 400, "not multipart"),
        (BODY.replace(b"Type:", b"Type"), KIND, 400, "not multipart"),
        (BODY.replace(b"Type:", b"Type: " + b"x" * 70_000), KIND, 400, "parts are broken"),
        (BODY.replace(b"dicom", b"pdf"), KIND, 415, "parts must be application/dicom"),
        (BODY, "multipart/form-data; boundary=b", 415, "multipart/related"),
        (BODY, "text/plain", 415, "multipart/related"),
        (BODY, "", 415, "multipart/related"),
        ((PART + b"x\r\n") * 200 + b"--b--\r\n", KIND, 413, "max_web_parts"),
        (PART + b"\r\n--b--\r\n", KIND, 409, "0008119A"),
        (PART + bytes(1000) + b"\r\n--b--\r\n", KIND, 409, "0008119A"),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_a_body_that_is_not_one_says_why(server, body, kind, status, why):
    found = stow(server, body, kind)
    assert statuses(found) == [status]
    assert why in found.decode("latin-1")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (BODY, boundary('"b"')),
        (b"\r\n" + BODY, KIND),
        (b"To be ignored\r\n" + BODY + b"this, too", KIND),
        (BODY.replace(b"Content-Type: application/dicom\r\n", b""), KIND),
        (multipart(content(CT), boundary="'()+_,-./:=? b")[0], boundary('"\'()+_,-./:=? b"')),
    ],
)
def test_a_body_that_is_one_is_stored(server, body, kind):
    assert statuses(stow(server, body, kind)) == [200]


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", gzip.compress(BODY), 200),
        ("GZIP", gzip.compress(BODY), 200),
        ("deflate", zlib.compress(BODY), 200),
        ("identity", BODY, 200),
        ("br", BODY, 415),
        ("gzip, gzip", BODY, 415),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY)[:-20], 400),
        ("gzip", gzip.compress(BODY) + b"more", 400),
        ("gzip", b"", 400),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_a_body_may_have_a_content_coding(server, coding, body, status):
    headers = f"Content-Encoding: {coding}\r\n"
    assert statuses(stow(server, body, headers=headers)) == [status]
    one = content(CT) if coding == "identity" else gzip.compress(content(CT))
    if status == 200 and coding != "deflate":
        assert statuses(stow(server, one, "application/dicom", headers)) == [200]


def test_a_bomb_is_cut_off_at_the_limit_of_a_body():
    app = App(max_web_body=1_000_000)
    app.store(lambda request: None)
    bomb = gzip.compress(PART + bytes(500_000_000), 1)
    with app.test_client() as client:
        response = client.web.post(
            f"{ROOT}/studies",
            data=bomb[:900_000],
            content_type=KIND,
            headers={"Content-Encoding": "gzip"},
        )
    assert (response.status_code, "max_web_body" in response.text) == (413, True)


# ------------------------------------------------------------- many, and secrets


@pytest.mark.usefixtures("quiet")
def test_requests_with_random_mistakes_are_answered_or_refused(server):
    chance = random.Random(18)
    whole = (
        f"POST {ROOT}/studies?accept=application/dicom%2Bjson HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {KIND}\r\nTransfer-Encoding: chunked\r\nAccept: */*\r\n\r\n"
    ).encode()
    body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (BODY[:700], BODY[700:900]))
    whole += body + b"0\r\n\r\n"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            change = chance.randrange(3)
            if change == 0:
                data[at] = chance.randrange(256)
            elif change == 1:
                del data[at : at + chance.randint(1, 20)]
            else:
                data[at:at] = bytes(chance.choices(b"\r\n\0 :;,=\"'\xffA5", k=chance.randint(1, 9)))
        for status in statuses(answers(server, bytes(data))):
            assert status in (400, 404, 405, 406, 409, 411, 413, 414, 415, 417, 501, 505)
    assert statuses(stow(server, BODY)) == [200]


def test_secrets_of_a_request_are_not_logged(caplog):
    app = App("ARCHIVE")

    @app.authenticate
    def check(identity, association):
        return "doe" if identity and identity.token == b"SECRET" else None

    @app.find("StudyRoot")
    def find(request):
        if request.limit == 6:
            raise ValueError("broken")
        return []

    @app.web.get("/broken")
    def broken():
        raise ValueError("broken")

    with caplog.at_level(logging.DEBUG), app.serve(port=0, web_port=0) as server:
        for path in (f"{ROOT}/studies", f"{ROOT}/studies?limit=5", f"{ROOT}/nonsense", "/broken"):
            for token in ("Bearer SECRET", "Bearer NOT-SECRET", "Basic U0VDUkVUOlNFQ1JFVA=="):
                more = "&" if "?" in path else "?"
                answers(
                    server,
                    f"GET {path}{more}access_token=SECRET HTTP/1.1\r\nHost: localhost\r\n"
                    f"Authorization: {token}\r\nCookie: session=SECRET\r\n\r\n".encode(),
                )
        answers(server, b"GET /SECRET\r\n\r\n")
    assert "broken" in caplog.text
    assert "SECRET" not in caplog.text
    assert "U0VDUkVU" not in caplog.text


BLANKS = 60_000


@pytest.mark.parametrize(
    "text",
    [
        f'a/b{" " * BLANKS}"',
        f'a/b;{" " * BLANKS}"',
        f'a/b;c={" " * BLANKS}"',
        f"a/b;c{' ' * BLANKS}",
        'a/b;c="' + "\\a" * (BLANKS // 2),
        '"' * BLANKS,
        "a/b" + ";" * BLANKS,
    ],
)
def test_a_long_media_range_takes_no_time(text):
    before = time.process_time()
    ranges(text)
    assert time.process_time() - before < 5  # seconds; some took 40


def test_a_long_line_of_blanks_takes_no_time():
    before = time.process_time()
    with pytest.raises(ValueError, match="Illegal"):
        read_headers(io.BytesIO(b"X:" + b" \t" * (BLANKS // 2) + b"\x01\r\n\r\n"), {})
    assert time.process_time() - before < 3  # seconds; it took 30
