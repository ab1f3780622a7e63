"""The archive in one line, and the tools of others: DCMTK's and pynetdicom."""

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from pacsroute import App, Archive


@pytest.fixture
def archive(tmp_path):
    app = App("ARCHIVE")
    app.register_blueprint(Archive(tmp_path / "archive"))
    with app.serve(port=0, grace=1) as server:
        yield server


def test_dcmtk_stores_finds_and_fetches(archive, dcmtk, sample, tmp_path):
    path, port = sample("CT_small.dcm"), archive.port
    original = dcmread(path)
    for _ in range(2):  # the same again is Success
        done = dcmtk("storescu", "127.0.0.1", port, path)
        assert done.returncode == 0, done.stdout
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=compressed*"]
    found = dcmtk("findscu", "-S", "127.0.0.1", port, *keys, "-k", "NumberOfStudyRelatedInstances")
    assert "CompressedSamples^CT1" in found.stdout
    assert "[1 ]" in found.stdout
    folder = tmp_path / "fetched"
    folder.mkdir()
    study = f"StudyInstanceUID={original.StudyInstanceUID}"
    done = dcmtk(
        *("getscu", "-S", "-od", folder, "-k", "QueryRetrieveLevel=STUDY", "-k", study),
        *("127.0.0.1", port),
    )
    assert done.returncode == 0, done.stdout
    (fetched,) = folder.iterdir()
    assert dcmread(fetched).PixelData == original.PixelData


def test_pynetdicom_stores_finds_and_fetches(archive, sample):
    original = dcmread(sample("CT_small.dcm"))
    ae, came = AE("CT1"), []
    ae.add_requested_context(CTImageStorage)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)

    def stored(event):
        came.append(event.dataset)
        return 0

    association = ae.associate(
        "127.0.0.1",
        archive.port,
        ext_neg=[build_role(CTImageStorage, scp_role=True, scu_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, stored)],
    )
    assert association.is_established
    assert association.send_c_store(original).Status == 0
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", original.StudyInstanceUID
    keys.ModalitiesInStudy = ""
    find = StudyRootQueryRetrieveInformationModelFind
    rows = [row for status, row in association.send_c_find(keys, find) if status.Status == 0xFF00]
    assert [row.ModalitiesInStudy for row in rows] == ["CT"]
    *_, (status, _) = association.send_c_get(keys, StudyRootQueryRetrieveInformationModelGet)
    association.release()
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0, 1)
    assert came[0].PixelData == original.PixelData
