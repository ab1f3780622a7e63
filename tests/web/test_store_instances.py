"""STOW-RS (PS3.18 §10.5, Annex I)."""

import json
import os
import sys
from io import BytesIO

import pydicom
import pytest
from support.samples import FILES, SAMPLES
from support.web import CT, MR_RLE, ROOT, content, data_set, multipart, parts, path_of, read, store

from pacsroute import App, Failure
from pacsroute.memory import PROCESS

REFERENCED, FAILED, OTHERS = "00081199", "00081198", "0008119A"
REASON, URL, WARNING = "00081197", "00081190", "00081196"
MIB = 1_048_576
OWN_SYNTAX = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_each_of_pydicoms_files_comes_back_byte_for_byte(tmp_path, name):
    app = App("KEEPER")
    _, uid, syntax = SAMPLES[name]

    @app.store
    def store(request):
        request.save(tmp_path)

    @app.get("StudyRoot")
    def get(request):
        yield tmp_path / f"{uid}.dcm"

    with app.test_client() as client:
        body, kind = multipart(content(name))
        stored = client.web.post(f"{ROOT}/studies", data=body, content_type=kind)
        assert stored.status_code == 200
        assert stored.json[REFERENCED]["Value"][0]["00081155"]["Value"] == [uid]
        path = f"{ROOT}/studies/1.2/series/1.3/instances/{uid}"
        found = client.web.get(path, headers=OWN_SYNTAX)
    ((media_type, data),) = parts(found)
    assert media_type == f"application/dicom; transfer-syntax={syntax}"
    expected = data_set(content(name))
    assert data_set(data) == expected + b"\0" * (len(expected) & 1)


def test_the_response_names_what_was_stored(web):
    response = store(web, CT)
    ct = read(CT)
    assert response.status_code == 200
    assert response.json == {
        URL: {"vr": "UR", "Value": [f"http://localhost{ROOT}/studies/{ct.StudyInstanceUID}"]},
        REFERENCED: {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": [ct.SOPClassUID]},
                    "00081155": {"vr": "UI", "Value": [ct.SOPInstanceUID]},
                    URL: {"vr": "UR", "Value": [f"http://localhost{path_of(ct)}"]},
                }
            ],
        },
    }


def test_the_response_is_xml_where_that_is_asked_for(web):
    body, kind = multipart(content(CT))
    response = web.post(
        f"{ROOT}/studies",
        data=body,
        content_type=kind,
        headers={"Accept": "application/dicom+xml"},
    )
    assert response.content_type == "application/dicom+xml"
    assert (
        b'<DicomAttribute tag="00081199" keyword="ReferencedSOPSequence" vr="SQ">' in response.data
    )


def test_an_instance_may_come_without_parts_around_it(web):
    response = web.post(f"{ROOT}/studies", data=content(CT), content_type="application/dicom")
    assert response.status_code == 200
    assert web.get(path_of(read(CT))).status_code == 200


def answering(outcome):
    app = App("KEEPER")

    @app.store
    def store(request):
        if request.sop_instance == read(CT).SOPInstanceUID:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        return None

    return app


@pytest.mark.parametrize(
    ("outcome", "others", "status"),
    [
        (None, (), 200),
        (0xB000, (), 202),
        (0xB000, (MR_RLE,), 202),
        (Failure(0xA900), (MR_RLE,), 202),
        (Failure(0xA900), (), 409),
        (Failure(0xA700), (), 503),
        (Failure(0x0124), (), 403),
        (ValueError("secret"), (), 409),
    ],
    ids=str,
)
def test_the_status_is_of_all_instances_together(outcome, others, status):
    with answering(outcome).test_client() as client:
        response = store(client.web, CT, *others)
    assert response.status_code == status
    assert ("Retry-After" in response.headers) == (status == 503)
    assert b"secret" not in response.data


def test_a_warning_has_its_reason():
    with answering(0xB000).test_client() as client:
        ((found),) = store(client.web, CT).json[REFERENCED]["Value"]
    assert found[WARNING] == {"vr": "US", "Value": [0xB000]}


def test_a_failure_has_its_reason():
    with answering(Failure(0xA900)).test_client() as client:
        (found,) = store(client.web, CT).json[FAILED]["Value"]
    assert found[REASON] == {"vr": "US", "Value": [0xA900]}
    assert found["00081155"]["Value"] == [read(CT).SOPInstanceUID]


def test_a_part_that_is_no_instance_is_among_the_other_failures(web):
    body, kind = multipart(content(CT), b"rubbish")
    response = web.post(f"{ROOT}/studies", data=body, content_type=kind)
    assert response.status_code == 202
    assert response.json[OTHERS] == {
        "vr": "SQ",
        "Value": [{REASON: {"vr": "US", "Value": [0xC000]}}],
    }


def test_an_instance_of_another_study_than_the_paths_fails(web):
    body, kind = multipart(content(CT), content(MR_RLE))
    study = read(CT).StudyInstanceUID
    response = web.post(f"{ROOT}/studies/{study}", data=body, content_type=kind)
    assert response.status_code == 202
    (failed,) = response.json[FAILED]["Value"]
    assert failed["00081155"]["Value"] == [read(MR_RLE).SOPInstanceUID]
    assert response.json[URL]["Value"] == [f"http://localhost{ROOT}/studies/{study}"]


def test_the_data_set_wins_over_the_file_meta_information(web):
    ct = read(CT)
    ct.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = BytesIO()
    pydicom.dcmwrite(file, ct)
    body, kind = multipart(file.getvalue())
    (found,) = web.post(f"{ROOT}/studies", data=body, content_type=kind).json[REFERENCED]["Value"]
    assert found["00081155"]["Value"] == [ct.SOPInstanceUID]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/dicom", 409),
        (b"x", "text/plain", 415),
        (b"x", "multipart/related; type=application/dicom", 400),
        (b"x", "multipart/related; type=application/dicom; boundary=b", 400),
        (b"--b--\r\n", "multipart/related; type=application/dicom; boundary=b", 400),
        (multipart(({"Content-Type": "image/jpeg"}, b"x"))[0], multipart(b"")[1], 415),
        (multipart(content(CT))[0][:-20], multipart(b"")[1], 400),
        (multipart(content(CT))[0][:-5000], multipart(b"")[1], 400),
        (multipart(({"Content-Type": "application/dicom+json"}, b"{"))[0], multipart(b"")[1], 400),
        (multipart(({"X": "y" * 20_000}, b"x"))[0], multipart(b"")[1], 400),
    ],
)
def test_a_body_that_is_not_one_is_refused(web, body, kind, status):
    assert web.post(f"{ROOT}/studies", data=body, content_type=kind).status_code == status


def test_there_are_limits_of_parts_and_of_the_body(archive):
    archive.config.max_web_parts = 1
    with archive.test_client() as client:
        assert store(client.web, CT, MR_RLE).status_code == 413
        archive.config.max_web_body = 100
        assert store(client.web, CT).status_code == 413


def test_an_instance_longer_than_the_limit_fails_with_out_of_resources(archive):
    archive.config.max_dataset_length = 10_000
    with archive.test_client() as client:
        response = store(client.web, CT)
    assert response.status_code == 503
    assert response.json[FAILED]["Value"][0][REASON]["Value"] == [0xA700]


def test_metadata_and_bulk_data_become_an_instance(web):
    store(web, CT)
    (model,) = web.get(f"{path_of(read(CT))}/metadata").json
    large = [key for key, element in model.items() if "BulkDataURI" in element]
    for key in large[:-1]:  # private ones
        del model[key]
    model["00080018"]["Value"] = ["1.2.3"]
    model["7FE00010"]["BulkDataURI"] = "http://here/pixels"
    body, kind = multipart(
        ({"Content-Type": "application/dicom+json"}, json.dumps([model]).encode()),
        (
            {"Content-Type": "application/octet-stream", "Content-Location": "http://here/pixels"},
            read(CT).PixelData,
        ),
        kind="application/dicom+json",
    )
    response = web.post(f"{ROOT}/studies", data=body, content_type=kind)
    assert response.status_code == 200, response.data
    path = path_of(read(CT)).rpartition("/")[0] + "/1.2.3"
    found = pydicom.dcmread(BytesIO(web.get(path, headers={"Accept": "application/dicom"}).data))
    ct = read(CT)
    ct.SOPInstanceUID = "1.2.3"
    assert found.PixelData == ct.PixelData
    assert found.PatientName == ct.PatientName
    assert "AvailableTransferSyntaxUID" not in found


def test_metadata_with_a_compressed_frame_become_a_compressed_instance(web):
    store(web, MR_RLE)
    mr = read(MR_RLE)
    (model,) = web.get(f"{path_of(mr)}/metadata").json
    model["00080018"]["Value"] = ["1.2.3"]
    model["7FE00010"]["BulkDataURI"] = "pixels"
    frame = web.get(f"{path_of(mr)}/frames/1", headers={"Accept": "image/dicom-rle"}).data
    body, kind = multipart(
        ({"Content-Type": "application/dicom+json"}, json.dumps([model]).encode()),
        (
            {
                "Content-Type": "image/dicom-rle; transfer-syntax=1.2.840.10008.1.2.5",
                "Content-Location": "pixels",
            },
            frame,
        ),
        kind="application/dicom+json",
    )
    assert web.post(f"{ROOT}/studies", data=body, content_type=kind).status_code == 200
    path = path_of(mr).rpartition("/")[0] + "/1.2.3"
    again = web.get(f"{path}/frames/1", headers={"Accept": "image/dicom-rle"})
    assert again.data == frame


def test_bulk_data_that_did_not_come_fails_its_instance(web):
    model = {
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.7"]},
        "00080018": {"vr": "UI", "Value": ["1.2.3"]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "elsewhere"},
    }
    body, kind = multipart(
        ({"Content-Type": "application/dicom+json"}, json.dumps(model).encode()),
        kind="application/dicom+json",
    )
    response = web.post(f"{ROOT}/studies", data=body, content_type=kind)
    assert response.status_code == 409
    assert response.json[OTHERS]["Value"] == [{REASON: {"vr": "US", "Value": [0xC000]}}]


MODEL = {"Content-Type": "application/dicom+json"}
IMAGE = {
    "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.7"]},
    "00080018": {"vr": "UI", "Value": ["1.2.3"]},
}
BULK = {"Content-Type": "application/octet-stream", "Content-Location": "bulk"}


def stow_models(client, text, *more):
    body, kind = multipart((MODEL, text), *more, kind="application/dicom+json")
    return client.web.post(f"{ROOT}/studies", data=body, content_type=kind)


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"{}," * 100_000 + b"{}]",
        b"[" + b"[]," * 400_000 + b"[]]",
        b'{"00100020":{"vr":"LO","Value":[' + b'"",' * 400_000 + b'""]}}',
        b'{"00081140":{"vr":"SQ","Value":[' + b"{}," * 100_000 + b"{}]}}",
    ],
    ids=["instances", "lists", "values", "items"],
)
def test_metadata_that_take_much_memory_once_they_are_read_are_refused(archive, text):
    archive.config.max_memory = 16 * MIB
    before = PROCESS.held
    with archive.test_client() as client:
        assert stow_models(client, text).status_code == 503
        assert PROCESS.held <= before
        archive.config.max_web_parts = 10
        assert stow_models(client, b"[" + b"{}," * 10 + b"{}]").status_code == 413


@pytest.mark.parametrize(("count", "status"), [(2, 200), (300, 503)])
def test_bulk_data_that_many_elements_name_draw_on_the_memory_of_the_process(count, status):
    app = App("KEEPER", max_memory=16 * MIB)
    app.store(lambda request: None)
    before = PROCESS.held
    model = dict(IMAGE)
    for number in range(count):
        model[f"{0x00090010 + number:08X}"] = {"vr": "OB", "BulkDataURI": "bulk"}
    with app.test_client() as client:
        text = json.dumps(model).encode()
        assert stow_models(client, text, (BULK, bytes(MIB))).status_code == status
    assert PROCESS.held <= before


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
@pytest.mark.parametrize("kind", ["instances", "bulk data"])
def test_a_body_of_many_parts_holds_few_files_open(kind):
    app, numbers = App("KEEPER"), []

    @app.store
    def store(request):
        numbers.append(len(os.listdir("/proc/self/fd")))

    ct = read(CT)
    ct.PixelData = bytes(200_000)  # more than is held in memory
    file = BytesIO()
    ct.save_as(file)
    with app.test_client() as client:
        if kind == "instances":
            body, media_type = multipart(*[file.getvalue()] * 100)
            response = client.web.post(f"{ROOT}/studies", data=body, content_type=media_type)
        else:
            model = json.dumps(IMAGE).encode()
            response = stow_models(client, model, *[(BULK, bytes(200_000))] * 100)
            numbers.insert(0, len(os.listdir("/proc/self/fd")))
    assert response.status_code == 200
    assert max(numbers) < numbers[0] + 50


def test_a_study_with_no_store_handler_refuses_each_instance():
    with App().test_client() as client:
        response = store(client.web, CT)
    assert response.status_code == 409
    assert response.json[FAILED]["Value"][0][REASON]["Value"] == [0x0122]


def test_files_are_named():
    assert len(SAMPLES) > 50
    assert FILES.is_dir()
