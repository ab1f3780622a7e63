"""Instances that the server sends out of their files, over a socket."""

import contextlib
import http.client
import os
import socket
import ssl
import threading

import pytest
from support.archives import image
from support.certificates import PKI
from support.names import WAIT
from support.web import path_of

from pacsroute import App, Archive, Instance
from pacsroute.web.connection import _Output
from pacsroute.web.multipart import Region

SIDES = {"Rows": 1000, "Columns": 1500}
MULTIPART = 'multipart/related; type="application/dicom"'


@pytest.fixture(params=[10, 3_000_000])
def stored(tmp_path, request):
    """Return an archive with an instance, in memory at most or larger, and the instance."""
    app = App("ARCHIVE", spool=str(tmp_path))
    archive = Archive(tmp_path / "archive")
    app.register_blueprint(archive)
    pixels = os.urandom(request.param)
    sides = {"Rows": 1, "Columns": len(pixels) // 2} if len(pixels) < 1000 else SIDES
    dataset = image(BitsAllocated=8, NumberOfFrames=2, PixelData=pixels, **sides)
    with app.running():
        archive.add(Instance(dataset))
    return app, dataset


def ask(connection, path, method="GET", **headers):
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def check(connection, dataset):
    path = path_of(dataset)
    response, whole = ask(connection, path, Accept="application/dicom")
    assert len(whole) == int(response.headers["Content-Length"])
    assert whole[128:132] == b"DICM"
    assert whole.endswith(dataset.PixelData)
    response, data = ask(connection, path, Accept=MULTIPART)
    assert len(data) == int(response.headers["Content-Length"])
    assert whole in data
    assert data.endswith(b"--\r\n")
    response, data = ask(connection, path, Accept="application/dicom", Range="bytes=100-299")
    assert (response.status, data) == (206, whole[100:300])
    response, data = ask(connection, path, "HEAD", Accept="application/dicom")
    assert (response.status, data) == (200, b"")
    response, data = ask(connection, path.rpartition("/series")[0], Accept=MULTIPART)
    assert whole in data
    pixels, half = dataset.PixelData, len(dataset.PixelData) // 2
    response, data = ask(connection, f"{path}/frames/2", Accept="application/octet-stream")
    assert data == pixels[half:]
    response, data = ask(connection, f"{path}/frames/2,1", Accept="*/*")
    assert data.index(pixels[half:]) < data.index(pixels[:half])
    response, data = ask(
        connection, f"{path}/frames/2", Accept="application/octet-stream", Range="bytes=1-3"
    )
    assert (response.status, data) == (206, pixels[half + 1 : half + 4])
    assert ask(connection, f"{path}/frames/3")[0].status == 404


def test_an_instance_has_its_length_and_all_of_its_bytes(stored):
    app, dataset = stored
    with app.serve(port=0, web_port=0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.web_port, timeout=WAIT)
        with contextlib.closing(connection):
            check(connection, dataset)


def test_the_same_over_tls(stored, tmp_path):
    app, dataset = stored
    pki = PKI(tmp_path)
    settings = {"web_certificate": pki.server.certificate, "web_key": pki.server.key}
    app.config = app.config.replace(web_open=True, **settings)
    with app.serve(port=0, web_port=0) as server:
        context = ssl.create_default_context(cafile=pki.ca)
        context.check_hostname = False
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.web_port, timeout=WAIT, context=context
        )
        with contextlib.closing(connection):
            check(connection, dataset)


def test_what_a_user_puts_around_the_site_sees_bytes(stored):
    app, dataset = stored
    inner = app.web.wsgi_app

    def joined(environ, start_response):
        chunks = inner(environ, start_response)
        whole = b"".join(chunks)
        chunks.close()
        return [whole]

    app.web.wsgi_app = joined
    with app.serve(port=0, web_port=0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.web_port, timeout=WAIT)
        with contextlib.closing(connection):
            check(connection, dataset)


@pytest.fixture
def output():
    """Return what writes to a socket, and the other end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.2)
        yield _Output(ours, plain=True), theirs


def test_what_is_held_goes_with_what_comes_next(output):
    out, theirs = output
    out.holds = True
    out.write(b"head")
    out.holds = False
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    out.write(b" and", b" body")
    assert theirs.recv(100) == b"head and body"


def test_a_file_waits_for_a_slow_reader_but_not_for_ever(output, tmp_path):
    out, theirs = output
    (tmp_path / "file").write_bytes(os.urandom(5_000_000))
    with open(tmp_path / "file", "rb") as file:
        region, got = Region(file, 10, 4_000_000), []

        def read():
            while sum(map(len, got)) < len(region):
                got.append(theirs.recv(1 << 16))

        thread = threading.Thread(target=read)
        thread.start()
        out.send_file(region)
        thread.join(WAIT)
        file.seek(10)
        assert b"".join(got) == file.read(4_000_000)
        with pytest.raises(TimeoutError):
            out.send_file(region)


def test_a_file_that_becomes_shorter_is_an_error(output, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with open(tmp_path / "file", "rb") as file, pytest.raises(OSError, match="shorter"):
        output[0].send_file(Region(file, 1, 10))
