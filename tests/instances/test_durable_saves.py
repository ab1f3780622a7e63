"""The order in which bytes and names reach the disk: first the bytes, then the name."""

import os
import tempfile
from pathlib import Path

import pytest
from support.names import CT, EXPLICIT, WAIT
from support.raw_peer import RawPeer

from pacsroute import App, Failure, Instance
from pacsroute.dataset.encoding import encode
from pacsroute.instances import atomic_files, part10
from pacsroute.instances.place import Place
from pacsroute.instances.spool import Spool

RAM = Path("/dev/shm")


@pytest.fixture(autouse=True, params=[True, False], ids=["nameless", "named"])
def nameless(request, monkeypatch):
    if request.param and not atomic_files._NAMELESS:
        pytest.skip("no nameless files here")
    monkeypatch.setattr(atomic_files, "_NAMELESS", request.param)


@pytest.fixture
def recorded(monkeypatch):
    """Return a list of what was done: a kind, and the inode of a file or folder."""
    events = []

    def note(name, kind, which):
        real = getattr(os, name)

        def call(*given, **options):
            done = real(*given, **options)
            events.append((kind, *which(*given)))
            return done

        monkeypatch.setattr(os, name, call)

    def inode(fd, *_):
        return (os.fstat(fd).st_ino,)

    def named(_, target):
        return os.stat(target).st_ino, str(target)

    for name in ("write", "writev"):
        note(name, "write", inode)
    monkeypatch.setattr(atomic_files, "_writev", os.writev)
    note("fsync", "flush", inode)
    for name in ("link", "rename"):
        note(name, "name", named)
    return events


def spooled(size, uid="1.2.3", place=None, folder=None, threshold=1000):
    data = encode(
        {"SOPClassUID": CT, "SOPInstanceUID": uid, "PixelData": os.urandom(size)}, EXPLICIT
    )
    spool = Spool(part10.head(CT, uid, EXPLICIT), folder, threshold, place=place)
    for start in range(0, len(data), 400):
        spool.write(memoryview(data)[start : start + 400])
    return Instance(spool, sop_class=CT, sop_instance=uid, transfer_syntax=EXPLICIT)


def check(events, path):
    """Assert that bytes, file, name and folder went to the disk one after the other."""
    file, folder = os.stat(path).st_ino, os.stat(path.parent).st_ino
    last_write = max(at for at, event in enumerate(events) if event == ("write", file))
    flushed = [at for at, event in enumerate(events) if event == ("flush", file)]
    named = [at for at, event in enumerate(events) if event == ("name", file, str(path))]
    folder_flushed = [at for at, event in enumerate(events) if event == ("flush", folder)]
    assert any(last_write < at < named[0] for at in flushed)
    assert any(named[-1] < at for at in folder_flushed)


@pytest.mark.parametrize("size", [100, 5000], ids=["in memory", "in a file"])
def test_a_name_comes_after_its_bytes_and_before_the_flush_of_its_folder(recorded, tmp_path, size):
    instance = spooled(size, folder=str(tmp_path / "spool"))
    check(recorded, instance.save(tmp_path))


def test_a_file_in_the_place_of_the_last_save_is_flushed_before_it_has_its_name(recorded, tmp_path):
    place = Place()
    for number in range(3):
        instance = spooled(5000, f"1.2.{number}", place)
        check(recorded, instance.save(tmp_path / "archive"))
        recorded.clear()


def test_a_copy_on_another_file_system_is_flushed_before_it_has_its_name(recorded, tmp_path):
    if not RAM.is_dir() or os.stat(RAM).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is one file system only")
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        check(recorded, spooled(5000, folder=folder).save(tmp_path))


def test_a_file_that_replaces_another_is_flushed_before_it_has_its_name(recorded, tmp_path):
    for _ in range(2):
        recorded.clear()
        path = spooled(5000, folder=str(tmp_path / "spool")).save(tmp_path)
        check(recorded, path)


def test_each_new_folder_is_flushed_in_the_one_above(recorded, tmp_path):
    path = spooled(5000, folder=str(tmp_path / "spool")).save(tmp_path / "study" / "series")
    check(recorded, path)
    for folder in (tmp_path, tmp_path / "study"):
        assert ("flush", os.stat(folder).st_ino) in recorded


@pytest.mark.parametrize("duplicate", ["keep", "refuse"])
def test_what_is_there_already_is_flushed_with_its_name(recorded, tmp_path, duplicate):
    path = spooled(100).save(tmp_path, durable=False)
    assert not [event for event in recorded if event[0] == "flush"]
    try:
        spooled(100).save(tmp_path, duplicate=duplicate)
    except Failure:
        assert duplicate == "refuse"
    for there in (path, tmp_path):
        assert ("flush", os.stat(there).st_ino) in recorded


@pytest.mark.parametrize("size", [400_000, 3_000_000], ids=["in its buffer", "in a file"])
def test_success_is_answered_when_all_is_on_the_disk(recorded, tmp_path, size):
    app, done = App(), []

    @app.store
    def store(request):
        path = request.save(tmp_path / "archive")
        check(recorded, path)
        done.append(path)

    with app.serve(port=0) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        peer.socket.settimeout(WAIT)
        for number in range(3):
            uid = f"1.2.{number}"
            data = {"SOPClassUID": CT, "SOPInstanceUID": uid, "PixelData": bytes(size)}
            recorded.clear()
            assert peer.store(encode(data, EXPLICIT), CT, uid).status == 0
    assert len(done) == 3
