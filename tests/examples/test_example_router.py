"""The examples of a router and of a gateway, with destinations in memory."""

import runpy

import pytest
from pydicom import dcmread
from support.places import ROOT
from support.samples import FILES

from pacsroute import App, Instance, RequestFailed

CT = FILES / "CT_small.dcm"


def destination(title):
    app = App(title)
    app.state.came = []

    @app.store
    def store(request):
        app.state.came.append((request.calling_ae, request.dataset))

    return app


@pytest.fixture
def router(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSEUDONYM_KEY", "a key of the tests")
    return runpy.run_path(str(ROOT / "examples" / "router.py"))["app"]


def routed(router, *sources):
    peers = {title: destination(title) for title in ("PACS", "RESEARCH")}
    with router.test_client(calling_ae="CT1", peers=peers) as client:
        for source in sources:
            client.store(source)
    return [peers[title].state.came for title in ("PACS", "RESEARCH")]


def test_the_pacs_gets_the_original_from_the_modality_and_research_no_names(router):
    (original,), (copy,) = routed(router, CT)
    known = dcmread(CT)
    assert original[0] == "CT1"
    assert original[1].PatientName == known.PatientName
    assert copy[0] == "ROUTER"
    for keyword in ("PatientName", "PatientID", "SOPInstanceUID", "StudyInstanceUID"):
        assert copy[1][keyword].value != known[keyword].value
    assert copy[1].PatientIdentityRemoved == "YES"
    assert copy[1].DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert copy[1].PixelData == known.PixelData


def test_the_same_original_gets_the_same_pseudonym_in_every_process(router):
    copies = [routed(router, CT)[1][0][1] for _ in range(2)]
    assert copies[0].PatientID == copies[1].PatientID
    assert copies[0].SOPInstanceUID == copies[1].SOPInstanceUID


def test_other_modalities_go_to_the_pacs_only(router):
    dataset = dcmread(CT)
    dataset.Modality = "US"
    originals, copies = routed(router, dataset)
    assert len(originals) == 1
    assert copies == []


def test_an_image_with_names_in_its_pixels_is_refused_and_never_goes_to_research(router):
    dataset = dcmread(CT)
    dataset.BurnedInAnnotation = "YES"
    peers = {title: destination(title) for title in ("PACS", "RESEARCH")}
    with router.test_client(peers=peers) as client:
        with pytest.raises(RequestFailed, match="burned"):
            client.store(dataset)
    assert peers["RESEARCH"].state.came == []


def test_a_series_that_is_complete_is_analysed_once_and_its_report_goes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gateway = runpy.run_path(str(ROOT / "examples" / "gateway.py"))["app"]
    modality = destination("CT1")
    with gateway.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        for number in (1, 2):
            dataset = Instance(CT).dataset
            dataset.SOPInstanceUID = f"1.2.3.{number}"
            client.store(dataset)
        assert modality.state.came == []
    ((sender, report),) = modality.state.came
    assert sender == "GATEWAY"
    assert report.Modality == "SR"
    assert report.ContentSequence[0].TextValue.startswith("2 slices, mean ")
    assert report.StudyInstanceUID == dcmread(CT).StudyInstanceUID
    assert not list((tmp_path / "incoming").glob("*/*.dcm"))


@pytest.mark.parametrize("name", ["router", "gateway"])
def test_the_example_has_at_most_sixty_lines(name):
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
