"""C-GET and C-MOVE of instances in files: opened ahead, changed meanwhile, in constant memory."""

import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.datasets import made, uid
from support.names import CT, EXPLICIT, WAIT
from support.places import ROOT
from support.retrieval import CANCEL, PENDING, Requestor, counts, files, receiving, serving

from pacsroute import (
    App,
    Failure,
    Instance,
)
from pacsroute.dimse import commands
from pacsroute.instances.stored import Stored
from pacsroute.storage import Folder
from pacsroute.upper_layer import pdu

# ------------------------------------------------------------------------------ files


@pytest.fixture
def opened(monkeypatch):
    """What is opened ahead, as it happens."""
    instances, original = queue.Queue(), Instance.opened

    def watched(instance):
        found = original(instance)
        instances.put(found)
        return found

    monkeypatch.setattr(Instance, "opened", watched)
    return instances


@pytest.mark.parametrize("service", ["get", "move"])
def test_the_next_of_a_list_is_opened_while_a_peer_stores_one(service, tmp_path, opened):
    path = tmp_path / f"{uid(1)}.dcm"

    def store(*_):
        if path.exists():  # the first one is being stored
            opened.get(timeout=WAIT)
            os.truncate(path, 200)  # it was read, too
            path.unlink()
        return 0

    instances = files(tmp_path, 2)
    with receiving(store) as destination:
        with serving(lambda request: instances, DEST=destination.port) as server:
            with Requestor(server.port, (CT, EXPLICIT)) as peer:
                getattr(peer, service)()
                _, final, _, _ = peer.all(store)
                peer.release()
    assert (final.status, counts(final)) == (0, (None, 2, 0, 0))


@pytest.mark.parametrize("service", ["get", "move"])
def test_a_generator_that_reads_ahead_goes_on_while_a_peer_stores(service, tmp_path):
    went_on = queue.Queue()

    def handler(request):
        request.count, request.read_ahead = 3, True
        for number, instance in enumerate(files(tmp_path, 3)):
            yield instance
            went_on.put(number)
        return 0xB000

    seen = []

    def store(*_):
        seen.append(went_on.get(timeout=WAIT))
        return 0

    with receiving(store) as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            getattr(peer, service)()
            _, final, _, _ = peer.all(store)
            peer.release()
    assert (final.status, counts(final)) == (0xB000, (None, 3, 0, 0))
    assert seen == [0, 1, 2]


def test_a_generator_that_fails_while_it_reads_ahead_fails_after_what_it_yielded(tmp_path):
    def handler(request):
        request.count, request.read_ahead = 2, True
        yield from files(tmp_path, 1)
        raise Failure(0xA701, "no more")

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, _, came = peer.all()
        peer.release()
    assert (final.status, len(came)) == (0xA701, 1)


def test_files_opened_ahead_are_closed_after_a_cancel(tmp_path, opened):
    ahead = []

    def store(number, command):
        ahead.append(opened.get(timeout=WAIT))
        peer.cancel(1)
        return 0

    instances = files(tmp_path, 3)
    with serving(lambda request: instances) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            _, final, _, came = peer.all(store)
            peer.release()
    assert (final.status, counts(final), len(came)) == (0xFE00, (2, 1, 0, 0), 1)
    assert [instance._opened for instance in (*ahead, *instances)] == [None] * 4


def test_instances_that_requests_share_are_sent_to_all_of_them(tmp_path):
    instances = files(tmp_path, 5, 20_000)

    def fetch(results):
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            for _ in range(10):
                peer.get()
                _, final, _, came = peer.all()
                results.append((final.status, [data[-20_000:] for _, data in came]))
            peer.release()

    found = [[] for _ in range(3)]
    with serving(lambda request: instances) as server:
        threads = [threading.Thread(target=fetch, args=(results,)) for results in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert found == [[(0, [bytes(20_000)] * 5)] * 10] * 3


@pytest.mark.parametrize("service", ["get", "move"])
def test_a_generator_goes_on_when_the_peer_has_answered(service, tmp_path):
    told = []

    def handler(request):
        request.count = 2
        for number in range(2):
            (instance,) = files(tmp_path, 1)
            yield instance
            told.append(f"answered {number}")
            (tmp_path / f"{uid(0)}.dcm").unlink()

    def store(*_):
        told.append("stored")
        return 0

    with receiving(store) as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            getattr(peer, service)()
            _, final, _, _ = peer.all(store)
            peer.release()
    assert counts(final) == (None, 2, 0, 0)
    assert told == ["stored", "answered 0", "stored", "answered 1"]


def test_a_failed_dataset_is_named_even_if_the_handler_uses_it_again():
    def handler(request):
        request.count = 2
        ds = made(0)
        for number in range(2):
            ds.SOPInstanceUID = uid(number)
            yield ds

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, failed, _ = peer.all(lambda number, command: 0xA700 if number == 0 else 0)
        peer.release()
    assert (final.status, failed) == (0xB000, [uid(0)])


@pytest.mark.parametrize("service", ["get", "move"])
@pytest.mark.parametrize("hints", [True, False])
def test_a_file_that_vanishes_is_named_by_its_hints(service, hints, tmp_path):
    instances = files(tmp_path, 5)
    paths = [tmp_path / f"{uid(number)}.dcm" for number in range(5)]

    def handler(request):
        request.count = 5
        for number in range(5):
            if number == 1:
                paths[1].unlink()
            yield instances[number] if hints else paths[number]

    with receiving() as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            getattr(peer, service)()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (final.status, counts(final)) == (0xB000, (None, 4, 1, 0))
    assert failed == ([uid(1)] if hints else [])


class Shrinking(Instance):
    """An instance whose file gets shorter once the first part of it is read."""

    def open(self):
        file = super().open()
        path = self._source

        class File:
            tell, seek, close, fileno = file.tell, file.seek, file.close, file.fileno
            closed = False

            def readinto(self, buffer):
                count = file.readinto(buffer)
                if os.path.getsize(path) > 300_000:
                    os.truncate(path, 300_000)
                return count

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return File()


def shrinking(folder, count, which):
    instances = files(folder, count, 3_000_000)
    path = folder / f"{uid(which)}.dcm"
    instances[which] = Shrinking(
        path, sop_class=CT, sop_instance=uid(which), transfer_syntax=EXPLICIT
    )
    return instances


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_gets_shorter_while_it_is_moved(which, tmp_path):
    """It fails and is not sent again as if it were whole; the others arrive."""
    instances = shrinking(tmp_path, 4, which)
    with receiving() as destination:
        with serving(lambda request: instances, DEST=destination.port) as server:
            with Requestor(server.port) as peer:
                peer.move()
                _, final, failed, _ = peer.all()
                peer.release()
    assert (final.status, counts(final), failed) == (0xB000, (None, 3, 1, 0), [uid(which)])
    received = {request.sop_instance: len(data) for request, data in destination.received}
    assert received.keys() == {uid(number) for number in range(4) if number != which}
    assert min(received.values()) > 3_000_000


def test_a_file_that_gets_shorter_while_it_is_fetched(tmp_path):
    """Half of it is on the way already: the association is aborted."""
    closed = threading.Event()

    def handler(request):
        request.count = 4
        try:
            yield from shrinking(tmp_path, 4, 1)
        finally:
            closed.set()

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        answers = peer.answers()
        assert len(next(answers)[1]) > 3_000_000
        assert next(answers)[0].status == PENDING
        with pytest.raises(AssertionError, match="Abort"):
            next(answers)
        assert closed.wait(WAIT)


def got_and_moved(handler):
    """Return the Pending and the final responses of a C-GET and of a C-MOVE."""
    found = []
    with receiving() as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            for ask in (peer.get, peer.move):
                ask()
                pending, final, _, _ = peer.all()
                found.append((pending, final))
            peer.release()
    assert len(found) == 2
    return found


@pytest.mark.parametrize("bad", ["a\0b", "storage"])
def test_an_instance_that_cannot_be_opened_ahead_fails_alone(bad, tmp_path):
    class Broken(Folder):
        def open(self, key):
            raise RuntimeError

    if bad == "storage":
        bad = Instance(Stored(Broken(tmp_path / "storage"), "key"))
    good = [Instance(made(number)).save(tmp_path) for number in range(3)]

    def handler(request):
        return [good[0], bad, *good[1:]]

    for pending, final in got_and_moved(handler):
        assert (final.status, counts(final)) == (0xB000, (None, 3, 1, 0))
        assert [counts(one) for one in pending] == [
            (3, 1, 0, 0), (2, 1, 1, 0), (1, 2, 1, 0), (0, 3, 1, 0)
        ]  # fmt: skip


def test_file_that_is_not_dicom_fails_alone(tmp_path):
    (tmp_path / "text").write_text("not DICOM")
    (tmp_path / "empty").touch()

    def handler(request):
        return [tmp_path / "text", tmp_path / "empty", tmp_path, "a\0b", made(1)]

    for _, final in got_and_moved(handler):
        assert (final.status, counts(final)) == (0xB000, (None, 1, 4, 0))


# ------------------------------------------------------------------------------ memory


SERVER = """
import sys
from pacsroute import App, Instance, Peer

app = App("BIG", spool=sys.argv[2])

@app.get
@app.move
def retrieve(request):
    request.count = 60
    for number in range(60):
        yield Instance(sys.argv[1], sop_class=sys.argv[3], sop_instance=sys.argv[4],
                       transfer_syntax="1.2.840.10008.1.2.1")

@app.destination
def destination(ae_title, request):
    return Peer("127.0.0.1", int(ae_title))

server = app.serve(port=0, grace=1)
print(server.port, flush=True)
server.run()
"""


def peak(pid):
    """Return the most memory that a process ever had, in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        pytest.skip("there is no /proc here to read the memory of a process from")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if "VmHWM" in line)


def test_memory_stays_flat_while_300_megabytes_pass(tmp_path):
    files(tmp_path / "files", 1, 5_000_000)
    (path,) = (tmp_path / "files").iterdir()
    taken = []
    app = App("DEST", spool=tmp_path)
    app.store(lambda request: taken.append(os.path.getsize(path)))
    arguments = [sys.executable, "-c", SERVER, str(path), str(tmp_path), CT, uid(0)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process,
        app.serve(port=0, grace=1) as destination,
    ):
        try:
            port = int(process.stdout.readline())
            with Requestor(port, (CT, EXPLICIT)) as peer:
                peer.get(QueryRetrieveLevel="HOSPITAL")
                assert peer.all()[1].status == 0xA900
                before = peak(process.pid)
                size = 0
                peer.get()
                for command, data in peer.answers():
                    size += len(data or b"")
                    final = command
                assert (final.status, final.completed) == (0, 60)
                assert size > 300_000_000
                peer.move(str(destination.port))
                assert counts(peer.all()[1]) == (None, 60, 0, 0)
                assert len(taken) == 60
                assert peak(process.pid) - before < 24_000_000
                peer.release()
        finally:
            process.kill()


class Unreadable(Instance):
    """An instance whose file opens, and cannot be read."""

    def open(self):
        class File:
            def tell(self):
                return 0

            def seek(self, *where):
                return 5_000_000

            def readinto(self, buffer):
                raise OSError("disk")

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

        return File()


def test_a_pending_that_waits_goes_before_the_abort(tmp_path):
    *good, bad = files(tmp_path, 3)
    bad = Unreadable(bad._source, **bad.hints)
    with serving(lambda request: [*good, bad]) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            answers = peer.answers()
            assert isinstance(next(answers)[0], commands.CStoreRQ)
            assert isinstance(next(answers)[0], commands.CStoreRQ)
            command, _ = next(answers)
            assert (command.status, command.completed) == (PENDING, 1)
            assert isinstance(peer.read_pdu(), pdu.Abort)


def test_unencodable_dataset_of_an_uncounted_generator_fails_alone(tmp_path):
    def handler(request):
        for number in range(5):
            ds = made(number)
            if number == 2:
                ds.Rows = 70_000
            yield ds

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, failed, came = peer.all()
        peer.release()
    assert (final.status, counts(final)) == (0xB000, (None, 4, 1, 0))
    assert (failed, len(came)) == ([uid(2)], 4)


def test_cancelled_request_does_not_drain_an_uncounted_generator():
    begun, cancelled, drawn = threading.Event(), threading.Event(), []

    def handler(request):
        for number in range(1000):
            drawn.append(number)
            begun.set()
            assert cancelled.wait(WAIT)
            deadline = time.monotonic() + WAIT
            while not request.cancelled and time.monotonic() < deadline:
                time.sleep(0.001)
            yield made(number)

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        assert begun.wait(WAIT)
        peer.cancel(1)
        cancelled.set()
        _, final, _, came = peer.all()
        peer.release()
    assert (final.status, came) == (CANCEL, [])
    assert len(drawn) <= 2


@pytest.mark.parametrize("error", [KeyError("mine"), RuntimeError("mine")])
def test_an_instance_of_the_handlers_own_that_raises(error, tmp_path):
    class Own(Instance):
        def open(self):
            raise error

    good, bad = files(tmp_path, 2)
    bad = Own(bad._source, **bad.hints)
    with serving(lambda request: [bad, good]) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (final.status, counts(final), failed) == (0xB000, (None, 1, 1, 0), [uid(1)])


def test_a_dataset_without_a_uid_is_not_sent():
    nameless = made(1)
    del nameless.SOPInstanceUID
    with serving(lambda request: [nameless, made(2)]) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            _, final, _, came = peer.all()
            peer.release()
    assert (counts(final), len(came)) == ((None, 1, 1, 0), 1)


@pytest.mark.parametrize("count", ["5", (5,), 5.5])
def test_a_count_that_is_no_number_fails_the_request(count):
    def handler(request):
        request.count = count
        yield made(1)

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, _, _ = peer.all()
        peer.get(message_id=2)
        peer.all()
        peer.release()
    assert final.status == 0xC000
