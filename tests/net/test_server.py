"""The server over real sockets: limits, ends, failures, and peers that misbehave."""

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.names import ALL_STUDIES, CT, EXPLICIT, FIND, IMPLICIT, WAIT
from support.raw_peer import RawPeer
from support.unharmed import until

from pacsroute import App, Association, Failure, SetupError, Status, uids
from pacsroute.dimse import command_set, commands
from pacsroute.instances import part10
from pacsroute.net.flusher import Flusher
from pacsroute.net.places import Places
from pacsroute.thread_pool import DaemonPool
from pacsroute.upper_layer import pdu

ECHO = [(uids.VERIFICATION, IMPLICIT)]
# Query/Retrieve Level STUDY and an empty Patient ID.
EMPTY = bytes.fromhex("0800050000000000")  # a data set of an empty Specific Character Set


def gone(peer):
    """Tell whether the other side ends the association: an A-ABORT, then nothing."""
    try:
        received = peer.read_pdu()
        return isinstance(received, pdu.Abort)
    except (EOFError, ConnectionError):
        return True


# ------------------------------------------------------------------------------ limits


def test_association_beyond_the_limit_is_rejected_as_transient():
    with App().serve(port=0, max_associations=1, grace=1) as server:
        with RawPeer(server.port) as first:
            assert first.echo() == 0
            with RawPeer(server.port) as second:
                assert second.answer == pdu.AssociateRJ(2, 3, 2)
            assert first.echo() == 0
            first.release()
        with RawPeer(server.port) as third:
            assert third.echo() == 0
            third.release()


def test_an_interrupt_while_it_stops_does_not_leave_the_lifespan_open(monkeypatch):
    app, ended = App(), []

    @app.lifespan
    def resources(app):
        yield
        ended.append(True)

    def interrupt(seconds):
        raise KeyboardInterrupt

    with app.serve(port=0, grace=WAIT) as server, RawPeer(server.port) as peer:
        clock = SimpleNamespace(sleep=interrupt, monotonic=time.monotonic)
        with monkeypatch.context() as patched:
            patched.setattr("pacsroute.net.server.time", clock)
            with pytest.raises(KeyboardInterrupt):
                server.stop()
        assert ended == [True]
        peer.release()


@pytest.mark.parametrize("outstanding", [1, 2])
def test_place_is_free_before_the_release_response(outstanding):
    app, obstacles = App(outstanding=outstanding), []

    class Tap:
        received = closed = lambda *_: None

        def sent(self, data):
            if data[0] == pdu.encode(pdu.ReleaseRP())[0]:
                obstacles.append(server.obstacle())

    app.taps.append(lambda link: Tap())
    with app.serve(port=0, max_associations=1, grace=1) as server:
        with RawPeer(server.port, window=(outstanding, 1)) as peer:
            assert peer.echo() == 0
            assert server.obstacle() == "max_associations reached, 1 associations"
            peer.release()
        assert obstacles == [""]


@pytest.mark.parametrize("outstanding", [1, 2])
def test_running_handler_keeps_its_place_after_the_release(outstanding):
    app, seen, go_on = App(outstanding=outstanding), threading.Event(), threading.Event()

    @app.find
    def find(request):
        while not request.cancelled:
            pass
        seen.set()
        go_on.wait(WAIT)
        return []

    with app.serve(port=0, max_associations=1, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)], window=(outstanding, 1)) as peer:
            peer.send(1, commands.CFindRQ(message_id=1, affected_sop_class=FIND), ALL_STUDIES)
            peer.release()
            assert seen.wait(WAIT)
            assert server.obstacle()
            go_on.set()


def test_association_being_rejected_takes_no_place():
    places = Places(App(max_associations=1).config)
    first, refusal = places.associate("10.0.0.1", "CT")
    assert refusal is None
    assert places.associate("10.0.0.2", "MR") == ([], pdu.AssociateRJ(2, 3, 2))
    places.leave(first)
    places.leave(first)
    assert places.associations == 0
    assert places.associate("10.0.0.3", "US")[1] is None  # while the second reads why


def test_associations_are_served_at_the_same_time():
    app, both = App(), threading.Barrier(2)

    @app.echo
    def echo(request):
        both.wait(WAIT)

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port) as one, RawPeer(server.port) as two:
            for peer in (one, two):
                peer.send(1, commands.CEchoRQ(message_id=1, affected_sop_class=uids.VERIFICATION))
            assert [peer.receive()[0].status for peer in (one, two)] == [0, 0]
            one.release()
            two.release()


def test_a_listener_that_is_taken_is_an_os_error():
    with App().serve(port=0) as server, pytest.raises(OSError):
        App().serve(port=server.port)


# ------------------------------------------------------------------------------ find


def test_the_generator_is_closed_when_the_peer_vanishes():
    app, closed = App(), threading.Event()

    @app.find
    def find(request):
        try:
            while True:
                yield {"PatientID": "1"}
        finally:
            closed.set()

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(ALL_STUDIES, FIND)
            assert peer.receive()[0].status == 0xFF00
        assert closed.wait(WAIT)


def test_an_idle_generator_learns_that_the_peer_vanished():
    app, started, learned = App(), threading.Event(), threading.Event()

    @app.find
    def find(request):
        started.set()
        while not request.cancelled:
            threading.Event().wait(0.01)
        learned.set()
        yield {}

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(ALL_STUDIES, FIND)
            assert started.wait(WAIT)
        assert learned.wait(WAIT)


def test_a_handler_that_ends_because_of_a_cancel_is_answered_with_cancel():
    app = App()

    @app.find
    def find(request):
        yield {"PatientID": "1"}
        while not request.cancelled:
            threading.Event().wait(0.01)

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(ALL_STUDIES, FIND)
            assert peer.receive()[0].status == 0xFF00
            peer.send(1, commands.CCancelRQ(message_id_responded_to=1))
            assert peer.receive()[0].status == 0xFE00


def test_answers_arrive_although_the_next_is_not_there_yet():
    app, received = App(), [threading.Event(), threading.Event()]
    in_time = []

    @app.find
    def find(request):
        for event in received:
            yield {"PatientID": "1"}
            in_time.append(event.wait(WAIT))

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(ALL_STUDIES, FIND)
            for event in received:
                command, data = peer.receive()
                assert command.status == 0xFF00
                assert data
                event.set()
            assert peer.receive()[0].status == 0
            peer.release()
    assert in_time == [True, True]


def test_many_answers_come_whole_and_in_order():
    app = App()

    @app.find
    def find(request):
        for i in range(5000):
            yield {"PatientID": f"{i:06}"}

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(ALL_STUDIES, FIND)
            for i in range(5000):
                command, data = peer.receive()
                assert command.status == 0xFF00
                assert f"{i:06}".encode() in data
            assert peer.receive()[0].status == 0
            peer.release()


def test_an_identifier_that_is_missing_or_broken_is_a_mismatch():
    app = App()
    app.find(lambda request: [])
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(None, FIND)
            assert peer.receive()[0].status == 0xA900
            peer.find(b"\x08\x00\x52\x00\xff\xff\xff\x00abc", FIND)
            assert peer.receive()[0].status == 0xA900
            peer.find(ALL_STUDIES, FIND)
            assert peer.receive()[0].status == 0
            peer.release()


# ------------------------------------------------------------------------------ failures


def test_a_handler_that_raises_leaves_the_association_alive():
    app = App()

    def broken(request):
        raise RuntimeError("DOE^JOHN")

    app.echo(broken)
    app.store(broken)
    app.find(broken)
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [*ECHO, (CT, EXPLICIT), (FIND, IMPLICIT)]) as peer:
            for _ in range(2):
                assert peer.echo() == 0x0110
                response = peer.store(EMPTY, CT, "1.2.3", 3)
                assert response.status == 0xC000
                assert response.error_comment == "the handler failed: RuntimeError"
                peer.find(ALL_STUDIES, FIND, 5)
                assert peer.receive()[0].status == 0xC000
            peer.release()


def test_a_failure_gives_its_status_and_comment():
    app = App()

    @app.store
    def store(request):
        raise Failure(0xA900, "x" * 100, OffendingElement=0x00100020)

    with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        response = peer.store(EMPTY, CT, "1.2.3")
        peer.release()
    assert (response.status, response.error_comment) == (0xA900, "x" * 64)
    assert response.offending_element == (0x00100020,)


def test_a_status_with_a_comment_beyond_ascii_is_sent_all_the_same():
    app = App()
    app.store(lambda request: Status(0xB000, "größer"))
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(EMPTY, CT, "1.2.3").status == 0xB000
        peer.release()


def test_invalid_requests_never_reach_a_handler():
    app, reached = App(), []
    app.store(CT)(reached.append)
    data = b"\x08\x00\x18\x00UI\x06\x009.8.7\x00"
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(CT, EXPLICIT), *ECHO]) as peer:
            assert peer.store(data, CT, "not a UID").status == 0x0117
            assert peer.store(data, CT, "1.2.3").status == 0xA900
            assert peer.store(data, CT, "9.8.7", context_id=3).status == 0x0122
            peer.send(1, commands.UnknownRQ(message_id=9, received_field=0x0777))
            answer = peer.receive()[0]
            assert (answer.status, answer.message_id_responded_to) == (0x0211, 9)
            assert reached == []
            assert peer.store(data, CT, "9.8.7").status == 0
            peer.release()
    assert len(reached) == 1


def test_a_cancel_that_comes_too_late_is_ignored():
    app = App()
    app.find(lambda request: [{"PatientID": "1"}] * 3)
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            for _ in range(2):
                peer.find(ALL_STUDIES, FIND, message_id=5)
                assert [peer.receive()[0].status for _ in range(4)] == [0xFF00] * 3 + [0]
                peer.send(1, commands.CCancelRQ(message_id_responded_to=5))
            peer.release()


def test_after_runs_once_the_response_is_written():
    app, responded, after = App(), threading.Event(), []
    done = threading.Event()

    @app.echo
    def echo(request):
        request.after(lambda: after.append(responded.wait(WAIT)))
        request.after(_raise)
        request.after(done.set)

    def _raise():
        raise RuntimeError

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port) as peer:
            assert peer.echo() == 0
            responded.set()
            assert peer.echo() == 0
            peer.release()
        assert done.wait(WAIT)
    assert after == [True, True]


# ------------------------------------------------------------------------------ stopping


def test_stop_ends_after_functions_and_then_the_lifespan():
    app, seen, go = App(), [], threading.Event()

    @app.lifespan
    def resources(app):
        seen.append("start")
        yield
        seen.append("stop")

    @app.echo
    def echo(request):
        request.after(lambda: seen.append(go.wait(WAIT)))

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port) as peer:
            assert peer.echo() == 0
            peer.release()
        go.set()
    assert seen == ["start", True, "stop"]
    with pytest.raises(OSError):
        RawPeer(server.port)


def test_an_association_may_finish_within_the_grace():
    app, started, go = App(), threading.Event(), threading.Event()

    @app.echo
    def echo(request):
        started.set()
        go.wait(WAIT)

    server = app.serve(port=0, grace=WAIT)
    server.start()
    with RawPeer(server.port) as peer:
        peer.send(1, commands.CEchoRQ(message_id=1, affected_sop_class=uids.VERIFICATION))
        assert started.wait(WAIT)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        go.set()
        assert peer.receive()[0].status == 0
        peer.release()
    stopping.join(WAIT)
    assert not stopping.is_alive()


def test_stop_aborts_an_idle_association_after_the_grace():
    server = App().serve(port=0, grace=0.2)
    server.start()
    with RawPeer(server.port) as peer:
        assert peer.echo() == 0
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        received = peer.read_pdu()
        assert isinstance(received, pdu.Abort)
        assert received.source == 0
        stopping.join(WAIT)
        assert not stopping.is_alive()


def test_stop_ends_a_connection_that_never_asked_for_an_association():
    server = App().serve(port=0, grace=0.2, artim=WAIT)
    server.start()
    with RawPeer(server.port), socket.create_connection(("127.0.0.1", server.port), WAIT) as silent:
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        with contextlib.suppress(ConnectionResetError):  # it was not even accepted yet
            silent.recv(100)
        stopping.join(WAIT)
        assert not stopping.is_alive()


def test_stop_ends_a_connection_that_was_accepted_a_moment_before(monkeypatch, caplog):
    accepted, go_on, connect = threading.Event(), threading.Event(), Places.connect

    def slowly(places, host):
        accepted.set()
        return go_on.wait(WAIT) and connect(places, host)

    monkeypatch.setattr(Places, "connect", slowly)
    server = App().serve(port=0, grace=0, artim=60)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), WAIT) as silent:
        assert accepted.wait(WAIT)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert until(lambda: server._over)  # those that were known then have been told
        go_on.set()
        assert silent.recv(100) == b""
        stopping.join(WAIT)
        assert not stopping.is_alive()
    assert "handlers that do not end" not in caplog.text


class _PausingLock:
    """A lock that stops the thread which leaves it first after a condition holds."""

    def __init__(self, condition):
        self.paused, self.go_on = threading.Event(), threading.Event()
        self._condition, self._lock = condition, threading.Lock()

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *_):
        is_met = self._condition()
        self._lock.release()
        if is_met and not self.paused.is_set():
            self.paused.set()
            self.go_on.wait(WAIT)


def test_a_thread_that_ends_does_not_count_as_one_that_waits_for_a_peer(monkeypatch):
    monkeypatch.setattr("pacsroute.net.server._SPARE", 1)
    server = App().serve(port=0, grace=1)
    (door,) = server._doors
    server._lock = _PausingLock(lambda: door.spare > 1)
    with server:
        with RawPeer(server.port) as first:
            first.release()
        assert until(lambda: server._lock.paused.is_set() or len(server._threads) == 1)
        with RawPeer(server.port) as second:
            assert second.echo() == 0
            server._lock.go_on.set()
            assert until(lambda: door.spare == 1 or len(server._threads) == 1)
            with RawPeer(server.port) as third:
                assert third.echo() == 0
                third.release()
            second.release()


def test_a_peer_that_asks_for_nothing_is_dropped_after_artim():
    with App().serve(port=0, artim=0.1, grace=1) as server:
        with socket.create_connection(("127.0.0.1", server.port), WAIT) as silent:
            assert silent.recv(100) == b""


def test_idle_and_stalled_associations_are_aborted():
    options = {"idle_timeout": 0.2, "network_timeout": 0.1, "grace": 1, "artim": 1}
    app = App()
    app.store(lambda request: None)
    with app.serve(port=0, **options) as server:
        with RawPeer(server.port) as idle:
            assert gone(idle)
        with RawPeer(server.port) as stalled:
            stalled.socket.sendall(b"\x04\x00\x00\x00\x01\x00\x00")
            assert gone(stalled)


# ------------------------------------------------------------------------------ a process

SERVER = """
import sys
from pacsroute import App

app = App("MEMORY", spool=sys.argv[1])

@app.store
def store(request):
    request.save(sys.argv[1], durable=False)

server = app.serve(port=0, grace=1)
print(server.port, flush=True)
server.run()
"""


@pytest.fixture
def process(tmp_path):
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as started:
        try:
            started.port = int(started.stdout.readline())
            yield started
        finally:
            started.kill()


def _peak(pid):
    """Return the most memory that a process ever had, in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        pytest.skip("there is no /proc here to read the memory of a process from")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if "VmHWM" in line)


def test_memory_stays_flat_while_200_megabytes_are_stored(process, tmp_path):
    pixels = 200_000_000
    with RawPeer(process.port, [(CT, EXPLICIT), *ECHO]) as peer:
        assert peer.echo(3) == 0
        assert peer.store(EMPTY, CT, "1.2.4").status == 0
        before = _peak(process.pid)
        command = commands.CStoreRQ(
            message_id=2, affected_sop_class=CT, affected_sop_instance="1.2.3", has_data_set=True
        )
        encoded = command_set.encode(command)
        peer.socket.sendall(
            pdu.encode(pdu.PDataTF((pdu.PDV(1, True, True, encoded),)))
            + pdu.encode(
                pdu.PDataTF(
                    (
                        pdu.PDV(
                            1,
                            False,
                            False,
                            b"\xe0\x7f\x10\x00OW\0\0" + pixels.to_bytes(4, "little"),
                        ),
                    )
                )
            )
        )
        size = min((peer.maximum or 65_536) - 6, 62_500) & ~1
        while pixels % size:
            size -= 2
        piece = pdu.encode(pdu.PDataTF((pdu.PDV(1, False, False, bytes(size)),)))
        for _ in range(pixels // size - 1):
            peer.socket.sendall(piece)
        peer.socket.sendall(pdu.encode(pdu.PDataTF((pdu.PDV(1, False, True, bytes(size)),))))
        assert peer.receive()[0].status == 0
        assert _peak(process.pid) - before < 16_000_000
        peer.release()
    head = len(part10.head(CT, "1.2.3", EXPLICIT, writer="MEMORY", sender="RAW", receiver="ANY"))
    assert (tmp_path / "1.2.3.dcm").stat().st_size == head + 12 + pixels


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_sigterm_stops_the_server(process):
    with RawPeer(process.port) as peer:
        assert peer.echo() == 0
        process.terminate()
        assert isinstance(peer.read_pdu(), pdu.Abort)
    assert process.wait(WAIT) == 0


# ------------------------------------------------------------------------------ garbage


def _garbage():
    chance = random.Random(1)
    good = pdu.encode(
        pdu.AssociateRQ("ANY", "RAW", (pdu.PresentationContext(1, uids.VERIFICATION, (IMPLICIT,)),))
    )
    yield b""
    yield b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    yield b"\x01\x00\xff\xff\xff\xff" + bytes(1000)
    yield good[:50]
    for number in range(10):
        yield struct.pack(">BxI", number, 4) + bytes(4)
    for _ in range(20):
        yield chance.randbytes(chance.randrange(1, 3000))
    for _ in range(40):  # requests with a few wrong bytes
        wrong = bytearray(good)
        for _ in range(4):
            wrong[chance.randrange(len(wrong))] = chance.randrange(256)
        yield bytes(wrong)
    for _ in range(60):  # something wrong after a good request
        kind = chance.randrange(10)
        body = chance.randbytes(chance.randrange(64))
        yield good + struct.pack(">BxI", kind, len(body)) + body
    for control in range(8):
        pdv = b"\x01" + bytes((control,)) + chance.randbytes(20)
        yield good + struct.pack(">BxII", 4, len(pdv) + 4, len(pdv)) + pdv


def test_garbage_leaves_the_server_serving():
    app = App()
    app.store(lambda request: None)
    with app.serve(port=0, grace=1, artim=1) as server:
        for data in _garbage():
            with socket.create_connection(("127.0.0.1", server.port), WAIT) as sock:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    while sock.recv(4096):
                        pass
        with RawPeer(server.port) as peer:
            assert peer.echo() == 0
            peer.release()


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (b"\x99\x00\x00\x00\x00\x00", 1),
        (pdu.encode(pdu.ReleaseRP()), 2),
        (struct.pack(">BxIIBB", 4, 8, 4, 77, 3) + b"ab", 5),
    ],
)
def test_pdu_that_the_standard_forbids_is_aborted(received, reason):
    with App().serve(port=0, grace=1, artim=1) as server, RawPeer(server.port) as peer:
        peer.socket.sendall(received)
        assert peer.read_pdu() == pdu.Abort(2, reason)


@pytest.mark.parametrize(
    "name", ["allow", "require_called_ae", "maximum_length", "outstanding", "debug", "spool"]
)
def test_settings_that_only_an_app_can_have_are_refused_elsewhere(name):
    """They would be ignored, and who relies on `allow` must not find that out later."""
    app, value = App(), getattr(App().config, name)
    words = rf"{name} is a setting of the app: use App\({name}=…\)"
    with pytest.raises(SetupError, match=words):
        app.serve(port=0, **{name: "x" if value is None else value})
    with pytest.raises(SetupError, match=words):
        Association.accept(None, app, **{name: value})


def test_daemon_threads_do_not_delay_exit():
    done, hold, daemons = [], threading.Event(), DaemonPool("pacsroute-after", 4)
    for number in range(20):
        daemons.submit(lambda number=number: done.append(number))
    daemons.drain()
    assert sorted(done) == list(range(20))
    with pytest.raises(RuntimeError):
        daemons.submit(lambda: done.append("too late"))
    assert len(done) == 20
    stuck = DaemonPool("pacsroute-after", 4)
    stuck.submit(lambda: hold.wait(WAIT))
    stuck.drain(lambda: True)  # it does not wait, and the process could end
    assert not hold.is_set()
    names = [thread for thread in threading.enumerate() if thread.name == "pacsroute-after"]
    assert names
    assert all(thread.daemon for thread in names)
    hold.set()


def test_functions_deferred_after_stop_run_at_once():
    done = []
    with App().serve(port=0) as server:
        pass
    server._defer(lambda: done.append("at once"))
    assert done == ["at once"]


def test_a_release_of_both_sides_at_once_where_we_are_the_acceptor(raw_peer):
    """PS3.8 §7.2.2: the requestor's response comes first, then the acceptor's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            sock, _ = listener.accept()
            Association.accept(sock, App()).release()

        thread = threading.Thread(target=serve)
        thread.start()
        with raw_peer(listener.getsockname()[1], ECHO) as peer:
            assert isinstance(peer.read_pdu(), pdu.ReleaseRQ)
            peer.socket.sendall(pdu.encode(pdu.ReleaseRQ()))
            peer.socket.sendall(pdu.encode(pdu.ReleaseRP()))
            assert isinstance(peer.read_pdu(), pdu.ReleaseRP)
        thread.join(WAIT)
        assert not thread.is_alive()


def test_a_hook_that_raises_leaves_no_socket_open(raw_peer):
    app, sockets = App(), []

    @app.before_association
    def before(association):
        raise KeyError("mine")

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            sockets.append(listener.accept()[0])
            with contextlib.suppress(KeyError):
                Association.accept(sockets[0], app)

        thread = threading.Thread(target=serve)
        thread.start()
        with raw_peer(listener.getsockname()[1], ECHO) as peer:
            assert isinstance(peer.answer, pdu.AssociateRJ)
        thread.join(WAIT)
    assert sockets[0].fileno() == -1


def test_role_selection_of_unproposed_classes_is_not_answered(raw_peer):
    roles = tuple(pdu.RoleSelection(f"1.2.3.{n:055}", True, True) for n in range(900))
    with App().serve(port=0) as server, socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(WAIT)
        context = pdu.PresentationContext(1, uids.VERIFICATION, (IMPLICIT,))
        information = pdu.UserInformation(16_384, "1.2.3.4", roles=roles)
        s.sendall(pdu.encode(pdu.AssociateRQ("ANY", "RAW", (context,), information)))
        assert s.recv(1) == b"\x02"


def test_failed_flush_ends_one_association_only():
    """There is one thread for it in a process."""
    tried, flushed = threading.Event(), threading.Event()

    class Broken:
        def flush_waiting(self):
            tried.set()
            raise MemoryError

    class Sound:
        def flush_waiting(self):
            flusher.remove(self)
            flushed.set()

    flusher = Flusher()
    flusher.add(Broken())
    assert tried.wait(WAIT)
    flusher.add(Sound())
    assert flushed.wait(WAIT)
