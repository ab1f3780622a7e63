"""Performed procedure steps, kept in a SQLite file that the first start creates.

    pacsroute run examples/mpps.py

Modalities create and update them (MPPS), and other systems read them (MPPS Retrieve). The
environment variable STEPS names the file; it is ``steps.db`` otherwise.
"""

import json
import os
import sqlite3
import threading

from pydicom import Dataset

from pacsroute import App, Failure, mpps

PATH = os.environ.get("STEPS", "steps.db")
app = App("MPPS", max_set_length=1 << 22)  # a step is kept in memory, and as text


@app.lifespan
def database(app):
    app.state.lock = threading.Lock()  # one connection for all threads
    app.state.db = sqlite3.connect(PATH, check_same_thread=False)
    app.state.db.execute("CREATE TABLE IF NOT EXISTS step (uid TEXT PRIMARY KEY, attributes TEXT)")
    yield
    app.state.db.close()


def load(uid):
    row = app.state.db.execute("SELECT attributes FROM step WHERE uid = ?", [uid]).fetchone()
    if row is None:
        raise Failure(0x0112, "no such performed procedure step")
    return Dataset.from_json(row[0])


@app.n_create("MPPS")
def create(request):
    mpps.check_create(request.attribute_list)
    attributes = json.dumps(request.attribute_list.to_json_dict())
    try:
        with app.state.lock, app.state.db as db:
            db.execute("INSERT INTO step VALUES (?, ?)", [request.sop_instance, attributes])
    except sqlite3.IntegrityError:
        raise Failure(0x0111, "this performed procedure step is there already") from None


@app.n_set("MPPS")
def update(request):
    with app.state.lock, app.state.db as db:
        db.execute("BEGIN IMMEDIATE")  # from here on no other worker changes the step
        step = load(request.sop_instance)
        mpps.check_set(step, request.modification_list)
        step.update(request.modification_list)
        attributes = json.dumps(step.to_json_dict())
        db.execute(
            "UPDATE step SET attributes = ? WHERE uid = ?", [attributes, request.sop_instance]
        )


@app.n_get("MPPSRetrieve")
def read(request):
    with app.state.lock:
        return load(request.sop_instance)
