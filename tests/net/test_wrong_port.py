"""What is said, and how soon, where one of two sides does not speak DICOM."""

import contextlib
import errno
import logging
import socket
import struct
import threading
import time

import pytest
from support.names import WAIT
from support.unharmed import until

import pacsroute
from pacsroute import App, AssociationAborted
from pacsroute.net import transport
from pacsroute.upper_layer import pdu

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def something_else(answer, *, closes):
    """Listen as something else does: read what comes first, answer, and close or stay."""
    done = threading.Event()

    def serve():
        sock, _ = listener.accept()
        with sock:
            sock.recv(4096)
            sock.sendall(answer)
            if not closes:
                done.wait(WAIT)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join(WAIT)


BROKEN = b"\0\1\0\0" + bytes(64) + b"\x10\0\0\x99"  # an item that is longer than its PDU


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            r"does not speak DICOM: .*'HTTP/1.1 400 Bad Request'",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak DICOM: .*'SSH-2.0-OpenSSH_9.2'"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "does not speak DICOM: .*, but TLS begins like that"),
        (b"\xff\xfe\xfd\xfc\xfb\xfa\n", "does not speak DICOM: no PDU has the type FFH$"),
        (b"\xff\xfd\x18", "does not speak DICOM: no PDU has the type FFH$"),
        (b"NO\n", "no PDU has the type 4EH: the received bytes begin with 'NO'"),
        (struct.pack(">BxI", 2, 72) + BROKEN, "an invalid answer: item 10H is longer"),
    ],
)
def test_a_client_says_at_once_what_came(answer, words, closes):
    with something_else(answer, closes=closes) as port:
        began = time.monotonic()
        with pacsroute.connect("127.0.0.1", port) as client:
            with pytest.raises(AssociationAborted, match=words) as raised:
                client.echo()
        assert time.monotonic() - began < 10  # it was ARTIM, 30 seconds
    assert "aborted the request" not in str(raised.value)
    assert f"ANY-SCP at 127.0.0.1:{port} " in str(raised.value)


def test_a_client_says_what_came_of_a_peer_that_has_gone(monkeypatch):
    """An A-ABORT that cannot be sent hides nothing: the peer has closed, or reset, meanwhile."""
    send_all, sent = transport.send_all, []

    def gone(sock, buffers, pace):
        sent.append(b"".join(map(bytes, buffers)))
        if len(sent) > 1:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        send_all(sock, buffers, pace)

    monkeypatch.setattr(transport, "send_all", gone)
    with something_else(b"SSH-2.0-OpenSSH_9.2\r\n", closes=True) as port:
        with pacsroute.connect("127.0.0.1", port) as client:
            with pytest.raises(AssociationAborted, match=r"does not speak DICOM: .*OpenSSH"):
                client.echo()
    assert len(sent) == 2


def test_a_client_says_that_an_answer_broke_off():
    accept = pdu.encode(pdu.AssociateAC("A", "B"))
    with something_else(accept[:40], closes=True) as port:
        with pacsroute.connect("127.0.0.1", port) as client:
            with pytest.raises(AssociationAborted, match="closed the connection within its answer"):
                client.echo()


def connect(port, data=b"", *, reset=False):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(data)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def warnings(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_closes_without_a_byte_is_no_warning(caplog, reset):
    caplog.set_level(logging.DEBUG, "pacsroute")
    with App().serve(port=0, grace=1) as server:
        connect(server.port, reset=reset)
        assert until(
            lambda: "127.0.0.1: the peer closed the connection without a request" in caplog.messages
        )
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", "the received bytes begin with 'GET /health HTTP/1.0'"),
        (
            pdu.encode(pdu.AssociateRQ("A", "B"))[:40],
            "the peer closed the connection within its request",
        ),
        (b"\x01", "the peer closed the connection within its request"),
    ],
)
def test_a_connection_that_brings_something_else_is_a_warning(caplog, data, words):
    with App().serve(port=0, grace=1) as server:
        connect(server.port, data)
        assert until(lambda: any(words in line for line in warnings(caplog)))


def test_the_bytes_of_a_data_set_are_not_told(caplog, raw_peer):
    """Where framing is lost within an association, what comes may be a patient's name."""
    with App().serve(port=0, grace=1) as server, raw_peer(server.port) as peer:
        peer.socket.sendall(b"Doe^John is a patient")
        assert isinstance(peer.read_pdu(), pdu.Abort)
        assert until(lambda: any("no PDU has the type 44H" in line for line in warnings(caplog)))
    assert "Doe" not in caplog.text
