"""An archive in a bucket: nothing acknowledged is lost, and only failed attempts are removed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.archives import (
    fetched,
    found,
    image,
    only_bucket,
    only_postgresql,
    only_sqlite,
    uids_in,
)
from support.postgresql import server

from pacsroute import App, Archive, Instance, RequestFailed, SetupError
from pacsroute.archive import bucket as buckets_of
from pacsroute.archive.database import UnavailableError
from pacsroute.storage import Folder, Objects


def objects(make):
    return {key for key in Objects(make.prefix).list() if not key.startswith(".")}


def kinds(app):
    return sorted((one.kind, one.sop_instance or one.reason) for one in app.state.archive.check())


def sweep(app, monkeypatch, over=0.0):
    """Sweep as if attempts were over so soon."""
    with monkeypatch.context() as patch:
        patch.setattr(buckets_of, "_OVER", over)
        app.state.archive._files.sweep()


def attempt(app, number):
    """Leave what a node leaves that dies after the PUT."""
    return app.state.archive._files.receive(Instance(image(number)))[0]


@only_bucket
def test_archive_stores_finds_sends_and_deletes(make):
    app = make()
    with app.test_client() as client:
        for number in (1, 2):
            client.store(image(number))
        assert uids_in(client) == {"1.3.1", "1.3.2"}
        assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1", "1.3.2"}
        assert {key.split("/")[0] for key in objects(make)} == {"1.3.1", "1.3.2"}
        app.state.archive.delete(instance="1.3.2", reason="blurred", by="doe")
        assert {key.split("/")[0] for key in objects(make)} == {"1.3.1"}
        assert kinds(app) == []
    with make().test_client() as client:
        assert uids_in(client) == {"1.3.1"}


def test_any_storage_does(tmp_path):
    app = App("ARCHIVE")
    index = tmp_path / "index" / "index.db"
    app.state.archive = Archive(Folder(tmp_path / "files"), index=index)
    app.register_blueprint(app.state.archive)
    with app.test_client() as client:
        client.store(image(1))
        assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1"}
        assert kinds(app) == []


@only_bucket
def test_attempt_that_failed_is_removed_when_it_is_over(make, monkeypatch, caplog):
    app = make()
    with app.test_client() as client:
        client.store(image(1))
        key = attempt(app, 2)
        sweep(app, monkeypatch, over=3600)
        assert key in objects(make), "it may have a row in a moment"
        assert kinds(app) == [], "the index knows what it is"
        assert app.state.archive.reindex() == 0
        sweep(app, monkeypatch)
        assert {one.split("/")[0] for one in objects(make)} == {"1.3.1"}
        sweep(app, monkeypatch)
        assert uids_in(client) == {"1.3.1"}
    assert "1 objects of failed attempts are removed" in caplog.text


@only_bucket
def test_object_that_nobody_knows_is_told_taken_in_and_never_removed(make, monkeypatch):
    app = make()
    with app.test_client() as client:
        client.store(image(1))
        Instance(image(2)).save(Objects(make.prefix))
        sweep(app, monkeypatch)
        assert kinds(app) == [("unknown", "")]
        assert app.state.archive.reindex() == 1
        assert uids_in(client) == {"1.3.1", "1.3.2"}
        assert kinds(app) == []


@only_bucket
def test_commit_that_comes_after_its_attempt_was_given_up_fails(make, monkeypatch):
    app = make()
    with app.test_client() as client:
        place = type(app.state.archive._files).place

        def late(files, draft, *rest):
            sweep(app, monkeypatch)
            return place(files, draft, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(type(app.state.archive._files), "place", late)
            with pytest.raises(RequestFailed, match="0xA700"):
                client.store(image(1))
        assert objects(make) == set()
        assert uids_in(client) == set()
        client.store(image(1))
        assert uids_in(client) == {"1.3.1"}


@only_bucket
def test_commit_without_an_answer_does_not_cost_the_object(make, monkeypatch):
    """The row is there, though the node was told that the index has failed."""
    app = make()
    with app.test_client() as client:
        write = app.state.archive._database.write

        def broken(work, **options):
            result = write(work, **options)
            if options.get("alone"):  # the row, and not the note of the attempt
                raise UnavailableError("the connection was lost")
            return result

        with monkeypatch.context() as patch:
            patch.setattr(app.state.archive._database, "write", broken)
            with pytest.raises(RequestFailed, match="0xA700"):
                client.store(image(1))
        sweep(app, monkeypatch)
        assert client.store(image(1)).category == "Success"
        assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1"}
        assert len(objects(make)) == 1


@only_bucket
def test_bucket_that_refuses_is_out_of_resources(make, monkeypatch):
    app = make()
    storage = app.state.archive._files._storage

    def refused(*args):
        raise OSError(5, "the bucket failed: 503")

    with app.test_client() as client:
        client.store(image(1))
        with monkeypatch.context() as patch:
            for name in ("put", "open", "delete"):
                patch.setattr(storage, name, refused)
            with pytest.raises(RequestFailed, match="0xA700"):
                client.store(image(2))
            assert uids_in(client) == {"1.3.1"}, "the index goes on"
            with pytest.raises(RequestFailed):
                fetched(client, "PATIENT", PatientID="777")
            with pytest.raises(OSError, match="503"):
                app.state.archive.delete(instance="1.3.1", reason="r", by="b")
        client.store(image(2))
        assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1", "1.3.2"}


@only_bucket
def test_object_that_cannot_be_removed_is_removed_later(make, monkeypatch):
    app = make(conflict="replace")
    storage = app.state.archive._files._storage

    def refused(*args):
        raise OSError(5, "the bucket failed: 503")

    with app.test_client() as client:
        client.store(image(1))
        with monkeypatch.context() as patch:
            patch.setattr(storage, "delete", refused)
            client.store(image(1, Rows=7))
            sweep(app, monkeypatch)
        assert len(objects(make)) == 2
        sweep(app, monkeypatch)
        assert len(objects(make)) == 1
        assert kinds(app) == []


# ------------------------------------------------------------- another index, or an older one


@only_bucket
def test_another_index_removes_nothing_until_it_knows_all(make, monkeypatch, caplog):
    app = make()
    with app.test_client() as client:
        client.store(image(1))
        attempt(app, 2)
    make.lose_index(app)
    make._is_lost = False
    app = make()
    with app.test_client() as client:
        assert uids_in(client) == set()
        attempt(app, 3)
        client.store(image(4, study="1.9"))
        sweep(app, monkeypatch)
        app.state.archive.delete(study="1.9", reason="r", by="b")
        assert len(objects(make)) == 4
        assert ("unswept", "the objects belong to another index") in kinds(app)
        assert app.state.archive.reindex() == 3, "an old index may have forgotten what it has told"
        sweep(app, monkeypatch)
        assert uids_in(client) == {"1.3.1", "1.3.2", "1.3.3"}
        assert {key.split("/")[0] for key in objects(make)} == {"1.3.1", "1.3.2", "1.3.3"}
        assert kinds(app) == []
    assert "nothing is removed until `pacsroute archive reindex` has run" in caplog.text


@only_bucket
def test_object_that_reindex_cannot_read_is_not_removed_after_it(make, monkeypatch):
    """It may be an instance that was acknowledged, and of which an old index has a note only."""
    app = make()
    with app.test_client() as client:
        client.store(image(1))
        key = attempt(app, 2)
        database = type(app.state.archive._database)
        monkeypatch.setattr(database, "incarnation", lambda self: "another")
        sender = type(app.state.archive._files).sender

        def broken(files, name):
            if name == key:
                raise OSError(5, "the bucket failed: 503")
            return sender(files, name)

        with monkeypatch.context() as patch:
            patch.setattr(type(app.state.archive._files), "sender", broken)
            assert app.state.archive.reindex() == 0
        sweep(app, monkeypatch)
        assert key in objects(make)
        assert kinds(app) == [("unknown", "")]
        assert app.state.archive.reindex() == 1


def restored_sqlite(make, app, backup):
    path = app.state.archive._database._path
    for name in os.listdir(path.parent):
        if name.startswith("index.db-"):
            os.unlink(path.parent / name)
    shutil.copyfile(backup, path)  # in place: it is the same file to the system


@only_sqlite
@only_bucket
def test_index_that_is_older_than_its_objects_removes_nothing(make, monkeypatch, tmp_path):
    """What it believes to be a failed attempt was acknowledged later."""
    app = make()
    with app.test_client() as client:
        client.store(image(1))
    app = make()
    with app.running():
        key = attempt(app, 2)
    backup = tmp_path / "backup.db"
    shutil.copyfile(app.state.archive._database._path, backup)
    app = make()
    with app.test_client() as client:
        app.state.archive._database.write(lambda db: db.execute("DELETE FROM attempt"))
        client.store(image(2))
        client.store(image(3))
        app.state.archive._files.sweep()
    restored_sqlite(make, app, backup)
    app = make()
    with app.test_client() as client:
        sweep(app, monkeypatch)
        assert key in objects(make)
        why = "the index is older than the objects, or was restored"
        assert kinds(app)[-1] == ("unswept", why)
        assert uids_in(client) == {"1.3.1"}
        assert app.state.archive.reindex() == 2
        assert uids_in(client) == {"1.3.1", "1.3.2", "1.3.3"}
        assert "unswept" not in dict(kinds(app))


@only_postgresql
@only_bucket
def test_standby_that_has_taken_over_removes_nothing_until_a_reindex(make, monkeypatch, caplog):
    """It has a note of an attempt that the lost primary has committed, and acknowledged."""
    with server() as primary, tempfile.TemporaryDirectory(prefix="pacsroute-pg-") as folder:
        make.index = primary.url()
        app = make()
        with app.test_client() as client:
            client.store(image(1))
            files = app.state.archive._files
            place = files.place
            standbys = []

            def fall_behind(draft, *rest):
                standbys.append(primary.standby(Path(folder)))
                return place(draft, *rest)

            monkeypatch.setattr(files, "place", fall_behind)
            client.store(image(2))
            (standby,) = standbys
        primary.stop("immediate")
        standby.start()
        try:
            standby.promote()
            make.index = standby.url()
            app = make()
            with app.test_client() as client:
                assert uids_in(client) == {"1.3.1"}
                sweep(app, monkeypatch)
                why = "the index is older than the objects, or was restored"
                assert ("unswept", why) in kinds(app)
                assert why in caplog.text
                assert app.state.archive.reindex() == 1
                sweep(app, monkeypatch)
                assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1", "1.3.2"}
                assert kinds(app) == []
        finally:
            standby.stop("immediate")
            primary.start()


@only_postgresql
@only_bucket
def test_database_that_another_has_taken_over_from_removes_nothing(make, monkeypatch):
    app = make()
    database = app.state.archive._database
    with app.test_client() as client:
        client.store(image(1))
        key = attempt(app, 2)
        told = database.incarnation()
        system, timeline, table = told.split("/")
        assert timeline == "00000001"
        promoted = f"{system}/00000002/{table}"
        monkeypatch.setattr(type(database), "incarnation", lambda self: promoted)
        sweep(app, monkeypatch)
        assert key in objects(make)
        app.state.archive.reindex()
        assert key in objects(make)
        assert uids_in(client) == {"1.3.1", "1.3.2"}


# ------------------------------------------------------------- kill -9

KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from support.archives import image
from pacsroute import App, Archive, Instance
from pacsroute.archive import bucket, storing

app = App("ARCHIVE")
archive = Archive(sys.argv[2], index=sys.argv[4])
app.register_blueprint(archive)
place, calls = sys.argv[3], []

def die(name):
    calls.append(name)
    if name == place and calls.count(name) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, name):
    function = getattr(owner, name)
    def wrapped(*args, **options):
        die(f"before {name}")
        result = function(*args, **options)
        die(f"after {name}")
        return result
    setattr(owner, name, wrapped)

with app.running():
    around(bucket._Noting, "put")
    around(type(archive._files), "receive")
    around(storing, "admit")
    around(type(archive._files), "keep")
    for number in (1, 2, 3, 4):
        archive.add(Instance(image(number)))
        print(f"1.3.{number}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
PLACES = [
    f"{when} {what}" for what in ("put", "receive", "admit", "keep") for when in ("before", "after")
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
@pytest.mark.parametrize("place", [*PLACES, "nowhere"])
@only_bucket
def test_kill_9_leaves_no_row_without_an_object(make, monkeypatch, place):
    tests = os.path.join(os.path.dirname(__file__), "..")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tests, make.prefix, place, make.index],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    acknowledged = set(done.stdout.split())
    assert len(acknowledged) == (4 if place == "nowhere" else 2)
    app = make()
    with app.test_client() as client:
        assert uids_in(client) == acknowledged == fetched(client, "PATIENT", PatientID="777")
        assert kinds(app) == []
        sweep(app, monkeypatch)
        assert {key.split("/")[0] for key in objects(make)} == acknowledged
        for number in (1, 2, 3, 4):
            client.store(image(number))
        assert len(found(client)) == 4


# ------------------------------------------------------------- what is refused at set-up


def test_layout_of_a_bucket_is_a_set_up_error():
    with pytest.raises(SetupError, match="layout= applies to folders"):
        Archive("memory://", layout="{PatientID}")


def test_what_is_no_place_is_a_set_up_error():
    with pytest.raises(SetupError, match="a folder or a bucket"):
        Archive(7)
