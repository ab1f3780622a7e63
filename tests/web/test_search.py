"""QIDO-RS (PS3.18 §10.6)."""

from io import BytesIO

import pytest
from pydicom.datadict import tag_for_keyword
from support.web import CT, MR_RLE, ROOT, path_of, read, store

from pacsroute import App, Failure
from pacsroute.web.query import RETURNED

STUDY_UID, PATIENT_NAME, STUDY_DESCRIPTION = "0020000D", "00100010", "00081030"


@pytest.fixture
def stored(web):
    assert store(web, CT, MR_RLE).status_code == 200
    return web


def uids(response, key=STUDY_UID):
    assert response.status_code == 200, response.data
    return [row[key]["Value"][0] for row in response.json]


@pytest.mark.parametrize(
    ("path", "level"),
    [
        ("/studies", "STUDY"),
        ("/series", "SERIES"),
        ("/instances", "IMAGE"),
        ("/studies/{0.StudyInstanceUID}/series", "SERIES"),
        ("/studies/{0.StudyInstanceUID}/instances", "IMAGE"),
        ("/studies/{0.StudyInstanceUID}/series/{0.SeriesInstanceUID}/instances", "IMAGE"),
    ],
)
def test_every_level_has_all_attributes_of_its_table(stored, path, level):
    ct = read(CT)
    rows = stored.get(ROOT + path.format(ct)).json
    assert len(rows) == (1 if "{" in path else 2)
    row = next(row for row in rows if ct.StudyInstanceUID in row["00081190"]["Value"][0])
    levels = [level]
    if "studies" not in path:  # relational: those of the levels above, too
        levels = ["STUDY", "SERIES", "IMAGE"][: ["", "STUDY", "SERIES", "IMAGE"].index(level)]
    elif path.endswith("y.StudyInstanceUID}/instances"):
        levels = ["SERIES", "IMAGE"]
    for keyword in [keyword for one in levels for keyword in RETURNED[one]]:
        assert f"{tag_for_keyword(keyword):08X}" in row, keyword
    if level != "SERIES" or "studies" not in path:
        assert row["00080056"]["Value"] == ["ONLINE"]
    whole = path_of(ct).split("/")
    assert row["00081190"]["Value"] == [
        "http://localhost" + "/".join(whole[: {"STUDY": 4, "SERIES": 6, "IMAGE": 8}[level]])
    ]
    if path in ("/series", "/instances"):
        assert row[PATIENT_NAME]["Value"] == [{"Alphabetic": "CompressedSamples^CT1"}]


@pytest.mark.parametrize(
    "query",
    [
        "PatientID=1CT1",
        "00100020=1CT1",
        "PatientName=Compressed*CT1",
        "PatientName=compressedsamples^ct1",
        "StudyDate=20040101-20040131",
        "ModalitiesInStudy=CT",
        "StudyInstanceUID={0.StudyInstanceUID},1.2.3",
        "StudyInstanceUID=1.2.3&StudyInstanceUID={0.StudyInstanceUID}",
        "limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060&PatientID=1CT1",
    ],
)
def test_keys_match_as_in_a_c_find(stored, query):
    ct = read(CT)
    found = stored.get(f"{ROOT}/studies?{query.format(ct)}")
    assert uids(found) == [ct.StudyInstanceUID]


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", r"\ISO 2022 IR 100"])
def test_names_are_matched_and_told_in_unicode(web, charset):
    ct = read(CT)
    ct.SpecificCharacterSet, ct.PatientName = charset.split("\\"), "Müller^Ute"
    file = BytesIO()
    ct.save_as(file)
    web.post(f"{ROOT}/studies", data=file.getvalue(), content_type="application/dicom")
    for query in ("PatientName=M%C3%BCller*", "00100010=m%C3%BCller%5Eute"):
        (row,) = web.get(f"{ROOT}/studies?{query}&charset=utf-8").json
        assert row[PATIENT_NAME]["Value"] == [{"Alphabetic": "Müller^Ute"}]
    (row,) = web.get(f"{ROOT}/studies?includefield=SpecificCharacterSet").json
    assert row["00080005"]["Value"] == ["ISO_IR 192"]
    (model,) = web.get(f"{path_of(ct)}/metadata").json
    assert model[PATIENT_NAME]["Value"] == [{"Alphabetic": "Müller^Ute"}]
    assert model["00080005"]["Value"] == charset.split("\\")


def test_the_retrieve_url_is_whole_whatever_is_included(stored):
    ct = read(CT)
    for path in ("studies", "series", "instances"):
        (row,) = stored.get(f"{ROOT}/{path}?PatientID=1CT1&includefield=StudyDescription").json
        (url,) = row["00081190"]["Value"]
        assert path_of(ct).startswith(url.removeprefix("http://localhost"))
        assert stored.get(url).status_code == 200


def test_nothing_that_matches_is_an_empty_list(stored):
    response = stored.get(f"{ROOT}/studies?PatientID=nobody")
    assert (response.status_code, response.json) == (200, [])


def test_pages_end_with_an_empty_one(stored):
    pages = [uids(stored.get(f"{ROOT}/studies?limit=1&offset={offset}")) for offset in range(3)]
    assert [len(page) for page in pages] == [1, 1, 0]
    assert {uid for page in pages for uid in page} == set(uids(stored.get(f"{ROOT}/studies")))


def test_more_results_than_are_sent_are_a_warning(stored):
    response = stored.get(f"{ROOT}/studies?limit=1")
    assert response.headers["Warning"] == (
        f'299 http://localhost{ROOT} "There are 1 additional results that can be requested"'
    )
    assert "Warning" not in stored.get(f"{ROOT}/studies?limit=2").headers


@pytest.mark.parametrize("path", ["series", "instances", "instances?PatientName=*"])
def test_results_behind_a_page_are_counted_at_each_level(stored, path):
    response = stored.get(f"{ROOT}/{path}{'&' if '?' in path else '?'}limit=1")
    assert "There are 1 additional results" in response.headers["Warning"]


def test_there_is_a_limit_where_none_is_asked_for(archive):
    archive.config.max_results = 1
    with archive.test_client() as client:
        store(client.web, CT, MR_RLE)
        response = client.web.get(f"{ROOT}/studies")
    assert len(response.json) == 1
    assert "There are 1 additional results" in response.headers["Warning"]


def test_fuzzy_matching_is_told_not_to_be_done(stored):
    assert "fuzzymatching" in stored.get(f"{ROOT}/studies?fuzzymatching=true").headers["Warning"]


def test_included_fields_are_returned(stored):
    for query in ("includefield=StudyDescription", "includefield=00080060,00081030"):
        rows = stored.get(f"{ROOT}/studies?PatientID=1CT1&{query}").json
        assert rows[0][STUDY_DESCRIPTION]["Value"] == ["e+1"]
    assert STUDY_DESCRIPTION not in stored.get(f"{ROOT}/studies?PatientID=1CT1").json[0]
    rows = stored.get(f"{ROOT}/studies?PatientID=1CT1&includefield=all").json
    assert rows[0][STUDY_DESCRIPTION]["Value"] == ["e+1"]


def recording(rows=(), **options):
    """Return an app whose handler yields some rows, and the requests that it gets."""
    app, requests = App("ARCHIVE", **options), []

    @app.find("StudyRoot")
    def find(request):
        requests.append(request)
        yield from rows

    return app, requests


def test_the_handler_gets_the_request_of_the_web():
    app, requests = recording()
    with app.test_client(user="doe") as client:
        client.web.get(f"{ROOT}/studies?limit=5&offset=2&RequestAttributesSequence.StudyID=7")
    (request,) = requests
    assert (request.transport, request.limit, request.offset) == ("web", 6, 2)
    assert (request.calling_ae, request.called_ae, request.user) == ("DICOMWEB", "ARCHIVE", "doe")
    assert request.level == "STUDY"
    assert request.identifier.RequestAttributesSequence[0].StudyID == "7"
    assert request.cancelled is False


def test_a_handler_that_knows_no_pages_is_paged():
    rows = [{"StudyInstanceUID": f"1.{number}", "StudyID": str(number)} for number in range(9)]
    app, _ = recording(rows)
    with app.test_client() as client:
        found = client.web.get(f"{ROOT}/studies?limit=3&offset=4")
    assert uids(found) == ["1.4", "1.5", "1.6"]
    assert "There are 2 additional results" in found.headers["Warning"]


@pytest.mark.parametrize(
    ("total", "said"),
    [(None, "some"), (12, "7"), (10**6, "at least 10000"), (0, "1")],
)
def test_a_handler_that_knows_pages_counts_what_is_behind_one(total, said):
    app = App()

    @app.find("StudyRoot")
    def find(request):
        request.paged = True
        if total is not None:
            request.total = lambda most: min(most, total)
        for number in range(request.limit):
            yield {"StudyInstanceUID": f"1.{number}"}

    with app.test_client() as client:
        found = client.web.get(f"{ROOT}/studies?limit=3&offset=2")
    assert len(found.json) == 3
    assert f"There are {said} additional results" in found.headers["Warning"]


def test_only_so_many_results_are_counted_behind_a_page():
    made = []

    def rows():
        for number in range(50_000):
            made.append(number)
            yield {"StudyInstanceUID": f"1.{number}"}

    app, _ = recording(rows())
    with app.test_client() as client:
        found = client.web.get(f"{ROOT}/studies?limit=1")
    assert "There are at least 10000 additional results" in found.headers["Warning"]
    assert len(made) < 10_010


@pytest.mark.parametrize(
    ("query", "ignored"),
    [
        ("RequestAttributesSequence.ScheduledProcedureStepID=7", True),
        ("00321060=CHEST", True),
        ("PatientID=1CT1", False),
        ("AccessionNumber=*", False),
        ("00321060=*&includefield=00321060", False),
    ],
)
def test_a_key_that_the_handler_does_not_know_is_told(stored, query, ignored):
    response = stored.get(f"{ROOT}/studies?{query}")
    name = query.partition("=")[0]
    warning = f'299 http://localhost{ROOT} "Not supported, and ignored: {name}"'
    assert response.headers.get("Warning") == (warning if ignored else None)
    assert len(response.json) == (1 if name == "PatientID" else 2)


def test_parameters_that_are_no_attributes_are_ignored(stored):
    response = stored.get(f"{ROOT}/studies?PatientID=1CT1&_=1700000000&orderby=StudyDate")
    assert uids(response) == [read(CT).StudyInstanceUID]
    assert "Not supported, and ignored: _, orderby" in response.headers["Warning"]


def test_a_value_that_fits_no_vr_costs_only_itself():
    app, _ = recording([{"StudyInstanceUID": "1.2", "NumberOfStudyRelatedSeries": 1.5}])
    with app.test_client() as client:
        (row,) = client.web.get(f"{ROOT}/studies").json
    assert row["00201206"] == {"vr": "IS"}
    assert row[STUDY_UID]["Value"] == ["1.2"]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Failure(0xA700), 503),
        (Failure(0xA900, "PatientID is required"), 400),
        (Failure(0x0124), 403),
        (Failure(0xC001), 500),
        (ValueError("secret"), 500),
    ],
    ids=str,
)
def test_a_failure_of_the_handler_is_a_status(failure, status):
    app = App()

    @app.find("StudyRoot")
    def find(request):
        yield {"StudyInstanceUID": "1.2"}
        raise failure

    with app.test_client() as client:
        response = client.web.get(f"{ROOT}/studies")
    assert response.status_code == status
    assert ("Retry-After" in response.headers) == (status == 503)
    assert b"secret" not in response.data
    if status == 400:
        assert response.text == "PatientID is required\n"


@pytest.mark.parametrize(
    "query",
    [
        "NoSuchAttribute=1",
        "0010=1",
        "0010002g=1",
        "aaaaaaaa=1",
        "limit=-1",
        "limit=x",
        "offset=1e9",
        "Rows=many",
        "includefield=NoSuch",
        "PixelData=x",
        "&".join(["PatientID=1"] * 201),
        ".".join(["ReferencedSeriesSequence"] * 1000) + "=1",
        "includefield=" + ".".join(["00081115"] * 1000),
    ],
    ids=lambda query: query[:20],
)
def test_parameters_that_are_none_are_refused(web, query):
    assert web.get(f"{ROOT}/studies?{query}").status_code == 400


def test_without_a_handler_it_is_not_implemented():
    with App().test_client() as client:
        assert client.web.get(f"{ROOT}/studies").status_code == 501


def test_hooks_and_followers_surround_a_search():
    app, _ = recording([{"StudyInstanceUID": "1.2"}])
    told = []

    @app.before_request
    def before(request):
        told.append("before")
        request.after(told.append, "written")

    @app.after_request
    def after(request, status, error):
        told.append((status.code, error))

    with app.test_client() as client:
        client.web.get(f"{ROOT}/studies")
    assert told == ["before", (0, None), "written"]


def test_large_answers_are_compressed_where_that_is_accepted():
    app, _ = recording([{"StudyInstanceUID": f"1.{number}"} for number in range(50)])
    with app.test_client() as client:
        whole = client.web.get(f"{ROOT}/studies")
        small = client.web.get(f"{ROOT}/studies", headers={"Accept-Encoding": "gzip"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert len(small.data) < len(whole.data) / 5
