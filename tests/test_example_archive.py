"""The archive example: what was stored is found and sent, at every level."""

import runpy
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsroute import App, Instance, RequestFailed

ARCHIVE = Path(__file__).parents[1] / "examples" / "archive.py"
NAMES = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "rtplan.dcm", "examples_overlay.dcm")
UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
STORAGE = ["CTImageStorage", "MRImageStorage", "RTPlanStorage", "SecondaryCaptureImageStorage"]


def body(source):
    with Instance(source).open() if not isinstance(source, Instance) else source.open() as file:
        return file.read()


@pytest.fixture
def workstation():
    app, came = App("WS"), []
    app.store(lambda request: came.append(body(request.instance)))
    app.state.came = came
    return app


@pytest.fixture
def client(tmp_path, monkeypatch, sample, workstation):
    monkeypatch.setenv("ARCHIVE", str(tmp_path / "archive"))
    app = runpy.run_path(str(ARCHIVE))["app"]
    with app.test_client(peers={"WS": workstation}) as client:
        for name in NAMES:
            client.store(sample(name))
        yield client


@pytest.mark.parametrize("root", ["PatientRoot", "StudyRoot"])
@pytest.mark.parametrize("level", UNIQUE)
def test_retrieval_at_every_level(client, workstation, sample, root, level):
    original = dcmread(sample("CT_small.dcm"))
    keys = {"QueryRetrieveLevel": level, UNIQUE[level]: original[UNIQUE[level]].value}
    if (root, level) == ("StudyRoot", "PATIENT"):
        with pytest.raises(RequestFailed, match="0xA900"):
            list(client.get(keys, root))
        return
    (instance,) = client.get(keys, root, storage=STORAGE)
    assert body(instance) == body(sample("CT_small.dcm"))
    *_, last = client.move(keys, "WS", root)
    assert (last.completed, last.failed) == (1, 0)
    assert workstation.state.came == [body(sample("CT_small.dcm"))]


@pytest.mark.parametrize("level", UNIQUE)
@pytest.mark.parametrize("value", [None, "", "*", "1.2\\"])
def test_without_its_unique_key_nothing_is_sent(client, workstation, level, value):
    keys = {"QueryRetrieveLevel": level, UNIQUE[level]: value}
    with pytest.raises(RequestFailed, match="0xA900"):
        list(client.get(keys, "PatientRoot"))
    with pytest.raises(RequestFailed, match="0xA900"):
        list(client.move(keys, "WS", "PatientRoot"))
    assert not workstation.state.came


def test_what_is_stored_again_is_there_once(client, sample):
    # MR_small and its RLE form are the same instance: the later one is kept.
    original = dcmread(sample("MR_small_RLE.dcm"))
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": original.StudyInstanceUID}
    syntaxes = ["RLELossless", "ExplicitVRLittleEndian"]
    (instance,) = client.get(keys, storage=["MRImageStorage"], transfer_syntaxes=syntaxes)
    assert instance.transfer_syntax == original.file_meta.TransferSyntaxUID
    assert body(instance) == body(sample("MR_small_RLE.dcm"))


def test_several_instances_by_a_list_of_uids(client, sample):
    uids = [dcmread(sample(name)).StudyInstanceUID for name in ("CT_small.dcm", "rtplan.dcm")]
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": uids}
    assert len(list(client.get(keys, storage=STORAGE))) == 2
