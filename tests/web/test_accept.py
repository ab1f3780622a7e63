"""What each resource is sent as, by the header Accept (PS3.18 §8.7.3, §8.7.8, Tables 10.4.4-1, 10.6.4-1).

The requests of OHIF, dicomweb-client and Orthanc are as recorded.
"""  # noqa: E501 - the tables

import pytest
from pydicom.data import get_testdata_file
from support.web import CT, MR_RLE, ROOT, content, multipart, path_of, read, store, whole_parts

from pacsroute import App, Archive, Instance

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
RLE, BASELINE, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
JPEG = "SC_rgb_jpeg_dcmtk.dcm"  # JPEG baseline: compressed with loss
FILES = {"plain": CT, "rle": MR_RLE, "jpeg": JPEG}
DICOM, OCTETS = "application/dicom", "application/octet-stream"
JSON, XML = "application/dicom+json", "application/dicom+xml"


def related(kind, rest=""):
    return f'multipart/related; type="{kind}"{rest}'


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    app = App("ARCHIVE")
    app.register_blueprint(Archive(tmp_path_factory.mktemp("archive")))
    with app.test_client() as client:
        assert store(client.web, *FILES.values()).status_code == 200
        yield client.web


def answer(response):
    """Return the status, whether it is multipart, and the media type (of the first part)."""
    kind = response.content_type
    if response.status_code != 200:
        return (response.status_code,)
    if not kind.startswith("multipart/related"):
        return 200, False, kind
    head = response.data.partition(b"\r\n\r\n")[0]
    return 200, True, head.partition(b"Content-Type: ")[2].partition(b"\r\n")[0].decode()


def syntax(kind, uid):
    return f"{kind}; transfer-syntax={uid}"


INSTANCES = [  # Accept, answer for plain, RLE and JPEG: multipart, transfer syntax
    ("", True, EXPLICIT, EXPLICIT, BASELINE),
    ("*/*", True, EXPLICIT, EXPLICIT, BASELINE),
    ("multipart/*", True, EXPLICIT, EXPLICIT, BASELINE),
    ("multipart/related", True, EXPLICIT, EXPLICIT, BASELINE),
    (related("*/*"), True, EXPLICIT, EXPLICIT, BASELINE),
    (related(DICOM), True, EXPLICIT, EXPLICIT, BASELINE),
    (related(DICOM, "; transfer-syntax=*"), True, EXPLICIT, RLE, BASELINE),
    (related(DICOM, f"; transfer-syntax={EXPLICIT}"), True, EXPLICIT, EXPLICIT, EXPLICIT),
    (related(DICOM, f"; transfer-syntax={RLE}"), True, 406, RLE, 406),
    (related(DICOM, f"; transfer-syntax={IMPLICIT}"), True, IMPLICIT, IMPLICIT, IMPLICIT),
    (DICOM, False, EXPLICIT, EXPLICIT, BASELINE),
    ("application/*", False, EXPLICIT, EXPLICIT, BASELINE),
    ("Application/DICOM", False, EXPLICIT, EXPLICIT, BASELINE),
    (syntax(DICOM, "*"), False, EXPLICIT, RLE, BASELINE),
    (syntax(DICOM, RLE), False, 406, RLE, 406),
    (syntax(DICOM, "1.2.3"), False, 406, 406, 406),
    (f"{DICOM}; q=0, */*", True, 406, 406, 406),
    (f"{DICOM}; q=0.1, {related(DICOM)}; q=0.2", True, EXPLICIT, EXPLICIT, BASELINE),
    (
        f"{related(DICOM, f'; transfer-syntax={J2K}')}, "
        f"{related(DICOM, f'; transfer-syntax={RLE}')}; q=0.5, "
        f"{related(DICOM, f'; transfer-syntax={BASELINE}')}; q=0.4, */*; q=0.1",
        True,
        EXPLICIT,
        RLE,
        BASELINE,
    ),
    ("image/jpeg, application/dicom; q=0.1", False, EXPLICIT, EXPLICIT, BASELINE),
    ("text/html", False, 406, 406, 406),
    ("image/png, image/jpeg", False, 406, 406, 406),
]


@pytest.mark.parametrize(("accept", "parts", *FILES), INSTANCES)
@pytest.mark.parametrize("file", FILES)
def test_an_instance(client, file, accept, parts, plain, rle, jpeg):
    wanted = {"plain": plain, "rle": rle, "jpeg": jpeg}[file]
    found = answer(client.get(path_of(read(FILES[file])), headers={"Accept": accept}))
    assert found == ((406,) if wanted == 406 else (200, parts, syntax(DICOM, wanted)))


BULK = [  # of instances, and of /bulkdata and /pixeldata: the pixels are the last part
    (OCTETS, (OCTETS, EXPLICIT), (OCTETS, EXPLICIT), (OCTETS, EXPLICIT)),
    (related(OCTETS), (OCTETS, EXPLICIT), (OCTETS, EXPLICIT), (OCTETS, EXPLICIT)),
    (f"{related(OCTETS)}, {DICOM}; q=0.5", *[(OCTETS, EXPLICIT)] * 3),
    (syntax(OCTETS, "*"), (OCTETS, EXPLICIT), (OCTETS, RLE), (OCTETS, BASELINE)),
    (related(OCTETS, f"; transfer-syntax={EXPLICIT}"), *[(OCTETS, EXPLICIT)] * 3),
]


@pytest.mark.parametrize(("accept", *FILES), BULK)
@pytest.mark.parametrize("below", ["", "/bulkdata", "/pixeldata"])
@pytest.mark.parametrize("levels", [4, 6, 8])
@pytest.mark.parametrize("file", FILES)
def test_bulk_data_of_instances(client, file, levels, below, accept, plain, rle, jpeg):
    wanted = {"plain": plain, "rle": rle, "jpeg": jpeg}[file]
    path = "/".join(path_of(read(FILES[file])).split("/")[:levels]) + below
    response = client.get(path, headers={"Accept": accept})
    assert response.status_code == 200, response.data
    found = whole_parts(response)
    head, _ = found[-1]
    assert head["Content-Type"] == syntax(*wanted)
    assert below != "/pixeldata" or len(found) == 1
    place = "/frames/1" if wanted[1] != EXPLICIT else "/bulkdata/7FE00010"
    assert head["Content-Location"] == f"http://localhost{path_of(read(FILES[file]))}{place}"


@pytest.mark.parametrize("levels", [4, 6])
@pytest.mark.parametrize("accept", ["*/*", DICOM, related(DICOM)])
def test_studies_and_series_come_in_parts_whatever_is_asked_for(client, levels, accept):
    path = "/".join(path_of(read(MR_RLE)).split("/")[:levels])
    found = answer(client.get(path, headers={"Accept": accept}))
    assert found == (200, True, syntax(DICOM, EXPLICIT))


FRAMES = [
    ("", None, (OCTETS, EXPLICIT), (OCTETS, EXPLICIT), ("image/jpeg", BASELINE)),
    ("*/*", None, (OCTETS, EXPLICIT), (OCTETS, EXPLICIT), ("image/jpeg", BASELINE)),
    (OCTETS, False, (OCTETS, EXPLICIT), (OCTETS, EXPLICIT), (OCTETS, EXPLICIT)),
    (related(OCTETS), True, (OCTETS, EXPLICIT), (OCTETS, EXPLICIT), (OCTETS, EXPLICIT)),
    (syntax(OCTETS, EXPLICIT), False, (OCTETS, EXPLICIT), (OCTETS, EXPLICIT), (OCTETS, EXPLICIT)),
    (syntax(OCTETS, "*"), False, (OCTETS, EXPLICIT), (OCTETS, RLE), (OCTETS, BASELINE)),
    (syntax(OCTETS, RLE), False, (OCTETS, EXPLICIT), (OCTETS, RLE), 406),
    (related("image/jpeg"), True, 406, 406, ("image/jpeg", BASELINE)),
    (related("image/dicom-rle"), True, 406, ("image/dicom-rle", RLE), 406),
    ("image/x-dicom-rle", False, 406, ("image/dicom-rle", RLE), 406),
    ("image/*", False, 406, ("image/dicom-rle", RLE), ("image/jpeg", BASELINE)),
    (syntax("image/jpeg", BASELINE), False, 406, 406, ("image/jpeg", BASELINE)),
    (syntax("image/jpeg", "1.2.840.10008.1.2.4.70"), False, 406, 406, 406),
    (
        f"image/*, {OCTETS}; q=0.5",
        False,
        (OCTETS, EXPLICIT),
        ("image/dicom-rle", RLE),
        ("image/jpeg", BASELINE),
    ),
    (f"{OCTETS}; q=0.5, image/jpeg; q=0.4", False, *[(OCTETS, EXPLICIT)] * 3),
    (f"{related('image/jp2')}, {related(OCTETS)}", True, *[(OCTETS, EXPLICIT)] * 3),
    ("text/html", None, 406, 406, 406),
    # OHIF 3: the type unquoted
    (
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        True,
        (OCTETS, EXPLICIT),
        (OCTETS, RLE),
        (OCTETS, BASELINE),
    ),
    (  # and older ones
        "multipart/related; type=image/jls; q=1; transfer-syntax=*, "
        "multipart/related; type=application/octet-stream; q=0.1; transfer-syntax=*",
        True,
        (OCTETS, EXPLICIT),
        (OCTETS, RLE),
        (OCTETS, BASELINE),
    ),
]


@pytest.mark.parametrize(("accept", "parts", *FILES), FRAMES)
@pytest.mark.parametrize("file", FILES)
def test_a_frame(client, file, accept, parts, plain, rle, jpeg):
    wanted = {"plain": plain, "rle": rle, "jpeg": jpeg}[file]
    path = f"{path_of(read(FILES[file]))}/frames/1"
    found = answer(client.get(path, headers={"Accept": accept}))
    if wanted == 406:
        assert found == (406,)
    else:
        assert found == (200, parts is not False, syntax(*wanted))


MODELS = [
    ("", JSON),
    ("*/*", JSON),
    (JSON, JSON),
    ("application/json", "application/json"),
    ("application/*", JSON),
    (related(JSON), JSON),
    (XML, XML),
    (related(XML), related(XML)),
    (f"{related(XML)}, {JSON}", related(XML)),
    (f"{JSON}, {related(XML)}", JSON),
    (f"{JSON}; q=0.5, {related(XML)}", related(XML)),
    (f"{JSON}; q=0, application/json; q=0, */*", XML),
    (f"{JSON}; q=0.1, */*", "application/json"),
    (f"text/html, {JSON}; q=0.1", JSON),
    ("text/html", 406),
    ("image/*", 406),
    ("application/dicom+json, application/json, multipart/related; type=foo/bar", JSON),
]


@pytest.mark.parametrize(("accept", "wanted"), MODELS)
@pytest.mark.parametrize("resource", ["studies", "metadata", "instance metadata", "store"])
def test_data_sets(client, resource, accept, wanted):
    headers = {"Accept": accept}
    path = path_of(read(CT))
    if resource == "store":
        body, kind = multipart(content(CT))
        response = client.post(f"{ROOT}/studies", data=body, content_type=kind, headers=headers)
    elif resource == "studies":
        response = client.get(f"{ROOT}/studies", headers=headers)
    else:
        base = path if resource.startswith("instance") else path.rpartition("/instances")[0]
        response = client.get(f"{base}/metadata", headers=headers)
    if wanted == 406 and resource == "store":  # it is stored all the same
        wanted = JSON
    if wanted == 406:
        assert response.status_code == 406
        return
    assert response.status_code == 200
    if XML in wanted and resource in ("studies", "metadata"):  # of several data sets
        wanted = related(XML)
    if wanted == related(XML) and resource == "store":  # of one, and only one
        wanted = XML
    assert response.content_type.partition("; boundary=")[0] == wanted


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", (False, OCTETS)),
        ("*/*", (False, OCTETS)),
        (OCTETS, (False, OCTETS)),
        (related(OCTETS), (True, OCTETS)),
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", (True, OCTETS)),
        (related("*/*"), (True, OCTETS)),  # dicomweb-client, where no media type is named
        ("image/jpeg", None),
    ],
)
def test_bulk_data(client, accept, wanted):
    path = f"{path_of(read(CT))}/bulkdata/7FE00010"
    found = answer(client.get(path, headers={"Accept": accept}))
    assert found == ((406,) if wanted is None else (200, wanted[0], syntax(wanted[1], EXPLICIT)))


BROWSER = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"  # of Chromium's <img>
PICTURES = [  # of one frame, and of a series with several
    ("", (False, "image/jpeg"), (True, "image/jpeg")),
    ("*/*", (False, "image/jpeg"), (True, "image/jpeg")),
    ("image/*", (False, "image/jpeg"), (False, "image/jpeg")),
    ("image/png", (False, "image/png"), (False, "image/png")),
    ("image/gif", (False, "image/gif"), (False, "image/gif")),
    ("image/jpeg; q=0.1, image/png; q=0.2", (False, "image/png"), (False, "image/png")),
    (related("image/png"), (True, "image/png"), (True, "image/png")),
    (related("image/*"), (True, "image/jpeg"), (True, "image/jpeg")),
    (BROWSER, (False, "image/jpeg"), (False, "image/jpeg")),
    ("image/jp2", 406, 406),
    (DICOM, 406, 406),
    # dicomweb-client, and OHIF's thumbnails
    ("image/jpeg, image/gif, image/png", (False, "image/jpeg"), (False, "image/jpeg")),
    ("multipart/related; type=image/jpeg", (True, "image/jpeg"), (True, "image/jpeg")),
]


@pytest.mark.parametrize(("accept", "one", "several"), PICTURES)
@pytest.mark.parametrize("resource", ["/frames/1/rendered", "/rendered", "several", "/thumbnail"])
def test_pictures(client, several_frames, resource, accept, one, several):
    headers = {"Accept": accept}
    if resource == "several":
        response = several_frames.get(f"{ROOT}/studies/1.2/rendered", headers=headers)
    else:
        response = client.get(f"{path_of(read(CT))}{resource}", headers=headers)
    wanted = several if resource == "several" else one
    assert answer(response) == ((406,) if wanted == 406 else (200, *wanted))


@pytest.fixture(scope="module")
def several_frames():
    app = App()

    @app.get("StudyRoot")
    def get(request):
        yield Instance(get_testdata_file(CT))
        yield Instance(get_testdata_file(MR_RLE))

    with app.test_client() as client:
        yield client.web


def test_the_parameter_wins_over_the_header(client):
    path = path_of(read(CT))
    as_asked = client.get(f"{path}?accept={DICOM}", headers={"Accept": related(DICOM)})
    assert answer(as_asked) == (200, False, syntax(DICOM, EXPLICIT))
    # What it names cannot be sent: the header is looked at (PS3.18 §8.7.8.1).
    other = client.get(f"{path}?accept=text/plain", headers={"Accept": related(DICOM)})
    assert answer(other) == (200, True, syntax(DICOM, EXPLICIT))
    neither = client.get(f"{path}?accept=text/plain", headers={"Accept": "text/html"})
    assert neither.status_code == 406
    assert neither.text == "this is available as application/dicom, application/octet-stream\n"


@pytest.fixture
def undecodable(tmp_path):
    """Return a client of an instance whose RLE frame is broken."""
    broken = bytearray(content(MR_RLE))
    at = broken.rindex(b"\xfe\xff\x00\xe0") + 8
    broken[at : at + 64] = b"\xff" * 64  # the head of the RLE frame
    (tmp_path / "broken.dcm").write_bytes(broken)
    app = App()

    @app.get("StudyRoot")
    def get(request):
        yield tmp_path / "broken.dcm"

    with app.test_client() as client:
        yield client.web


@pytest.mark.parametrize(
    ("below", "accept", "wanted"),
    [
        ("", DICOM, (200, False, syntax(DICOM, RLE))),
        ("", syntax(DICOM, EXPLICIT), (406,)),
        ("/frames/1", "*/*", (200, True, syntax("image/dicom-rle", RLE))),
        ("/frames/1", related(OCTETS), (406,)),
        (
            "/frames/1",
            f"{OCTETS}, {syntax(OCTETS, '*')}; q=0.1",
            (200, False, syntax(OCTETS, RLE)),
        ),
        ("/frames/2", "*/*", (404,)),
        ("/bulkdata/7FE00010", "*/*", (200, False, syntax("image/dicom-rle", RLE))),
        ("/bulkdata/7FE00010", OCTETS, (406,)),
        ("/pixeldata", "*/*", (200, True, syntax("image/dicom-rle", RLE))),
        ("/pixeldata", OCTETS, (406,)),
        ("/rendered", "*/*", (404,)),
    ],
)
def test_what_cannot_be_decoded_goes_as_it_is(undecodable, below, accept, wanted):
    found = undecodable.get(path_of(read(MR_RLE)) + below, headers={"Accept": accept})
    assert answer(found) == wanted


def test_many_ranges_take_no_time(client):
    accept = ", ".join(f"text/x-{number}; q=0.5" for number in range(2000))
    assert client.get(f"{ROOT}/studies", headers={"Accept": accept}).status_code == 406
