"""TLS over real sockets: DCMTK both ways, certificates good and bad, and peers that misbehave."""

import contextlib
import datetime
import gc
import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import warnings
from pathlib import Path

import pydicom
import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from support.dcmtk import dcmtk_tool
from support.names import WAIT
from support.raw_peer import RawPeer
from support.unharmed import until

import pacsroute
from pacsroute import App, Association, AssociationAborted, Instance, Peer, SetupError, uids
from pacsroute.cli import main
from pacsroute.net import transport
from pacsroute.testing import replay
from pacsroute.tls import TLS
from pacsroute.trace.recording import recorder
from pacsroute.upper_layer import pdu

LOCALHOST = "127.0.0.1"


# ------------------------------------------------------------------------------ certificates


class Made:
    """A certificate and its key as files."""

    def __init__(self, folder, name, leaf):
        self.leaf = leaf
        self.certificate, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self.write(leaf)

    def write(self, leaf):
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        self.certificate.write_bytes(chain)
        self.key.write_bytes(leaf.private_key_pem.bytes())

    @property
    def files(self):
        return self.certificate, self.key


class Certificates:
    """A hospital's CA with what it signed, and somebody else's."""

    def __init__(self, folder):
        self.folder = folder
        self.hospital, self.stranger = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = folder / "ca.pem", folder / "other_ca.pem"
        self.hospital.cert_pem.write_to_path(self.ca)
        self.stranger.cert_pem.write_to_path(self.other_ca)
        past = datetime.datetime(2020, 1, 1)
        self.server = self.made("server", "pacs.example", common_name="PACS")
        self.client = self.made("client", "ct1.example", common_name="CT1")
        self.foreign = self.made("foreign", "ct1.example", ca=self.stranger)
        self.expired = self.made("expired", "ct2.example", not_before=past, not_after=past)

    def made(self, name, *identities, ca=None, **options):
        # DCMTK at its defaults speaks with RSA only.
        options["key_type"] = trustme.KeyType.RSA
        return Made(self.folder, name, (ca or self.hospital).issue_cert(*identities, **options))

    @property
    def serving(self):
        """The settings of a server with a certificate."""
        return {"tls_certificate": self.server.certificate, "tls_key": self.server.key}

    def trusting(self, who=None, **options):
        """What a client speaks TLS with that trusts the hospital."""
        return TLS(*(who.files if who else ()), ca=self.ca, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(made):
    """Return a function that starts a server with a certificate, at a port of its own for TLS."""
    with contextlib.ExitStack() as stack:

        def start(app=None, **settings):
            settings = {"port": 0, "tls_port": 0, "grace": 1, **made.serving, **settings}
            return stack.enter_context((app or App()).serve(**settings))

        yield start


def secured(server, tls, **options):
    return pacsroute.connect(LOCALHOST, server.tls_port, tls=tls, **options)


def echoes(server, tls):
    with secured(server, tls) as client:
        return client.echo().code == 0


def gone(sock):
    """Tell whether the other side closes the connection without a word."""
    sock.settimeout(WAIT)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def logged(caplog, text, server=None):
    """Return what was logged with a text in it, once the server, if given, has stopped."""
    if server is not None:
        server.stop()
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


# ------------------------------------------------------------------------------ the two ports


def test_a_plain_and_a_tls_port_at_once(serve, made):
    seen, app = [], App()

    @app.echo
    def echo(request):
        seen.append(request.association.peer_certificate)

    server = serve(app)
    assert server.port != server.tls_port
    with pacsroute.connect(LOCALHOST, server.port) as plain:
        with secured(server, made.trusting()) as client:
            assert client.echo().code == plain.echo().code == client.echo().code == 0
    assert seen == [None, None, None]


def test_what_observes_an_association_sees_what_is_inside(serve, made, tmp_path):
    app, asking = App(), App("ASKING")
    app.taps.append(recorder(tmp_path / "served"))
    asking.taps.append(recorder(tmp_path / "asked"))
    server = serve(app)
    with secured(server, made.trusting(), app=asking) as client:
        assert client.echo().code == 0
    server.stop()
    for side in ("served", "asked"):
        (path,) = (tmp_path / side).iterdir()
        assert replay(path, App()) == []


def test_without_a_port_for_it_the_only_port_speaks_tls(serve, made):
    server = serve(tls_port=None)
    assert server.port == server.tls_port
    assert echoes(server, made.trusting())
    with pytest.raises(AssociationAborted, match="closed the connection"):
        pacsroute.connect(LOCALHOST, server.port).echo()


def test_without_a_certificate_there_is_no_tls():
    with App().serve(port=0) as server:
        assert server.tls_port is None
    for settings in ({"tls_port": 0}, {"tls_ca": "ca.pem"}, {"tls_client_certificate": "none"}):
        with pytest.raises(SetupError, match="needs a certificate"):
            App().serve(port=0, **settings)


def test_a_port_that_is_taken_leaves_none_open(made):
    with App().serve(port=0) as taken, socket.create_server((LOCALHOST, 0)) as spare:
        port = spare.getsockname()[1]
        spare.close()
        with pytest.raises(OSError, match=f"{LOCALHOST}:{taken.port}"):
            App().serve(port=port, tls_port=taken.port, **made.serving)
        with App().serve(port=port):
            pass


# ------------------------------------------------------------------------------ who is who


def test_the_certificate_of_the_client_is_on_the_association_and_in_the_log(serve, made, caplog):
    caplog.set_level(logging.INFO, "pacsroute")
    seen, app = [], App()

    @app.echo
    def echo(request):
        seen.append(request.association.peer_certificate)

    server = serve(app, tls_ca=made.ca)
    assert echoes(server, made.trusting(made.client))
    assert (("commonName", "CT1"),) in seen[0]["subject"]
    assert logged(caplog, "commonName=CT1", server)


@pytest.mark.parametrize("who", [None, "foreign", "expired"])
def test_a_client_certificate_that_is_required_and_not_good(who, serve, made, caplog):
    server = serve(tls_ca=made.ca)
    words = {None: "required", "foreign": "unknown ca", "expired": "expired"}
    own = who and getattr(made, who)
    # TLS 1.3 has the client find out later: in the place of the answer to its request.
    with pytest.raises(AssociationAborted, match=f"closed the connection: .*{words[who]}"):
        secured(server, made.trusting(own)).echo()
    assert echoes(server, made.trusting(made.client))
    (line,) = logged(caplog, "TLS failed", server)
    assert line.startswith("a peer (127.0.0.1)")


def test_a_client_certificate_that_is_optional(serve, made):
    server = serve(tls_ca=made.ca, tls_client_certificate="optional")
    assert echoes(server, made.trusting())
    assert echoes(server, made.trusting(made.client))
    with pytest.raises(AssociationAborted):
        secured(server, made.trusting(made.foreign)).echo()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("profile", ["bcp195", "modified"])
def test_the_versions_and_profiles(version, profile, serve, made):
    server = serve(tls_profile=profile)
    context = made.trusting(profile=profile).client()
    context.minimum_version = context.maximum_version = version
    assert echoes(server, context)


@pytest.mark.parametrize(
    ("tls", "why"),
    [
        (lambda made: TLS(ca=made.other_ca), "unable to get local issuer"),
        (lambda made: TLS(), "unable to get local issuer"),
        (lambda made: TLS(ca=made.ca, check_hostname=True), "IP address mismatch"),
    ],
)
def test_a_client_refuses_a_server_that_it_does_not_trust(tls, why, serve, made):
    server = serve()
    with pytest.raises(AssociationAborted, match=f"the certificate is refused, .*{why}"):
        secured(server, tls(made)).echo()


def test_a_client_may_trust_the_very_certificate_or_anybody(serve, made):
    server = serve()
    assert echoes(server, TLS(ca=made.server.certificate))
    assert echoes(server, TLS(verify=False))
    with secured(server, ssl.create_default_context()) as client:
        with pytest.raises(AssociationAborted):
            client.echo()


def test_a_client_refuses_a_server_that_has_expired(serve, made):
    expired = {"tls_certificate": made.expired.certificate, "tls_key": made.expired.key}
    server = serve(**expired)
    with pytest.raises(AssociationAborted, match="expired"):
        secured(server, made.trusting()).echo()


def test_a_socket_that_speaks_tls_already(made):
    near, far = socket.socketpair()
    context, certificates = made.trusting(made.client).client(), []

    def ask():
        with context.wrap_socket(far) as sock:
            request = pdu.AssociateRQ(
                "ANY",
                "RAW",
                (pdu.PresentationContext(1, uids.VERIFICATION, (uids.IMPLICIT_VR_LITTLE_ENDIAN,)),),
                pdu.UserInformation(16_384, "1.2.3"),
            )
            sock.sendall(pdu.encode(request))
            certificates.append(sock.recv(1)[0])

    thread = threading.Thread(target=ask)
    thread.start()
    wrapped = TLS(*made.server.files, ca=made.ca).server().wrap_socket(near, server_side=True)
    with Association.accept(wrapped, App()) as association:
        assert association.calling_ae == "RAW"
        assert association.peer_certificate["subject"]
    thread.join(WAIT)
    assert certificates == [2]  # an A-ASSOCIATE-AC


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "a.key"}, "needs its certificate"),
        ({"client_certificate": "required"}, "need a CA file"),
        ({"client_certificate": "maybe"}, "'maybe'"),
        ({"profile": "basic"}, "'basic' is no TLS profile"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(arguments, words):
    with pytest.raises(SetupError, match=words):
        TLS(**arguments)


def test_files_that_cannot_be_used_are_named(made, tmp_path):
    (tmp_path / "empty.pem").touch()
    for tls, name in [
        (TLS(tmp_path / "none.pem"), r"none\.pem cannot be used: No such file"),
        (TLS(tmp_path / "empty.pem"), r"empty\.pem cannot be used: it is not PEM"),
        (TLS(made.server.certificate, made.client.key), r"client\.key cannot be used: key values"),
        (TLS(*made.server.files, ca=tmp_path / "empty.pem"), r"empty\.pem cannot be used"),
    ]:
        for context in (tls.server, tls.client):
            with pytest.raises(SetupError, match=name) as raised:
                context()
            assert "\n" not in str(raised.value)
    with pytest.raises(SetupError, match=r"none\.pem"):
        pacsroute.connect(LOCALHOST, 1, tls=TLS(ca=tmp_path / "none.pem"))


def test_a_key_with_a_passphrase(serve, made, tmp_path):
    key = serialization.load_pem_private_key(made.server.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    server = serve(tls_key=encrypted, tls_key_passphrase="open sesame")
    assert echoes(server, made.trusting())
    assert "sesame" not in repr(server.config)
    assert "sesame" not in repr(TLS("a.pem", passphrase="open sesame"))
    for wrong in (None, "", "wrong"):  # and OpenSSL asks nobody at the terminal
        with pytest.raises(SetupError, match=r"encrypted\.key cannot be used"):
            serve(tls_key=encrypted, tls_key_passphrase=wrong)


def test_changed_files_are_in_use_for_the_next_association(made, serve, tmp_path, caplog):
    mine = Made(tmp_path, "server", made.server.leaf)
    server = serve(tls_certificate=mine.certificate, tls_key=mine.key)
    trusts_new = TLS(ca=made.other_ca)
    with secured(server, made.trusting()) as before:
        before.echo()
        with pytest.raises(AssociationAborted):
            secured(server, trusts_new).echo()

        mine.write(made.stranger.issue_cert("pacs.example", key_type=trustme.KeyType.RSA))
        assert echoes(server, trusts_new)
        with pytest.raises(AssociationAborted):
            secured(server, made.trusting()).echo()

        mine.key.write_bytes(made.client.key.read_bytes())  # half of the next change
        for _ in range(3):
            assert echoes(server, trusts_new)
        assert len(logged(caplog, "what was read before stays in use")) == 1
        mine.certificate.unlink()
        assert echoes(server, trusts_new)

        mine.write(made.server.leaf)
        assert echoes(server, made.trusting())
        assert before.echo().code == 0  # over its association of before


def test_a_client_reads_changed_files_too(serve, made, tmp_path):
    server = serve()
    ca = tmp_path / "ca.pem"
    shutil.copy(made.other_ca, ca)
    tls = TLS(ca=ca)
    with pytest.raises(AssociationAborted):
        secured(server, tls).echo()
    shutil.copy(made.ca, ca)
    assert echoes(server, tls)


# ------------------------------------------------------------------------------ wrong peers


def test_a_plain_peer_on_the_tls_port(serve, made, caplog):
    server = serve()
    with pytest.raises((EOFError, ConnectionError)):
        RawPeer(server.tls_port)
    assert echoes(server, made.trusting())
    assert logged(caplog, "the association ended", server) == [
        "a peer (127.0.0.1): the association ended: TLS failed: "
        "the peer is not speaking TLS, which this port requires"
    ]


def test_a_tls_peer_on_the_plain_port(serve, made, caplog):
    server = serve()
    with pytest.raises(AssociationAborted, match="does not speak TLS as we do"):
        pacsroute.connect(LOCALHOST, server.port, tls=made.trusting()).echo()
    assert echoes(server, made.trusting())
    assert logged(caplog, "the association ended", server) == [
        "a peer (127.0.0.1): the association ended: no PDU has the type 16H, "
        "but TLS begins like that"
    ]


def hello(context):
    """Return a ClientHello."""
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="pacs.example")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def test_a_handshake_that_stalls_ends_with_artim(serve, made, caplog):
    server = serve(artim=0.3)
    greeting = hello(made.trusting().client())
    for sent in (b"", greeting[:1], greeting[:50], greeting):
        with socket.create_connection((LOCALHOST, server.tls_port)) as sock:
            sock.sendall(sent)
            while sock.recv(65_536):  # its ServerHello, if anything
                pass
    lines = logged(caplog, "TLS failed", server)
    assert [line.rpartition(": ")[2] for line in lines] == [
        "nothing came",
        *["the handshake took 0.3 s"] * 3,
    ]


def test_a_handshake_that_trickles_ends_with_artim_too(serve, made, caplog):
    server = serve(artim=0.3)
    greeting = hello(made.trusting().client())
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


def test_handshakes_that_stall_are_connections_that_count(serve, made, caplog):
    server = serve(max_associations=1)
    greeting = hello(made.trusting().client())[:20]
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            sock = stack.enter_context(socket.create_connection((LOCALHOST, server.tls_port)))
            with contextlib.suppress(ConnectionError):  # it was closed at once
                sock.sendall(greeting)
        sock.settimeout(WAIT)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
        assert until(lambda: logged(caplog, "more than 26 connections at once are closed"))
    while True:  # until the server has seen that they are gone
        with contextlib.suppress(AssociationAborted):
            assert echoes(server, made.trusting())
            break


@pytest.mark.parametrize("sent", ["nothing", "garbage", "cut", "zeros", "huge"])
def test_garbage_and_ends_in_the_middle_of_a_handshake(sent, serve, made, caplog):
    server = serve()
    greeting = hello(made.trusting().client())
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
    assert echoes(server, made.trusting())
    assert len(logged(caplog, "TLS failed", server)) == 1
    assert not [record for record in caplog.records if record.exc_info]


def test_garbage_after_the_handshake_ends_the_association(serve, made):
    server = serve()
    context = made.trusting().client()
    sock = socket.create_connection((LOCALHOST, server.tls_port))
    with context.wrap_socket(sock, server_hostname="pacs.example") as secure:
        with socket.socket(fileno=os.dup(secure.fileno())) as beneath:
            beneath.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            with contextlib.suppress(ConnectionError):
                while beneath.recv(65_536):
                    pass
    assert echoes(server, made.trusting())


def test_tls_1_1_is_refused(serve, caplog):
    server = serve()
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
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(suite, serve, caplog):
    server = serve()
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    weak.check_hostname, weak.verify_mode = False, ssl.CERT_NONE
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers(suite)
    with pytest.raises(AssociationAborted, match="handshake failure"):
        secured(server, weak).echo()
    assert logged(caplog, "no shared cipher", server)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command")
def test_nobody_renegotiates(serve, made):
    server = serve()
    address = f"{LOCALHOST}:{server.tls_port}"
    asked = subprocess.run(
        ["openssl", "s_client", "-tls1_2", "-connect", address, "-CAfile", made.ca],
        input="R\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert "RENEGOTIATING" in asked.stdout + asked.stderr
    assert "no renegotiation" in asked.stdout + asked.stderr
    assert echoes(server, made.trusting())


def test_a_server_that_stops_wakes_those_in_a_handshake_and_after_it(made):
    app = App()
    with app.serve(port=0, grace=0, **made.serving) as server:
        context = made.trusting().client()
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


# ------------------------------------------------------------------------------ work


ROWS = 40


def test_answers_go_out_while_the_generator_waits_and_looks_for_a_cancel(serve, made):
    """Two threads at one SSL object: the flusher sends while the other one reads."""
    app, arrived = App(), []

    @app.find
    def find(request):
        for i in range(ROWS):
            yield {"PatientID": str(i), "PatientName": "X" * 200}
            deadline = time.monotonic() + WAIT
            while len(arrived) <= i and not request.cancelled:
                assert time.monotonic() < deadline

    with secured(serve(app), made.trusting()) as client:
        for row in client.find({"QueryRetrieveLevel": "STUDY", "PatientID": "", "PatientName": ""}):
            assert row.PatientName == "X" * 200
            arrived.append(row.PatientID)
    assert arrived == [str(i) for i in range(ROWS)]


def test_a_cancel(serve, made):
    app, closed = App(), []

    @app.find
    def find(request):
        try:
            yield {"PatientID": "1"}
            deadline = time.monotonic() + WAIT
            while not request.cancelled:
                assert time.monotonic() < deadline
            yield {"PatientID": "2"}
        finally:
            closed.append(request.cancelled)

    with secured(serve(app), made.trusting()) as client:
        rows = client.find({"QueryRetrieveLevel": "STUDY", "PatientID": ""})
        assert next(rows).PatientID == "1"
        rows.close()
        assert closed == [True]
        assert client.echo().code == 0


COUNT, SIZE = 200, 524_288


def test_200_instances_there_and_back(serve, made, tmp_path):
    app, folder = App(spool=tmp_path), tmp_path / "kept"

    @app.store
    def store(request):
        request.save(folder, durable=False)

    @app.get
    def get(request):
        paths = sorted(folder.iterdir())
        request.count = len(paths)
        yield from paths

    def image(i):
        ds = pydicom.Dataset()
        ds.SOPClassUID = uids.sop_class("CTImageStorage", "store")
        ds.SOPInstanceUID = f"1.2.{i}"
        ds.StudyInstanceUID = "1.2.3"
        ds.PixelData = i.to_bytes(2, "little") * (SIZE // 2)
        return ds

    with secured(serve(app), made.trusting()) as client:
        for i in range(COUNT):
            assert client.store(image(i)).code == 0
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
        found = {one.sop_instance: one.dataset for one in client.get(keys)}
    assert len(found) == COUNT
    for i in range(COUNT):
        assert found[f"1.2.{i}"].PixelData == i.to_bytes(2, "little") * (SIZE // 2)


def test_a_peer_that_does_not_read_is_given_up(made):
    """The deadline for writing, and what is left when it has passed."""
    near, far = socket.socketpair()
    context = TLS(*made.server.files).server()
    thread_side = []

    def ask():
        thread_side.append(TLS(verify=False).client().wrap_socket(far))

    thread = threading.Thread(target=ask)
    thread.start()
    wrapped = context.wrap_socket(near, server_side=True, do_handshake_on_connect=False)
    sock = transport.TLSSocket(wrapped, 0.05, 0.05)
    sock.handshake(WAIT)
    thread.join(WAIT)
    with thread_side[0] as peer:
        with pytest.raises(BlockingIOError):
            sock.sendall(bytes(16 << 20))
        with pytest.raises(BlockingIOError):
            sock.send(bytes(20_000), transport.DONTWAIT)
        with pytest.raises(BlockingIOError):
            sock.recv_into(memoryview(bytearray(10)))
        peer.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while data := peer.recv(65_536):
                assert not any(data)
        # There is room again: what was cut off goes on where it was.
        assert sock.send(bytes(20_000), transport.DONTWAIT) == 20_000
        sock.close()
        while data := peer.recv(65_536):
            assert not any(data)


# ------------------------------------------------------------------------------ DCMTK


def test_echoscu(serve, made, dcmtk):
    server = serve()
    ours = [*reversed(made.client.files)]
    trust = ["+cf", made.ca]
    for options in (
        ["+tla", *trust],
        ["+tla", "-ic"],
        ["+tls", *ours, *trust],
        ["+tla", "+pz", *trust],
        ["+tla", "+px", *trust],
        ["+tla", *trust, "+cs", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"],
    ):
        done = dcmtk("echoscu", "-v", *options, LOCALHOST, server.tls_port)
        assert done.returncode == 0, done.stdout
    assert dcmtk("echoscu", LOCALHOST, server.port).returncode == 0
    assert dcmtk("echoscu", "+tla", "+cf", made.other_ca, LOCALHOST, server.tls_port).returncode
    assert dcmtk("echoscu", "+tla", "+pn", *trust, LOCALHOST, server.tls_port).returncode
    assert dcmtk("echoscu", LOCALHOST, server.tls_port).returncode
    assert dcmtk("echoscu", "+tla", *trust, LOCALHOST, server.port).returncode
    assert echoes(server, made.trusting())


def test_echoscu_with_client_certificates(serve, made, dcmtk, caplog):
    server = serve(tls_ca=made.ca)
    trust = ["+cf", made.ca]

    def echo(who):
        how = ["+tls", *reversed(who.files)] if who else ["+tla"]
        return dcmtk("echoscu", *how, *trust, LOCALHOST, server.tls_port).returncode == 0

    assert echo(made.client)
    assert not echo(None)
    assert not echo(made.foreign)
    assert not echo(made.expired)
    assert echo(made.client)
    lines = [line.rpartition("TLS failed: ")[2] for line in logged(caplog, "TLS failed", server)]
    assert lines == [
        "peer did not return a certificate",
        "the certificate is refused, unable to get local issuer certificate",
        "the certificate is refused, certificate has expired",
    ]


def test_storescu(serve, made, dcmtk, sample, tmp_path):
    app, folder = App(), tmp_path / "kept"

    @app.store
    def store(request):
        request.save(folder)

    server = serve(app, tls_ca=made.ca)
    ours = ["+tls", *reversed(made.client.files), "+cf", made.ca]
    names = ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm"]
    files = [sample(name) for name in names]
    done = dcmtk("storescu", "-v", *ours, LOCALHOST, server.tls_port, *files)
    assert done.returncode == 0, done.stdout
    for path in files:
        ds = pydicom.dcmread(path)
        ds.pop("DataSetTrailingPadding", None)  # storescu does not send it
        assert pydicom.dcmread(folder / f"{ds.SOPInstanceUID}.dcm") == ds
    done = dcmtk("storescu", "+tla", "+cf", made.ca, LOCALHOST, server.tls_port, *files)
    assert done.returncode != 0


@pytest.fixture
def storescp(made, tmp_path):
    """Start DCMTK's storescp with TLS, which wants certificates of the hospital."""
    path = dcmtk_tool("storescp")
    folder = tmp_path / "storescp"
    folder.mkdir()
    with socket.create_server((LOCALHOST, 0)) as listener:
        port = listener.getsockname()[1]
    options = ["-od", folder, "+tls", *reversed(made.server.files), "+cf", made.ca, port]
    process = subprocess.Popen(
        [path, *map(str, options)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((LOCALHOST, port)).close()
            break
    yield port, folder
    process.kill()
    process.wait()


def test_storescp_is_a_peer_of_the_client(storescp, made, sample):
    port, folder = storescp
    with pacsroute.connect(LOCALHOST, port, tls=made.trusting(made.client)) as client:
        assert client.echo().code == 0
        assert client.store(sample("CT_small.dcm")).code == 0
    (path,) = folder.iterdir()
    assert pydicom.dcmread(path).PixelData == pydicom.dcmread(sample("CT_small.dcm")).PixelData
    for wrong in (made.foreign, None):
        with pytest.raises(AssociationAborted):
            pacsroute.connect(LOCALHOST, port, tls=made.trusting(wrong)).echo()
    with pytest.raises(AssociationAborted, match="refused"):
        pacsroute.connect(LOCALHOST, port, tls=TLS(*made.client.files, ca=made.other_ca)).echo()


def test_storescp_is_the_destination_of_a_move(storescp, serve, made, sample):
    port, folder = storescp
    app = App()
    app.destinations["SAFE"] = Peer(LOCALHOST, port, tls=made.trusting(made.client))
    app.destinations["UNSAFE"] = Peer(LOCALHOST, port)
    app.move(lambda request: [Instance(sample("CT_small.dcm"))])
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
    with secured(serve(app), made.trusting()) as client:
        assert list(client.move(keys, "SAFE"))[-1].completed == 1
        assert len(list(folder.iterdir())) == 1
        with pytest.raises(pacsroute.RequestFailed) as raised:
            list(client.move(keys, "UNSAFE"))
    assert raised.value.status.code == 0xA702


# ------------------------------------------------------------------------------ commands


def test_the_commands_of_the_client(serve, made):
    server = serve(tls_ca=made.ca)

    def echo(*options, **variables):
        arguments = ["echo", LOCALHOST, str(server.tls_port), *map(str, options)]
        return CliRunner(env=variables).invoke(main, arguments)

    ours = ["--tls-certificate", made.client.certificate, "--tls-key", made.client.key]
    assert echo(*ours, "--tls-ca", made.ca).exit_code == 0
    assert echo(*ours, PACSROUTE_TLS_CA=str(made.ca)).exit_code == 0
    assert echo(*ours, "--tls-no-verify").exit_code == 0
    for options, words in [
        (["--tls-ca", made.ca], "certificate required"),
        ([*ours, "--tls"], "the certificate is refused"),
        ([*ours, "--tls-ca", made.ca, "--tls-check-hostname"], "mismatch"),
        ([], "closed the connection: does it want TLS?"),
        (["--tls-no-verify"], "certificate required"),
    ]:
        done = echo(*options)
        assert done.exit_code == 3, done.output
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_run_says_what_is_wrong(made, tmp_path):
    (tmp_path / "app.py").write_text("import pacsroute\napp = pacsroute.App()\n")
    for options, words in [
        (["--tls-certificate", "none.pem"], "none.pem cannot be used: No such file"),
        (["--tls-port", "0"], "a TLS server needs a certificate"),
        (["--tls-port", "99999"], "tls_port is 0 to 65,535"),
        (["--tls-profile", "basic"], "tls_profile is one of bcp195, modified"),
    ]:
        done = CliRunner().invoke(main, ["run", str(tmp_path / "app.py"), "--port", "0", *options])
        assert done.exit_code == 2, done.output
        assert words in done.stderr


# ------------------------------------------------------------------------------ what is left


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux does")
def test_nothing_is_left_afterwards(serve, made):
    server = serve(tls_ca=made.ca, max_associations=5)
    greeting = hello(made.trusting().client())
    good, bad = made.trusting(made.client), made.trusting(made.foreign)

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
    again = App().serve(port=0, tls_port=0, tls_ca=made.ca, **made.serving)
    with again as server:
        mixed()
    assert descriptors() <= before[0]
    assert threading.active_count() <= before[1]
