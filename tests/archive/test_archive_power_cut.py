"""A power cut at any moment takes nothing that was acknowledged, and brings nothing back."""

import errno
import os
import shutil

import pytest
from pydicom import Dataset
from support.archives import image
from support.power_cut import Recorder, disks, lay_out

from pacsroute import App, Archive, Failure, Instance
from pacsroute.archive import files
from pacsroute.dataset.encoding import encode

pytestmark = pytest.mark.slow
SYNTAX = "1.2.840.10008.1.2"


def archive_in(folder, **options):
    app = App("ARCHIVE")
    archive = Archive(folder, min_free=0, **options)
    app.register_blueprint(archive)
    return app, archive


def kept(archive):
    """Return the content of each instance in the index, by its UID."""
    contents = {}
    for row in archive._database.rows("SELECT SOPInstanceUID, path FROM image"):
        with archive._files.instance(row["path"]).open() as file:
            contents[row["SOPInstanceUID"]] = file.read()
    return contents


def aside(archive):
    return {(one.sop_instance, one.reason) for one in archive.check() if one.kind == "quarantined"}


def patients(archive):
    asked = Dataset()
    asked.PatientID = asked.StudyInstanceUID = None
    return {row["StudyInstanceUID"]: row["PatientID"] for row in archive.matching(asked)}


def use(archive, done):
    """Store, set aside, correct and delete; note each thing when it is acknowledged."""

    def store(number, **values):
        archive.add(Instance(image(number, **values), transfer_syntax=SYNTAX))
        done.append(("stored", number))

    store(1)
    store(2)
    with pytest.raises(Failure, match="another version"):
        archive.add(Instance(image(1, Rows=9)))
    done.append(("set aside", "1.3.1", "conflict"))
    archive.add(Instance(image(5, PatientID="888")))
    done.append(("set aside", "1.3.5", "mismatch"))
    archive._files.flush()
    done.append(("deleting", 2))
    archive.delete(instance="1.3.2", reason="blurred", by="doe")
    done.append(("deleted", 2))
    store(3, study="1.9", series="1.9.1")
    archive.correct("1.1", PatientID="778", reason="mistyped", by="doe")
    done.append(("corrected",))
    archive._files.flush()
    store(4)


def check(folder, done, **options):
    """Start on a disk, and look for all that was acknowledged."""
    app, archive = archive_in(folder, **options)
    with app.running():
        there = kept(archive)
        going = {event[1] for event in done if event[0] == "deleting"}
        deleted = {event[1] for event in done if event[0] == "deleted"}
        for event in done:
            if event[0] == "stored" and event[1] not in going:
                study = {"study": "1.9", "series": "1.9.1"} if event[1] == 3 else {}
                assert there[f"1.3.{event[1]}"] == encode(image(event[1], **study), SYNTAX)
            elif event[0] == "set aside":
                assert event[1:] in aside(archive)
            elif event[0] == "corrected":
                assert patients(archive)["1.1"] == "778"
        for number in deleted:
            assert f"1.3.{number}" not in there
            with pytest.raises(Failure, match="was deleted"):
                archive.add(Instance(image(number)))
        assert {one.kind for one in archive.check()} <= {"quarantined"}
        assert list((folder / ".incoming").iterdir()), "what is under way now"
        for own in (folder / ".incoming").iterdir():
            assert list(own.iterdir()) == [], "what was under way has come to its end"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("system", ["ext4", "another"])
@pytest.mark.parametrize("layout", ["", "{PatientID}/{StudyInstanceUID}"])
def test_what_was_acknowledged_outlives_a_power_cut_at_any_moment(
    tmp_path, monkeypatch, system, layout
):
    monkeypatch.setattr(files, "_file_system_of", lambda folder: system)
    app, archive = archive_in(tmp_path / "archive", layout=layout)
    with app.running():
        pass  # its folder and the tables of its index are there
    with monkeypatch.context() as patch, app.running():
        recorder = Recorder(patch, tmp_path / "archive", system == "ext4")
        archive._flush()
        use(archive, recorder.done)
    assert len(recorder.moments) > 40
    seen = set()
    for number, moment in enumerate(recorder.moments):
        for what, *disk in disks(moment):
            if (key := repr((disk, moment.done))) in seen:
                continue
            seen.add(key)
            lay_out(tmp_path / "after", *disk)
            try:
                check(tmp_path / "after", moment.done, layout=layout)
            except BaseException:
                print(f"moment {number} of {len(recorder.moments)}, {what}: {moment.done}")
                raise
    print(f"{len(recorder.moments)} moments, {len(seen)} disks")


@pytest.fixture
def no_hard_links(monkeypatch):
    """Return a function that makes the file system one without hard links."""
    link = os.link

    def refuse(name, other, **options):
        if ".incoming" in os.fspath(name) and not os.path.lexists(other):
            raise OSError(errno.EOPNOTSUPP, "no hard links")
        link(name, other, **options)

    monkeypatch.setattr(files, "_file_system_of", lambda folder: "vfat")
    return lambda patch: patch.setattr(os, "link", refuse)


def test_without_hard_links_name_and_row_are_flushed_before_success(
    tmp_path, monkeypatch, no_hard_links
):
    app, archive = archive_in(tmp_path / "before")
    with app.running():
        with monkeypatch.context() as patch:
            no_hard_links(patch)
            moments = Recorder(patch, tmp_path / "before", False).moments
            archive.add(Instance(image(1)))
    for _, *disk in disks(moments[-1]):
        lay_out(tmp_path / "after", *disk)
        app, archive = archive_in(tmp_path / "after")
        with app.running():
            assert kept(archive).keys() == {"1.3.1"}
            assert list(archive.check()) == []


def test_without_hard_links_contradictions_get_into_quarantine(
    tmp_path, monkeypatch, no_hard_links
):
    no_hard_links(monkeypatch)
    app, archive = archive_in(tmp_path)
    with app.running():
        archive.add(Instance(image(1)))
        with pytest.raises(Failure, match="another version"):
            archive.add(Instance(image(1, Rows=9)))
        archive.add(Instance(image(5, PatientID="888")))
        assert aside(archive) == {("1.3.1", "conflict"), ("1.3.5", "mismatch")}
        assert kept(archive).keys() == {"1.3.1"}
    assert list((tmp_path / ".incoming").iterdir()) == []


@pytest.mark.parametrize("kind", ["Dataset", "bytes", "file", "file with a long head"])
def test_a_draft_is_whole_whatever_it_was_made_of(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(files, "_file_system_of", lambda folder: "ext4")
    source = Instance(image(1))
    if kind != "Dataset":
        path = source.save(tmp_path / "files")
        if kind == "file with a long head":
            data = path.read_bytes()
            long = b"\2\0\2\1OB\0\0" + (4000).to_bytes(4, "little") + bytes(4000)
            end = data.index(b"\x08\0\x16\0")
            path.write_bytes(data[:end] + long + data[end:])
        source = Instance(path.read_bytes() if kind == "bytes" else path)
    app, archive = archive_in(tmp_path / "archive")
    with app.running():
        draft, _ = archive._files.receive(source)
        assert archive._files.is_whole(draft)
        os.truncate(draft, os.path.getsize(draft) - 1)
        assert not archive._files.is_whole(draft)


@pytest.mark.parametrize("left", ["row and name", "row", "neither"])
def test_drafts_of_a_dead_process_stay_until_the_index_is_flushed(tmp_path, monkeypatch, left):
    """Otherwise a power cut soon after the restart takes the row, and perhaps the name."""
    app, archive = archive_in(tmp_path / "before")
    with app.running():
        archive._flush()
        if left == "neither":
            archive._files.receive(Instance(image(1)))
        else:
            archive.add(Instance(image(1)))
        shutil.copytree(tmp_path / "before", tmp_path / "after")
    if left == "row":
        (tmp_path / "after" / "1.3.1.dcm").unlink()

    calls = []
    monkeypatch.setattr(files, "remove", lambda path: calls.append(("remove", path)))
    monkeypatch.setattr(files, "sync", lambda path: calls.append(("sync", path)))
    app, archive = archive_in(tmp_path / "after")
    archive._files._flush_index = lambda: calls.append(("flush", "index"))
    with app.running():
        (draft,) = [path for what, path in calls if what == "remove"]
        assert ".incoming" in draft
        assert calls == [("flush", "index"), ("sync", str(tmp_path / "after")), ("remove", draft)]
        assert kept(archive).keys() == {"1.3.1"}
