"""What the app does, without a network: `dicom_client` is pacsroute's own fixture."""

import pydicom
import pytest
from pydicom.uid import CTImageStorage, generate_uid

import app as module
from pacsroute import RequestFailed, connect


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return module.app


def image(**elements):
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.update(elements)
    return dataset


def test_what_is_stored_is_found(dicom_client):
    study = generate_uid()
    sent = image(StudyInstanceUID=study, PatientID="1", PatientName="Doe^John")
    assert dicom_client.store(sent).category == "Success"
    assert (module.FOLDER / f"{sent.SOPInstanceUID}.dcm").is_file()

    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientName": "doe*"}
    (found,) = dicom_client.find(keys)
    assert (found.StudyInstanceUID, found.PatientName) == (study, "Doe^John")
    assert list(dicom_client.find(keys | {"PatientName": "roe*"})) == []


def test_an_instance_of_no_study_is_refused(dicom_client):
    with pytest.raises(RequestFailed, match="0xA900"):
        dicom_client.store(image(PatientID="1"))


def test_it_answers_on_a_port(dicom_server):
    with connect("127.0.0.1", dicom_server.port) as client:
        assert client.echo().category == "Success"
