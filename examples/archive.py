"""A working archive in one file: it stores, answers queries and sends, at every level.

    pacsroute run examples/archive.py --destination WORKSTATION=10.0.0.7:11112

Files and an SQLite index are made on first start in the folder ``archive``, or in the one
that the environment variable ARCHIVE names. Each start brings the index in step with the files,
whatever ended the last one, and files that were put there meanwhile are taken in.
"""

import logging
import os
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from pydicom.uid import UID

from pacsroute import App, Failure, Instance, matching

try:
    import fcntl
except ImportError:  # Windows, which has one process for each archive
    fcntl = None

logger = logging.getLogger("pacsroute")
FOLDER = Path(os.environ.get("ARCHIVE", "archive"))

# What is matched and returned at each level, besides what is at the levels above it.
LEVELS = {
    "PATIENT": "PatientID PatientName PatientBirthDate PatientSex IssuerOfPatientID",
    "STUDY": "StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID StudyDescription "
    "ReferringPhysicianName PatientAge",
    "SERIES": "SeriesInstanceUID Modality SeriesNumber SeriesDescription SeriesDate SeriesTime "
    "BodyPartExamined ProtocolName InstitutionName StationName Manufacturer",
    "IMAGE": "SOPInstanceUID SOPClassUID InstanceNumber ContentDate ContentTime AcquisitionDate "
    "AcquisitionTime NumberOfFrames Rows Columns",
}
KEYS = {level: keys.split() for level, keys in LEVELS.items()}
NUMBERS = {"SeriesNumber", "InstanceNumber", "NumberOfFrames", "Rows", "Columns"}
NAMES = {"PatientName", "ReferringPhysicianName"}  # returned as they came, matched as stored

# Each table's own unique key is the first. A patient is what studies with one Patient ID share.
TABLES = {
    "study": KEYS["STUDY"] + KEYS["PATIENT"],
    "series": [*KEYS["SERIES"], "StudyInstanceUID"],
    "image": [*KEYS["IMAGE"], "SeriesInstanceUID"],
}
HOME = {"PATIENT": "study", "STUDY": "study", "SERIES": "series", "IMAGE": "image"}
TO_STUDY, TO_SERIES = "JOIN study USING (StudyInstanceUID)", "JOIN series USING (SeriesInstanceUID)"
SOURCE = {
    "PATIENT": "study",
    "STUDY": "study",
    "SERIES": f"series {TO_STUDY}",
    "IMAGE": f"image {TO_SERIES} {TO_STUDY}",
}

SERIES, IMAGES = "JOIN series USING (StudyInstanceUID)", "JOIN image USING (SeriesInstanceUID)"
OF_PATIENT = "FROM study AS s {} WHERE s.PatientID IS study.PatientID"
OF_STUDY = "FROM series AS s {} WHERE s.StudyInstanceUID = study.StudyInstanceUID"
OF_SERIES = "FROM image AS i WHERE i.SeriesInstanceUID = series.SeriesInstanceUID"
VALUES = r"(SELECT group_concat({0}, '\') FROM (SELECT DISTINCT {0} {1}))"

# What is worked out, by a query within the query, only when it is asked for.
COMPUTED = {
    "PATIENT": {
        "NumberOfPatientRelatedStudies": f"(SELECT count(*) {OF_PATIENT.format('')})",
        "NumberOfPatientRelatedSeries": f"(SELECT count(*) {OF_PATIENT.format(SERIES)})",
        "NumberOfPatientRelatedInstances": "(SELECT count(*) "
        f"{OF_PATIENT.format(f'{SERIES} {IMAGES}')})",
    },
    "STUDY": {
        "NumberOfStudyRelatedSeries": f"(SELECT count(*) {OF_STUDY.format('')})",
        "NumberOfStudyRelatedInstances": f"(SELECT count(*) {OF_STUDY.format(IMAGES)})",
        "ModalitiesInStudy": VALUES.format("Modality", OF_STUDY.format("")),
        "SOPClassesInStudy": VALUES.format("SOPClassUID", OF_STUDY.format(IMAGES)),
    },
    "SERIES": {"NumberOfSeriesRelatedInstances": f"(SELECT count(*) {OF_SERIES})"},
    "IMAGE": {},
}

PAGE = 500  # rows of an answer that are read at once
VERSION = 3  # of the tables, and of what is in them


def schema():
    """Yield the statements that make the index; they do nothing where it is there."""
    more = {
        "study": [f"{name}_key" for name in NAMES],
        "image": ["path", "modified", "transfer_syntax"],
    }
    for table, keys in TABLES.items():
        names = [*keys, *more.get(table, [])]
        columns = ", ".join(f"{name} {'INTEGER' if name in NUMBERS else 'TEXT'}" for name in names)
        yield f"CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY ({keys[0]}))"
    for column in ("PatientID", "PatientName_key", "StudyDate", "AccessionNumber"):
        yield f"CREATE INDEX IF NOT EXISTS study_{column} ON study ({column})"
    for child, parent in (("image", "series"), ("series", "study")):
        key = TABLES[parent][0]
        yield f"CREATE INDEX IF NOT EXISTS {child}_{key} ON {child} ({key})"
        # An instance that comes again may be of another series: the old one is not left empty.
        for event in (f"UPDATE OF {key}", "DELETE"):
            yield (
                f"CREATE TRIGGER IF NOT EXISTS {child}_{event[:6]} AFTER {event} ON {child} BEGIN"
                f" DELETE FROM {parent} WHERE {key} = old.{key} AND NOT EXISTS"
                f" (SELECT 1 FROM {child} WHERE {key} = old.{key}); END"
            )


def described(dataset):
    """Return the row of each table that an instance has; refuse one that has no place in them."""
    rows = {table: {key: known(key, dataset) for key in keys} for table, keys in TABLES.items()}
    for table, row in rows.items():
        if not row[TABLES[table][0]]:
            raise Failure(0xA900, f"{TABLES[table][0]} is missing")
    for name in NAMES:
        key = rows["study"][f"{name}_key"] = rows["study"][name]
        rows["study"][name] = str(dataset.get(name)) if key else None
    return rows


def known(key, dataset):
    """Return a value as it is matched; a wrong number is none: no answer could have it."""
    value = matching.stored(key, dataset)
    is_number = isinstance(value, int) and abs(value) < 2**31
    return value if is_number or key not in NUMBERS else None


class Index:
    """What is in the archive, for handlers that run on many threads."""

    def __init__(self, path):
        self.path = path
        self.idle = []  # connections that no thread uses just now
        self.writing = threading.Lock()  # fairer than SQLite's own, which polls
        self.storing = [threading.Lock() for _ in range(64)]
        self.locks = path.with_name(".locks")  # and a file for each of them
        self.locks.mkdir(exist_ok=True)
        with self.connection() as db:
            db.execute("PRAGMA journal_mode = WAL")  # writing and reading do not wait
            with db:
                db.execute("BEGIN IMMEDIATE")  # other workers start, too
                ((version,),) = db.execute("PRAGMA user_version")
                if version != VERSION:  # of another layout: it is made anew from the files
                    for table in TABLES:
                        db.execute(f"DROP TABLE IF EXISTS {table}")
                    db.execute(f"PRAGMA user_version = {VERSION}")
                for statement in schema():
                    db.execute(statement)

    def close(self):
        while self.idle:
            self.idle.pop().close()

    @contextmanager
    def connection(self):
        try:
            db = self.idle.pop()
        except IndexError:
            db = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
            db.row_factory = sqlite3.Row
        try:
            yield db
        finally:
            self.idle.append(db)

    @contextmanager
    def of(self, uid):
        """Have those that store the same instance wait for each other, in all processes."""
        number = crc32(uid.encode()) % len(self.storing)
        with self.storing[number], open(self.locks / str(number), "ab") as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            yield

    def recover(self, folder):
        """Bring the index in step with the files: a crash may have come between the two."""
        paths = dict(map(tuple, self.rows("SELECT path, modified FROM image", [])))
        for entry in os.scandir(folder):
            if not entry.name.endswith(".dcm"):
                continue
            path = Path(folder, entry.name)
            try:
                if paths.pop(str(path), None) == str(entry.stat().st_mtime_ns):
                    continue
                with self.of(Instance(path).sop_instance):
                    if self.has_newer(path):
                        logger.warning("%s is older than what is there of its instance", path)
                        continue
                    instance = Instance(path)  # another worker may be storing it just now
                    self.add(described(instance.dataset), path, instance.transfer_syntax)
                logger.warning("%s was not in the index", path)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are served
                logger.error("%s cannot be put into the index: %r", path, error)
        with self.writing, self.connection() as db, db:
            for path in paths:
                if not Path(path).exists():
                    logger.error("%s is gone: it is taken from the index", path)
                    db.execute("DELETE FROM image WHERE path = ?", [path])

    def has_newer(self, path):
        """Tell whether the index names another file of the same instance, beside this one."""
        same = "SELECT path, modified FROM image WHERE SOPInstanceUID = ?"
        return any(
            Path(other).parent == path.parent
            and Path(other) != path
            and Path(other).exists()
            and int(modified) >= os.stat(path).st_mtime_ns
            for other, modified in self.rows(same, [Instance(path).sop_instance])
        )

    def add(self, rows, path, transfer_syntax):
        """Put an instance in, in the place of an earlier one of the same UID."""
        rows["image"] |= {"path": str(path), "transfer_syntax": transfer_syntax}
        rows["image"]["modified"] = str(os.stat(path).st_mtime_ns)
        with self.writing, self.connection() as db, db:
            for table, row in rows.items():
                new = {name: f"excluded.{name}" for name in row}
                if table != "image":  # what one instance does not say, another has said
                    new = {name: f"coalesce({new[name]}, {table}.{name})" for name in row}
                db.execute(
                    f"INSERT INTO {table} ({', '.join(row)})"
                    f" VALUES ({', '.join(f':{name}' for name in row)})"
                    f" ON CONFLICT ({TABLES[table][0]}) DO UPDATE"
                    f" SET {', '.join(f'{name} = {value}' for name, value in new.items())}",
                    row,
                )

    def match(self, request):
        """Yield the rows that match, in the order of their unique keys.

        They are read in pages: SQLite would have to keep each change beside the database for as
        long as a peer takes for its answers.
        """
        level, identifier = request.level, request.identifier
        selected = {}
        for name in list(KEYS)[: list(KEYS).index(level) + 1]:
            selected |= {key: f"{HOME[name]}.{key}" for key in KEYS[name]}
            selected |= {key: sql for key, sql in COMPUTED[name].items() if key in identifier}
        matched = selected | {key: f"study.{key}_key" for key in NAMES & selected.keys()}
        multiple = {"Modality"} if level == "STUDY" else ()
        for key in multiple:  # many ask a study for it, and mean those of its series
            matched[key] = COMPUTED["STUDY"]["ModalitiesInStudy"]
        where = matching.where(identifier, matched, multiple=multiple)
        names = ", ".join(f"{column} AS {key}" for key, column in selected.items())
        group = "GROUP BY study.PatientID" if level == "PATIENT" else ""
        unique, after = KEYS[level][0], []
        while True:
            more = f"AND {selected[unique]} > ?" if after else ""
            page = self.rows(
                f"SELECT {names} FROM {SOURCE[level]} WHERE ({where.sql}) {more} {group}"
                f" ORDER BY {selected[unique]} LIMIT {PAGE}",
                [*where.parameters, *after],
                request,
            )
            yield from page
            if len(page) < PAGE:
                return
            after = [page[-1][unique]]

    def instances(self, request):
        """Return the rows of a retrieval's instances: none is read while others are being sent."""
        unique = {
            key: f"{HOME[name]}.{key}"
            for name in list(KEYS)[: list(KEYS).index(request.level) + 1]
            for key in KEYS[name][:1]
        }
        # What has no Patient ID is not of every patient, though a query finds it for any.
        where = matching.where(request.identifier, unique, empty_matches=False)
        names = "image.SOPClassUID, image.SOPInstanceUID, path, transfer_syntax"
        order = "ORDER BY study.StudyInstanceUID, series.SeriesInstanceUID, image.InstanceNumber"
        query = f"SELECT {names} FROM {SOURCE['IMAGE']} WHERE {where.sql} {order}"
        return self.rows(query, where.parameters, request)

    def rows(self, query, parameters, request=None):
        """Return all rows of a query; it ends with an error when the peer cancels or is gone."""
        with self.connection() as db:
            db.set_progress_handler(request and (lambda: request.cancelled), 1000)
            try:
                return db.execute(query, parameters).fetchall()
            finally:
                db.set_progress_handler(None, 0)


app = App("ARCHIVE", spool=FOLDER / ".spool")


@app.lifespan
def resources(app):
    FOLDER.mkdir(parents=True, exist_ok=True)
    app.state.index = Index(FOLDER / "index.db")
    app.state.index.recover(FOLDER)
    yield
    app.state.index.close()


@app.store
def store(request):
    rows = described(request.dataset)
    with app.state.index.of(request.sop_instance):
        path = request.save(FOLDER)  # first the file: what the index names is there
        app.state.index.add(rows, path, request.transfer_syntax)


@app.error_handler(sqlite3.Error)
def unavailable(error, request):
    if request.command != "store" and request.cancelled:  # that has stopped the query
        raise Failure(0xFE00)
    if request.command in ("store", "find"):  # on a full disk, say: try again later
        logger.error("the index: %s", error)
        raise Failure(0xA700, "the index is not available")


@app.find("StudyRoot")
@app.find("PatientRoot")
def find(request):
    study_root = UID(request.sop_class).keyword.startswith("StudyRoot")
    if not request.level or (request.level == "PATIENT" and study_root):
        raise Failure(0xA900, "no such Query/Retrieve Level here")
    for row in app.state.index.match(request):
        yield dict(row)


@app.get
@app.move
def retrieve(request):
    rows = app.state.index.instances(request)
    request.count = len(rows)
    for row in rows:
        yield Instance(
            row["path"],
            sop_class=row["SOPClassUID"],
            sop_instance=row["SOPInstanceUID"],
            transfer_syntax=row["transfer_syntax"],
        )
