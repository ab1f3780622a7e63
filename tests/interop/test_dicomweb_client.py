"""dicomweb-client, which most Python programs use, with each of its methods."""

import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from requests import HTTPError
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
    assert bytes(data) == instance.pixel_array.tobytes()  # decoded, where nothing is said
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


def test_transfer_syntaxes_and_media_types_may_be_named(client, instance):
    own = str(instance.file_meta.TransferSyntaxUID)
    as_stored = (("application/dicom", own),)
    any_syntax = (("application/dicom", "*"),)
    for media_types in (as_stored, any_syntax):
        found = client.retrieve_instance(*names(instance), media_types=media_types)
        assert found.file_meta.TransferSyntaxUID == own
        assert found.PixelData == instance.PixelData
        (one,) = client.retrieve_series(*names(instance)[:2], media_types=media_types)
        assert one.PixelData == instance.PixelData
        (one,) = client.retrieve_study(names(instance)[0], media_types=media_types)
        assert one.PixelData == instance.PixelData
    if instance.file_meta.TransferSyntaxUID.is_compressed:
        (frame,) = client.retrieve_instance_frames(
            *names(instance), [1], media_types=(("image/dicom-rle", own),)
        )
        assert frame in instance.PixelData


def test_a_range_of_bulk_data_may_be_asked_for(client, instance):
    found = client.retrieve_instance_metadata(*names(instance))
    url = found["7FE00010"]["BulkDataURI"]
    (whole,) = client.retrieve_bulkdata(url)
    media_types = ("application/octet-stream",)
    for ask in (client.retrieve_bulkdata, client.iter_bulkdata):
        (part,) = list(ask(url, media_types=media_types, byte_range=(10, 19)))
        assert part in (whole[10:20], whole)  # in parts, a range of the value may be ignored


def test_rendered_pictures_are_retrieved(client, instance):
    for media_type, beginning in (("image/jpeg", b"\xff\xd8\xff"), ("image/png", b"\x89PNG")):
        asked = {"media_types": (media_type,)}
        window = {"params": {"viewport": "64,64"}}
        pictures = [
            client.retrieve_instance_rendered(*names(instance), **asked, **window),
            client.retrieve_instance_frames_rendered(*names(instance), [1], **asked),
            client.retrieve_series_rendered(*names(instance)[:2], **asked),
        ]
        assert all(picture.startswith(beginning) for picture in pictures)
    assert client.retrieve_instance_rendered(*names(instance)).startswith(b"\xff\xd8\xff")
    assert b"\xff\xd8\xff" in client.retrieve_series_rendered(*names(instance)[:2])


def test_searches_below_a_study_have_filters_and_pages(client, instance):
    study, series, uid = names(instance)
    filters = {"search_filters": {"SOPInstanceUID": uid}, "fields": ["Rows"]}
    (found,) = client.search_for_instances(study, **filters)
    assert found["00280010"]["Value"] == [instance.Rows]
    (found,) = client.search_for_series(study, search_filters={"Modality": instance.Modality})
    assert found["00081190"]["Value"][0].endswith(f"/studies/{study}/series/{series}")
    for search in (client.search_for_series, client.search_for_instances):
        pages = [search(limit=1, offset=number) for number in (0, 1, 2)]
        assert [len(page) for page in pages] == [1, 1, 0]
        assert len(search(limit=1, get_remaining=True)) == 2
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []
    assert len(client.search_for_studies(additional_params={"orderby": "StudyDate"})) == 2


def test_a_study_may_be_named_when_instances_are_stored(client, instance):
    study, _, uid = names(instance)
    stored = client.store_instances([instance], study_instance_uid=study)
    assert [one.ReferencedSOPInstanceUID for one in stored.ReferencedSOPSequence] == [uid]
    with pytest.raises(HTTPError, match="409"):
        client.store_instances([instance], study_instance_uid="1.2.3")


def test_nothing_is_deleted(client, instance):
    for delete, count in (
        (client.delete_study, 1),
        (client.delete_series, 2),
        (client.delete_instance, 3),
    ):
        with pytest.raises(HTTPError, match="405"):
            delete(*names(instance)[:count])
    assert client.retrieve_instance_metadata(*names(instance))


def test_what_is_not_there_is_an_error(client):
    with pytest.raises(HTTPError, match="404"):
        client.retrieve_study("1.2.3")
    with pytest.raises(HTTPError, match="400"):
        client.search_for_studies(
            search_filters={"PatientID": "x"}, additional_params={"Rows": "x"}
        )
