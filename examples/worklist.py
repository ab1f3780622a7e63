"""A worklist broker: it serves a JSON or CSV file of scheduled steps, through SQLite.

    WORKLIST=today.csv pacsroute run examples/worklist.py

The file is a list of objects (JSON), or a row for each step under a line of names (CSV). The names
are the keywords below, and the values are as in DICOM: a date is ``20240131``. An invalid value is
left out, with a line in the log. The file is read again after a change. The default is
``worklist.json``.
"""

import csv
import json
import logging
import os
import sqlite3
import tempfile
import threading
from contextlib import closing
from pathlib import Path

from pydicom.datadict import dictionary_VR

from pacsroute import App, Failure, matching

logger = logging.getLogger("pacsroute")
PATH = Path(os.environ.get("WORKLIST", "worklist.json"))
STEP = [
    "ScheduledStationAETitle",
    "ScheduledProcedureStepStartDate",
    "ScheduledProcedureStepStartTime",
    "Modality",
    "ScheduledPerformingPhysicianName",
    "ScheduledProcedureStepDescription",
    "ScheduledStationName",
    "ScheduledProcedureStepLocation",
    "ScheduledProcedureStepID",
]
PATIENT = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "AccessionNumber",
    "StudyInstanceUID",
    "ReferringPhysicianName",
    "RequestingPhysician",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedurePriority",
    "AdmissionID",
    "CurrentPatientLocation",
    "PatientState",
    "PregnancyStatus",
    "SpecialNeeds",
    "PatientTransportArrangements",
]
NAMES = {key for key in [*PATIENT, *STEP] if dictionary_VR(key) == "PN"}
# Each value twice: as it is returned, and as it is matched. That differs for names only.
COLUMNS = {
    **{key: f"{key}_key" for key in PATIENT},
    "ScheduledProcedureStepSequence": {key: f"{key}_key" for key in STEP},
}
app = App("WORKLIST")


@app.lifespan
def broker(app):
    app.state.lock = threading.Lock()  # one thread reads the file
    app.state.read = None
    keys = [*PATIENT, *STEP]
    columns = [*keys, *(f"{key}_key" for key in keys)]
    with tempfile.TemporaryDirectory(prefix="worklist-") as folder:
        app.state.path = Path(folder, "worklist.db")
        with database() as db:
            db.execute("PRAGMA journal_mode = WAL")  # queries do not wait for the file
            db.execute(f"CREATE TABLE step ({', '.join(columns)})")
        yield


def database():
    """Return a connection for one thread, to be closed: no query waits for another."""
    return closing(sqlite3.connect(app.state.path, timeout=30))


def refresh():
    """Read the file again if it is another than the last time; the lock is ours."""
    try:
        state = PATH.stat()
        if app.state.read == (state.st_mtime_ns, state.st_size):
            return
        text = PATH.read_text(encoding="utf-8-sig")
        is_csv = PATH.suffix.lower() == ".csv"
        rows = list(csv.DictReader(text.splitlines())) if is_csv else json.loads(text)
    except (OSError, ValueError) as error:
        logger.error("%s cannot be read: %s", PATH, getattr(error, "strerror", None) or error)
        raise Failure(0xA700, "the worklist cannot be read") from error
    keys = [*PATIENT, *STEP]
    marks = ", ".join("?" for _ in range(2 * len(keys)))
    with database() as db, db:
        db.execute("DELETE FROM step")
        for number, row in enumerate(rows, 1):
            matched = {key: matching.stored(key, row.get(key)) for key in keys}
            for key in keys:
                if matched[key] is None and str(row.get(key) or "").strip():
                    logger.warning("%s: step %d: no value of a %s", PATH, number, key)
            told = matched | {key: str(row[key]) for key in NAMES if matched[key]}
            db.execute(f"INSERT INTO step VALUES ({marks})", [*told.values(), *matched.values()])
    app.state.read = (state.st_mtime_ns, state.st_size)


@app.find("Worklist")
def find(request):
    # In a worklist an empty value matches a universal key only (PS3.4 §K.2.2.1.1.1).
    where = matching.where(request.identifier, COLUMNS, empty_matches=False)
    with app.state.lock:
        refresh()
    with database() as db:  # closed before the answers go out
        db.row_factory = sqlite3.Row
        # A query ends when the peer cancels it, or leaves: that is looked up every now and then.
        db.set_progress_handler(lambda: request.cancelled, 1000)
        try:
            rows = db.execute(f"SELECT * FROM step WHERE {where.sql}", where.parameters).fetchall()
        except sqlite3.OperationalError:
            if request.cancelled:
                return
            raise
    for row in rows:
        yield {
            **{key: row[key] for key in PATIENT},
            "ScheduledProcedureStepSequence": [{key: row[key] for key in STEP}],
        }
