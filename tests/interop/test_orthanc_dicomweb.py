"""Orthanc's DICOMweb plug-in, as the client of an archive: both ways."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pydicom
import pytest
from support.names import WAIT
from support.programs import program
from support.samples import FILES
from support.web import CT, MR_RLE, ROOT, read

from pacsroute import App, Archive, connect

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """What Orthanc is asked over its own REST interface."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"

    def ask(self, path, body=None):
        data = (
            None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        request = urllib.request.Request(self.base + path, data)
        with urllib.request.urlopen(request, timeout=WAIT) as response:
            return json.loads(response.read() or b"null")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    app = App("ARCHIVE")
    app.register_blueprint(Archive(tmp_path_factory.mktemp("archive")))
    with app.serve(port=0, web_port=0) as server:
        yield server


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, server):
    path = program("Orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {
            "Enable": True,
            "Root": f"{ROOT}/",
            "Servers": {"ours": {"Url": f"http://127.0.0.1:{server.web_port}{ROOT}/"}},
        },
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with subprocess.Popen(
        [path, str(folder / "orthanc.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    ) as process:
        orthanc = Orthanc(port)
        try:
            deadline = time.monotonic() + WAIT
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(OSError):
                    orthanc.ask("/system")
                    break
                time.sleep(0.02)
            yield orthanc
        finally:
            process.terminate()


def test_orthanc_stores_and_finds_and_retrieves(orthanc, server):
    for name in (CT, MR_RLE):
        orthanc.ask("/instances", (FILES / name).read_bytes())
    studies = orthanc.ask("/studies")
    assert len(studies) == 2
    orthanc.ask("/dicom-web/servers/ours/stow", {"Resources": studies, "Synchronous": True})
    with connect("127.0.0.1", server.port, called_ae="ARCHIVE") as client:
        found = client.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
        uids = {row.StudyInstanceUID for row in found}
    assert uids == {read(CT).StudyInstanceUID, read(MR_RLE).StudyInstanceUID}
    answers = orthanc.ask(
        "/dicom-web/servers/ours/qido",
        {"Uri": "/studies", "Arguments": {"PatientID": read(CT).PatientID}},
    )
    assert [one["0020000D"]["Value"] for one in answers] == [read(CT).StudyInstanceUID]
    for study in studies:
        urllib.request.urlopen(
            urllib.request.Request(f"{orthanc.base}/studies/{study}", method="DELETE"), timeout=WAIT
        ).close()
    assert orthanc.ask("/studies") == []
    orthanc.ask(
        "/dicom-web/servers/ours/retrieve",
        {"Resources": [{"Study": uid} for uid in sorted(uids)], "Synchronous": True},
    )
    assert sorted(orthanc.ask("/studies")) == sorted(studies)


COUNT = 500


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return the study of 500 instances, and their files."""
    folder, ct = tmp_path_factory.mktemp("many"), read(CT)
    ct.StudyInstanceUID, ct.PatientID = "1.2.500", "MANY"
    ct.file_meta.MediaStorageSOPInstanceUID = None
    files = []
    for number in range(COUNT):
        ct.SeriesInstanceUID = f"1.2.500.{1 + number % 3}"
        ct.SOPInstanceUID = ct.file_meta.MediaStorageSOPInstanceUID = f"1.2.500.{number}.7"
        ct.InstanceNumber = number
        ct.PixelData = number.to_bytes(2, "little") * (len(ct.PixelData) // 2)
        files.append(folder / f"{number}.dcm")
        ct.save_as(files[-1])
    return ct.StudyInstanceUID, files


def held(orthanc):
    return orthanc.ask("/statistics")["CountInstances"]


def emptied(orthanc):
    for study in orthanc.ask("/studies"):
        request = urllib.request.Request(f"{orthanc.base}/studies/{study}", method="DELETE")
        urllib.request.urlopen(request, timeout=WAIT).close()
    assert held(orthanc) == 0


@pytest.mark.slow
def test_orthanc_stores_500_instances_and_retrieves_them_again(orthanc, server, many):
    uid, files = many
    emptied(orthanc)
    for file in files:
        orthanc.ask("/instances", file.read_bytes())
    (study,) = orthanc.ask("/studies")
    sent = {"Resources": [study], "Synchronous": True}
    assert orthanc.ask("/dicom-web/servers/ours/stow", sent)["InstancesCount"] == str(COUNT)
    with connect(f"http://127.0.0.1:{server.web_port}{ROOT}") as client:
        (row,) = client.find({"QueryRetrieveLevel": "STUDY", "PatientID": "MANY"})
        assert row.NumberOfStudyRelatedInstances == COUNT
        assert row.NumberOfStudyRelatedSeries == 3
    emptied(orthanc)
    wanted = {"Resources": [{"Study": uid}], "Synchronous": True}
    orthanc.ask("/dicom-web/servers/ours/retrieve", wanted)
    assert held(orthanc) == COUNT


@pytest.mark.slow
def test_our_client_gets_500_instances_from_orthanc_and_stores_them_there(orthanc, many):
    uid, files = many
    emptied(orthanc)
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": uid}
    with connect(f"{orthanc.base}{ROOT}") as client:
        for file in files:
            assert client.store(file).code == 0
        assert held(orthanc) == COUNT
        (row,) = client.find(keys | {"NumberOfStudyRelatedInstances": ""})
        assert row.NumberOfStudyRelatedInstances == COUNT
        got = {instance.sop_instance: instance.dataset.PixelData for instance in client.get(keys)}
    assert len(got) == COUNT
    assert got["1.2.500.7.7"] == pydicom.dcmread(files[7]).PixelData
