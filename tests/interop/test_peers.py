"""Other people's software as peers, over real sockets: DCMTK, pynetdicom, and exact bytes."""

import threading
import time
import warnings

import pydicom
import pytest
from support.names import FIND, IMPLICIT
from support.samples import SAMPLES, body

from pacsroute import App, uids

# Files that are cut short or not in the transfer syntax they name: dcmdump fails for them too.
BROKEN = {"MR_truncated.dcm", "rtplan_truncated.dcm", "SC_rgb_jpeg.dcm"}


@pytest.fixture
def archive(tmp_path):
    app = App("ARCHIVE", spool=tmp_path / "spool")

    @app.store
    def store(request):
        request.save(tmp_path / "archive", durable=False)

    with app.serve(port=0, grace=1) as server:
        server.folder = tmp_path / "archive"
        yield server


def test_samples_are_found():
    assert len(SAMPLES) > 50


@pytest.mark.parametrize("name", SAMPLES)
def test_saved_file_has_the_bytes_from_the_wire(name, archive, raw_peer, sample, dcmtk):
    sop_class, sop_instance, syntax = SAMPLES[name]
    data = body(sample(name))
    with raw_peer(archive.port, [(sop_class, syntax)]) as peer:
        assert peer.answer.contexts[0].result == 0
        response = peer.store(data, sop_class, sop_instance)
        assert (response.status, response.error_comment) == (0, None)
        assert response.affected_sop_class == sop_class
        assert response.affected_sop_instance == sop_instance
        peer.release()
    (path,) = archive.folder.iterdir()
    assert path.name == f"{sop_instance}.dcm"
    assert body(path) == data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved, original = pydicom.dcmread(path), pydicom.dcmread(sample(name))
        assert saved.keys() == original.keys()
    meta = saved.file_meta
    assert meta.MediaStorageSOPClassUID == sop_class
    assert meta.MediaStorageSOPInstanceUID == sop_instance
    assert meta.TransferSyntaxUID == syntax
    assert meta.SendingApplicationEntityTitle == "RAW"
    dumped = dcmtk("dcmdump", "-q", path)
    assert (dumped.returncode == 0) == (name not in BROKEN), dumped.stdout


def test_many_instances_over_one_association(archive, raw_peer, sample):
    names = ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "JPEG2000.dcm", "liver_1frame.dcm"]
    contexts = [(SAMPLES[name][0], SAMPLES[name][2]) for name in names]
    with raw_peer(archive.port, contexts) as peer:
        for i, name in enumerate(names):
            sop_class, sop_instance, _ = SAMPLES[name]
            response = peer.store(
                body(sample(name)), sop_class, sop_instance, 2 * i + 1, message_id=i + 7
            )
            assert (response.status, response.message_id_responded_to) == (0, i + 7)
        peer.release()
    assert len(list(archive.folder.iterdir())) == len(names)


# ------------------------------------------------------------------------------ DCMTK


def test_echoscu(archive, dcmtk):
    done = dcmtk("echoscu", "-v", "--repeat", 5, "-aec", "ANY", "127.0.0.1", archive.port)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Success") == 5


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("CT_small.dcm", "-xe"),
        ("MR_small_implicit.dcm", "-xi"),
        ("MR_small_bigendian.dcm", "-xb"),
        ("SC_rgb_jpeg_dcmtk.dcm", "-xy"),
        ("MR_small_RLE.dcm", "-xr"),
        ("rtplan.dcm", "-xi"),
        ("liver_1frame.dcm", "-xe"),
    ],
)
def test_storescu(name, option, archive, dcmtk, sample):
    done = dcmtk("storescu", "-v", "-R", option, "127.0.0.1", archive.port, sample(name))
    assert done.returncode == 0, done.stdout
    (path,) = archive.folder.iterdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pydicom.dcmread(path).SOPInstanceUID == SAMPLES[name][1]
    assert dcmtk("dcmdump", "-q", path).returncode == 0


def test_storescu_sees_a_failure(dcmtk, sample):
    app = App()
    app.store(lambda request: 0xA700)
    with app.serve(port=0, grace=1) as server:
        done = dcmtk("storescu", "-v", "127.0.0.1", server.port, sample("CT_small.dcm"))
    assert "OutOfResources" in done.stdout.replace(" ", "").replace("-", "")


def test_findscu(dcmtk):
    app, asked = App("ARCHIVE"), []

    @app.find
    def find(request):
        asked.append(request.identifier)
        for i in range(3):
            yield {"PatientID": f"P{i}", "PatientName": "Müller^Jürgen", "StudyDate": None}

    keys = ["QueryRetrieveLevel=STUDY", "PatientID", "PatientName", "StudyDate"]
    keys.append("SpecificCharacterSet=ISO_IR 192")
    arguments = [argument for key in keys for argument in ("-k", key)]
    with app.serve(port=0, grace=1) as server:
        done = dcmtk("findscu", "-v", "-S", *arguments, "127.0.0.1", server.port)
    assert done.returncode == 0, done.stdout
    assert [done.stdout.count(f"[P{i}") for i in range(3)] == [1, 1, 1], done.stdout
    assert "Müller^Jürgen" in done.stdout
    assert done.stdout.count("ARCHIVE") >= 3
    assert asked[0].QueryRetrieveLevel == "STUDY"


# ------------------------------------------------------------------------------ pynetdicom


@pytest.fixture
def associate(pynetdicom_association):
    return lambda port, *contexts: pynetdicom_association(port, contexts)


def test_pynetdicom_echoes_and_stores(archive, associate, sample):
    ds = pydicom.dcmread(sample("CT_small.dcm"))
    association = associate(
        archive.port,
        (uids.VERIFICATION, [IMPLICIT]),
        (ds.SOPClassUID, [ds.file_meta.TransferSyntaxUID]),
    )
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(ds).Status == 0
    association.release()
    assert association.is_released
    (path,) = archive.folder.iterdir()
    assert pydicom.dcmread(path) == ds


def identifier(**keys):
    ds = pydicom.Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    for name, value in keys.items():
        setattr(ds, name, value)
    return ds


def test_pynetdicom_finds(associate):
    app = App("ARCHIVE")

    @app.find
    def find(request):
        assert request.identifier.PatientID == "P*"
        for i in range(100):
            yield {"PatientID": f"P{i}", "StudyDescription": "not asked for"}

    with app.serve(port=0, grace=1) as server:
        association = associate(server.port, (FIND, [IMPLICIT]))
        answers = list(association.send_c_find(identifier(PatientID="P*"), FIND))
        association.release()
    assert [status.Status for status, _ in answers] == [0xFF00] * 100 + [0]
    assert [ds.PatientID for _, ds in answers[:-1]] == [f"P{i}" for i in range(100)]
    assert not any("StudyDescription" in ds for _, ds in answers[:-1])
    assert answers[0][1].RetrieveAETitle == "ARCHIVE"
    assert answers[0][1].QueryRetrieveLevel == "STUDY"


@pytest.mark.parametrize("fast", [True, False])
def test_pynetdicom_cancels_a_find(associate, fast):
    app, closed, seen = App(), threading.Event(), []

    @app.find
    def find(request):
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                yield {"PatientID": "1"}
                while not fast and not request.cancelled and time.monotonic() < deadline:
                    threading.Event().wait(0.005)
        finally:
            seen.append(request.cancelled)
            closed.set()

    with app.serve(port=0, grace=1) as server:
        association = associate(server.port, (FIND, [IMPLICIT]))
        answers = association.send_c_find(identifier(PatientID=""), FIND, msg_id=7)
        assert next(answers)[0].Status == 0xFF00
        association.send_c_cancel(7, query_model=FIND)
        statuses = [status.Status for status, _ in answers]
        association.release()
    assert statuses[-1] == 0xFE00
    assert closed.is_set()
    assert seen == [True]
