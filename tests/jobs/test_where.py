"""Where a queue is, and which processes open it and do what waits there."""

import logging
import threading

import pytest
from support.samples import FILES

from pacsroute import App, Instance
from pacsroute.framework.work import where
from pacsroute.jobs.database import SQLite
from pacsroute.jobs.opening import open_queue
from pacsroute.jobs.owners import LonelyOwner
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import NewJob

SAMPLE = FILES / "CT_small.dcm"


def test_the_queue_is_in_the_spool_by_default_or_else_in_the_working_folder():
    assert where(App(spool="somewhere").config) == "somewhere/jobs.db"
    assert where(App().config) == "jobs.db"
    assert where(App(spool="somewhere", jobs="postgresql://db/pacs").config) == (
        "postgresql://db/pacs"
    )


def test_where_the_queue_is_is_said_at_the_start_without_a_password(tmp_path, caplog):
    app = App(jobs=str(tmp_path / "jobs.db"))
    with caplog.at_level(logging.INFO, "pacsroute"), app.serve(port=0):
        pass
    assert f"jobs are kept in {tmp_path / 'jobs.db'}" in caplog.text
    assert "secret" not in repr(App(jobs="postgresql://pacs:secret@db/pacs").config)


def test_a_test_client_never_opens_the_queue_of_the_app(tmp_path):
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    with app.test_client():
        app.forward(SAMPLE, to="PACS")
        assert len(app.work.opened.queue.jobs()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_shell_puts_jobs_and_does_none_and_runs_no_background_function(tmp_path):
    app, ran = App("ROUTER", jobs=str(tmp_path / "jobs.db")), threading.Event()

    @app.job
    def analyse():
        ran.set()

    @app.background
    def tidy(stop):
        ran.set()

    with app.running():  # as a shell, routes, and commands of the app's own hold it
        assert not app.serving
        analyse.later()
        assert not ran.wait(1)
        assert len(app.work.opened.queue.jobs()) == 1
    app.work.close()


def test_a_lifespan_knows_whether_the_app_is_about_to_serve(tmp_path):
    app, told = App("ROUTER", jobs=str(tmp_path / "jobs.db")), []

    @app.lifespan
    def resources(app):
        told.append(app.serving)
        yield

    with app.running():
        pass
    with app.serve(port=0), app.test_client():
        pass
    with app.test_client():
        pass
    assert told == [False, True, False]


def test_a_background_function_that_raises_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr("pacsroute.jobs.background._LOOK", 0.05)
    app, runs, over = App("ROUTER", jobs=str(tmp_path / "jobs.db")), [], threading.Event()

    @app.background
    def tidy(stop):
        runs.append(1)
        if len(runs) < 3:
            raise ValueError
        over.set()
        stop.wait()

    with app.serve(port=0):
        assert over.wait(30)
    assert len(runs) == 3


def test_jobs_of_a_function_that_is_gone_are_kept_and_done_when_it_is_back(tmp_path):
    path, ran = str(tmp_path / "jobs.db"), threading.Event()
    old = App("ROUTER", jobs=path)

    @old.job
    def analyse(uid): ...

    analyse.later("1.2.3")
    old.work.close()
    with App("ROUTER", jobs=path).serve(port=0) as running:
        control = running.app.work_under_way.control
        assert [(job.lane, job.state) for job in control.jobs()] == [("analyse()", "waiting")]
    new = App("ROUTER", jobs=path)

    @new.job(retry=[])
    def analyse(uid):
        ran.set()

    with new.serve(port=0):
        assert ran.wait(30)


def test_two_lanes_have_the_same_file_and_one_of_them_removes_it(tmp_path):
    app, pacs = App("ROUTER"), App("PACS")
    names = []
    pacs.store(lambda request: names.append(str(request.dataset.PatientName)))
    path = Instance(SAMPLE).save(tmp_path)
    with app.test_client(peers={"PACS": pacs, "RESEARCH": pacs}):
        app.forward(path, to="PACS", delete=True)
        app.forward(path, to="RESEARCH")
        kept = list(app.work.opened.files.folder.iterdir())
        assert {one.stat().st_ino for one in kept} == {path.stat().st_ino}  # hard links
    assert not path.exists()
    assert len(names) == 2


def test_a_file_of_a_node_is_claimed_by_that_node_only():
    database = SQLite(None)
    opened = open_queue_in(database)
    one, other = (Queue(database, node(name), lambda: 0.0) for name in ("one", "other"))
    one.put([NewJob("PACS", "forward", {}, node="one"), NewJob("PACS", "f", {})])
    assert other.ready() == ["PACS"]
    assert [job.function for job in other.claim("PACS", 10)] == ["f"]
    assert other.ready() == []
    assert [job.function for job in one.claim("PACS", 10)] == ["forward"]
    opened()


def node(name):
    owner = LonelyOwner()
    owner.id = owner.node = name
    return owner


def open_queue_in(database):
    from pacsroute.jobs import schema

    database.write(lambda transaction: schema.create(transaction, database.identity))
    for name in ("one", "other"):
        Queue(database, node(name), lambda: 0.0).enter()
    return database.close


def test_two_apps_on_one_file_are_a_mistake(tmp_path):
    opened = open_queue(str(tmp_path / "jobs.db"), tmp_path, "ONE")
    with pytest.raises(Exception, match="belongs to ONE"):
        open_queue(str(tmp_path / "jobs.db"), tmp_path, "TWO")
    opened.close()
