"""Queries of the examples that would take minutes, and answers that nobody takes."""

import json
import runpy
import sqlite3
import threading
from contextlib import closing

import pytest
from support.datasets import dataset
from support.names import FIND, GET, IMPLICIT, WAIT
from support.places import EXAMPLES
from support.raw_peer import RawPeer
from support.unharmed import until

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands
from pacsroute.framework.requests import FindRequest, GetRequest

pytestmark = pytest.mark.slow

WORKLIST = uids.sop_class("Worklist", "find")
# Each is tried at every place of a text, and fails at its end.
SLOW = "*" + "a" * 400 + "?" * 20 + "b*"
TEXT = "a" * 20_000
STUDIES = {"QueryRetrieveLevel": "STUDY", "StudyDescription": SLOW}
STEPS = {"RequestedProcedureDescription": SLOW, "PatientID": ""}


def running(app):
    """Run an app; the event ``app.state.ended`` is set when a long query has ended."""
    app.state.ended = threading.Event()

    @app.after_request
    def after(request, status, error):
        if not request.identifier.get("PatientID"):  # not the quick one
            app.state.ended.set()

    return app.running()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHIVE", str(tmp_path))
    app = runpy.run_path(str(EXAMPLES / "archive.py"))["app"]
    with running(app):
        yield app


def fill(path, count, description=TEXT):
    """Put studies into the index, with a series and an instance each."""
    with closing(sqlite3.connect(path)) as db, db:
        rows = [(f"1.2.{n}", f"P{n}", f"P{n}", "N" * 60, description) for n in range(count)]
        names = "StudyInstanceUID, patient, PatientID, PatientName, StudyDescription"
        marks = "?, ?, ?, ?, ?, '', ''"
        db.executemany(f"INSERT INTO study ({names}, StudyDate, StudyTime) VALUES ({marks})", rows)


@pytest.fixture
def worklist(tmp_path, monkeypatch):
    path = tmp_path / "today.json"
    step = {"RequestedProcedureDescription": TEXT, "PatientName": "Doe"}
    path.write_text(json.dumps([{**step, "PatientID": str(n)} for n in range(1000)]))
    monkeypatch.setenv("WORKLIST", str(path))
    app = runpy.run_path(str(EXAMPLES / "worklist.py"))["app"]
    with running(app):
        yield app


@pytest.fixture
def slow(request, tmp_path):
    """An app, the SOP class of a query that takes it minutes, and its identifier."""
    app = request.getfixturevalue(request.param)
    if request.param == "archive":
        fill(tmp_path / "index.db", 5000)
        return app, FIND, STUDIES
    return app, WORKLIST, STEPS


@pytest.mark.parametrize("slow", ["archive", "worklist"], indirect=True)
@pytest.mark.parametrize("leaves", [False, True], ids=["cancels", "leaves"])
def test_a_query_stops_before_its_first_row(slow, leaves):
    app, sop_class, keys = slow
    with app.serve(port=0, grace=0) as server:
        with RawPeer(server.port, [(sop_class, IMPLICIT)]) as peer:
            peer.find(encode(keys, IMPLICIT), sop_class)
            if not leaves:
                peer.send(1, commands.CCancelRQ(message_id_responded_to=1))
                assert peer.receive()[0].status == 0xFE00
        assert app.state.ended.wait(WAIT)


@pytest.mark.parametrize("slow", ["archive", "worklist"], indirect=True)
def test_others_are_answered_during_a_long_query(slow):
    app, sop_class, keys = slow
    with app.serve(port=0, grace=0) as server:
        contexts = [(sop_class, IMPLICIT)]
        with RawPeer(server.port, contexts) as long, RawPeer(server.port, contexts) as short:
            long.find(encode(keys, IMPLICIT), sop_class)
            quick = {**keys, "PatientID": "P1"}
            quick = {k: None if v == SLOW else v for k, v in quick.items()}
            short.find(encode(quick, IMPLICIT), sop_class)
            while (status := short.receive()[0].status) in (0xFF00, 0xFF01):
                pass
            assert status == 0
            assert not app.state.ended.is_set()


def test_a_retrieval_stops_before_its_first_instance(archive, tmp_path):
    fill(tmp_path / "index.db", 1)
    app, stopped = archive, []

    def left():
        stopped.append(True)
        return True

    with closing(sqlite3.connect(tmp_path / "index.db")) as db, db:
        db.executemany(
            "INSERT INTO image (SOPInstanceUID, series, path, transfer_syntax, calling_ae,"
            " received) VALUES (?, 1, '', '', '', 0)",
            [(f"1.4.{n}",) for n in range(2000)],
        )
        db.execute("INSERT INTO series (id, study, SeriesInstanceUID) VALUES (1, 1, '1.3')")
    keys = dataset(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2.0")
    request = GetRequest(app=app, sop_class=GET, identifier=keys, is_cancelled=left)
    (final,) = app.handle(request)
    assert (final.row, final.outcome.status.code) == (None, 0xFE00)
    assert stopped


def test_slow_reader_of_answers_holds_no_transaction(archive, tmp_path):
    """SQLite cannot empty its write-ahead log while anybody reads."""
    fill(tmp_path / "index.db", 20_000, "D")
    asked = {"QueryRetrieveLevel": "STUDY", "PatientName": "", "StudyInstanceUID": ""}
    with archive.serve(port=0, grace=0) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(encode(asked, IMPLICIT), FIND)
            assert peer.receive()[0].status == 0xFF00  # and the others wait for who takes them

            def emptied():
                with closing(sqlite3.connect(tmp_path / "index.db", timeout=0)) as db:
                    return db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0

            assert until(emptied)
            taken = {peer.receive()[0].status for _ in range(19_999)}
            assert taken == {0xFF00}
            assert peer.receive()[0].status == 0


def test_an_answer_in_pages_is_whole_and_in_order(archive, tmp_path):
    fill(tmp_path / "index.db", 1700, "D")
    with archive.test_client() as client:
        for level, key in (("STUDY", "StudyInstanceUID"), ("PATIENT", "PatientID")):
            found = client.find({"QueryRetrieveLevel": level, key: ""}, "PatientRoot")
            values = [row[key].value for row in found]
            assert len(values) == 1700
            assert values == sorted(set(values))


def test_a_query_for_steps_stops_between_them(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", str(tmp_path / "ups.db"))
    app = runpy.run_path(str(EXAMPLES / "ups.py"))["app"]
    looked = []

    def leaving():
        looked.append(True)
        return len(looked) > 3

    keys = dataset(ProcedureStepState="COMPLETED")
    query = uids.sop_class("UPS", "find")
    request = FindRequest(app=app, sop_class=query, identifier=keys, is_cancelled=leaving)
    with app.running():
        with closing(sqlite3.connect(tmp_path / "ups.db")) as db, db:
            step = dataset(ProcedureStepState="SCHEDULED").to_json()
            rows = [(f"1.2.{n}", step) for n in range(50)]
            db.executemany("INSERT INTO step (uid, attributes) VALUES (?, ?)", rows)
        (final,) = app.handle(request)
    assert final.row is None
    assert len(looked) == 4
