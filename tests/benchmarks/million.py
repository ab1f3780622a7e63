"""``python -m tests.benchmarks.million``: an archive with a million instances in its index.

The rows are made by the archive's own code; there are no files behind them. The table has the time
of a page of answers to each query, of a start, and of a store, empty and full. A scan of all
instances is told by EXPLAIN.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pydicom import Dataset

from pacsroute import App, Archive
from pacsroute.archive import intake, queries
from pacsroute.archive.values import of_dataset

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does

from support.archives import image
from support.postgresql import server

_STUDIES, _SERIES = 4000, 4  # in all, and in each study
_BATCH = 50  # studies in a transaction
_SYNTAX = "1.2.840.10008.1.2.1"
_FAMILIES = ["Doe", "Roe", "Miller", "Garcia", "Kim", "Okafor", "Silva", "Petrov", "Haddad", "Li"]
_FIRST_DAY = datetime.date(2014, 1, 1)
_GOAL = 100  # ms for a page

# Each query with the levels that it is asked at.
_QUERIES = {
    "all": {},
    "by Patient ID": {"PatientID": "P123"},
    "by Study Instance UID": {"StudyInstanceUID": "1.9.77"},
    "by SOP Instance UID": {"SOPInstanceUID": "1.9.77.1.5"},
    "by Accession Number": {"AccessionNumber": "A77"},
    "name, begins with": {"PatientName": "Silva*"},
    "name, in the middle": {"PatientName": "*kim*"},
    "name that nobody has": {"PatientName": "Zzz*"},
    "dates, a month": {"StudyDate": "20160101-20160131"},
    "dates, an open range": {"StudyDate": "20160101-"},
    "Modalities in Study": {"ModalitiesInStudy": "MR"},
    "Modality": {"Modality": "MR"},
    "Modality that nothing has": {"Modality": "XA"},
    "with counts": {
        "PatientName": "Doe*",
        "NumberOfPatientRelatedStudies": None,
        "NumberOfPatientRelatedInstances": None,
        "NumberOfStudyRelatedSeries": None,
        "NumberOfStudyRelatedInstances": None,
        "NumberOfSeriesRelatedInstances": None,
        "SOPClassesInStudy": None,
    },
}
_LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_ABOVE = {"SOPInstanceUID": "IMAGE", "Modality": "STUDY", "ModalitiesInStudy": "STUDY"}


def series_of(study, series):
    """Return the first instance of a series."""
    day = _FIRST_DAY + datetime.timedelta(days=study % 3650)
    modality = ("CT", "MR", "US", "CR")[(study + series) % 4] if series else ("CT", "MR")[study % 2]
    return image(
        study=f"1.9.{study}",
        series=f"1.9.{study}.{series}",
        PatientID=f"P{study // 2}",
        PatientName=f"{_FAMILIES[study // 2 % 10]}^Number{study // 2}",
        AccessionNumber=f"A{study}",
        StudyDate=day.strftime("%Y%m%d"),
        StudyTime=f"{study % 24:02}3000",
        StudyDescription=f"Study {study}",
        Modality=modality,
        SeriesNumber=series,
    )


def fill(archive, instances):
    """Put rows into the index: a study, its series, and the same number of instances in each."""
    database = archive._database
    each = instances // (_STUDIES * _SERIES)
    for first in range(0, _STUDIES, _BATCH):
        studies = range(first, first + _BATCH)
        database.write(lambda db, some=studies: _fill_studies(archive, db, some, each))


def _fill_studies(archive, db, studies, each):
    for study in studies:
        _fill_study(archive, db, study, each)


def _fill_study(archive, db, study, each):
    for series in range(_SERIES):
        values = of_dataset(archive._model, series_of(study, series))
        entry = archive._described(values, _SYNTAX, "CT1", "")
        uid = f"1.9.{study}.{series}"
        entry.image["SOPInstanceUID"] = f"{uid}.0"
        intake.admit(db, entry, f"{uid}.0.dcm")
        row = db.execute("SELECT * FROM image WHERE SOPInstanceUID = ?", [f"{uid}.0"]).fetchone()
        like = dict(zip(row.keys(), row, strict=True))
        like.pop("id")
        columns = {name.lower(): value for name, value in like.items()}
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        db.executemany(
            f"INSERT INTO image ({names}) VALUES ({marks})",
            (
                [
                    *(
                        columns
                        | {
                            "sopinstanceuid": f"{uid}.{number}",
                            "instancenumber": number,
                            "path": f"{uid}.{number}.dcm",
                        }
                    ).values()
                ]
                for number in range(1, each)
            ),
        )


def identifier(level, keys):
    """Return an identifier with the usual return keys of a level."""
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    usual = ["PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"]
    below = ["SeriesInstanceUID", "Modality", "SeriesNumber"] if level in _LEVELS[2:] else []
    for keyword in [*usual, *below]:
        setattr(asked, keyword, None)
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def page(archive, level, keys):
    """Return the milliseconds and the number of answers of a first page, the best of three."""
    asked = identifier(level, keys)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        query = queries.Query(archive._model, archive._database, asked, level)
        count = len(list(query.rows(limit=queries._PAGE)))
        times.append((time.perf_counter() - started) * 1000)
    return min(times), count


def scans(archive, level, keys):
    """Tell whether a page looks at all instances: what SQLite's or PostgreSQL's plan says."""
    database, found = archive._database, []
    rows = database.rows

    def explained(sql, parameters=(), stop=None):
        how = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
        plan = [str(row[-1]) for row in rows(f"{how} {sql}", parameters)]
        found.extend(line for line in plan if "SCAN image" in line or "Seq Scan on image" in line)
        return rows(sql, parameters, stop)

    database.rows = explained
    try:
        list(queries.Query(archive._model, database, identifier(level, keys), level).rows(limit=1))
    finally:
        database.rows = rows
    return bool(found)


def store(app, first, count=200):
    """Return the milliseconds that the archive takes to store an instance."""
    times = []
    with app.test_client() as client:
        for number in range(first, first + count):
            new = image(number, study="1.8.1", series="1.8.2")
            started = time.perf_counter()
            client.store(new)
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def measure(folder, index, instances):
    """Yield the lines of a table."""
    options = {"index": index} if index else {}

    def started():
        app = App("ARCHIVE")
        app.state.archive = Archive(folder / "files", min_free=0, **options)
        app.register_blueprint(app.state.archive)
        began = time.perf_counter()
        with app.running():
            return app, (time.perf_counter() - began) * 1000

    app, empty_start = started()
    app, empty_start = started()
    with app.running():
        empty = store(app, 1)
        began = time.perf_counter()
        fill(app.state.archive, instances)
        if app.state.archive._database.dialect == "postgresql":
            own = app.state.archive._database.connect()
            own.execute("VACUUM ANALYZE")
            own.close()
        print(f"filled in {time.perf_counter() - began:.0f} s")
    app, full_start = started()
    with app.running():
        yield f"| start, empty and full | {empty_start:.0f} ms | {full_start:.0f} ms |"
        yield f"| store, empty and full | {empty:.2f} ms | {store(app, 1001):.2f} ms |"
        yield ""
        yield "| a page of the query | " + " | ".join(_LEVELS) + " |"
        yield "|---|" + "---:|" * len(_LEVELS)
        for name, keys in _QUERIES.items():
            cells = []
            for level in _LEVELS:
                lowest = max((_LEVELS.index(_ABOVE.get(key, "PATIENT")) for key in keys), default=0)
                if _LEVELS.index(level) < lowest:
                    cells.append("")
                    continue
                ms, count = page(app.state.archive, level, keys)
                mark = " **slow**" if ms > _GOAL else ""
                scan = " **scan**" if scans(app.state.archive, level, keys) else ""
                cells.append(f"{ms:.1f} ms, {count}{mark}{scan}")
            yield f"| {name} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.million")
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="million-", dir=options.folder)
        top = stack.enter_context(folder)
        index = stack.enter_context(server()).url() if options.engine == "postgresql" else ""
        for line in measure(Path(top), index, options.instances):
            print(line)


if __name__ == "__main__":
    main()
