"""A working archive in one file: it stores, and answers queries at every level.

    pacsroute run examples/archive.py

Files and an SQLite index are made on first start in the folder ``archive``, or in the one
that the environment variable ARCHIVE names.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from pacsroute import App, Failure, matching

FOLDER = Path(os.environ.get("ARCHIVE", "archive"))

# The keys that the index keeps, by level; each level's own unique key comes first.
LEVELS = {
    "PATIENT": ["PatientID", "PatientName", "PatientBirthDate", "PatientSex"],
    "STUDY": [
        *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"),
        *("StudyDescription", "ReferringPhysicianName"),
    ],
    "SERIES": [
        *("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription"),
        *("SeriesDate", "SeriesTime", "BodyPartExamined"),
    ],
    "IMAGE": ["SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ContentDate", "ContentTime"],
}
KEYS = [key for keys in LEVELS.values() for key in keys]


def count(key, within):
    return (
        f"(SELECT count(DISTINCT {key}) FROM instance AS other"
        f" WHERE other.{within} IS instance.{within})"
    )


def values(key, within):
    return (
        f"(SELECT replace(group_concat(DISTINCT {key}), ',', '\\') FROM instance AS other"
        f" WHERE other.{within} IS instance.{within})"
    )


# What is worked out only when it is asked for, by the level from which it makes sense.
COMPUTED = {
    "PATIENT": {
        "NumberOfPatientRelatedStudies": count("StudyInstanceUID", "PatientID"),
        "NumberOfPatientRelatedSeries": count("SeriesInstanceUID", "PatientID"),
        "NumberOfPatientRelatedInstances": count("SOPInstanceUID", "PatientID"),
    },
    "STUDY": {
        "NumberOfStudyRelatedSeries": count("SeriesInstanceUID", "StudyInstanceUID"),
        "NumberOfStudyRelatedInstances": count("SOPInstanceUID", "StudyInstanceUID"),
        "ModalitiesInStudy": values("Modality", "StudyInstanceUID"),
        "SOPClassesInStudy": values("SOPClassUID", "StudyInstanceUID"),
    },
    "SERIES": {"NumberOfSeriesRelatedInstances": count("SOPInstanceUID", "SeriesInstanceUID")},
    "IMAGE": {},
}


class Index:
    """What is in the archive. Each use has a connection of its own: handlers are threads."""

    def __init__(self, path):
        self.path = path
        with self.connect() as db:
            db.execute("PRAGMA journal_mode = WAL")
            columns = ", ".join(f"{key} TEXT" for key in KEYS)
            db.execute(
                f"CREATE TABLE IF NOT EXISTS instance ({columns}, path TEXT,"
                " transfer_syntax TEXT, PRIMARY KEY (SOPInstanceUID))"
            )
            for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
                db.execute(f"CREATE INDEX IF NOT EXISTS by_{key} ON instance ({key})")

    def connect(self):
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        db.create_function("stored", 2, matching.stored, deterministic=True)
        db.row_factory = sqlite3.Row
        return closing(db)

    def add(self, instance, path):
        """Put an instance in, in the place of an earlier one of the same UID."""
        dataset = instance.dataset
        row = {key: text(dataset.get(key)) for key in KEYS}
        row |= {"SOPInstanceUID": instance.sop_instance, "SOPClassUID": instance.sop_class}
        marks = ", ".join("?" * (len(row) + 2))
        with self.connect() as db:
            db.execute(
                f"INSERT OR REPLACE INTO instance VALUES ({marks})",
                [*row.values(), str(path), instance.transfer_syntax],
            )

    def match(self, identifier, level):
        """Yield a row for each match at a level, one after the other from the database."""
        levels = list(LEVELS)[: list(LEVELS).index(level) + 1]
        computed = {
            key: sql for name in levels for key, sql in COMPUTED[name].items() if key in identifier
        }
        keys = [key for name in levels for key in LEVELS[name]]
        columns = {key: f"stored('{key}', {key})" for key in keys}
        # These are kept as they are matched, and an index serves them.
        columns |= {key: key for key in keys if key.endswith("UID")}
        where = matching.where(identifier, {**columns, **computed})
        names = ", ".join([*keys, *(f"{sql} AS {key}" for key, sql in computed.items())])
        with self.connect() as db:
            found = db.execute(
                f"SELECT {names} FROM instance WHERE {where.sql} GROUP BY {LEVELS[level][0]}",
                where.parameters,
            )
            for row in found:
                yield dict(row)


def text(value):
    """Return a value as the index keeps it: text, several of them with backslashes."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, (list, tuple)) or hasattr(value, "insert"):
        return "\\".join(map(str, value)) or None
    return str(value) or None


app = App("ARCHIVE", spool=FOLDER / ".spool")


@app.lifespan
def resources(app):
    FOLDER.mkdir(parents=True, exist_ok=True)
    app.state.index = Index(FOLDER / "index.db")
    yield


@app.store
def store(request):
    path = request.save(FOLDER)
    app.state.index.add(request.instance, path)


@app.find("StudyRoot")
@app.find("PatientRoot")
def find(request):
    level = str(request.identifier.get("QueryRetrieveLevel") or "").strip().upper()
    level = {"IMAGES": "IMAGE", "INSTANCE": "IMAGE"}.get(level, level)
    if level not in LEVELS:
        raise Failure(0xA900, "Query/Retrieve Level is none of the four")
    yield from app.state.index.match(request.identifier, level)
