"""WADO-RS: instances, metadata, frames and bulk data (PS3.18 §10.4)."""

from io import BytesIO

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from support.web import (
    BIG_ENDIAN,
    CT,
    MR_RLE,
    ROOT,
    content,
    parts,
    path_of,
    read,
    store,
    whole_parts,
)

from pacsroute import App, Failure, Instance, dicom_json, uids
from pacsroute.dataset import encode
from pacsroute.web.statuses import Failed

RAW = "multipart/related; type=application/octet-stream"
OWN = 'multipart/related; type="application/dicom"; transfer-syntax=*'
RLE, EXPLICIT = "1.2.840.10008.1.2.5", uids.EXPLICIT_VR_LITTLE_ENDIAN
JPEG = "SC_rgb_jpeg_gdcm.dcm"


@pytest.fixture
def stored(web):
    assert store(web, CT, MR_RLE).status_code == 200
    return web


@pytest.mark.parametrize("levels", [2, 4, 6])
def test_each_level_sends_its_instances(stored, levels):
    path = "/".join(path_of(read(CT)).split("/")[: 2 + levels])
    ((kind, data),) = parts(stored.get(path))
    assert kind == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert pydicom.dcmread(BytesIO(data)).PixelData == read(CT).PixelData


def test_a_single_part_has_its_length(stored):
    response = stored.get(path_of(read(CT)), headers={"Accept": "application/dicom"})
    assert response.headers["Content-Type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert int(response.headers["Content-Length"]) == len(response.data)
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("asked", "below", "accept"),
    [
        ("", "", OWN),
        ("/..", "", OWN),
        ("/frames/1", "/frames/1", RAW),
        ("/bulkdata/7FE00010", "/bulkdata/7FE00010", RAW),
        ("/rendered", "/frames/1/rendered", 'multipart/related; type="image/png"'),
    ],
)
def test_each_part_has_its_length_and_url(stored, asked, below, accept):
    path = path_of(read(MR_RLE))
    shown = path.rpartition("/instances")[0] if asked == "/.." else path + asked
    response = stored.get(f"{shown}?token=secret", headers={"Accept": accept})
    ((head, data),) = whole_parts(response)
    assert int(head["Content-Length"]) == len(data)
    assert head["Content-Location"] == f"http://localhost{path}{below}"


@pytest.mark.parametrize(
    "below",
    ["", "/metadata", "/frames/1", "/rendered", "/thumbnail", "/bulkdata", "/pixeldata", "/none"],
)
def test_nothing_of_a_patient_is_cached(stored, below):
    for response in (
        stored.get(path_of(read(CT)) + below),
        stored.get(f"{ROOT}/studies"),
        stored.get(f"{ROOT}/wado"),
        store(stored, CT),
    ):
        assert response.headers["Cache-Control"] == "no-store"


def test_boundaries_differ(stored):
    path = path_of(read(CT))
    assert stored.get(path).content_type != stored.get(path).content_type


def test_the_metadata_are_those_of_the_file(stored):
    ct = read(CT)
    (found,) = stored.get(f"{path_of(ct)}/metadata").json
    uri = f"http://localhost{path_of(ct)}/bulkdata/7FE00010"
    assert found.pop("7FE00010") == {"vr": "OW", "BulkDataURI": uri}
    assert found.pop("00083002")["Value"] == [EXPLICIT]
    file = content(CT)
    start = file.index(b"\x08\0\x05\0CS", 132)
    expected = dicom_json(file[start:], EXPLICIT)
    assert {key: value for key, value in found.items() if "BulkDataURI" not in value} == {
        key: value for key, value in expected.items() if len(value.get("InlineBinary", "")) < 1400
    }


@pytest.fixture
def damaged(tmp_path):
    """Return a client of a series with an instance that is cut off, one that is whole, and none."""
    app = App()
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(content(CT)[:2000])

    @app.get("StudyRoot")
    def get(request):
        yield Instance(broken)
        yield Instance(get_testdata_file(MR_RLE))
        yield Instance(tmp_path / "missing.dcm")

    with app.test_client() as client:
        yield client.web


def test_metadata_without_those_that_cannot_be_read_say_so(damaged):
    response = damaged.get(f"{ROOT}/studies/1.2/series/1.3/metadata")
    assert [one["00100020"]["Value"] for one in response.json] == [["4MR1"]]
    assert response.status_code == 206
    assert "left out, since they cannot be read: 2 of 3 instances" in response.headers["Warning"]


def test_a_body_without_an_instance_that_cannot_be_read_does_not_end_as_a_whole_one(damaged):
    response = damaged.get(f"{ROOT}/studies/1.2/series/1.3", buffered=False)
    found = []
    with pytest.raises(Failed, match="left out: 1 of 3 instances"):
        found.extend(response.iter_encoded())
    response.close()
    sent = b"".join(found)
    assert sent.count(b"DICM") == 2  # what is there goes as it is
    assert not sent.rstrip().endswith(b"--")


def test_a_retrieval_of_which_nothing_can_be_sent_is_not_a_success(tmp_path):
    app = App()

    @app.get("StudyRoot")
    def get(request):
        yield Instance(get_testdata_file(CT) if "1.2" in str(request.identifier) else "missing.dcm")

    baseline = "1.2.840.10008.1.2.4.50"
    jpeg = {"Accept": f'multipart/related; type="application/dicom"; transfer-syntax={baseline}'}
    with app.test_client() as client:
        assert client.web.get(f"{ROOT}/studies/1.2", headers=jpeg).status_code == 406
        assert client.web.get(f"{ROOT}/studies/1.3").status_code == 404


def test_bulk_data_come_as_they_are_asked_for(stored):
    ct = read(CT)
    (found,) = stored.get(f"{path_of(ct)}/metadata").json
    uri = found["7FE00010"]["BulkDataURI"]
    assert stored.get(uri).data == ct.PixelData
    many = stored.get(uri, headers={"Accept": 'multipart/related; type="application/octet-stream"'})
    label = f"application/octet-stream; transfer-syntax={EXPLICIT}"
    assert parts(many) == [(label, ct.PixelData)]
    assert stored.get(f"{path_of(ct)}/bulkdata/00100020").status_code == 404
    assert stored.get(f"{path_of(ct)}/bulkdata/7FE00011").status_code == 404
    assert stored.get(f"{path_of(ct)}/bulkdata/pixels").status_code == 400


def sending(*sources):
    app = App()

    @app.get("StudyRoot")
    def get(request):
        yield from map(Instance, sources)

    return app


@pytest.mark.parametrize("below", ["/bulkdata/7FE00010", "/bulkdata", "/pixeldata", ""])
def test_compressed_pixels_are_a_value_or_frames(below):
    file = get_testdata_file("SC_rgb_rle_2frame.dcm")
    dataset = pydicom.dcmread(file)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=2))
    path = f"{ROOT}/studies/1.2/series/1.3/instances/1.4"
    with sending(file).test_client() as client:
        decoded = parts(client.web.get(path + below, headers={"Accept": RAW}))
        stored = {"Accept": f"{RAW}; transfer-syntax=*"}
        found = parts(client.web.get(path + below, headers=stored))
        typed = {"Accept": 'multipart/related; type="image/dicom-rle"'}
        if below:
            assert parts(client.web.get(path + below, headers=typed))[0][1] == frames[0]
    assert [data for _, data in decoded] == [dataset.pixel_array.tobytes()]
    assert [data for _, data in found] == frames
    assert found[0][0] == f"application/octet-stream; transfer-syntax={RLE}"


def test_all_bulk_data_are_those_that_the_metadata_name(stored):
    ct = read(CT)
    (model,) = stored.get(f"{path_of(ct)}/metadata").json
    uris = [element["BulkDataURI"] for element in model.values() if "BulkDataURI" in element]
    found = whole_parts(stored.get(f"{path_of(ct)}/bulkdata", headers={"Accept": RAW}))
    assert [head["Content-Location"] for head, _ in found] == uris
    assert [data for _, data in found] == [stored.get(uri).data for uri in uris]
    assert all(int(head["Content-Length"]) == len(data) for head, data in found)


def test_bulk_data_of_instances_that_cannot_be_read_are_not_left_out_in_silence(tmp_path):
    (tmp_path / "broken.dcm").write_bytes(content(CT)[:-1000])
    path = f"{ROOT}/studies/1.2"
    with sending(tmp_path / "broken.dcm").test_client() as client:
        assert client.web.get(f"{path}/pixeldata", headers={"Accept": RAW}).status_code == 404
    files = [tmp_path / "broken.dcm", get_testdata_file(CT)]
    with sending(*files).test_client() as client:
        response = client.web.get(f"{path}/pixeldata", headers={"Accept": RAW}, buffered=False)
        with pytest.raises(Failed, match="left out: 1 instances"):
            list(response.iter_encoded())
        response.close()


def test_there_may_be_no_bulk_data():
    with sending(get_testdata_file("reportsi.dcm")).test_client() as client:
        response = client.web.get(f"{ROOT}/studies/1.2/bulkdata", headers={"Accept": RAW})
        assert (response.status_code, response.text) == (404, "there are no bulk data\n")


def test_bulk_data_within_a_sequence_are_found():
    app = App()
    waves = [bytes([number]) * 2000 for number in range(2)]

    @app.get("StudyRoot")
    def get(request):
        items = [{"WaveformBitsAllocated": 16, "WaveformData": one} for one in waves]
        data = encode({"SOPInstanceUID": "1.4", "WaveformSequence": items}, EXPLICIT)
        yield Instance(data, transfer_syntax=EXPLICIT)

    with app.test_client() as client:
        path = f"{ROOT}/studies/1.2/series/1.3/instances/1.4"
        (found,) = client.web.get(f"{path}/metadata").json
        items = found["54000100"]["Value"]
        paths = [item["54001010"]["BulkDataURI"].partition("localhost")[2] for item in items]
        assert [client.web.get(one).data for one in paths] == waves


def test_big_endian_values_are_turned_round(web):
    stored, mr = web, read(BIG_ENDIAN)
    store(web, BIG_ENDIAN)
    little = mr.pixel_array.astype("<i2").tobytes()
    assert stored.get(f"{path_of(mr)}/bulkdata/7FE00010").data == little
    frame = stored.get(f"{path_of(mr)}/frames/1", headers={"Accept": "application/octet-stream"})
    assert frame.data == little
    assert frame.content_type == f"application/octet-stream; transfer-syntax={EXPLICIT}"


def test_frames_are_those_of_the_file(stored):
    mr = read(MR_RLE)
    path = f"{path_of(mr)}/frames/1"
    ((_, data),) = parts(stored.get(path))
    assert data == mr.pixel_array.tobytes()
    ((_, data),) = parts(stored.get(path, headers={"Accept": f"{RAW}; transfer-syntax=*"}))
    assert data in mr.PixelData


def test_a_frame_that_cannot_be_had_is_not_acceptable(stored):
    path = f"{path_of(read(MR_RLE))}/frames/1"
    assert stored.get(path, headers={"Accept": "image/png"}).status_code == 406
    assert stored.get(path.replace("frames/1", "frames/2")).status_code == 404
    for numbers in ("0", "x", "1,,1", "-1"):
        assert stored.get(path.replace("frames/1", f"frames/{numbers}")).status_code == 400


def test_several_frames_come_in_the_order_of_the_list(tmp_path):
    app = App()
    name = "SC_rgb_rle_2frame.dcm"
    file = get_testdata_file(name)

    @app.get("StudyRoot")
    def get(request):
        yield Instance(file)

    with app.test_client() as client:
        path = f"{ROOT}/studies/1.2/series/1.3/instances/1.4/frames/2,1"
        found = parts(client.web.get(path, headers={"Accept": RAW}))
    pixels = pydicom.dcmread(file).pixel_array
    assert [data for _, data in found] == [pixels[1].tobytes(), pixels[0].tobytes()]


def test_a_path_that_is_none_says_so(web):
    assert web.get(f"{ROOT}/nonsense").text == "there is no such resource below /dicom-web\n"
    refused = web.delete(f"{ROOT}/studies")
    assert (refused.status_code, refused.text) == (405, "it takes GET, HEAD, OPTIONS, POST\n")


@pytest.mark.parametrize("rest", ["", "/metadata", "/series/1.3", "/series/1.3/metadata"])
def test_nothing_of_that_is_not_found(web, rest):
    assert web.get(f"{ROOT}/studies/1.2.3{rest}").status_code == 404
    assert web.get(f"{ROOT}/studies/1..2{rest}").status_code == 400


@pytest.mark.parametrize(
    ("failure", "status"), [(Failure(0xA700), 503), (Failure(0xA900), 400), (OSError(), 500)]
)
def test_a_failure_of_the_handler_is_a_status(failure, status):
    app = App()

    @app.get("StudyRoot")
    def get(request):
        raise failure

    with app.test_client() as client:
        for rest in ("", "/metadata"):
            assert client.web.get(f"{ROOT}/studies/1.2{rest}").status_code == status


@pytest.mark.parametrize(
    "rest",
    ["", "/metadata", "/rendered", "/thumbnail", "/frames/1", "/bulkdata/7FE00010", "wado"],
)
def test_what_one_may_not_see_is_not_there(rest, caplog):
    app = App()

    @app.before_request
    def check(request):
        raise Failure(0x0124, "the study of a colleague")

    @app.get("StudyRoot")
    def get(request):
        yield Instance(get_testdata_file(CT))

    path = path_of(read(CT)) + rest
    if rest == "wado":
        path = f"{ROOT}/wado?requestType=WADO&studyUID=1.2&seriesUID=1.3&objectUID=1.4"
    with app.test_client() as client, caplog.at_level("WARNING"):
        response = client.web.get(path)
        assert client.web.get(f"{ROOT}/studies").status_code == 501
    assert (response.status_code, response.text) == (404, "the server has nothing for this path\n")
    assert "0x0124" in caplog.text


def test_an_error_after_the_first_part_ends_without_the_closing_boundary():
    app, closed = App(), []

    @app.get("StudyRoot")
    def get(request):
        request.count = 2
        try:
            yield Instance(get_testdata_file(CT))
            raise Failure(0xC001)
        finally:
            closed.append(True)

    with app.test_client() as client:
        response = client.web.get(f"{ROOT}/studies/1.2", buffered=False)
        chunks = response.iter_encoded()
        found = []
        with pytest.raises(Failed):
            found.extend(chunks)
        response.close()
    assert any(b"DICM" in chunk for chunk in found)
    assert not found[-1].rstrip().endswith(b"--")
    assert closed == [True]


def test_a_client_that_hangs_up_closes_the_generator():
    app, closed = App(), []

    @app.get("StudyRoot")
    def get(request):
        request.count = 1000
        try:
            for _ in range(1000):
                yield Instance(get_testdata_file(CT))
        finally:
            closed.append(True)

    @app.after_request
    def after(request, status, error):
        closed.append(type(error).__name__)

    with app.test_client() as client:
        response = client.web.get(f"{ROOT}/studies/1.2", buffered=False)
        next(response.iter_encoded())
        response.close()
    assert closed == [True, "Gone"]


def test_head_and_options_have_no_body(stored):
    path = path_of(read(CT))
    head = stored.head(path, headers={"Accept": "application/dicom"})
    assert (head.status_code, head.data) == (200, b"")
    assert int(head.headers["Content-Length"]) > 10_000
    options = stored.options(f"{ROOT}/studies")
    assert options.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert stored.delete(f"{ROOT}/studies").status_code == 405


def test_the_capabilities_are_what_is_routed():
    app = App()

    @app.find("StudyRoot")
    def find(request):
        return []

    with app.test_client() as client:
        found = client.web.options(f"{ROOT}/", headers={"Accept": "application/json"}).json
        assert [one["path"] for one in found["resources"] if one["methods"] != ["GET"]] == []
        assert "studies/{study}" not in [one["path"] for one in found["resources"]]
        wadl = client.web.get(ROOT)
    assert wadl.content_type.startswith("application/vnd.sun.wadl+xml")


def test_urls_are_the_public_ones(archive):
    archive.config.web_public_url = "https://pacs.example/"
    with archive.test_client() as client:
        store(client.web, CT)
        (row,) = client.web.get(f"{ROOT}/studies").json
    study = read(CT).StudyInstanceUID
    assert row["00081190"]["Value"] == [f"https://pacs.example{ROOT}/studies/{study}"]


def test_a_host_without_its_port_gets_the_servers(archive):
    with archive.test_client() as client:
        store(client.web, CT)
        (row,) = client.web.get(f"{ROOT}/studies", base_url="http://localhost:8042").json
        assert row["00081190"]["Value"][0].startswith("http://localhost:8042/")
        (row,) = client.web.get(f"{ROOT}/studies", environ_overrides={"SERVER_PORT": "8042"}).json
        assert row["00081190"]["Value"][0].startswith("http://localhost:8042/")


DICOM = {"Accept": "application/dicom"}


def test_what_a_client_has_already_is_not_sent_again(stored):
    path = path_of(read(CT))
    for one, headers in (
        (path, DICOM),
        (f"{path}/metadata", {}),
        (f"{path}/frames/1", {"Accept": "application/octet-stream"}),
        (f"{path}/bulkdata/7FE00010", {}),
        (f"{ROOT}/studies", {}),
    ):
        first = stored.get(one, headers=headers)
        tag = first.headers["ETag"]
        again = stored.get(one, headers=headers | {"If-None-Match": tag})
        assert (again.status_code, again.data) == (304, b"")
        other = stored.get(one, headers=headers | {"If-None-Match": '"other"'})
        assert (other.status_code, other.data) == (200, first.data)


@pytest.mark.parametrize(
    ("below", "accept"),
    [
        ("", "application/dicom"),
        ("/frames/1", "application/octet-stream"),
        ("/bulkdata/7FE00010", "application/octet-stream"),
    ],
)
@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-3", 0, 4),
        ("bytes=32000-", 32000, None),
        ("bytes=-4", -4, None),
        ("bytes=5-99999999", 5, None),
        ("bytes=0-1,4-5", None, None),  # of several ranges the whole is sent
        ("bytes=4-2", None, None),
        ("bytes=x", None, None),
        ("lines=1-2", None, None),
    ],
)
def test_a_range_is_sent_or_the_whole(stored, below, accept, asked, start, stop):
    path, headers = path_of(read(CT)) + below, {"Accept": accept}
    whole = stored.get(path, headers=headers)
    assert whole.headers["Accept-Ranges"] == "bytes"
    found = stored.get(path, headers=headers | {"Range": asked})
    assert found.data == whole.data[start:stop]
    assert found.status_code == (200 if start is None else 206)
    other = headers | {"Range": asked, "If-Range": '"other"'}
    assert stored.get(path, headers=other).data == whole.data
    same = headers | {"Range": asked, "If-Range": whole.headers["ETag"]}
    assert stored.get(path, headers=same).data == found.data


def test_a_range_behind_the_end_is_refused_with_the_length(stored):
    headers = {"Accept": "application/dicom", "Range": "bytes=99999999-"}
    found = stored.get(path_of(read(CT)), headers=headers)
    length = len(stored.get(path_of(read(CT)), headers={"Accept": "application/dicom"}).data)
    assert (found.status_code, found.headers["Content-Range"]) == (416, f"bytes */{length}")


def test_a_part_of_an_instance_may_be_asked_for(stored):
    path = path_of(read(CT))
    whole = stored.get(path, headers=DICOM).data
    part = stored.get(path, headers=DICOM | {"Range": "bytes=100-199"})
    assert (part.status_code, part.data) == (206, whole[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    rest = stored.get(path, headers=DICOM | {"Range": "bytes=-50"})
    assert rest.data == whole[-50:]
    beyond = stored.get(path, headers=DICOM | {"Range": "bytes=9999999-"})
    assert beyond.status_code == 416


def test_an_answer_in_part_is_an_answer(archive):
    told = []

    @archive.after_request
    def after(request, status, error):
        told.append((request.command, status.code, error))

    with archive.test_client() as client:
        store(client.web, CT)
        client.web.get(path_of(read(CT)), headers=DICOM | {"Range": "bytes=0-9"})
    assert told == [("store", 0, None), ("get", 0, None)]
