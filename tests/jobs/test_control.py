"""What people, and the console, look at and change in a queue."""

import contextlib
import json
import sqlite3
import threading

import pytest
from click.testing import CliRunner
from support.names import WAIT
from support.samples import FILES

from pacsroute import App, SetupError
from pacsroute.cli import main
from pacsroute.framework.work import WorkControl
from pacsroute.jobs import database

SAMPLE = FILES / "CT_small.dcm"


@pytest.fixture
def app():
    app = App("ROUTER")

    @app.job(retry=[])
    def analyse(name):
        raise ValueError(name)

    app.state.analyse = analyse
    return app


def test_there_is_nothing_to_control_before_the_queue_is_used(tmp_path):
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    assert app.work_under_way is None
    assert app.work.control is None


def test_lanes_and_jobs_are_shown_without_their_arguments(app):
    with app.test_client():
        app.forward(SAMPLE, to="PACS")
        control: WorkControl = app.work_under_way.control
        app.state.analyse.later("DOE^JANE", key="k", delay=60)
        assert [lane.name for lane in control.lanes()] == ["PACS", "analyse()"]
        (job,) = control.jobs("analyse()")
        assert (job.state, job.key, job.attempts, job.error) == ("waiting", "k", 0, "")
        assert 59 < job.due_in <= 60
        assert len(control.jobs(most=1)) == 1
        assert "DOE" not in repr(control.jobs())
        control.drop(job.id)


def test_what_has_failed_is_retried_or_dropped(app):
    with app.test_client() as client:
        app.state.analyse.later("x")
        control = app.work_under_way.control
        client.run_jobs()
        (job,) = control.jobs()
        assert (job.state, job.attempts, job.error) == ("failed", 1, "ValueError")
        assert control.retry(job.id)
        assert control.jobs()[0].state == "waiting"
        assert control.drop(job.id)
        assert control.jobs() == []
        assert not control.drop(job.id)
        assert not control.retry(job.id)


def test_a_dropped_delivery_takes_its_file_with_it(app):
    with app.test_client():
        app.forward(SAMPLE, to="PACS")
        files = app.work.opened.files.folder
        assert len(list(files.glob("*.dcm"))) == 1
        control = app.work_under_way.control
        assert control.drop(control.jobs()[0].id)
        assert list(files.glob("*.dcm")) == []


def test_a_lane_that_is_resumed_goes_on_at_once(tmp_path):
    app, ran = App("ROUTER", jobs=str(tmp_path / "jobs.db")), threading.Event()

    @app.job
    def analyse():
        ran.set()

    analyse.later()
    control = app.work_under_way.control
    assert control.pause("analyse()")
    assert not control.pause("nothing()")
    with app.serve(port=0):
        control = app.work_under_way.control
        assert control.lanes()[0].paused
        assert not ran.wait(0.6)  # two looks of the runner
        assert control.resume("analyse()")
        assert ran.wait(WAIT)


# ------------------------------------------------------------- the command

APP = """
from pacsroute import App

app = App("ROUTER", jobs="jobs.db")

@app.job
def analyse(name): ...
"""
UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return what runs ``pacsroute jobs`` in a folder with an app, and its queue."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "router.py").write_text(APP)

    def run(*arguments, columns=None):
        monkeypatch.setenv("COLUMNS", str(columns or 200))
        return CliRunner().invoke(main, ["jobs", "router.py", *arguments])

    return run


@pytest.fixture
def waiting(tmp_path, command):
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    app.forward(SAMPLE, to="PACS")
    app.forward(SAMPLE, to="RESEARCH")
    app.work.opened.queue.back_off("RESEARCH", 30, "nobody answers at 10.0.0.8:11112, it seems")
    app.work.close()


def test_a_queue_that_is_not_there_is_said(command):
    done = command()
    assert done.exit_code == 1
    assert done.output.startswith("Error: there is no job queue jobs.db: no job was queued yet, ")


def test_an_empty_queue_is_said(command, tmp_path):
    App("ROUTER", jobs=str(tmp_path / "jobs.db")).work.opened.close()
    done = command()
    assert (done.exit_code, done.output) == (0, "the queue is empty: no job was queued yet\n")


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("columns", [80, 200])
def test_lines_fit_the_terminal_and_uids_are_whole(command, columns):
    done = command(columns=columns)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= columns
    assert done.output.count(f"ROUTER {UID}") == 2
    assert "PACS: 1 waiting, 0 running, 0 failed, oldest 0 s" in lines
    assert "nobody answers at 10.0.0.8:11112, it seems" in done.output
    assert len(lines) == (9 if columns == 80 else 6)


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pause", "PAX"), "there is no lane PAX: the lanes are PACS, RESEARCH"),
        (("--resume", "PAX"), "there is no lane PAX: the lanes are PACS, RESEARCH"),
        (("--retry", "99"), "there is no waiting or failed job 99: without options, "),
        (("--drop", "99"), "there is no waiting or failed job 99: without options, "),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(command, options, said):
    done = command(*options)
    assert done.exit_code == 1
    assert said in done.output


@pytest.mark.usefixtures("waiting")
def test_json_has_everything_and_no_arguments(command):
    found = json.loads(command("--json").output)
    assert [lane["name"] for lane in found["lanes"]] == ["PACS", "RESEARCH"]
    assert found["jobs"][0].keys() == {"id", "state", "lane", "key", "age", "attempts", "error"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://pacs:secret@127.0.0.1:1/jobs", "failed: Connection refused"),
        ("postgresql://pacs:secret@127.0.0.1:secret/jobs", "its URL is not valid"),
        ("postgresql://pacs:secret@127.0.0.1:1/jobs?secret=1", "its URL is not valid"),
        ("postgresql://pacs:secret@nowhere.invalid/jobs", "its host name cannot be resolved"),
    ],
)
def test_a_url_that_does_not_work_is_an_error_without_its_password(command, monkeypatch, url, said):
    pytest.importorskip("psycopg")
    monkeypatch.setenv("PACSROUTE_JOBS", url)
    done = command()
    assert done.exit_code == 1
    assert said in done.output
    assert "pacs:secret" not in done.output
    with pytest.raises(SetupError, match="cannot be opened"):
        App("ROUTER", jobs=url).work.start()


def test_a_queue_that_another_process_has_locked_is_said(command, waiting, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_BUSY", 0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = command("--pause", "PACS")
    assert done.exit_code == 1
    assert done.output == "Error: the queue jobs.db: another process has had it locked too long\n"


def test_a_file_that_is_no_queue_is_said(command, tmp_path):
    (tmp_path / "jobs.db").write_text("not a database, but long enough to be read as one" * 100)
    done = command()
    assert (done.exit_code, done.output) == (
        1,
        "Error: the queue jobs.db: file is not a database\n",
    )
