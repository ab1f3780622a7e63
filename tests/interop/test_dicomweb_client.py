"""dicomweb-client, which most Python programs use, with each of its methods."""

import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from support.web import CT, MR_RLE, ROOT, read

from pacsroute import App, Archive


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    app = App("ARCHIVE")
    app.register_blueprint(Archive(tmp_path_factory.mktemp("archive")))
    with app.serve(port=0, web_port=0) as server:
        client = DICOMwebClient(f"http://127.0.0.1:{server.web_port}{ROOT}")
        stored = client.store_instances([read(CT), read(MR_RLE)])
        assert len(stored.ReferencedSOPSequence) == 2
        assert "FailedSOPSequence" not in stored
        yield client


@pytest.fixture(params=[CT, MR_RLE])
def instance(request):
    return read(request.param)


def names(dataset):
    return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID


def test_searches(client, instance):
    study, series, uid = names(instance)
    assert len(client.search_for_studies()) == 2
    assert len(client.search_for_studies(limit=1, offset=1, fuzzymatching=True)) == 1
    (found,) = client.search_for_studies(
        search_filters={"PatientID": instance.PatientID}, fields=["StudyDescription"]
    )
    assert found["0020000D"]["Value"] == [study]
    (found,) = client.search_for_series(study)
    assert found["0020000E"]["Value"] == [series]
    (found,) = client.search_for_instances(study, series)
    assert found["00080018"]["Value"] == [uid]
    assert len(client.search_for_series()) == len(client.search_for_instances()) == 2
    assert len(client.search_for_studies(get_remaining=True)) == 2


def test_instances_are_retrieved_at_each_level(client, instance):
    study, series, uid = names(instance)
    for found in (
        client.retrieve_study(study),
        client.retrieve_series(study, series),
        [client.retrieve_instance(study, series, uid)],
        list(client.iter_study(study)),
        list(client.iter_series(study, series)),
    ):
        (one,) = found
        assert one.SOPInstanceUID == uid
        assert (one.pixel_array == instance.pixel_array).all()  # decoded, where nothing is said


def test_metadata_and_bulk_data_are_retrieved(client, instance):
    study, series, uid = names(instance)
    (of_study,), (of_series,) = (
        client.retrieve_study_metadata(study),
        client.retrieve_series_metadata(study, series),
    )
    found = client.retrieve_instance_metadata(study, series, uid)
    assert found == of_study == of_series
    dataset = pydicom.Dataset.from_json(found, bulk_data_uri_handler=lambda uri: None)
    assert dataset.PatientName == instance.PatientName
    (data,) = client.retrieve_bulkdata(found["7FE00010"]["BulkDataURI"])
    assert bytes(data) in instance.PixelData
    media_types = ("application/octet-stream",)
    url = found["7FE00010"]["BulkDataURI"]
    assert client.retrieve_bulkdata(url, media_types) == [data]
    assert list(client.iter_bulkdata(url)) == [data]


def test_frames_are_retrieved(client, instance):
    pixels = instance.pixel_array.tobytes()
    assert client.retrieve_instance_frames(
        *names(instance), [1], ("application/octet-stream",)
    ) == [pixels]
    assert len(list(client.iter_instance_frames(*names(instance), [1]))) == 1
