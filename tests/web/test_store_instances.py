"""STOW-RS (PS3.18 §10.5, Annex I)."""

import gc
import json
import os
import struct
import sys
from io import BytesIO

import pydicom
import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.datadict import keyword_for_tag
from pydicom.encaps import generate_frames, get_frame
from support.samples import FILES, SAMPLES
from support.web import CT, MR_RLE, ROOT, content, data_set, multipart, parts, path_of, read, store

from pacsroute import App, Failure
from pacsroute.memory import PROCESS
from pacsroute.web.xml_model import XML, xml_of

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
    study = f"http://localhost{ROOT}/studies/{ct.StudyInstanceUID}"
    assert response.headers["Content-Location"] == study
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


MODEL = {"Content-Type": "application/dicom+json"}
IMAGE = {
    "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.7"]},
    "00080018": {"vr": "UI", "Value": ["1.2.3"]},
}
BULK = {"Content-Type": "application/octet-stream", "Content-Location": "bulk"}


def stow_models(client, text, *more):
    body, kind = multipart((MODEL, text), *more, kind="application/dicom+json")
    return client.post(f"{ROOT}/studies", data=body, content_type=kind)


MACRO = ["SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"]
MACRO += ["BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"]
UNSAID = {  # what the headers of some do not say, or say otherwise
    "SC_rgb_dcmtk_+eb+cr.dcm": {},
    "SC_rgb_dcmtk_+eb+cy+s2.dcm": {},
    "SC_rgb_jpeg_gdcm.dcm": {},
    "SC_jpeg_no_color_transform.dcm": {"PhotometricInterpretation": "YBR_FULL"},
    "SC_rgb_small_odd_jpeg.dcm": {},
    "JPEG-lossy.dcm": {"BitsAllocated": 16},
    "MR_small_jpeg_ls_lossless.dcm": {"PixelRepresentation": 0},
    "SC_rgb_jls_lossy_line.dcm": {},
    "MR_small_jp2klossless.dcm": {},
    "examples_jpeg2k.dcm": {},
    "JPEG2000.dcm": {},
}


@pytest.mark.parametrize("name", UNSAID)
def test_compressed_pixels_say_what_they_are_where_metadata_do_not(web, name):
    dataset = read(name)
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "1.2.3"
    syntaxes = {"8": "image/jls", "9": "image/jp2"}
    syntax, frame = (
        dataset.file_meta.TransferSyntaxUID,
        get_frame(dataset.PixelData, 0, number_of_frames=1),
    )
    model = {
        key: element
        for key, element in dataset.to_json_dict(bulk_data_threshold=1 << 30).items()
        if keyword_for_tag(int(key, 16)) not in (*MACRO, "PixelData") and "Value" in element
    }
    model["7FE00010"] = {"vr": "OB", "BulkDataURI": "pixels"}
    kind = syntaxes.get(syntax[-2], "image/jpeg")
    pixels = {"Content-Type": kind, "Content-Location": "pixels"}
    response = stow_models(web, json.dumps(model).encode(), (pixels, frame))
    assert response.status_code == 200, response.data
    data = web.get(
        path_of(dataset), headers={"Accept": "application/dicom; transfer-syntax=*"}
    ).data
    found = pydicom.dcmread(BytesIO(data))
    assert found.file_meta.TransferSyntaxUID == syntax
    assert get_frame(found.PixelData, 0, number_of_frames=1).rstrip(b"\0") == frame.rstrip(b"\0")
    wanted = {keyword: dataset.get(keyword) for keyword in MACRO} | UNSAID[name]
    assert {keyword: found.get(keyword) for keyword in MACRO} == wanted


def test_a_jpeg_2000_file_is_stored_without_its_boxes(web):
    dataset = read("MR_small_jp2klossless.dcm")
    frame = get_frame(dataset.PixelData, 0)
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", len(frame) + 8, b"jp2c")
    pixels = {"Content-Type": "image/jp2", "Content-Location": "pixels"}
    model = IMAGE | {"7FE00010": {"vr": "OB", "BulkDataURI": "pixels"}}
    kept, app = [], App("KEEPER")

    @app.store
    def store(request):
        kept.append(request.dataset.PixelData)

    with app.test_client() as client:
        text = json.dumps(model).encode()
        assert stow_models(client.web, text, (pixels, boxes + frame)).status_code == 200
    assert get_frame(kept[0], 0, number_of_frames=1).rstrip(b"\0") == frame.rstrip(b"\0")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("image/png", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("image/jpeg", b"no picture"),
        ("image/jpeg", b"\xff\xd8\xff\xc0\x00"),
        ("image/jp2", b"\xff\x4f\xff\x51\x00"),
        ("image/jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)),
        ("video/mp4", b"no name of a transfer syntax"),
    ],
)
def test_pixels_that_are_not_known_fail_their_instance(web, kind, data):
    model = IMAGE | {"7FE00010": {"vr": "OB", "BulkDataURI": "pixels"}}
    pixels = {"Content-Type": kind, "Content-Location": "pixels"}
    response = stow_models(web, json.dumps(model).encode(), (pixels, data))
    assert response.status_code == 409
    (failed,) = response.json[FAILED]["Value"]
    assert failed[REASON]["Value"] == [0xC000]


def test_several_compressed_frames_are_one_instance():
    dataset = read("SC_rgb_rle_2frame.dcm")
    frames = [get_frame(dataset.PixelData, number, number_of_frames=2) for number in (0, 1)]
    model = IMAGE | {"7FE00010": {"vr": "OB", "BulkDataURI": "pixels"}}
    pixels = {"Content-Type": "image/dicom-rle", "Content-Location": "pixels"}
    kept, app = [], App("KEEPER")
    app.store(lambda request: kept.append((request.transfer_syntax, request.dataset.PixelData)))
    with app.test_client() as client:
        parts = [(pixels, frame) for frame in frames]
        response = stow_models(client.web, json.dumps(model).encode(), *parts)
    assert response.status_code == 200
    ((syntax, data),) = kept
    assert syntax == dataset.file_meta.TransferSyntaxUID
    assert list(generate_frames(data, number_of_frames=2)) == frames


def test_metadata_may_be_xml(web):
    ct = read(CT)
    store(web, CT)
    (model,) = web.get(f"{path_of(ct)}/metadata").json
    model = {key: one for key, one in model.items() if "BulkDataURI" not in one}
    bulk = {"Content-Type": "application/octet-stream", "Content-Location": "pixels"}
    models = []
    for uid in ("1.2.3", "1.2.4"):
        model["00080018"]["Value"] = [uid]
        pixels = {"7FE00010": {"vr": "OW", "BulkDataURI": "pixels"}}
        models.append(({"Content-Type": XML}, xml_of(model | pixels)))
    body, kind = multipart(*models, (bulk, ct.PixelData), kind=XML)
    response = web.post(f"{ROOT}/studies", data=body, content_type=kind, headers={"Accept": XML})
    assert response.status_code == 200, response.data
    assert response.content_type == XML
    path = path_of(ct).rpartition("/")[0] + "/1.2.4"
    found = pydicom.dcmread(BytesIO(web.get(path, headers={"Accept": "application/dicom"}).data))
    assert (found.PixelData, found.PatientName) == (ct.PixelData, ct.PatientName)


def test_xml_that_is_none_is_refused(web):
    for text in (b"<a/>", b'<!DOCTYPE a [<!ENTITY b "c">]><NativeDicomModel/>'):
        body, kind = multipart(({"Content-Type": XML}, text), kind=XML)
        response = web.post(f"{ROOT}/studies", data=body, content_type=kind)
        assert response.status_code == 400


def test_functions_wait_for_the_response_however_many_instances_there_are():
    app, called = App("KEEPER"), []

    @app.store
    def store(request):
        request.after(called.append, len(called))
        request.after(called.append, request.sop_instance)

    with app.test_client() as client:
        instances = []
        for number in range(100):
            dataset = Dataset()
            dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", f"1.{number}"
            file = BytesIO()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
            pydicom.dcmwrite(file, dataset, enforce_file_format=True)
            instances.append(file.getvalue())
        body, kind = multipart(*instances)
        assert client.web.post(f"{ROOT}/studies", data=body, content_type=kind).status_code == 200
    # None was called before the last instance had come, and they were called in their order.
    assert called == [item for number in range(100) for item in (0, f"1.{number}")]


def test_nothing_of_a_body_is_held_behind_its_response():
    app = App("KEEPER")
    app.store(lambda request: None)
    ct = read(CT)
    ct.PixelData = bytes(300_000)
    file = BytesIO()
    ct.save_as(file)
    gc.collect()
    gc.disable()  # nothing waits for it
    try:
        with app.test_client() as client:
            body, kind = multipart(*[file.getvalue()] * 3)
            client.web.post(f"{ROOT}/studies", data=body, content_type=kind)
            assert app.room.used == 0
            model = IMAGE | {"7FE00010": {"vr": "OB", "BulkDataURI": "bulk"}}
            stow_models(client.web, json.dumps(model).encode(), (BULK, bytes(300_000)))
            assert app.room.used == 0
    finally:
        gc.enable()


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
    (failed,) = response.json[FAILED]["Value"]
    assert (failed["00081155"]["Value"], failed[REASON]["Value"]) == (["1.2.3"], [0xC000])


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
        assert stow_models(client.web, text).status_code == 503
        assert PROCESS.held <= before
        archive.config.max_web_parts = 10
        assert stow_models(client.web, b"[" + b"{}," * 10 + b"{}]").status_code == 413


@pytest.mark.parametrize(("count", "status"), [(2, 200), (300, 503)])
def test_bulk_data_that_many_elements_name_draw_on_the_spool(count, status):
    app = App("KEEPER", max_spool=16 * MIB)
    app.store(lambda request: None)
    before = PROCESS.held
    model = dict(IMAGE)
    for number in range(count):
        model[f"{0x00090010 + number:08X}"] = {"vr": "OB", "BulkDataURI": "bulk"}
    with app.test_client() as client:
        text = json.dumps(model).encode()
        assert stow_models(client.web, text, (BULK, bytes(MIB))).status_code == status
    assert PROCESS.held <= before
    assert app.room.used == 0


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
            response = stow_models(client.web, model, *[(BULK, bytes(200_000))] * 100)
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
