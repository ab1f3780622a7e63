"""Faults of the machine: no descriptors, threads or disk, signals, and clocks that jump."""

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread
from support.faults import BODY, CT_ID, SENT, associated, data_set, final
from support.names import CT, ONE_STUDY, WAIT
from support.raw_peer import RawPeer
from support.unharmed import unharmed, until

from pacsroute import App, Instance
from pacsroute.upper_layer import pdu

pytestmark = pytest.mark.slow

LINUX = Path("/proc/self/status").exists()

SERVER = """
import logging, os, resource, sys, threading, time
from pathlib import Path
from pacsroute import App

logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s")
folder = Path(sys.argv[1])
app = App("FAULTS", spool=folder / "spool")
tally = []

@app.store
def store(request):
    request.save(folder)
    request.after(tally.append, request.sop_instance)

@app.find
def find(request):
    return [{"PatientID": str(len(tally))}] * 3

@app.echo
def echo(request):
    if request.message_id == 3:
        request.after(threading.Event().wait)
    elif request.message_id == 4:  # from now on there is none of either
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, 20_000))
    elif request.message_id == 5:
        while server._spare < 3:  # the others may be on their way back from a peer
            time.sleep(0.01)
        threading.Thread.start = no_thread
    elif request.message_id == 6:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 20_000))
        threading.Thread.start = start
    elif request.message_id == 7:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))

start = threading.Thread.start

def no_thread(thread):
    raise RuntimeError("can't start new thread")

server = app.serve(port=0, grace=float(sys.argv[2]))
server.run(ready=lambda: print(server.port, flush=True))
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, folder, grace=1):
        self.folder = folder
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(folder), str(grace)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        self.port = int(self.process.stdout.readline())

    def do(self, number):
        """Have its echo handler do something; a peer of its own asks for it."""
        with RawPeer(self.port) as peer:
            assert peer.echo(message_id=number) == 0
            peer.release()

    @property
    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    @property
    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def cpu(self):
        """Seconds of a processor that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def process(tmp_path):
    started = Process(tmp_path / "server")
    yield started
    started.process.kill()
    started.process.wait(WAIT)
    started.process.stdout.close()


# --------------------------------------------------------------- nothing left of something


@pytest.mark.skipif(not LINUX, reason="/proc tells what a process has")
def test_server_survives_a_lack_of_descriptors(process):
    process.do(2)
    before = process.threads, process.descriptors
    with contextlib.ExitStack() as held:
        old = held.enter_context(associated(process.port))
        assert old.store(data_set(1_500_000), CT, "1.2.3", CT_ID).status == 0
        process.do(4)
        for _ in range(20):
            held.enter_context(socket.create_connection(("127.0.0.1", process.port), WAIT))
        # Whoever is in goes on, and is told what cannot be done.
        assert until(lambda: "accept failed" in process.log.read_text())
        assert old.store(data_set(1_500_000), CT, "1.2.3", CT_ID).status == 0xA700
        used = process.cpu
        threading.Event().wait(1)
        assert process.cpu - used < 0.5, "it is busy with nothing"
        assert old.echo(message_id=2) == 0
    # The limit is still there, and enough for those who come one after the other.
    for _ in range(5):
        process.do(2)
    process.do(6)
    assert until(lambda: process.threads <= before[0] + 1 and process.descriptors <= before[1])
    assert process.log.read_text().count("accept failed") == 1


@pytest.mark.skipif(not LINUX, reason="/proc tells what a process has")
def test_server_survives_a_lack_of_threads(process):
    process.do(2)
    before = process.descriptors
    with contextlib.ExitStack() as held:
        inside, outside = [held.enter_context(associated(process.port))], 0
        assert inside[0].echo(message_id=5) == 0
        for _ in range(9):
            peer = held.enter_context(associated(process.port))
            if isinstance(peer.answer, pdu.AssociateAC):
                inside.append(peer)
            else:
                assert peer.answer == pdu.AssociateRJ(2, 3, 1)
                outside += 1
        assert len(inside) == 3
        assert outside == 7
        for number, peer in enumerate(inside):
            assert peer.store(BODY, CT, "1.2.3", CT_ID).status == 0
            context_id, command, _ = SENT["find"]()
            peer.send(
                context_id, command, ONE_STUDY[:14] + b"\x10\0\x20\0\0\0\0\0" + ONE_STUDY[14:]
            )
            answers = [peer.receive() for _ in range(4)]
            assert [command.status for command, _ in answers] == [0xFF01] * 3 + [0]
            assert str(number + 1).encode() in answers[0][1], "what comes after was not done"
        inside[0].release()
        inside[0].socket.close()
        assert inside[1].echo(message_id=6) == 0
        for _ in range(20):
            peer = held.enter_context(associated(process.port))
            assert peer.echo(message_id=2) == 0
    assert until(lambda: process.threads <= 12 and process.descriptors <= before)
    assert process.log.read_text().count("no thread for the next association") == 1


# --------------------------------------------------------------- no room on the disk

BIG, SMALL = data_set(3_000_000), data_set(1000)


@contextlib.contextmanager
def mounted(*arguments):
    """Mount something, where that is allowed; a CI run has to be."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        if "CI" in os.environ:
            pytest.fail(f"nothing can be mounted here, and CI has to: {done.stderr}")
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", arguments[-1]], check=True)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)):
        yield folder


def saving(folder, spool, **settings):
    app = App("FAULTS", spool=spool, **settings)
    app.store(lambda request: request.save(folder) and None)
    return app


@pytest.mark.parametrize("spool", ["the same", "another"])
@pytest.mark.parametrize(
    "size", [100_000, 700_000, 1_500_000], ids=["in memory", "in its buffer", "in a file"]
)
def test_full_disk_is_answered_out_of_resources(small_disk, tmp_path, spool, size):
    elsewhere = {"the same": small_disk, "another": tmp_path / "spool"}
    with unharmed(saving(small_disk, elsewhere[spool])) as server:
        with associated(server.port) as peer:
            assert peer.store(data_set(3_000_000), CT, "1.2.3", CT_ID).status == 0xA700
            assert not list(small_disk.iterdir())
            statuses = {}
            for number in range(30):
                uid = f"1.2.{number}"
                data = BODY.replace(b"1.2.3\0", uid.encode().ljust(6, b"\0"))
                data += data_set(size)[len(BODY) :]
                statuses[uid] = peer.store(data, CT, uid, CT_ID).status
            assert set(statuses.values()) == {0, 0xA700}
            saved = {path.stem for path in small_disk.iterdir()}
            assert saved == {uid for uid, status in statuses.items() if status == 0}
            for path in small_disk.iterdir():
                assert len(dcmread(path).PixelData) == size
            peer.release()


@pytest.mark.skipif(not LINUX, reason="limits as POSIX has them")
def test_a_limit_on_the_size_of_files(process):
    process.do(7)
    with associated(process.port) as peer:
        assert peer.store(data_set(3_000_000), CT, "1.2.3", CT_ID).status == 0xA700
        assert peer.store(BODY, CT, "1.2.3", CT_ID).status == 0
        peer.release()
    assert [path.name for path in process.folder.glob("*.*")] == ["1.2.3.dcm"]


@pytest.mark.parametrize(
    "size", [1000, 300_000, 1_500_000], ids=["in memory", "in its buffer", "in a file"]
)
def test_a_folder_that_is_read_only(tmp_path, size):
    folder = tmp_path / "folder"
    folder.mkdir()
    with mounted("--bind", str(folder), str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        for place in (folder, folder / "below"):
            with unharmed(saving(place, tmp_path / "spool")) as server:
                with associated(server.port) as peer:
                    for _ in range(3):
                        assert peer.store(data_set(size), CT, "1.2.3", CT_ID).status == 0xA700
                    assert peer.echo(message_id=2) == 0
                    peer.release()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "size", [1000, 300_000, 1_500_000], ids=["in memory", "in its buffer", "in a file"]
)
def test_store_into_a_folder_that_cannot_exist(tmp_path, size):
    file = tmp_path / "file"
    below = file / "folder"
    for folder, spool in ((below, tmp_path / "spool"), (tmp_path / "folder", below)):
        with unharmed(saving(folder, spool)) as server, associated(server.port) as peer:
            shutil.rmtree(file, ignore_errors=True)
            file.write_text("")
            expected = 0 if size < 1_000_000 and folder != below else 0xA700
            assert peer.store(data_set(size), CT, "1.2.3", CT_ID).status == expected
            assert peer.echo(message_id=2) == 0
            peer.release()
        file.unlink()


@pytest.mark.parametrize(
    "size", [1000, 300_000, 1_500_000], ids=["in memory", "in its buffer", "in a file"]
)
def test_a_folder_that_vanishes(tmp_path, size):
    folder, spool = tmp_path / "folder", tmp_path / "spool"
    app = App("FAULTS", spool=spool)

    @app.store
    def store(request):
        for path in (folder, spool):  # both, after the instance has come
            if path.is_dir():
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
        request.save(folder)

    with unharmed(app) as server, associated(server.port) as peer:
        for _ in range(3):
            status = peer.store(data_set(size), CT, "1.2.3", CT_ID).status
            if status == 0:  # it was made again, and the instance is in it
                assert len(dcmread(folder / "1.2.3.dcm").PixelData) == size
            else:
                assert status == 0xA700
                assert not list(folder.glob("*"))
        peer.release()


@pytest.mark.parametrize("call", ["fsync", "write", "writev", "rename", "link"])
@pytest.mark.parametrize(
    "size", [1000, 300_000, 1_500_000], ids=["in memory", "in its buffer", "in a file"]
)
def test_a_disk_that_fails(tmp_path, monkeypatch, call, size):
    folder = tmp_path / "folder"
    real, broken = getattr(os, call), []

    def failing(*arguments, **options):
        if broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, failing)
    with unharmed(saving(folder, folder)) as server, associated(server.port) as peer:
        assert peer.store(data_set(size), CT, "1.2.3", CT_ID).status == 0
        before = (folder / "1.2.3.dcm").read_bytes()
        broken.append(True)
        status = peer.store(data_set(size + 2), CT, "1.2.3", CT_ID).status
        broken.clear()
        (path,) = folder.iterdir()
        if status == 0:  # it was not needed, or there is another way
            assert len(dcmread(path).PixelData) == size + 2
        else:
            assert status == 0xA700
            assert path.read_bytes() == before, "the old one is whole"
        assert peer.store(data_set(size), CT, "1.2.3", CT_ID).status == 0
        peer.release()


# --------------------------------------------------------------- signals, and a clock that jumps


def load(port, number, acknowledged, go_on):
    """Store one instance after the other, until the association ends; note which were taken."""
    with contextlib.suppress(OSError, EOFError, AssertionError), associated(port) as peer:
        for count in itertools.count():
            if not go_on(count):
                return
            uid = f"1.2.{number}.{count}"
            head = b"\x08\0\x18\0UI" + bytes((len(uid) + len(uid) % 2, 0)) + uid.encode()
            size = (500, 300_000, 1_500_000)[count % 3]
            data = head + b"\0" * (len(uid) % 2) + data_set(size)[len(BODY) :]
            if peer.store(data, CT, uid, CT_ID).status == 0:
                acknowledged[uid] = hashlib.sha256(data).digest()


SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGTERM twice": [signal.SIGTERM, signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "kill -9": [signal.SIGKILL],
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_under_load_loses_nothing(tmp_path, name):
    server = Process(tmp_path / "server", grace=0.5)
    acknowledged = {}
    workers = [
        threading.Thread(
            target=load, args=(server.port, number, acknowledged, lambda count: count < 5000)
        )
        for number in range(8)
    ]
    try:
        for worker in workers:
            worker.start()
        assert until(lambda: len(acknowledged) > 100)
        for number in SIGNALS[name]:
            server.process.send_signal(number)
        code = server.process.wait(WAIT)
        for worker in workers:
            worker.join(WAIT)
            assert not worker.is_alive()
    finally:
        server.process.kill()
        server.process.wait(WAIT)
        server.process.stdout.close()
    assert code in (0, -signal.SIGHUP, -signal.SIGKILL)
    for uid, digest in acknowledged.items():
        with Instance(server.folder / f"{uid}.dcm").open() as file:
            assert hashlib.sha256(file.read()).digest() == digest, uid
    for path in server.folder.glob("*.dcm"):
        dcmread(path)  # what was not acknowledged any more is whole, too
    if code == 0:
        assert not [*server.folder.rglob(".pacsroute-*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_ends_the_server(tmp_path, number):
    for delay in (0, 0.05, 0.1, 0.2, 0.4, 0.8):
        with subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path), "0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        ) as process:
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(delay)
                process.send_signal(number)
                process.wait(WAIT)
            finally:
                process.kill()


@pytest.mark.skipif(not LINUX, reason="signals as POSIX has them")
def test_third_signal_ends_hanging_after_functions(process):
    process.do(3)
    for _ in range(3):
        process.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(2)
    assert process.process.wait(WAIT) in (0, -signal.SIGTERM)


def test_a_clock_that_jumps_ends_nothing(tmp_path, monkeypatch):
    jumps = itertools.cycle([0, 86_400 * 400, -86_400 * 400, 3600, -1])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    app = saving(tmp_path / "folder", tmp_path / "spool")
    app.find(lambda request: ({"PatientID": str(number)} for number in range(50)))
    with unharmed(app, idle_timeout=5, artim=5, network_timeout=5) as server:
        with associated(server.port) as peer:
            for _ in range(20):
                assert peer.store(data_set(300_000), CT, "1.2.3", CT_ID).status == 0
                peer.send(*SENT["find"]())
                assert final(peer) == 0
            peer.release()
