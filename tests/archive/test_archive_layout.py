"""The names of folders and files in an archive: made of values, and safe whatever those are."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import fetched, image, only_folder, uids_in

from pacsroute import App, Archive, SetupError
from pacsroute.archive.layout import Layout


@only_folder
def test_files_are_where_the_layout_says(make):
    app = make(layout="{PatientID}/{StudyDate} {Modality}/{SeriesInstanceUID}")
    with app.test_client() as client:
        client.store(image(1))
        client.store(
            image(2, study="1.9", PatientID="a/../b", IssuerOfPatientID="N", Modality=None)
        )
        folder = app.state.archive.folder
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm")}
        assert files == {
            "777/20240105 CT/1.2/1.3.1.dcm",
            "a%2F..%2Fb@N/20240105%20/1.2/1.3.2.dcm",
        }
        assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1"}
        assert list(app.state.archive.check()) == []
    make.lose_index(app)
    with make(layout="{Modality}").test_client() as client:  # the files stay where they are
        assert uids_in(client) == {"1.3.1", "1.3.2"}


def test_a_relative_folder_is_where_the_app_begins_to_serve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = App("ARCHIVE")
    app.register_blueprint(Archive("archive"))
    with app.test_client() as client:
        assert client.store(image(1)).category == "Success"
        assert fetched(client, "STUDY", StudyInstanceUID="1.1") == {"1.3.1"}
    assert (tmp_path / "archive" / "1.3.1.dcm").is_file()


VALUES = st.text(max_size=300)


@given(VALUES, VALUES)
def test_no_value_leads_out_of_the_folder_or_into_that_of_another(one, other):
    layout = Layout("{PatientID}")
    first, second = (layout.folder_of({"PatientID": value}) for value in (one, other))
    assert (first == second) == (one == other)
    assert os.path.basename(first) == first
    assert not first.startswith(".")
    assert first.isascii()
    assert 0 < len(first) <= 100


@pytest.mark.parametrize("value", ["CON", "nul.txt", "..", ".incoming", "a.", "a ", "_", ""])
def test_names_that_mean_something_to_a_system_are_made_others(value):
    name = Layout("{PatientID}").folder_of({"PatientID": value})
    assert name not in (value, f".{value}")
    assert name.upper() not in ("CON", "NUL.TXT")


@only_folder
@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("{PatientId}", "did you mean 'PatientID'"),
        ("../{PatientID}", r"'\.\.' as the name of a folder"),
        ("/{PatientID}", "'' as the name of a folder"),
        (".incoming/{PatientID}", "as the name of a folder"),
        ("{PatientID!r}", "not an attribute's keyword"),
        ("{PatientID", "expected"),
        ("{}", "not an attribute's keyword"),
    ],
)
def test_a_layout_that_cannot_be_is_a_set_up_error(make, pattern, why):
    with pytest.raises(SetupError, match=why):
        make(layout=pattern)


@only_folder
def test_a_layout_by_an_attribute_that_is_not_indexed_is_a_set_up_error(make):
    with pytest.raises(SetupError, match=r"keys=.*InstitutionalDepartmentName"):
        make(layout="{InstitutionalDepartmentName}")
    keys = {"STUDY": ["InstitutionalDepartmentName"]}
    app = make(layout="{InstitutionalDepartmentName}", keys=keys)
    with app.test_client() as client:
        client.store(image(1, InstitutionalDepartmentName="North"))
    assert (app.state.archive.folder / "North" / "1.3.1.dcm").is_file()
