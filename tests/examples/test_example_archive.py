"""The archive example: what was stored is found and sent, at every level."""

import contextlib
import copy
import os
import runpy
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from pacsroute import App, AssociationError, Instance, RequestFailed, connect
from pacsroute.dataset.encoding import encode

ARCHIVE = Path(__file__).parents[2] / "examples" / "archive.py"
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
def test_retrieval_without_its_unique_key_sends_nothing(client, workstation, level, value):
    keys = {"QueryRetrieveLevel": level, UNIQUE[level]: value}
    with pytest.raises(RequestFailed, match="0xA900"):
        list(client.get(keys, "PatientRoot"))
    with pytest.raises(RequestFailed, match="0xA900"):
        list(client.move(keys, "WS", "PatientRoot"))
    assert not workstation.state.came


def test_instance_without_patient_id_matches_no_patient(client, workstation, sample):
    ds = dcmread(sample("CT_small.dcm"))
    asked, ds.PatientID = ds.PatientID, ""
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(ds, keyword, f"{ds[keyword].value}.1")
    client.store(ds)
    keys = {"QueryRetrieveLevel": "PATIENT", "PatientID": asked}
    (instance,) = client.get(keys, "PatientRoot", storage=STORAGE)
    assert instance.sop_instance == dcmread(sample("CT_small.dcm")).SOPInstanceUID
    *_, last = client.move(keys, "WS", "PatientRoot")
    assert (last.completed, len(workstation.state.came)) == (1, 1)


def test_instance_stored_twice_is_indexed_once(client, sample):
    # MR_small and its RLE form are the same image: the one that came first is kept.
    original = dcmread(sample("MR_small.dcm"))
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": original.StudyInstanceUID}
    syntaxes = ["RLELossless", "ExplicitVRLittleEndian"]
    (instance,) = client.get(keys, storage=["MRImageStorage"], transfer_syntaxes=syntaxes)
    assert instance.transfer_syntax == original.file_meta.TransferSyntaxUID
    assert body(instance) == body(sample("MR_small.dcm"))


def test_an_instance_without_a_uid_is_refused_and_not_kept(client, sample, tmp_path):
    ds = dcmread(sample("CT_small.dcm"))
    uid, sop_class = str(ds.SOPInstanceUID) + ".9", str(ds.SOPClassUID)
    del ds.SOPInstanceUID
    data = encode(ds, ExplicitVRLittleEndian)
    with pytest.raises(RequestFailed, match="0xA900"):
        client.store(
            Instance(
                data,
                sop_class=sop_class,
                sop_instance=uid,
                transfer_syntax=ExplicitVRLittleEndian,
            )
        )
    assert not (tmp_path / "archive" / f"{uid}.dcm").exists()


def test_a_name_that_cannot_be_read_stops_neither_store_nor_start(tmp_path, monkeypatch, sample):
    ds = dcmread(sample("CT_small.dcm"))
    ds.SpecificCharacterSet = "ISO 2022 IR 87"
    ds[0x0010_0010] = RawDataElement(Tag(0x0010_0010), "PN", 2, b"\\ ", 0, False, True)
    app = started(monkeypatch, tmp_path)
    with app.test_client() as client:
        client.store(Instance(ds))
    (tmp_path / "index.db").unlink()
    assert uids_of(started(monkeypatch, tmp_path)) == {str(ds.SOPInstanceUID): ds.PatientID}


def test_a_wrong_number_spoils_no_answer(client, sample):
    ds = dcmread(sample("MR_small.dcm"))
    ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3.4", "1.2.3.5"
    del ds.Rows
    ds[0x0028_0010] = RawDataElement(Tag(0x0028_0010), "US", 4, b"\1\0\2\0", 0, False, True)
    for tag, value in ((0x0020_0011, b"3000000000"), (0x0020_0013, b"1.5 ")):
        ds[tag] = RawDataElement(Tag(tag), "IS", len(value), value, 0, False, True)
    client.store(ds)
    keys = ["SOPInstanceUID", "SeriesNumber", "InstanceNumber", "Rows"]
    found = client.find({"QueryRetrieveLevel": "IMAGE", **dict.fromkeys(keys)})
    numbers = {row.SOPInstanceUID: [row[key].value for key in keys[1:]] for row in found}
    assert len(numbers) == len(NAMES)
    assert numbers[ds.SOPInstanceUID] == [None, None, None]


def test_study_attributes_come_from_any_of_its_instances(client, sample):
    ds = dcmread(sample("CT_small.dcm"))
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ds.StudyInstanceUID}
    asked = dict.fromkeys(["PatientName", "StudyDate", "StudyDescription"])
    (before,) = client.find(keys | asked)
    assert all(before[key].value for key in asked)
    ds.SOPInstanceUID, ds.SeriesInstanceUID = "1.2.3.5", "1.2.3.4"
    del ds.StudyDescription, ds.StudyDate
    ds.PatientName = ""
    client.store(ds)
    (after,) = client.find(keys | asked | {"StudyDescription": before.StudyDescription})
    assert after == before


def test_a_retrieval_under_way_does_not_hold_the_index(client, sample, tmp_path):
    uids = [dcmread(sample(name)).StudyInstanceUID for name in ("CT_small.dcm", "rtplan.dcm")]
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": uids}
    instances = client.get(keys, storage=STORAGE)
    next(instances)
    with closing(sqlite3.connect(tmp_path / "archive" / "index.db", timeout=0)) as db:
        ((is_busy, _, _),) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(list(instances)) == 1
    assert not is_busy


def test_archive_without_its_index_answers_out_of_resources(client, sample, tmp_path, caplog):
    with closing(sqlite3.connect(tmp_path / "archive" / "index.db")) as db:
        db.execute("DROP TABLE image")
    with pytest.raises(RequestFailed, match="0xA700"):
        client.store(sample("CT_small.dcm"))
    with pytest.raises(RequestFailed, match="0xA700"):
        list(client.find({"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": None}))
    assert "no such table" in caplog.text


def test_several_instances_by_a_list_of_uids(client, sample):
    uids = [dcmread(sample(name)).StudyInstanceUID for name in ("CT_small.dcm", "rtplan.dcm")]
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": uids}
    assert len(list(client.get(keys, storage=STORAGE))) == 2


def started(monkeypatch, folder):
    monkeypatch.setenv("ARCHIVE", str(folder))
    return runpy.run_path(str(ARCHIVE))["app"]


def uids_of(app):
    with app.test_client() as client:
        found = client.find({"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "", "PatientID": ""})
        return {row.SOPInstanceUID: row.PatientID for row in found}


def reindexed(app):
    """Bring index and files in step, and return what is in the index."""
    (archive,) = (family[-1] for family, _ in app.families if len(family) > 1)
    archive.reindex()
    return uids_of(app)


def test_reindex_brings_index_and_files_in_step(tmp_path, monkeypatch, sample, caplog):
    app = started(monkeypatch, tmp_path)
    with app.test_client() as client:
        for name in NAMES:
            client.store(sample(name))
    before = uids_of(app)
    mr = dcmread(sample("MR_small.dcm"))
    # A file without a row, one that is none, one of no study, and a row without a file.
    mr.SOPInstanceUID = "1.2.3.4"
    Instance(mr).save(tmp_path)
    (tmp_path / "broken.dcm").write_bytes(b"no DICOM")
    (tmp_path / "nowhere.dcm").symlink_to(tmp_path / "not-mounted")
    mr.SOPInstanceUID = "1.2.3.5"
    del mr.StudyInstanceUID
    Instance(mr).save(tmp_path)
    gone = str(dcmread(sample("rtplan.dcm")).SOPInstanceUID)
    (tmp_path / f"{gone}.dcm").unlink()
    after = reindexed(app)
    del before[gone]
    assert after == before | {"1.2.3.4": str(mr.PatientID)}
    assert "broken.dcm cannot be put into the index" in caplog.text
    assert "1.2.3.5.dcm cannot be put into the index" in caplog.text
    assert "nowhere.dcm cannot be put into the index" in caplog.text
    caplog.clear()
    assert reindexed(app) == after
    assert "was not in the index" not in caplog.text


def test_first_of_two_files_of_an_instance_is_indexed(tmp_path, monkeypatch, sample):
    ds = dcmread(sample("CT_small.dcm"))
    uid, folder = str(ds.SOPInstanceUID), tmp_path / "archive"
    for age, patient in enumerate(["STORED", "LATER", "LATEST"]):
        ds.PatientID = patient
        path = Instance(ds).save(folder, name=f"{age}.dcm" if age else None)
        os.utime(path, ns=(10**18, 10**18 + age * 10**9))
    for _ in range(3):
        assert uids_of(started(monkeypatch, folder)) == {uid: "STORED"}
    shutil.copytree(folder, tmp_path / "copy")
    copied = tmp_path / "copy" / f"{uid}.dcm"
    app = started(monkeypatch, tmp_path / "copy")
    assert reindexed(app) == {uid: "STORED"}
    with closing(sqlite3.connect(tmp_path / "copy" / "index.db")) as db:
        assert db.execute("SELECT path FROM image").fetchall() == [(copied.name,)]
    copied.unlink()
    assert reindexed(app) == {uid: "LATER"}


def test_kill_9_loses_no_acknowledged_instance(tmp_path, sample, monkeypatch):
    """An archive that is killed while four clients store finds each instance again."""
    source = dcmread(sample("CT_small.dcm"))
    server = subprocess.Popen(
        [sys.executable, "-m", "pacsroute", "run", str(ARCHIVE), "--port", "0"],
        env=os.environ | {"ARCHIVE": str(tmp_path / "archive"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    acknowledged, enough = [], threading.Event()
    try:
        port = next(
            int(line.split(":")[1].split(",")[0]) for line in server.stdout if "listen" in line
        )

        def store(thread):
            with contextlib.suppress(AssociationError), connect("127.0.0.1", port) as client:
                for number in range(1000):
                    ds = copy.deepcopy(source)
                    ds.SOPInstanceUID = f"1.2.{thread + 1}.{number}"
                    client.store(ds)
                    acknowledged.append(str(ds.SOPInstanceUID))
                    if len(acknowledged) >= 60:
                        enough.set()

        threads = [threading.Thread(target=store, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        assert enough.wait(60)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    for thread in threads:
        thread.join()
    found = uids_of(started(monkeypatch, tmp_path / "archive"))
    files = {path.stem for path in (tmp_path / "archive").glob("*.dcm")}
    assert set(acknowledged) <= set(found) == files
    for uid in files:
        assert dcmread(tmp_path / "archive" / f"{uid}.dcm").PixelData == source.PixelData
    assert not list((tmp_path / "archive").rglob("*.part"))
