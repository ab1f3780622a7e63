"""Where spooled instances wait: in the buffer they came in, or where the last one was saved."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.names import CT, EXPLICIT, WAIT
from support.raw_peer import RawPeer
from support.unharmed import until
from support.web import ROOT, multipart

from pacsroute import App, Instance
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands
from pacsroute.dimse.messages import fragment
from pacsroute.instances import atomic_files, part10, spool
from pacsroute.instances.place import Place
from pacsroute.instances.spool import Spool
from pacsroute.memory import PROCESS
from pacsroute.upper_layer.buffers import buffers
from pacsroute.upper_layer.connection import Connection
from pacsroute.upper_layer.pdu import PDV, PDataTF
from pacsroute.upper_layer.pdu import encode as encode_pdu

SMALL, LARGE = 400_000, 5_000_000  # bytes: one PDU, and several
RAM = Path("/dev/shm")

nameless_only = pytest.mark.skipif(not atomic_files._NAMELESS, reason="files need a name here")


def image(size, uid="1.2.3"):
    pixels = os.urandom(size)
    return encode({"SOPClassUID": CT, "SOPInstanceUID": uid, "PixelData": pixels}, EXPLICIT)


@pytest.fixture
def elsewhere(tmp_path):
    """Return a folder on another file system than that of temporary files."""
    if not RAM.is_dir() or os.stat(RAM).st_dev == os.stat(tempfile.gettempdir()).st_dev:
        pytest.skip("there is one file system only")
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        yield Path(folder)


@pytest.fixture
def written(monkeypatch):
    """Return a list of how many bytes each call has written to a file."""
    counts, writev, write = [], atomic_files._writev, os.write

    def noted(call, *arguments):
        counts.append(call(*arguments))
        return counts[-1]

    monkeypatch.setattr(atomic_files, "_writev", lambda *given: noted(writev, *given))
    monkeypatch.setattr(os, "write", lambda *given: noted(write, *given))
    return counts


def saving(folder, **settings):
    app = App("ARCHIVE", **settings)

    @app.store
    def store(request):
        request.save(folder, durable=False)

    return app


@nameless_only
def test_what_comes_in_one_pdu_is_written_once_in_one_call(elsewhere, written):
    with saving(elsewhere).serve(port=0) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        for number in range(1, 4):
            data = image(SMALL, f"1.2.{number}")
            assert peer.store(data, CT, f"1.2.{number}").status == 0
            path = elsewhere / f"1.2.{number}.dcm"
            assert path.read_bytes().endswith(data)
            assert written == [path.stat().st_size]
            written.clear()
        peer.release()


@nameless_only
def test_what_comes_in_many_pdus_is_written_once_from_the_second_on(elsewhere, written):
    with saving(elsewhere).serve(port=0) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        for number in range(1, 4):
            data = image(LARGE, f"1.2.{number}")
            assert peer.store(data, CT, f"1.2.{number}").status == 0
            path = elsewhere / f"1.2.{number}.dcm"
            assert path.read_bytes().endswith(data)
            times = 2 if number == 1 else 1  # nobody knew where the first one would be saved
            assert sum(written) == times * path.stat().st_size
            written.clear()
        peer.release()


@nameless_only
def test_an_upload_over_the_web_is_written_once_from_the_second_on(elsewhere, written):
    with saving(elsewhere).test_client() as client:
        for number in range(1, 4):
            name = f"1.2.{number}"
            body, kind = multipart(part10.head(CT, name, EXPLICIT) + image(LARGE, name))
            answer = client.web.post(f"{ROOT}/studies", data=body, content_type=kind)
            assert answer.status_code == 200, answer.text
            times = 2 if number == 1 else 1
            assert sum(written) == times * (elsewhere / f"{name}.dcm").stat().st_size
            written.clear()


@nameless_only
def test_a_folder_that_was_set_for_the_spool_is_used(elsewhere, tmp_path, written):
    app = saving(elsewhere, spool=tmp_path / "spool")
    with app.serve(port=0) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        for _ in range(2):
            assert peer.store(image(LARGE), CT, "1.2.3").status == 0
            assert sum(written) == 2 * (elsewhere / "1.2.3.dcm").stat().st_size
            written.clear()


@nameless_only
def test_a_folder_that_the_user_has_removed_is_not_made_again(tmp_path):
    places = iter([tmp_path / "first", tmp_path / "second"])
    app = App()

    @app.store
    def store(request):
        request.save(next(places), durable=False)

    with app.serve(port=0) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(image(LARGE), CT, "1.2.3").status == 0
        shutil.rmtree(tmp_path / "first")
        data = image(LARGE)
        assert peer.store(data, CT, "1.2.3").status == 0
    assert os.listdir(tmp_path) == ["second"]
    assert (tmp_path / "second" / "1.2.3.dcm").read_bytes().endswith(data)


@nameless_only
@pytest.mark.parametrize("at", [0, 3])
def test_a_full_disk_where_others_were_saved_is_left(tmp_path, monkeypatch, at):
    (tmp_path / "full").mkdir()
    place = Place()
    place.learn(str(tmp_path / "full"), durable=False)
    calls, write_all = [], atomic_files.write_all

    def write(fd, *pieces):
        calls.append(fd)
        if len(calls) == at + 1:
            os.write(fd, b"half of it")
            raise OSError(errno.ENOSPC, "no space left")
        write_all(fd, *pieces)

    monkeypatch.setattr(spool, "write_all", write)
    data = os.urandom(50_000)
    one = Spool(b"head", None, 1000, place=place)
    for start in range(0, len(data), 5000):
        one.write(memoryview(data)[start : start + 5000])
    assert one.error is None
    assert len(set(calls)) == 2
    assert place.open() is None
    with one.open() as file:
        assert file.read() == data
    Instance(one, sop_class=CT, sop_instance="1.2.3", transfer_syntax=EXPLICIT).save(tmp_path)
    assert (tmp_path / "1.2.3.dcm").read_bytes() == b"head" + data


@nameless_only
@pytest.mark.parametrize("durable", [True, False])
def test_the_disk_begins_while_a_durable_instance_comes(tmp_path, monkeypatch, durable):
    place, begun = Place(), []
    place.learn(str(tmp_path), durable=durable)
    real = atomic_files.start_write_back
    monkeypatch.setattr(
        spool, "start_write_back", lambda fd, *range_: begun.append(range_) or real(fd, *range_)
    )
    one = Spool(b"head", None, place=place)
    for _ in range(20):
        one.write(memoryview(bytes(1 << 20)))
    assert begun == ([(0, 8 << 20), (8 << 20, 8 << 20)] if durable else [])
    assert one.error is None


def test_nothing_is_learned_where_files_need_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_files, "_NAMELESS", False)
    place = Place()
    for threshold in (10, 100_000):
        one = Spool(b"head", None, threshold, place=place)
        one.write(b"x" * 1000)
        Instance(one, sop_class=CT, sop_instance="1.2.3", transfer_syntax=EXPLICIT).save(tmp_path)
    monkeypatch.undo()
    assert place.open() is None


def test_instances_that_a_handler_keeps_are_not_overwritten_by_the_next(tmp_path):
    app, kept = App(), []

    @app.store
    def store(request):
        kept.append(request.instance)

    sent = [image(SMALL, f"1.2.{number}") for number in range(12)]
    before = PROCESS.held
    with app.serve(port=0) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        for number, data in enumerate(sent):
            assert peer.store(data, CT, f"1.2.{number}").status == 0
        peer.release()
    assert PROCESS.held - before >= 12 * (SMALL - 65_536)
    for instance, data in zip(kept, sent, strict=True):
        with instance.open() as file:
            assert file.read() == data
        assert instance.save(tmp_path, durable=False).read_bytes().endswith(data)
        assert instance.dataset.PixelData == data[-SMALL:]
    kept.clear()
    del instance
    assert PROCESS.held <= before


def test_beyond_the_memory_of_the_process_instances_go_to_files():
    app, kept = App(max_memory=4 * PROCESS.held + 10_000_000), []

    @app.store
    def store(request):
        kept.append(request.instance)

    sent = [image(SMALL, f"1.2.{number}") for number in range(9)]
    with app.serve(port=0) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        for number, data in enumerate(sent):
            assert peer.store(data, CT, f"1.2.{number}").status == 0
        assert app.room.used >= 3 * SMALL
        peer.release()
    for instance, data in zip(kept, sent, strict=True):
        with instance.open() as file:
            assert file.read() == data


SERVER = """
import sys
from pacsroute import App

app = App("ARCHIVE")

@app.store
def store(request):
    request.save(sys.argv[1])

server = app.serve(port=0)
server.run(ready=lambda: print(server.port, flush=True))
"""


@nameless_only
def test_nothing_stays_where_others_were_saved_after_a_kill(tmp_path):
    folder = tmp_path / "archive"
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with RawPeer(int(process.stdout.readline()), [(CT, EXPLICIT)]) as peer:
            assert peer.store(image(LARGE), CT, "1.2.3").status == 0
            command = commands.CStoreRQ(
                message_id=2, affected_sop_class=CT, affected_sop_instance="1.2.4"
            )
            parts = fragment(1, command, image(LARGE, "1.2.4"), peer.maximum)
            for part in parts[:-1]:  # all but the last bytes of the instance
                peer.socket.sendall(part)
            opened = Path(f"/proc/{process.pid}/fd")
            assert until(lambda: any(is_in(link, folder) for link in opened.iterdir()))
            process.kill()
            process.wait(WAIT)
    assert os.listdir(folder) == ["1.2.3.dcm"]


def is_in(link, folder):
    try:
        return os.readlink(link).startswith(str(folder))
    except FileNotFoundError:  # closed meanwhile
        return False


# --------------------------------------------------------------- the buffer


def received(*pdus):
    buffers._unused.clear()  # a larger one would do, too
    connection = Connection("acceptor")
    connection.state = "Sta6"
    connection.receive_data(b"".join(map(encode_pdu, pdus)))
    return connection


def test_a_buffer_is_handed_over_with_what_came_behind_kept():
    behind = PDataTF((PDV(1, True, True, b"next"),))
    connection = received(PDataTF((PDV(1, False, True, bytes(range(256)) * 800),)), behind)
    (pdv,) = connection.next_event().pdvs
    buffer = connection.hand_over(pdv.fragment)
    assert buffer.obj is pdv.fragment.obj
    assert connection.next_event() == behind
    connection.get_buffer()[:] = bytes(len(connection.get_buffer()))
    assert connection.get_buffer().obj is not buffer.obj
    assert bytes(pdv.fragment) == bytes(range(256)) * 800


@pytest.mark.parametrize(
    "pdvs",
    [
        (PDV(1, False, False, bytes(200_000)), PDV(1, False, True, b"more")),
        (PDV(1, False, True, bytes(4000)),),
    ],
    ids=["more in the PDU", "small"],
)
def test_a_buffer_is_not_handed_over_with(pdvs):
    connection = received(PDataTF(pdvs))
    assert connection.hand_over(connection.next_event().pdvs[0].fragment) is None
