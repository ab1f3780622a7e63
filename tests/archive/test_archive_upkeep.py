"""Files and index are in step through a crash, a power cut and a restored backup."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from support.archives import fetched, found, image, only_folder, only_sqlite, uids_in
from support.names import CT, EXPLICIT

from pacsroute import App, Archive, Failure, Instance, RequestFailed
from pacsroute.archive import files, storing
from pacsroute.archive.database import UnavailableError, UnknownCommitError
from pacsroute.dataset.encoding import encode

pytestmark = pytest.mark.slow

# Stores three instances, and is killed at a place that its arguments name.
KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from support.archives import image
from pacsroute import App, Archive, Instance
from pacsroute.archive import storing

app = App("ARCHIVE")
archive = Archive(sys.argv[2], **eval(sys.argv[4]))
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
    Files = type(archive._files)
    around(Files, "receive")
    around(Files, "place")
    around(storing, "admit")
    around(type(archive._database), "write")
    around(Files, "settle")
    for number in (1, 2, 3, 4):
        archive.add(Instance(image(number)))
        print(f"1.3.{number}", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
PLACES = [
    f"{when} {what}"
    for what in ("receive", "place", "admit", "write", "settle")
    for when in ("before", "after")
]


def killed(make, place, **options):
    """Store until the process is killed; return what was acknowledged."""
    tests = os.path.join(os.path.dirname(__file__), "..")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED,
            tests,
            make.where,
            place,
            repr(options | {"index": make.index}),
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    return set(done.stdout.split())


def in_step(app):
    """Return what is in the index, which is what the folder has."""
    archive = app.state.archive
    with app.test_client() as client:
        there = uids_in(client)
        assert list(archive.check()) == []
        assert {path.stem for path in archive.folder.rglob("*.dcm")} == there
        own = [one for one in (archive.folder / ".incoming").iterdir() if any(one.iterdir())]
        assert own == [], "what was under way has come to its end"
    return there


@only_folder
@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
@pytest.mark.parametrize("place", [*PLACES, "nowhere"])
@pytest.mark.parametrize("layout", ["", "{PatientID}/{StudyInstanceUID}"])
def test_files_and_index_are_in_step_after_kill_9(make, tmp_path, place, layout):
    acknowledged = killed(make, place, layout=layout)
    there = in_step(make(layout=layout))
    assert acknowledged <= there <= {f"1.3.{number}" for number in (1, 2, 3, 4)}
    assert len(acknowledged) == (4 if place == "nowhere" else 2)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
@only_sqlite
def test_what_a_power_cut_takes_from_the_index_and_the_folder_is_brought_back(make, tmp_path):
    """Only what was flushed is there: the drafts, and the index as it was at its last flush."""
    app = make()
    with app.test_client() as client:
        client.store(image(9))
    before = tmp_path / "before"
    shutil.copytree(tmp_path / "archive", before)
    acknowledged = killed(make, "nowhere")
    for name in os.listdir(tmp_path / "archive"):
        if name.startswith("index.db"):
            os.unlink(tmp_path / "archive" / name)
    shutil.copy(before / "index.db", tmp_path / "archive" / "index.db")
    (tmp_path / "archive" / "1.3.2.dcm").unlink()
    assert in_step(make()) == acknowledged | {"1.3.9"}


@only_folder
@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
def test_a_name_that_a_power_cut_takes_while_its_row_stays_is_brought_back(make, tmp_path):
    acknowledged = killed(make, "nowhere")
    (tmp_path / "archive" / "1.3.2.dcm").unlink()
    assert in_step(make()) == acknowledged


@only_folder
def test_what_another_process_has_under_way_is_left_alone(make, tmp_path):
    first, second = make(), make()
    with first.running():
        draft, _ = first.state.archive._files.receive(Instance(image(1)))
        with second.test_client() as client:
            assert uids_in(client) == set()
        assert os.path.exists(draft)
    with make().test_client() as client:  # nobody has it any more
        assert uids_in(client) == {"1.3.1"}


def test_a_start_reads_no_file_that_is_known(make, monkeypatch):
    app = make()
    with app.test_client() as client:
        for number in range(20):
            client.store(image(number))
    read = []
    entry = Archive._entry_of_file
    monkeypatch.setattr(
        Archive, "_entry_of_file", lambda self, path: read.append(path) or entry(self, path)
    )
    found_all = type(app.state.archive._files)
    monkeypatch.setattr(found_all, "found", lambda self: pytest.fail("it looks at all files"))
    with make().test_client() as client:
        assert len(uids_in(client)) == 20
    assert read == []


@only_folder
def test_many_instances_are_settled_while_it_runs(make, monkeypatch):

    monkeypatch.setattr(files, "_MANY", 4)
    app = make()
    with app.running():
        archive = app.state.archive
        for number in range(10):
            archive.add(Instance(image(number)))
        (own,) = (archive.folder / ".incoming").iterdir()
        assert len(list(own.iterdir())) == 2
    assert list((archive.folder / ".incoming").iterdir()) == []


@only_folder
def test_an_index_that_fails_leaves_no_file(make, monkeypatch, caplog):

    app = make()

    def full(*args, **options):
        raise UnavailableError("database or disk is full")

    with app.test_client() as client:
        client.store(image(1))
        with monkeypatch.context() as patch:
            patch.setattr(storing, "admit", full)
            with pytest.raises(RequestFailed, match="0xA700"):
                client.store(image(2))
        assert "database or disk is full" in caplog.text
        client.store(image(3))
    assert in_step(make()) == {"1.3.1", "1.3.3"}


@only_folder
@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_loses_no_file(make, monkeypatch, committed):
    app = make()
    database = app.state.archive._database
    write = database.write

    def lost(work, **options):
        if committed or "alone" not in options:
            write(work, **options)
        raise UnknownCommitError("the connection was lost")

    with app.test_client() as client:
        client.store(image(1))
        with monkeypatch.context() as patch:
            patch.setattr(database, "write", lost)
            with pytest.raises(RequestFailed, match="0xA700"):
                client.store(image(2))
        assert [one.kind for one in app.state.archive.check()] == ["unknown"] * (not committed)
        if committed:
            assert fetched(client, "IMAGE", SOPInstanceUID="1.3.2") == {"1.3.2"}
    assert in_step(make()) == {"1.3.1", "1.3.2"}


@only_folder
@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
def test_a_draft_whose_date_is_not_what_it_was_takes_no_file_with_it(make):
    """Some file systems round dates once the file is on the disk, and so do backups."""
    killed(make, "before settle")
    for draft in (make.folder / "archive" / ".incoming").rglob("1.3.*"):
        os.utime(draft, (10**9, 10**9))
    assert in_step(make()) >= {"1.3.1", "1.3.2", "1.3.3"}


@only_folder
def test_a_folder_that_cannot_be_written_is_out_of_resources(make, monkeypatch):

    app = make()

    def full(*args):
        raise OSError(28, "No space left on device")

    with app.test_client() as client:
        monkeypatch.setattr(files.Files, "receive", full)
        with pytest.raises(RequestFailed, match="0xA700"):
            client.store(image(1))


# ------------------------------------------------------------- backup and restore


def restored(make, tmp_path):
    """Return an archive of which a part was restored from an older backup."""
    app = make()
    with app.test_client() as client:
        client.store(image(1))
    shutil.copytree(tmp_path / "archive", tmp_path / "backup")
    with app.test_client() as client:
        client.store(image(2))
        client.store(image(3, study="1.9"))
    return app.state.archive


def kinds(app):
    with app.running():
        return sorted((one.kind, one.path) for one in app.state.archive.check())


@only_sqlite
def test_an_index_that_is_older_than_the_files_is_brought_up_to_date(make, tmp_path):
    archive = restored(make, tmp_path)
    shutil.copy(tmp_path / "backup" / "index.db", archive.folder / "index.db")
    assert kinds(make()) == [("unknown", "1.3.2.dcm"), ("unknown", "1.3.3.dcm")]
    assert len(list(archive.folder.glob("*.dcm"))) == 3, "nothing is removed"
    app = make()
    with app.running():
        assert app.state.archive.reindex(datetime.now() + timedelta(hours=1)) == 0
        assert app.state.archive.reindex(datetime.now() - timedelta(hours=1)) == 2
        assert app.state.archive.reindex() == 0
    assert in_step(make()) == {"1.3.1", "1.3.2", "1.3.3"}


@only_folder
def test_files_that_are_older_than_the_index_are_told(make, tmp_path):
    archive = restored(make, tmp_path)
    for path in archive.folder.glob("*.dcm"):
        if path.stem != "1.3.1":
            path.unlink()
    assert kinds(make()) == [("missing", "1.3.2.dcm"), ("missing", "1.3.3.dcm")]
    app = make()
    with app.test_client() as client:
        app.state.archive.reindex(datetime.now() - timedelta(hours=1))
        assert len(found(client)) == 3, "the rows stay until all files were looked at"
        app.state.archive.reindex()
        assert uids_in(client) == {"1.3.1"}
        assert [row.StudyInstanceUID for row in found(client, "STUDY")] == ["1.1"]


@only_folder
@pytest.mark.parametrize("starts", [True, False])
def test_decisions_that_are_older_than_the_index_hold_up_no_new_ones(make, caplog, starts):
    app = make()
    archive, path = app.state.archive, make.folder / "archive" / "decisions.jsonl"
    with app.test_client() as client:
        for number in (1, 2, 3):
            client.store(image(number))
        archive.hold("1.9", reason="a", by="doe")
        older = path.read_bytes()
        archive.delete(instance="1.3.1", reason="b", by="doe")
        if not starts:
            path.write_bytes(older)
            archive.delete(instance="1.3.2", reason="c", by="doe")
            assert uids_in(client) == {"1.3.3"}
    path.write_bytes(older)
    app = make()
    with app.test_client() as client:
        assert "decisions.jsonl is older than the index" in caplog.text
        with pytest.raises(RequestFailed, match="was deleted"):
            client.store(image(1))
        archive = app.state.archive
        archive.correct("1.1", PatientID="778", reason="d", by="doe")
        archive.delete(instance="1.3.3", reason="e", by="doe")
        assert "1.3.3" not in uids_in(client)
    assert list(make().state.archive.folder.glob("1.3.3*")) == []


@only_folder
def test_reindex_keeps_the_rules_of_the_intake(make, tmp_path, caplog):
    """What contradicts is told, left where it is, and not taken in."""
    app = make()
    folder = app.state.archive.folder
    Instance(image(1)).save(folder)
    for number, (name, ds) in enumerate(
        [("copy.dcm", image(1, Rows=3)), ("wrong.dcm", image(2, PatientID="888"))]
    ):
        path = Instance(ds).save(folder, name)
        os.utime(path, ns=(2 * 10**18, 2 * 10**18 + number))
    with app.test_client() as client:
        assert uids_in(client) == {"1.3.1"}
        assert [(one.kind, one.path) for one in app.state.archive.check()] == [
            ("unknown", "copy.dcm"),
            ("unknown", "wrong.dcm"),
        ]
    assert "copy.dcm: another file of this SOP instance" in caplog.text
    assert "wrong.dcm: its patient is not that of its study" in caplog.text


def test_the_sender_and_the_date_of_a_file_survive_a_new_index(make):
    app = make()
    with app.test_client(calling_ae="CT1") as client:
        client.store(image(1))
    archive = app.state.archive
    before = archive._database.rows("SELECT calling_ae, received, path FROM image")
    make.lose_index(app)
    with make().running():
        after = archive._database.rows("SELECT calling_ae, received, path FROM image")
        assert [tuple(row) for row in after] == [tuple(row) for row in before]
        assert after[0]["calling_ae"] == "CT1"
    archive._database.close()


@only_folder
def test_an_archive_that_was_moved_is_the_same(make, tmp_path):
    app = make()
    with app.test_client() as client:
        client.store(image(1))
    os.rename(tmp_path / "archive", tmp_path / "moved")
    assert in_step(make("moved")) == {"1.3.1"}


@only_folder
def test_a_decision_that_was_written_before_a_crash_is_carried_out(make, monkeypatch):

    app = make()
    with app.test_client() as client:
        client.store(image(1))
        with monkeypatch.context() as patch:

            def killed(*args):
                raise KeyboardInterrupt

            patch.setattr(type(app.state.archive._decisions._journal), "carry_out", killed)
            with pytest.raises(KeyboardInterrupt):
                app.state.archive.delete(study="1.1", reason="r", by="b")
        assert uids_in(client) == {"1.3.1"}
    app = make()
    assert in_step(app) == set()
    with app.running(), pytest.raises(Failure, match="was deleted"):
        app.state.archive.add(Instance(image(1)))


@only_folder
def test_a_line_that_a_power_cut_has_cut_off_is_no_decision(make):
    app = make()
    archive = app.state.archive
    with app.running():
        archive.hold("1.1", reason="r", by="b")
        with open(archive.folder / "decisions.jsonl", "ab") as file:
            file.write(b'{"decision": "rel')
        archive.hold("1.2", reason="r", by="b")
    make.lose_index(app)
    with make().running():
        held = archive._database.rows("SELECT StudyInstanceUID FROM hold ORDER BY 1")
        assert [row[0] for row in held] == ["1.1", "1.2"]
    archive._database.close()


def test_an_archive_of_the_example_of_before_is_taken_in(tmp_path):

    folder = tmp_path / "archive"
    Instance(image(1)).save(folder)
    with closing(sqlite3.connect(folder / "index.db")) as db, db:
        db.execute("CREATE TABLE study (StudyInstanceUID TEXT PRIMARY KEY)")
        db.execute("CREATE TABLE image (SOPInstanceUID TEXT PRIMARY KEY, path TEXT)")
        db.execute("PRAGMA user_version = 3")
    app = App("ARCHIVE")
    app.register_blueprint(Archive(folder))
    with app.test_client() as client:
        assert uids_in(client) == {"1.3.1"}


@only_folder
@pytest.mark.parametrize("kind", ["ext4", "another"])
def test_draft_whose_bytes_a_power_cut_has_taken_is_removed(make, monkeypatch, caplog, kind):
    """Its flush had not ended, so nobody was told that it is here."""
    monkeypatch.setattr(files, "_file_system_of", lambda folder: kind)
    app = make()
    with app.running():
        archive = app.state.archive
        first, second = (
            archive._files.receive(
                Instance(
                    encode(image(number, PixelData=b"1234"), EXPLICIT),
                    sop_class=CT,
                    sop_instance=f"1.3.{number}",
                    transfer_syntax=EXPLICIT,
                )
            )[0]
            for number in (1, 2)
        )
        with open(first, "r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(bytes(4))
    with make().test_client() as client:
        # Elsewhere a draft has its name only when it is whole.
        assert uids_in(client) == ({"1.3.2"} if kind == "ext4" else {"1.3.1", "1.3.2"})
    assert ("was cut off before it was acknowledged" in caplog.text) == (kind == "ext4")
    assert not os.path.exists(first)
    assert not os.path.exists(second)


@only_folder
def test_draft_without_anything_in_it_is_removed(make, monkeypatch):
    monkeypatch.setattr(files, "_file_system_of", lambda folder: "ext4")
    app = make()
    with app.running():
        path, _ = app.state.archive._files.receive(Instance(image(1)))
        os.truncate(path, 0)
    with make().test_client() as client:
        assert uids_in(client) == set()
    assert not os.path.exists(path)


@only_folder
def test_a_flush_that_fails_leaves_no_draft(make, monkeypatch):
    monkeypatch.setattr(files, "_file_system_of", lambda folder: "ext4")
    app = make()

    def broken(fd):
        raise OSError(5, "Input/output error")

    with app.running():
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(Failure, match="not available"):
                app.state.archive.add(Instance(image(1)))
        (own,) = (app.state.archive.folder / ".incoming").iterdir()
        assert list(own.iterdir()) == []
        assert app.state.archive.add(Instance(image(1))) is None


@only_folder
def test_order_of_writing_and_flushing(make, monkeypatch):
    """What is acknowledged is on the disk: the file is flushed when it has its first name."""
    monkeypatch.setattr(files, "_file_system_of", lambda folder: "ext4")
    app, order = make(), []
    fsync = os.fsync

    def synced(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        assert os.path.getsize(path) > 0
        order.append(path)
        fsync(fd)

    with app.running():
        monkeypatch.setattr(os, "fsync", synced)
        archive = app.state.archive
        admitted = storing.admit

        def admit(*args, **options):
            order.append("admit")
            return admitted(*args, **options)

        monkeypatch.setattr(storing, "admit", admit)
        archive.add(Instance(image(1)))
        assert os.path.basename(order[0]).startswith("1.3.1~0~")
        assert order[1:] == ["admit"]


@only_folder
def test_an_archive_ends_without_its_index_and_finds_everything_at_the_next_start(
    make, monkeypatch
):
    app = make()

    def unreachable(*_, **__):
        raise UnavailableError("PostgreSQL: PoolTimeout")

    with app.running():
        app.state.archive.add(Instance(image(1)))
        monkeypatch.setattr(type(app.state.archive._database), "write", unreachable)
    monkeypatch.undo()
    with app.running(), app.test_client() as client:
        assert uids_in(client) == {"1.3.1"}
        assert list(app.state.archive.check()) == []
