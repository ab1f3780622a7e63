"""Studies on the console: masked, but for users with the permission for values."""

import html
import re

import pytest
from pydicom.data import get_testdata_file

from pacsroute import App, Failure

CT, MR = (get_testdata_file(name) for name in ("CT_small.dcm", "MR_small.dcm"))
CT_STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def stored(archive):
    """A client of the archive's site; the archive has a CT and an MR."""
    archive.config.web_console_values = ("*",)
    with archive.test_client() as client:
        client.store(CT)
        client.store(MR)
        yield client.web


def found(web, **arguments):
    response = web.get("/console/studies", query_string=arguments)
    assert response.status_code == 200
    return response.text


def test_studies_are_listed_the_newest_first(stored):
    text = found(stored)
    names = re.findall(r"<b>(.*?)</b>", text)
    assert names == ["CompressedSamples, MR1", "CompressedSamples, CT1"]
    assert "2004-01-19" in text
    assert f'src="/console/thumbnails/{CT_STUDY}"' in text
    assert "/viewer/" not in text


@pytest.mark.parametrize(
    ("arguments", "patients"),
    [
        ({"PatientName": "compressedsamples^ct"}, ["1CT1"]),
        ({"PatientName": "*MR*"}, ["4MR1"]),
        ({"PatientID": "1CT1"}, ["1CT1"]),
        ({"ModalitiesInStudy": "MR"}, ["4MR1"]),
        ({"from": "2004-08-01"}, ["4MR1"]),
        ({"to": "2004-08-01"}, ["1CT1"]),
        ({"from": "2004-01-19", "to": "2004-01-19"}, ["1CT1"]),
        ({"PatientName": "nobody"}, []),
    ],
)
def test_a_search_finds_what_matches(stored, arguments, patients):
    text = found(stored, **arguments)
    assert re.findall(r'<span class="note">(\w+)</span></td>', text) == patients
    assert ("No study matches." in text) == (not patients)
    for value in arguments.values():
        assert f'value="{html.escape(value)}"' in text


def test_pages_lead_to_each_other(stored, monkeypatch):
    monkeypatch.setattr("pacsroute.web.console.studies.PAGE", 1)
    first = found(stored, PatientName="C&o=*")
    assert "No study matches." in first
    first = found(stored, PatientName="Comp")
    assert "1 to 1" in first
    (link,) = re.findall(r'rel="next" href="(.*?)"', first)
    second = stored.get(html.unescape(link)).text
    assert "CompressedSamples, CT1" in second
    assert "CompressedSamples, MR1" not in second
    assert 'rel="prev"' in second
    assert 'rel="next"' not in second


def test_without_the_permission_patient_data_is_masked(archive, stored):
    archive.config.web_console_values = ()
    text = found(stored)
    for value in ("CompressedSamples", "1CT1", "2004-01-19", "e+1", "/console/thumbnails"):
        assert value not in text
    assert text.count("•••") >= 6
    assert CT_STUDY in text
    assert re.findall(r'data-label="Modality">(\w+)<', text) == ["MR", "CT"]


def test_without_the_permission_patient_data_is_not_searched_for_either(archive, stored):
    archive.config.web_console_values = ()
    text = found(stored, PatientName="nobody", PatientID="0", **{"from": "2050-01-01"})
    assert CT_STUDY in text
    assert 'name="PatientName"' not in text
    assert CT_STUDY not in found(stored, ModalitiesInStudy="MR")
    assert CT_STUDY in found(stored, StudyInstanceUID=CT_STUDY)


def test_thumbnails_are_masked_with_the_values(archive, stored):
    pytest.importorskip("PIL")
    picture = stored.get(f"/console/thumbnails/{CT_STUDY}")
    assert (picture.status_code, picture.content_type) == (200, "image/jpeg")
    assert picture.headers["Cache-Control"] == "no-store"
    assert stored.get("/console/thumbnails/1.2.3").status_code == 404
    assert stored.get("/console/thumbnails/x").status_code == 404
    archive.config.web_console_values = ()
    hidden = stored.get(f"/console/thumbnails/{CT_STUDY}")
    assert hidden.status_code == 404
    assert not hidden.content_type.startswith("image")


def test_each_look_at_studies_is_an_audit_event(archive):
    events = []
    archive.audit(events.append)
    archive.config.web_console_values = ("*",)
    with archive.test_client() as client:
        client.store(CT)
        del events[:]
        found(client.web, PatientID="1CT1")
        client.web.get(f"/console/thumbnails/{CT_STUDY}")
    assert [event.kind for event in events if event.transport == "web"] == ["query", "retrieve"]
    (subject,) = events[-1].subjects
    assert subject.study == CT_STUDY


def test_a_study_leads_into_the_viewer(archive, tmp_path):
    (tmp_path / "index.html").write_text("viewer")
    archive.config.web_viewer = str(tmp_path)
    with archive.test_client() as client:
        client.store(CT)
        text = found(client.web)
    assert f'href="/viewer/viewer?StudyInstanceUIDs={CT_STUDY}"' in text


def test_hostile_values_are_text():
    app = App("ARCHIVE", web_console_values="*")

    @app.find("StudyRoot")
    def find(request):
        yield {
            "StudyInstanceUID": '1.2"><script>',
            "PatientName": HOSTILE,
            "PatientID": "\x1b[2J",
            "StudyDescription": "javascript:alert(1)",
        }

    with app.test_client() as client:
        text = found(client.web, PatientName=HOSTILE)
    assert HOSTILE not in text
    assert html.escape(HOSTILE) in text
    assert "\x1b" not in text
    assert "1.2&#34;" not in text


def test_what_a_handler_refuses_is_told():
    app = App("ARCHIVE")

    @app.find("StudyRoot")
    def find(request):
        raise Failure(0xA700, "Doe^John has too many")

    with app.test_client() as client:
        text = found(client.web)
        assert "The search failed: 0xA700 Refused: out of resources" in text
        assert "Doe" not in text
        app.config.web_console_values = ("*",)
        assert "Doe^John has too many" in found(client.web)


def test_a_key_that_is_not_valid_is_told(stored):
    assert "The search failed" in found(stored, **{"from": "yesterday"})
    assert "1 to 2" in found(stored, offset="-1")


def test_an_app_without_searches_has_no_studies():
    with App().test_client() as client:
        assert client.web.get("/console/studies").status_code == 404
        assert "Studies" not in client.web.get("/console").text
