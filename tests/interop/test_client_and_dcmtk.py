"""The client with DCMTK's servers: storescp and dcmqrscp."""

import contextlib
import os
import socket
import subprocess
import time

import pydicom
import pytest
from support.answers import result
from support.datasets import made
from support.names import STUDY, WAIT
from support.programs import program
from support.raw_peer import RawPeer
from support.samples import FILES, SAMPLES, body

import pacsroute
from pacsroute import (
    NotAccepted,
    RequestFailed,
)
from pacsroute.upper_layer import pdu


def started(tool, *arguments):
    """Start one of DCMTK's servers, and wait until it listens on the port that is its last."""
    path = program(tool)
    process = subprocess.Popen(
        [path, *map(str, arguments)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, EOFError), RawPeer(arguments[-1]) as peer:
            if isinstance(peer.answer, pdu.AssociateAC):  # not of all who ask for no title
                peer.release()
            break
        time.sleep(0.01)
    return process


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def storescp(tmp_path):
    folder, port = tmp_path / "storescp", free_port()
    folder.mkdir()
    process = started("storescp", "-od", folder, "+xa", "+B", "-aet", "DEST", port)
    yield port, folder
    process.kill()
    process.wait()


@pytest.fixture
def dcmqrscp(tmp_path, storescp):
    folder, port = tmp_path / "dcmqrscp", free_port()
    folder.mkdir()
    (tmp_path / "dcmqrscp.cfg").write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
dest = (DEST, localhost, {storescp[0]})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {folder} RW (100, 100mb) ANY
AETable END
"""
    )
    process = started("dcmqrscp", "-c", tmp_path / "dcmqrscp.cfg", port)
    yield port
    process.kill()
    process.wait()


def test_storescp(storescp, sample):
    port, folder = storescp
    names = ["CT_small.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm", "rtplan.dcm", "image_dfl.dcm"]
    with pacsroute.connect("127.0.0.1", port, called_ae="DEST") as client:
        assert client.echo().code == 0
        for name in names:
            assert client.store(sample(name)).code == 0
        with pytest.raises(NotAccepted, match="Study Root"):
            list(client.find({"PatientID": ""}))
        assert client.echo().code == 0
    found = {pydicom.dcmread(path).SOPInstanceUID: body(path) for path in folder.iterdir()}
    for name in names:
        expected = body(sample(name))
        assert found[SAMPLES[name][1]] == expected + b"\0" * (len(expected) & 1)


def test_dcmqrscp(dcmqrscp, storescp):
    names = ["CT_small.dcm", "MR_small.dcm", "test-SR.dcm", "examples_overlay.dcm"]
    originals = {SAMPLES[name][1]: pydicom.dcmread(FILES / name) for name in names}
    keys = {
        "QueryRetrieveLevel": "STUDY",
        "StudyInstanceUID": "",
        "PatientID": "",
        "PatientName": "",
    }
    with pacsroute.connect("127.0.0.1", dcmqrscp, called_ae="QRSCP") as client:
        assert client.echo().code == 0
        for name in names:
            assert client.store(FILES / name).code == 0
        found, status = result(client.find(keys))
        assert status.code == 0
        assert {row.StudyInstanceUID for row in found} == {
            ds.StudyInstanceUID for ds in originals.values()
        }
        ct = pydicom.dcmread(FILES / "CT_small.dcm")
        (row,) = client.find({**keys, "PatientID": ct.PatientID})
        assert row.PatientName == ct.PatientName

        for instance, original in originals.items():
            study = {
                "QueryRetrieveLevel": "STUDY",
                "StudyInstanceUID": original.StudyInstanceUID,
            }
            fetched, status = result(client.get(study))
            assert status.code == 0
            (got,) = (one for one in fetched if one.sop_instance == instance)
            assert got.dataset.SOPInstanceUID == original.SOPInstanceUID
            assert got.dataset.get("PixelData") == original.get("PixelData")
            progress, status = result(client.move(study, "DEST"))
            assert status.code == 0
            assert progress[-1].completed == len(fetched)
        with pytest.raises(RequestFailed, match="0xA801"):
            list(client.move(study, "NOBODY"))
    assert {pydicom.dcmread(path).SOPInstanceUID for path in storescp[1].iterdir()} == set(
        originals
    )


def test_cancelling_dcmqrscp(dcmqrscp):
    keys = {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "", "StudyInstanceUID": ""}
    with pacsroute.connect("127.0.0.1", dcmqrscp, called_ae="QRSCP") as client:
        for number in range(30):
            ds = made(number)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.4"
            client.store(ds)
        keys |= {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}
        for _ in range(3):
            found = client.find(keys)
            assert "SOPInstanceUID" in next(found)
            found.close()
            for instance in client.get(STUDY):
                assert instance.dataset.StudyInstanceUID == "1.2.3"
                break
        assert client.echo().code == 0
