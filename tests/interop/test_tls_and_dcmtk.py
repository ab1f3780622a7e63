"""TLS with DCMTK, in both directions."""

import contextlib
import socket
import subprocess
import time

import pydicom
import pytest
from support.certificates import LOCALHOST, echoes, logged, secured
from support.names import WAIT
from support.programs import program

import pacsroute
from pacsroute import App, AssociationAborted, Instance, Peer
from pacsroute.tls import TLS


def test_echoscu_over_tls(serve_tls, pki, dcmtk):
    server = serve_tls()
    ours = [*reversed(pki.client.files)]
    trust = ["+cf", pki.ca]
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
    assert dcmtk("echoscu", "+tla", "+cf", pki.other_ca, LOCALHOST, server.tls_port).returncode
    assert dcmtk("echoscu", "+tla", "+pn", *trust, LOCALHOST, server.tls_port).returncode
    assert dcmtk("echoscu", LOCALHOST, server.tls_port).returncode
    assert dcmtk("echoscu", "+tla", *trust, LOCALHOST, server.port).returncode
    assert echoes(server, pki.trusting())


def test_echoscu_with_client_certificates(serve_tls, pki, dcmtk, caplog):
    server = serve_tls(tls_ca=pki.ca)
    trust = ["+cf", pki.ca]

    def echo(who):
        how = ["+tls", *reversed(who.files)] if who else ["+tla"]
        return dcmtk("echoscu", *how, *trust, LOCALHOST, server.tls_port).returncode == 0

    assert echo(pki.client)
    assert not echo(None)
    assert not echo(pki.foreign)
    assert not echo(pki.expired)
    assert echo(pki.client)
    lines = [line.rpartition("TLS failed: ")[2] for line in logged(caplog, "TLS failed", server)]
    assert lines == [
        "peer did not return a certificate",
        "the certificate is refused, unable to get local issuer certificate",
        "the certificate is refused, certificate has expired",
    ]


def test_storescu_over_tls(serve_tls, pki, dcmtk, sample, tmp_path):
    app, folder = App(), tmp_path / "kept"

    @app.store
    def store(request):
        request.save(folder)

    server = serve_tls(app, tls_ca=pki.ca)
    ours = ["+tls", *reversed(pki.client.files), "+cf", pki.ca]
    names = ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm"]
    files = [sample(name) for name in names]
    done = dcmtk("storescu", "-v", *ours, LOCALHOST, server.tls_port, *files)
    assert done.returncode == 0, done.stdout
    for path in files:
        ds = pydicom.dcmread(path)
        ds.pop("DataSetTrailingPadding", None)  # storescu does not send it
        assert pydicom.dcmread(folder / f"{ds.SOPInstanceUID}.dcm") == ds
    done = dcmtk("storescu", "+tla", "+cf", pki.ca, LOCALHOST, server.tls_port, *files)
    assert done.returncode != 0


@pytest.fixture
def storescp(pki, tmp_path):
    """Start DCMTK's storescp with TLS, which wants certificates of the hospital."""
    path = program("storescp")
    folder = tmp_path / "storescp"
    folder.mkdir()
    with socket.create_server((LOCALHOST, 0)) as listener:
        port = listener.getsockname()[1]
    options = ["-od", folder, "+tls", *reversed(pki.server.files), "+cf", pki.ca, port]
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


def test_storescp_is_a_peer_of_the_client(storescp, pki, sample):
    port, folder = storescp
    with pacsroute.connect(LOCALHOST, port, tls=pki.trusting(pki.client)) as client:
        assert client.echo().code == 0
        assert client.store(sample("CT_small.dcm")).code == 0
    (path,) = folder.iterdir()
    assert pydicom.dcmread(path).PixelData == pydicom.dcmread(sample("CT_small.dcm")).PixelData
    for wrong in (pki.foreign, None):
        with pytest.raises(AssociationAborted):
            pacsroute.connect(LOCALHOST, port, tls=pki.trusting(wrong)).echo()
    with pytest.raises(AssociationAborted, match="refused"):
        pacsroute.connect(LOCALHOST, port, tls=TLS(*pki.client.files, ca=pki.other_ca)).echo()


def test_storescp_is_the_destination_of_a_move(storescp, serve_tls, pki, sample):
    port, folder = storescp
    app = App()
    app.destinations["SAFE"] = Peer(LOCALHOST, port, tls=pki.trusting(pki.client))
    app.destinations["UNSAFE"] = Peer(LOCALHOST, port)
    app.move(lambda request: [Instance(sample("CT_small.dcm"))])
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
    with secured(serve_tls(app), pki.trusting()) as client:
        assert list(client.move(keys, "SAFE"))[-1].completed == 1
        assert len(list(folder.iterdir())) == 1
        with pytest.raises(pacsroute.RequestFailed) as raised:
            list(client.move(keys, "UNSAFE"))
    assert raised.value.status.code == 0xA702
