"""Tests of the app without a network: `dicom_client` is pacsroute's own fixture."""

import importlib

import pydicom
import pytest
from pydicom.uid import CTImageStorage, generate_uid

import app as module
from pacsroute import RequestFailed, connect


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # each test has an archive of its own
    return importlib.reload(module).app


def image(**elements):
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.update(elements)
    return dataset


def test_what_is_stored_is_found_and_sent(dicom_client):
    study = generate_uid()
    sent = image(StudyInstanceUID=study, PatientID="1", PatientName="Doe^John")
    assert dicom_client.store(sent).category == "Success"

    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientName": "doe*"}
    (found,) = dicom_client.find(keys)
    assert (found.StudyInstanceUID, found.PatientName) == (study, "Doe^John")
    assert list(dicom_client.find(keys | {"PatientName": "roe*"})) == []

    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
    (instance,) = dicom_client.get(keys, storage=[CTImageStorage])
    assert instance.sop_instance == sent.SOPInstanceUID


def test_an_instance_of_nobody_is_refused(dicom_client):
    with pytest.raises(RequestFailed, match="PatientID is missing"):
        dicom_client.store(image(StudyInstanceUID=generate_uid()))


def test_it_answers_on_a_port(dicom_server):
    with connect("127.0.0.1", dicom_server.port) as client:
        assert client.echo().category == "Success"
