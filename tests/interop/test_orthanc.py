"""Orthanc, which many hospitals run, as a peer of the client and of a server."""

import contextlib
import json
import socket
import subprocess
import time

import pydicom
import pytest
from support.programs import program
from support.raw_peer import RawPeer
from support.samples import FILES, SAMPLES, body

import pacsroute
from pacsroute import App, RequestFailed
from pacsroute.testing import replay
from pacsroute.trace.recording import recorder

START = 20  # seconds that Orthanc may take; it takes less than one
NAMES = ["CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "rtplan.dcm", "test-SR.dcm"]


@pytest.fixture(scope="module")
def destination(tmp_path_factory):
    app = App("DEST")
    app.state.received = {}
    app.state.recordings = tmp_path_factory.mktemp("recordings")
    app.taps.append(recorder(app.state.recordings))

    @app.store
    def store(request):
        with request.instance.open() as file:
            app.state.received[request.sop_instance] = (request, file.read())

    with app.serve(port=0, grace=1) as server:
        yield server


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, destination):
    path = program("Orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    services = ("Echo", "Find", "Get", "Move", "Store")
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "HttpServerEnabled": False,
                "DicomAet": "ORTHANC",
                "DicomPort": port,
                "DicomCheckCalledAet": False,
                "DicomCheckModalityHost": False,
                **{f"DicomAlwaysAllow{service}": True for service in services},
                "DicomModalities": {
                    "dest": ["DEST", "127.0.0.1", destination.port],
                    "ours": ["PACSROUTE", "127.0.0.1", destination.port],
                },
                "Plugins": [],
            }
        )
    )
    with subprocess.Popen(
        [path, str(folder / "orthanc.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    ) as process:
        try:
            deadline = time.monotonic() + START
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(OSError, EOFError), RawPeer(port) as peer:
                    peer.release()
                    break
                time.sleep(0.02)
            with pacsroute.connect("127.0.0.1", port, called_ae="ORTHANC") as client:
                for name in NAMES:
                    assert client.store(FILES / name).code == 0
            yield port
        finally:
            process.kill()


@pytest.fixture
def client(orthanc):
    with pacsroute.connect("127.0.0.1", orthanc, called_ae="ORTHANC") as one:
        yield one


def study(name):
    ds = pydicom.dcmread(FILES / name, stop_before_pixels=True)
    return {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ds.StudyInstanceUID}


def test_orthanc_echo(client):
    assert client.echo().code == 0


def test_orthanc_store_again(client):
    assert client.store(FILES / "CT_small.dcm").code == 0
    assert client.store(pydicom.dcmread(FILES / "MR_small.dcm")).code == 0


@pytest.mark.parametrize("name", NAMES)
def test_orthanc_find(name, client):
    original = pydicom.dcmread(FILES / name, stop_before_pixels=True)
    keys = {
        **study(name),
        "PatientName": None,
        "PatientID": original.PatientID,
        "ModalitiesInStudy": None,
        "NumberOfStudyRelatedInstances": None,
    }
    (row,) = client.find(keys)
    assert row.StudyInstanceUID == original.StudyInstanceUID
    assert str(row.PatientName).rstrip("^") == str(original.PatientName).rstrip("^")
    assert original.Modality in row.ModalitiesInStudy
    patients = client.find(
        {"QueryRetrieveLevel": "PATIENT", "PatientID": original.PatientID}, "PatientRoot"
    )
    assert original.PatientID in {patient.PatientID for patient in patients}


def test_orthanc_find_without_matches(client):
    assert list(client.find({"QueryRetrieveLevel": "STUDY", "PatientID": "nobody"})) == []


def test_orthanc_find_closed_early(client):
    found = client.find({"QueryRetrieveLevel": "STUDY", "PatientID": ""})
    assert "PatientID" in next(found)
    found.close()
    assert client.echo().code == 0


@pytest.mark.parametrize("name", NAMES)
def test_orthanc_get(name, client):
    sop_class, sop_instance, syntax = SAMPLES[name]
    coming = client.get(
        study(name), storage=[sop_class], transfer_syntaxes=[syntax, "ImplicitVRLittleEndian"]
    )
    fetched = {one.sop_instance: one for one in coming}
    one = fetched[sop_instance]
    assert (one.sop_class, one.transfer_syntax) == (sop_class, syntax)
    original = pydicom.dcmread(FILES / name)
    assert one.dataset.PatientName == original.PatientName
    assert one.dataset.get("PixelData") == original.get("PixelData")


@pytest.mark.parametrize("name", NAMES)
def test_orthanc_move_to_a_server_of_ours(name, client, destination):
    sop_class, sop_instance, syntax = SAMPLES[name]
    destination.app.state.received.clear()
    *_, last = client.move(study(name), "DEST")
    assert (last.completed, last.failed) == (len(destination.app.state.received), 0)
    request, data = destination.app.state.received[sop_instance]
    assert (request.sop_class, request.transfer_syntax) == (sop_class, syntax)
    assert (request.calling_ae, request.called_ae) == ("ORTHANC", "DEST")
    assert request.move_originator_ae == "PACSROUTE"
    assert len(data) >= len(body(FILES / name)) - 200
    assert request.dataset.PatientName == pydicom.dcmread(FILES / name).PatientName


def test_orthanc_move_to_an_unknown_destination(client):
    with pytest.raises(RequestFailed):
        list(client.move(study("CT_small.dcm"), "NOBODY"))
    assert client.echo().code == 0


def test_orthanc_recordings_are_replayed(client, destination):
    folder = destination.app.state.recordings
    *_, last = client.move(study("CT_small.dcm"), "DEST")
    assert last.completed == 1
    again = App("DEST")
    stored = []

    @again.store
    def store(request):
        stored.append(request.sop_instance)

    # Orthanc may keep an association for its next C-MOVE: then it is not complete yet.
    for path in folder.iterdir():
        assert replay(path, again) == []
    assert SAMPLES["CT_small.dcm"][1] in stored
