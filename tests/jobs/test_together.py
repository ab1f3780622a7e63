"""Jobs that are committed with the row of an archive's index."""

import os
import subprocess

import pytest
from support.names import WAIT
from support.postgresql import server
from support.samples import FILES

from pacsroute import App, Archive, Instance, RequestFailed
from pacsroute.archive import storing

SAMPLE = FILES / "CT_small.dcm"


@pytest.fixture(scope="module")
def postgresql():
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def app(request, tmp_path):
    """Return an app with an archive that forwards; `calls` are those of `@archive.stored`."""
    place = {}
    if request.param == "postgresql":
        running = request.getfixturevalue("postgresql")
        name = f"test_{os.urandom(4).hex()}"
        command = ["psql", "--quiet", "--command", f"CREATE DATABASE {name}", running.url()]
        subprocess.run(command, check=True, timeout=WAIT)
        place = {"index": running.url(name)}
    jobs = place.get("index", str(tmp_path / "jobs.db"))
    app = App("ARCHIVE", jobs=jobs, spool=str(tmp_path / "spool"))
    app.state.archive = archive = Archive(tmp_path / "archive", min_free=0, **place)
    app.state.calls = []

    @archive.stored
    def stored(request, instance):
        is_there = instance.path is None or instance.path.exists()  # no path: it is corrected
        app.state.calls.append((request.calling_ae, is_there))
        app.forward(instance, to="RESEARCH", calling_ae=request.calling_ae)

    app.register_blueprint(archive)
    app.state.is_shared = bool(place)
    return app


def version(name):
    dataset = Instance(SAMPLE).dataset
    dataset.PatientComments = name
    return Instance(dataset)


def queued(app):
    return [(job.lane, job.arguments["calling_ae"]) for job in app.work.opened.queue.jobs()]


def kept(app):
    return list(app.work.opened.files.folder.glob("*.dcm"))


@pytest.fixture
def client(app):
    """Return a client in memory; the queue is the one that the app names."""
    work = app.work
    with app.test_client(calling_ae="CT1") as client:
        own, app.__dict__["work"] = app.work, work
        yield client
        app.__dict__["work"] = own
        work.close()


def test_what_is_stored_is_in_the_queue(app, client):
    client.store(SAMPLE)
    assert queued(app) == [("RESEARCH", "CT1")]
    assert app.state.calls == [("CT1", True)]
    assert len(kept(app)) == 1


def test_what_is_refused_or_in_quarantine_is_not(app, client):
    client.store(version("a"))
    with pytest.raises(RequestFailed):
        client.store(version("b"))
    assert len(queued(app)) == 1
    assert len(kept(app)) == 1


def test_what_comes_again_is_put_again_only_where_it_may_have_been_lost(app, client):
    client.store(SAMPLE)
    client.store(SAMPLE)
    assert len(queued(app)) == 1  # the key of a delivery is the instance's
    assert len(app.state.calls) == (1 if app.state.is_shared else 2)


def test_late_instances_of_a_corrected_study_are_forwarded_with_its_corrections(app, client):
    client.store(SAMPLE)
    first = Instance(SAMPLE).dataset
    study = first.StudyInstanceUID
    app.state.archive.correct(study, reason="mistyped", by="doe", PatientName="RIGHT")
    first.SOPInstanceUID = "1.2.3"
    client.store(first)
    files, names = app.work.opened.files, []
    for job in app.work.opened.queue.jobs():
        names.append(str(Instance(files.path(job.arguments["file"])).dataset.PatientName))
    assert names == ["CompressedSamples^CT1", "RIGHT"]


def test_neither_row_nor_job_is_there_if_the_transaction_fails(app, client, monkeypatch):
    if not app.state.is_shared:
        pytest.skip("a queue in a file has a transaction of its own")
    keep = storing.take_out

    def fail(db, replaced):
        raise OSError("no space left")

    monkeypatch.setattr(storing, "take_out", fail)
    with pytest.raises(RequestFailed) as refused:
        client.store(SAMPLE)
    assert refused.value.status.code == 0xA700
    assert (app.state.archive.count(), queued(app), kept(app)) == (0, [], [])
    monkeypatch.setattr(storing, "take_out", keep)
    client.store(SAMPLE)
    assert (app.state.archive.count(), len(queued(app)), len(kept(app))) == (1, 1, 1)


def test_a_failure_after_the_job_was_put_undoes_it(app, client, monkeypatch):
    """The jobs are the last of the transaction: a server may still fail at its commit."""
    if not app.state.is_shared:
        pytest.skip("a queue in a file has a transaction of its own")
    put = type(app.work.opened.queue).put_in

    def fails(self, transaction, jobs):
        put(self, transaction, jobs)
        raise OSError("the connection was lost")

    monkeypatch.setattr(type(app.work.opened.queue), "put_in", fails)
    with pytest.raises(RequestFailed):
        client.store(SAMPLE)
    assert (app.state.archive.count(), queued(app), kept(app)) == (0, [], [])
