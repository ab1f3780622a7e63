"""TLS with peers that misbehave: handshakes, garbage, stalls, and nothing left behind."""

import contextlib
import gc
import os
import socket
import ssl
import subprocess
import threading
import warnings
from pathlib import Path

import pytest
from support.certificates import LOCALHOST, echoes, gone, hello, logged, secured
from support.names import WAIT
from support.programs import program
from support.raw_peer import RawPeer
from support.unharmed import until

import pacsroute
from pacsroute import App, AssociationAborted


def test_a_plain_peer_on_the_tls_port(serve_tls, pki, caplog):
    server = serve_tls()
    with pytest.raises((EOFError, ConnectionError)):
        RawPeer(server.tls_port)
    assert echoes(server, pki.trusting())
    assert logged(caplog, "the association ended", server) == [
        "a peer (127.0.0.1): the association ended: TLS failed: "
        "the peer is not speaking TLS, which this port requires"
    ]


def test_a_tls_peer_on_the_plain_port(serve_tls, pki, caplog):
    server = serve_tls()
    with pytest.raises(AssociationAborted, match="the TLS handshake failed"):
        pacsroute.connect(LOCALHOST, server.port, tls=pki.trusting()).echo()
    assert echoes(server, pki.trusting())
    assert logged(caplog, "the association ended", server) == [
        "a peer (127.0.0.1): the association ended: no PDU has the type 16H, "
        "but TLS begins like that"
    ]


def test_a_handshake_that_stalls_ends_with_artim(serve_tls, pki, caplog):
    server = serve_tls(artim=0.3)
    greeting = hello(pki.trusting().client())
    for sent in (b"", greeting[:1], greeting[:50], greeting):
        with socket.create_connection((LOCALHOST, server.tls_port)) as sock:
            sock.sendall(sent)
            while sock.recv(65_536):  # its ServerHello, if anything
                pass
    lines = logged(caplog, "TLS failed", server)
    assert [line.rpartition(": ")[2] for line in lines] == [
        "nothing received",
        *["the handshake took 0.3 s"] * 3,
    ]


def test_a_handshake_that_trickles_ends_with_artim_too(serve_tls, pki, caplog):
    server = serve_tls(artim=0.3)
    greeting = hello(pki.trusting().client())
    with socket.create_connection((LOCALHOST, server.tls_port)) as sock:
        sock.settimeout(0.02)
        with contextlib.suppress(ConnectionError):
            for i in range(len(greeting) - 1):
                sock.sendall(greeting[i : i + 1])
                try:
                    if not sock.recv(1):
                        break
                except TimeoutError:
                    continue
            else:
                pytest.fail("it was let be")
    assert logged(caplog, "the handshake took 0.3 s", server)


def test_handshakes_that_stall_are_connections_that_count(serve_tls, pki, caplog):
    server = serve_tls(max_associations=1)
    greeting = hello(pki.trusting().client())[:20]
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            sock = stack.enter_context(socket.create_connection((LOCALHOST, server.tls_port)))
            with contextlib.suppress(ConnectionError):  # it was closed at once
                sock.sendall(greeting)
        sock.settimeout(WAIT)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
        assert until(lambda: logged(caplog, "connections beyond 26 at once are closed"))
    while True:  # until the server has seen that they are gone
        with contextlib.suppress(AssociationAborted):
            assert echoes(server, pki.trusting())
            break


@pytest.mark.parametrize("sent", ["nothing", "garbage", "cut", "zeros", "huge"])
def test_garbage_and_ends_in_the_middle_of_a_handshake(sent, serve_tls, pki, caplog):
    server = serve_tls()
    greeting = hello(pki.trusting().client())
    data = {
        "nothing": b"",
        "garbage": b"\x16\x03\x01" + bytes(range(256)),
        "cut": greeting[: len(greeting) // 2],
        "zeros": greeting[:5] + bytes(len(greeting) - 5),
        "huge": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    }[sent]
    with socket.create_connection((LOCALHOST, server.tls_port)) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while sock.recv(65_536):
                pass
    assert echoes(server, pki.trusting())
    # A connection that closes without a byte is a health check.
    assert len(logged(caplog, "TLS failed", server)) == (sent != "nothing")
    assert not [record for record in caplog.records if record.exc_info]


def test_garbage_after_the_handshake_ends_the_association(serve_tls, pki):
    server = serve_tls()
    context = pki.trusting().client()
    sock = socket.create_connection((LOCALHOST, server.tls_port))
    with context.wrap_socket(sock, server_hostname="pacs.example") as secure:
        with socket.socket(fileno=os.dup(secure.fileno())) as beneath:
            beneath.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            with contextlib.suppress(ConnectionError):
                while beneath.recv(65_536):
                    pass
    assert echoes(server, pki.trusting())


def test_tls_1_1_is_refused(serve_tls, caplog):
    server = serve_tls()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(AssociationAborted, match="alert protocol version"):
        secured(server, old).echo()
    assert logged(caplog, "unsupported protocol", server)


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "DHE"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(suite, serve_tls, caplog):
    server = serve_tls()
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    weak.check_hostname, weak.verify_mode = False, ssl.CERT_NONE
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers(suite)
    with pytest.raises(AssociationAborted, match="handshake failure"):
        secured(server, weak).echo()
    assert logged(caplog, "no shared cipher", server)


def test_renegotiation_is_refused(serve_tls, pki):
    server = serve_tls()
    address = f"{LOCALHOST}:{server.tls_port}"
    asked = subprocess.run(
        [program("openssl"), "s_client", "-tls1_2", "-connect", address, "-CAfile", pki.ca],
        input="R\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert "RENEGOTIATING" in asked.stdout + asked.stderr
    assert "no renegotiation" in asked.stdout + asked.stderr
    assert echoes(server, pki.trusting())


def test_a_server_that_stops_wakes_those_in_a_handshake_and_after_it(pki):
    app = App()
    with app.serve(port=0, grace=0, **pki.serving) as server:
        context = pki.trusting().client()
        with (
            socket.create_connection((LOCALHOST, server.tls_port)) as silent,
            socket.create_connection((LOCALHOST, server.tls_port)) as half,
            secured(server, context) as client,
        ):
            half.sendall(hello(context)[:20])
            client.echo()
            thread = threading.Thread(target=server.stop)
            thread.start()
            # What it says to an association goes encrypted, though its reading is shut down.
            (one,) = client._pool._idle
            with pytest.raises(AssociationAborted, match="aborted"):
                one.association.receive()
            thread.join(WAIT)
            assert not thread.is_alive()
            assert gone(silent)
            assert gone(half)


# ------------------------------------------------------------------------------ resources


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux does")
def test_tls_leaves_no_thread_or_descriptor_behind(serve_tls, pki):
    server = serve_tls(tls_ca=pki.ca, max_associations=5)
    greeting = hello(pki.trusting().client())
    good, bad = pki.trusting(pki.client), pki.trusting(pki.foreign)

    def mixed():
        for i in range(8):
            assert echoes(server, good)
            with pytest.raises(AssociationAborted):
                secured(server, bad).echo()
            with socket.create_connection((LOCALHOST, server.tls_port)) as sock:
                sock.sendall(greeting[: 40 * i])
            with contextlib.suppress(EOFError, ConnectionError):
                RawPeer(server.tls_port)

    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    mixed()
    server.stop()
    before = descriptors(), threading.active_count()
    again = App().serve(port=0, tls_port=0, tls_ca=pki.ca, **pki.serving)
    with again as server:
        mixed()
    assert descriptors() <= before[0]
    assert threading.active_count() <= before[1]
