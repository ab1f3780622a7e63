"""TLS over real sockets: ports, certificates, settings, commands."""

import logging
import shutil
import socket
import ssl
import threading

import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from support.certificates import LOCALHOST, Made, echoes, logged, secured
from support.names import WAIT

import pacsroute
from pacsroute import App, Association, AssociationAborted, SetupError, uids
from pacsroute.cli import main
from pacsroute.testing import replay
from pacsroute.tls import TLS
from pacsroute.trace.recording import recorder
from pacsroute.upper_layer import pdu

# ------------------------------------------------------------------------------ ports


def test_a_plain_and_a_tls_port_at_once(serve_tls, pki):
    seen, app = [], App()

    @app.echo
    def echo(request):
        seen.append(request.association.peer_certificate)

    server = serve_tls(app)
    assert server.port != server.tls_port
    with pacsroute.connect(LOCALHOST, server.port) as plain:
        with secured(server, pki.trusting()) as client:
            assert client.echo().code == plain.echo().code == client.echo().code == 0
    assert seen == [None, None, None]


def test_tap_sees_decrypted_bytes(serve_tls, pki, tmp_path):
    app, asking = App(), App("ASKING")
    app.taps.append(recorder(tmp_path / "served"))
    asking.taps.append(recorder(tmp_path / "asked"))
    server = serve_tls(app)
    with secured(server, pki.trusting(), app=asking) as client:
        assert client.echo().code == 0
    server.stop()
    for side in ("served", "asked"):
        (path,) = (tmp_path / side).iterdir()
        assert replay(path, App()) == []


def test_without_a_port_for_it_the_only_port_speaks_tls(serve_tls, pki):
    server = serve_tls(tls_port=None)
    assert server.port == server.tls_port
    assert echoes(server, pki.trusting())
    with pytest.raises(AssociationAborted, match="closed the connection"):
        pacsroute.connect(LOCALHOST, server.port).echo()


def test_without_a_certificate_there_is_no_tls():
    with App().serve(port=0) as server:
        assert server.tls_port is None
    for settings in ({"tls_port": 0}, {"tls_ca": "ca.pem"}, {"tls_client_certificate": "none"}):
        with pytest.raises(SetupError, match="needs a certificate"):
            App().serve(port=0, **settings)


def test_a_port_that_is_taken_leaves_none_open(pki):
    with App().serve(port=0) as taken, socket.create_server((LOCALHOST, 0)) as spare:
        port = spare.getsockname()[1]
        spare.close()
        with pytest.raises(OSError, match=f"{LOCALHOST}:{taken.port}"):
            App().serve(port=port, tls_port=taken.port, **pki.serving)
        with App().serve(port=port):
            pass


# ------------------------------------------------------------------------------ authentication


def test_the_certificate_of_the_client_is_on_the_association_and_in_the_log(serve_tls, pki, caplog):
    caplog.set_level(logging.INFO, "pacsroute")
    seen, app = [], App()

    @app.echo
    def echo(request):
        seen.append(request.association.peer_certificate)

    server = serve_tls(app, tls_ca=pki.ca)
    assert echoes(server, pki.trusting(pki.client))
    assert (("commonName", "CT1"),) in seen[0]["subject"]
    assert logged(caplog, "commonName=CT1", server)


@pytest.mark.parametrize("who", [None, "foreign", "expired"])
def test_a_client_certificate_that_is_required_and_not_good(who, serve_tls, pki, caplog):
    server = serve_tls(tls_ca=pki.ca)
    words = {None: "required", "foreign": "unknown ca", "expired": "expired"}
    own = who and getattr(pki, who)
    # TLS 1.3 has the client find out later: in the place of the answer to its request.
    with pytest.raises(AssociationAborted, match=f"closed the connection: .*{words[who]}"):
        secured(server, pki.trusting(own)).echo()
    assert echoes(server, pki.trusting(pki.client))
    (line,) = logged(caplog, "TLS failed", server)
    assert line.startswith("a peer (127.0.0.1)")


def test_a_client_certificate_that_is_optional(serve_tls, pki):
    server = serve_tls(tls_ca=pki.ca, tls_client_certificate="optional")
    assert echoes(server, pki.trusting())
    assert echoes(server, pki.trusting(pki.client))
    with pytest.raises(AssociationAborted):
        secured(server, pki.trusting(pki.foreign)).echo()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("profile", ["bcp195", "modified"])
def test_the_versions_and_profiles(version, profile, serve_tls, pki):
    server = serve_tls(tls_profile=profile)
    context = pki.trusting(profile=profile).client()
    context.minimum_version = context.maximum_version = version
    assert echoes(server, context)


@pytest.mark.parametrize(
    ("tls", "why"),
    [
        (lambda pki: TLS(ca=pki.other_ca), "unable to get local issuer"),
        (lambda pki: TLS(), "unable to get local issuer"),
        (lambda pki: TLS(ca=pki.ca, check_hostname=True), "IP address mismatch"),
    ],
)
def test_a_client_refuses_a_server_that_it_does_not_trust(tls, why, serve_tls, pki):
    server = serve_tls()
    with pytest.raises(AssociationAborted, match=f"the certificate is refused, .*{why}"):
        secured(server, tls(pki)).echo()


def test_client_may_trust_one_certificate_or_any(serve_tls, pki):
    server = serve_tls()
    assert echoes(server, TLS(ca=pki.server.certificate))
    assert echoes(server, TLS(verify=False))
    with secured(server, ssl.create_default_context()) as client:
        with pytest.raises(AssociationAborted):
            client.echo()


def test_a_client_refuses_a_server_that_has_expired(serve_tls, pki):
    expired = {"tls_certificate": pki.expired.certificate, "tls_key": pki.expired.key}
    server = serve_tls(**expired)
    with pytest.raises(AssociationAborted, match="expired"):
        secured(server, pki.trusting()).echo()


def test_a_socket_that_speaks_tls_already(pki):
    near, far = socket.socketpair()
    context, answered = pki.trusting(pki.client).client(), []

    def ask():
        with context.wrap_socket(far) as sock:
            request = pdu.AssociateRQ(
                "ANY",
                "RAW",
                (pdu.PresentationContext(1, uids.VERIFICATION, (uids.IMPLICIT_VR_LITTLE_ENDIAN,)),),
                pdu.UserInformation(16_384, "1.2.3"),
            )
            sock.sendall(pdu.encode(request))
            answered.append(sock.recv(1)[0])

    thread = threading.Thread(target=ask)
    thread.start()
    wrapped = TLS(*pki.server.files, ca=pki.ca).server().wrap_socket(near, server_side=True)
    with Association.accept(wrapped, App()) as association:
        assert association.calling_ae == "RAW"
        assert association.peer_certificate["subject"]
    thread.join(WAIT)
    assert answered == [2]  # an A-ASSOCIATE-AC


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "a.key"}, "needs its certificate"),
        ({"client_certificate": "required"}, "need a CA file"),
        ({"client_certificate": "maybe"}, "'maybe'"),
        ({"profile": "basic"}, "'basic' is not a TLS profile"),
    ],
)
def test_contradictory_tls_settings_are_set_up_errors(arguments, words):
    with pytest.raises(SetupError, match=words):
        TLS(**arguments)


def test_files_that_cannot_be_used_are_named(pki, tmp_path):
    (tmp_path / "empty.pem").touch()
    for tls, name in [
        (TLS(tmp_path / "none.pem"), r"none\.pem cannot be used: No such file"),
        (TLS(tmp_path / "empty.pem"), r"empty\.pem cannot be used: it is not PEM"),
        (TLS(pki.server.certificate, pki.client.key), r"client\.key cannot be used: key values"),
        (TLS(*pki.server.files, ca=tmp_path / "empty.pem"), r"empty\.pem cannot be used"),
    ]:
        for context in (tls.server, tls.client):
            with pytest.raises(SetupError, match=name) as raised:
                context()
            assert "\n" not in str(raised.value)
    with pytest.raises(SetupError, match=r"none\.pem"):
        pacsroute.connect(LOCALHOST, 1, tls=TLS(ca=tmp_path / "none.pem"))


def test_a_key_with_a_passphrase(serve_tls, pki, tmp_path):
    key = serialization.load_pem_private_key(pki.server.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    server = serve_tls(tls_key=encrypted, tls_key_passphrase="open sesame")
    assert echoes(server, pki.trusting())
    assert "sesame" not in repr(server.config)
    assert "sesame" not in repr(TLS("a.pem", passphrase="open sesame"))
    for wrong in (None, "", "wrong"):  # and OpenSSL asks nobody at the terminal
        with pytest.raises(SetupError, match=r"encrypted\.key cannot be used"):
            serve_tls(tls_key=encrypted, tls_key_passphrase=wrong)


def test_changed_files_are_in_use_for_the_next_association(pki, serve_tls, tmp_path, caplog):
    mine = Made(tmp_path, "server", pki.server.leaf)
    server = serve_tls(tls_certificate=mine.certificate, tls_key=mine.key)
    trusts_new = TLS(ca=pki.other_ca)
    with secured(server, pki.trusting()) as before:
        before.echo()
        with pytest.raises(AssociationAborted):
            secured(server, trusts_new).echo()

        mine.write(pki.stranger.issue_cert("pacs.example", key_type=trustme.KeyType.RSA))
        assert echoes(server, trusts_new)
        with pytest.raises(AssociationAborted):
            secured(server, pki.trusting()).echo()

        mine.key.write_bytes(pki.client.key.read_bytes())  # half of the next change
        for _ in range(3):
            assert echoes(server, trusts_new)
        assert len(logged(caplog, "the files loaded before stay in use")) == 1
        mine.certificate.unlink()
        assert echoes(server, trusts_new)

        mine.write(pki.server.leaf)
        assert echoes(server, pki.trusting())
        assert before.echo().code == 0  # over its association of before


def test_a_client_reads_changed_files_too(serve_tls, pki, tmp_path):
    server = serve_tls()
    ca = tmp_path / "ca.pem"
    shutil.copy(pki.other_ca, ca)
    tls = TLS(ca=ca)
    with pytest.raises(AssociationAborted):
        secured(server, tls).echo()
    shutil.copy(pki.ca, ca)
    assert echoes(server, tls)


# ------------------------------------------------------------------------------ commands


def test_the_commands_of_the_client(serve_tls, pki):
    server = serve_tls(tls_ca=pki.ca)

    def echo(*options, **variables):
        arguments = ["echo", LOCALHOST, str(server.tls_port), *map(str, options)]
        return CliRunner(env=variables).invoke(main, arguments)

    ours = ["--tls-certificate", pki.client.certificate, "--tls-key", pki.client.key]
    assert echo(*ours, "--tls-ca", pki.ca).exit_code == 0
    assert echo(*ours, PACSROUTE_TLS_CA=str(pki.ca)).exit_code == 0
    assert echo(*ours, "--tls-no-verify").exit_code == 0
    for options, words in [
        (["--tls-ca", pki.ca], "certificate required"),
        ([*ours, "--tls"], "the certificate is refused"),
        ([*ours, "--tls-ca", pki.ca, "--tls-check-hostname"], "mismatch"),
        ([], "closed the connection: does it want TLS?"),
        (["--tls-no-verify"], "certificate required"),
    ]:
        done = echo(*options)
        assert done.exit_code == 3, done.output
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_run_names_wrong_tls_settings(pki, tmp_path):
    (tmp_path / "app.py").write_text("import pacsroute\napp = pacsroute.App()\n")
    for options, words in [
        (["--tls-certificate", "none.pem"], "none.pem cannot be used: No such file"),
        (["--tls-port", "0"], "a TLS server needs a certificate"),
        (["--tls-port", "99999"], "tls_port must be 0 to 65,535"),
        (["--tls-profile", "basic"], "tls_profile must be one of bcp195, modified"),
    ]:
        done = CliRunner().invoke(main, ["run", str(tmp_path / "app.py"), "--port", "0", *options])
        assert done.exit_code == 2, done.output
        assert words in done.stderr
