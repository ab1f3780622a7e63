"""project-name keeps what modalities send, and tells which studies there are.

Files and index are in the folder ``archive`` of the working directory.
"""

import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path

import click

from pacsroute import App, Failure, matching

FOLDER = Path("archive")
KEYS = [
    "StudyInstanceUID",
    "PatientID",
    "PatientName",
    "StudyDate",
    "AccessionNumber",
    "StudyDescription",
]

app = App("PROJECT-TITLE", spool=FOLDER / ".spool")


@contextmanager
def index():
    """Hold the index; what is done is kept if nothing is raised."""
    with closing(sqlite3.connect(FOLDER / "index.db", timeout=30)) as db, db:
        db.row_factory = sqlite3.Row
        yield db


@app.lifespan
def resources(app):
    FOLDER.mkdir(exist_ok=True)
    with index() as db:
        db.execute("PRAGMA journal_mode = WAL")  # writing and reading do not wait
        # A name is returned as it came, and matched in the form of name_key.
        columns = ", ".join([*KEYS, "name_key"])
        db.execute(f"CREATE TABLE IF NOT EXISTS instance (uid PRIMARY KEY, {columns})")
    yield


@app.store
def store(request):
    dataset = request.dataset
    if not dataset.get("StudyInstanceUID"):
        raise Failure(0xA900, "StudyInstanceUID is missing")
    row = {key: matching.stored(key, dataset) for key in KEYS}
    row |= {"PatientName": str(dataset.get("PatientName", "")), "uid": request.sop_instance}
    row |= {"name_key": matching.stored("PatientName", dataset)}
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    with index() as db:
        db.execute(f"INSERT OR REPLACE INTO instance ({names}) VALUES ({marks})", row)
        # archive/<SOP Instance UID>.dcm; what others store waits, and the row goes if this fails.
        request.save(FOLDER)


@app.find("StudyRoot")
def find(request):
    if request.level != "STUDY":
        raise Failure(0xA900, "only the level STUDY is answered")
    columns = {key: key for key in KEYS} | {"PatientName": "name_key"}
    where = matching.where(request.identifier, columns)
    query = f"SELECT {', '.join(KEYS)} FROM instance WHERE {where.sql} GROUP BY StudyInstanceUID"
    with index() as db:  # not held while the answers go out
        rows = db.execute(query, where.parameters).fetchall()
    for row in rows:
        yield dict(row)


@app.cli.command()
def count():
    """Print how many instances are kept."""
    with app.running(), index() as db:
        ((number,),) = db.execute("SELECT count(*) FROM instance")
    click.echo(number)
