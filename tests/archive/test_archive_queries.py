"""The archive's answers: in order, page by page, holding nothing, and stopped when nobody waits."""

import sqlite3
import threading
from contextlib import closing

import pytest
from pydicom import Dataset
from support.archives import found, image, only_sqlite
from support.names import WAIT

from pacsroute import FindRequest, Instance, SetupError, uids
from pacsroute.archive import queries
from pacsroute.archive.model import Model


def filled(make, studies=7, series=2, images=2, **options):
    app = make(**options)
    with app.running():
        archive = app.state.archive
        for study in range(studies):
            for one in range(series):
                for number in range(images):
                    ds = image(
                        f"{study}.{one}.{number}",
                        study=f"1.1.{study}",
                        series=f"1.2.{study}.{one}",
                        PatientID=f"P{study % 3}",
                        # Some on one day, and one without a date.
                        StudyDate=None if study == 3 else f"2024010{study // 2 + 1}",
                        Modality=("CT", "MR")[one],
                    )
                    archive.add(Instance(ds))
    return app


@pytest.mark.parametrize("page", [1, 2, 3, 500])
def test_pages_of_any_size_tell_every_row_once_and_in_order(make, monkeypatch, page):
    app = filled(make)
    monkeypatch.setattr(queries, "_PAGE", page)
    with app.test_client() as client:
        studies = [row.StudyInstanceUID for row in found(client, "STUDY")]
        assert studies == ["1.1.6", "1.1.4", "1.1.5", "1.1.2", "1.1.0", "1.1.1", "1.1.3"]
        assert [row.PatientID for row in found(client, "PATIENT")] == ["P0", "P1", "P2"]
        series = [row.SeriesInstanceUID for row in found(client, "SERIES")]
        assert series == [f"1.2.{study[4:]}.{one}" for study in studies for one in (0, 1)]
        images = [row.SOPInstanceUID for row in found(client, "IMAGE")]
        assert images == [f"1.3.{one[4:]}.{number}" for one in series for number in (0, 1)]


def test_a_time_zone_is_told_and_matches_everything(make):
    app = make()
    with app.test_client() as client:
        app.state.archive.add(Instance(image("1", TimezoneOffsetFromUTC="+0100")))
        app.state.archive.add(Instance(image("2", study="1.1.9", series="1.2.9")))
        for asked in ("", "-0500"):  # dates are meant in that zone; it is no key (PS3.4 §C.4.1.1)
            rows = found(client, "STUDY", TimezoneOffsetFromUTC=asked, InstanceAvailability="")
            assert {row.get("TimezoneOffsetFromUTC") for row in rows} == {"+0100", ""}
            assert {row.InstanceAvailability for row in rows} == {"ONLINE"}


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("STUDY", {}, 7),
        ("STUDY", {"PatientID": "P0"}, 3),
        ("STUDY", {"ModalitiesInStudy": "MR"}, 7),
        ("SERIES", {"Modality": "MR", "PatientID": "P1"}, 2),
        ("IMAGE", {"PatientID": "P0"}, 12),
        ("PATIENT", {}, 3),
    ],
)
def test_a_page_can_be_counted_on(make, level, keys, count):
    app = filled(make)
    identifier = Dataset()
    identifier.update(keys | {"QueryRetrieveLevel": level})
    model = "PatientRoot" if level == "PATIENT" else "StudyRoot"
    request = FindRequest(
        app=app, sop_class=uids.sop_class(model, "find"), identifier=identifier, limit=1
    )
    with app.running():
        answers = app.handle(request)
        next(answers)
        assert (request.total(1000), request.total(2)) == (count, min(count, 2))
        answers.close()


def test_a_row_that_comes_or_goes_between_two_pages_shifts_no_other(make, monkeypatch):
    app = filled(make)
    monkeypatch.setattr(queries, "_PAGE", 2)
    archive = app.state.archive
    with app.running():
        rows = archive.matching(_keys(), "STUDY")
        got = [next(rows)["StudyInstanceUID"] for _ in range(2)]
        archive.delete(study="1.1.6", reason="r", by="b")
        got += [row["StudyInstanceUID"] for row in rows]
        assert got == ["1.1.6", "1.1.4", "1.1.5", "1.1.2", "1.1.0", "1.1.1", "1.1.3"]


def _keys(**values):
    keys = image(
        **{"StudyDate": "", "PatientID": "", "PatientName": None, "Modality": None, **values}
    )
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        setattr(keys, keyword, "")
    return keys


def test_counts_and_lists_are_computed(make):
    app = filled(make)
    asked = (
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "ModalitiesInStudy",
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedInstances",
    )
    with app.test_client() as client:
        (row,) = found(client, "STUDY", **dict.fromkeys(asked, "") | {"StudyInstanceUID": "1.1.0"})
        assert [row[key].value for key in asked] == [2, 4, ["CT", "MR"], 3, 12]
        (row,) = found(client, "PATIENT", NumberOfPatientRelatedSeries="", PatientID="P1")
        assert row.NumberOfPatientRelatedSeries == 4
        rows = found(client, "SERIES", NumberOfSeriesRelatedInstances="")
        assert {row.NumberOfSeriesRelatedInstances for row in rows} == {2}
        for key in ("ModalitiesInStudy", "Modality"):
            assert len(found(client, "STUDY", **{key: "MR"})) == 7
            assert found(client, "STUDY", **{key: "US"}) == []


@only_sqlite
def test_a_reader_that_waits_holds_nothing_of_the_index(make, monkeypatch):
    app = filled(make)
    monkeypatch.setattr(queries, "_PAGE", 2)
    with app.running():
        archive = app.state.archive
        rows = archive.matching(_keys(), "STUDY")
        next(rows)
        with closing(sqlite3.connect(archive.folder / "index.db", timeout=0)) as db:
            ((is_busy, _, _),) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert not is_busy
        rows.close()


def test_a_query_is_stopped_before_its_first_row_when_nobody_waits_for_it(make, monkeypatch):
    app = filled(make)
    slow = "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n)"
    monkeypatch.setitem(queries._COMPUTED["STUDY"], "NumberOfStudyRelatedSeries", slow)
    with app.running():
        request = FindRequest(
            app=app,
            sop_class=uids.sop_class("StudyRoot", "find"),
            identifier=_keys(QueryRetrieveLevel="STUDY", NumberOfStudyRelatedSeries=None),
            is_cancelled=iter([False, False, False, *[True] * 9]).__next__,
        )
        request.identifier.add_new("NumberOfStudyRelatedSeries", "IS", None)
        ended = threading.Thread(target=list, args=[app.state.archive.find(request)], daemon=True)
        ended.start()
        ended.join(WAIT)
        assert not ended.is_alive()
        # The connection is as good as before.
        assert len(list(app.state.archive.matching(_keys(), "STUDY"))) == 7


@only_sqlite
def test_what_is_not_asked_for_is_not_read(make):
    database = make().state.archive._database
    query = queries.Query(Model(), database, image(PatientName=None, Modality=None), "STUDY")
    assert set(query._selected) == {"PatientID", "StudyInstanceUID", "StudyDate"}


def test_further_keys_are_matched_returned_and_read_from_the_files_of_before(make):
    app = make()
    name = {"OperatorsName": "Roe^Jane"}
    with app.test_client() as client:
        client.store(image(1, InstitutionalDepartmentName="North", **name))
        (row,) = found(client, "STUDY", InstitutionalDepartmentName="")
        assert "InstitutionalDepartmentName" not in row
    keys = {"STUDY": ["InstitutionalDepartmentName"], "SERIES": ["OperatorsName"]}
    for _ in range(2):
        with make(keys=keys).test_client() as client:
            (row,) = found(client, "STUDY", InstitutionalDepartmentName="N*")
            assert row.InstitutionalDepartmentName == "North"
            (row,) = found(client, "SERIES", OperatorsName="ROE*")
            assert row.OperatorsName == "Roe^Jane"
            assert found(client, "SERIES", OperatorsName="DOE*") == []


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"STUDY": ["StudyDescripton"]}, "did you mean 'StudyDescription'"),
        ({"FRAME": ["Rows"]}, "not one of PATIENT"),
        ({"IMAGE": ["PixelData"]}, "no values that can be matched"),
    ],
)
def test_keys_that_cannot_be_are_a_set_up_error(make, keys, why):
    with pytest.raises(SetupError, match=why):
        make(keys=keys)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"StudyDate": "20240101-20240103"},
        {"PatientName": "doe*"},
        {"Modality": "CT"},
        {"InstanceNumber": "7"},
        {"SOPInstanceUID": "1.3.1"},
        {"StudyInstanceUID": "1.1.1"},
    ],
)
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
@only_sqlite
def test_no_query_looks_at_all_instances(make, monkeypatch, level, keys):
    """A page of an archive with a million of them is found by its indexes."""
    app = make()
    with app.running():
        database, plans = app.state.archive._database, []
        rows = database.rows

        def explained(sql, parameters=(), stop=None):
            plans.extend(row["detail"] for row in rows(f"EXPLAIN QUERY PLAN {sql}", parameters))
            return rows(sql, parameters, stop)

        monkeypatch.setattr(database, "rows", explained)
        identifier = _keys(**keys, NumberOfStudyRelatedInstances=None)
        identifier.add_new("NumberOfStudyRelatedInstances", "IS", None)
        assert list(queries.Query(Model(), database, identifier, level).rows()) == []
        assert plans
        assert not [plan for plan in plans if plan.startswith("SCAN image")]
