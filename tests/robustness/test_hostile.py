"""What an attacker found, so that nobody finds it again."""

import asyncio
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from support.names import (
    ALL_STUDIES,
    CT,
    DEFLATED,
    EXPLICIT,
    FIND,
    GET,
    IMPLICIT,
    MOVE,
    MPPS,
    MR,
    ONE_STUDY,
    WAIT,
)
from support.raw_peer import RawPeer

from pacsroute import App, Instance, uids
from pacsroute.dimse import command_set, commands
from pacsroute.upper_layer import pdu
from pacsroute.upper_layer.negotiation import negotiate

HINTS = {"sop_class": CT, "sop_instance": "1.2.3", "transfer_syntax": EXPLICIT}

ECHO = [(uids.VERIFICATION, IMPLICIT)]


def instance(uid, size=0):
    """Return a data set in explicit VR with a SOP Instance UID and as many zeros."""
    value = uid.encode().ljust(len(uid) + len(uid) % 2, b"\0")
    data = b"\x08\0\x18\0UI" + struct.pack("<H", len(value)) + value
    return data + b"\xe0\x7f\x10\0OB\0\0" + struct.pack("<I", size) + bytes(size) if size else data


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, SystemExit, MemoryError]
)
def test_server_survives_any_exception_of_a_handler(error):
    app = App()

    @app.echo
    def echo(request):
        if request.calling_ae == "RAW" and request.message_id == 1:
            raise error

    with app.serve(port=0, grace=1) as server:
        for _ in range(8):  # more than there are threads that wait
            with RawPeer(server.port) as peer:
                try:
                    assert peer.echo() == 0x0110
                except (AssertionError, EOFError, ConnectionError):
                    assert error is KeyboardInterrupt
        with RawPeer(server.port) as peer:
            assert peer.echo(message_id=2) == 0


def test_requests_sent_ahead_do_not_stall_a_find():
    app = App()
    stop = threading.Event()

    @app.find
    def find(request):
        for number in range(200_000):
            yield {"PatientID": str(number)}

    with app.serve(port=0, grace=0) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT), *ECHO]) as peer:
            command = commands.CEchoRQ(message_id=9, affected_sop_class=uids.VERIFICATION)
            encoded = command_set.encode(command)
            flood = pdu.encode(pdu.PDataTF((pdu.PDV(3, True, True, encoded),))) * 100

            def send():
                peer.socket.settimeout(WAIT)
                try:
                    while not stop.is_set():
                        peer.socket.sendall(flood)
                except OSError:
                    pass

            peer.find(ALL_STUDIES, FIND)
            flooding = threading.Thread(target=send)
            flooding.start()
            try:
                for _ in range(5_000):
                    assert peer.receive()[0].status == 0xFF00
            finally:
                stop.set()
                peer.socket.shutdown(socket.SHUT_RDWR)
                flooding.join(WAIT)


def test_an_identifier_is_not_inflated_without_end():
    app = App()
    app.find(lambda request: [])
    bomb = b"\x10\0\x20\0LO\0\0" + b"\x10\0\x21\0UT\0\0" + struct.pack("<I", 64 << 20)
    deflated = zlib.compressobj(9, wbits=-15)
    data = deflated.compress(bomb + bytes(64 << 20)) + deflated.flush()
    data += b"\0" * (len(data) & 1)
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, DEFLATED)]) as peer:
            peer.find(data, FIND)
            assert peer.receive()[0].status == 0xA700


def test_an_identifier_has_only_so_many_elements():
    app = App()
    app.find(lambda request: [])
    many = b"".join(struct.pack("<HHI", 0x0011, element, 0) for element in range(60_000))
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(many, FIND)
            assert peer.receive()[0].status == 0xA700


def test_an_identifier_has_only_so_many_items():
    app = App()
    app.find(lambda request: [])
    items = bytes.fromhex("feff00e000000000") * 60_000
    sequence = struct.pack("<HHI", 0x0008, 0x1140, len(items)) + items
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(sequence, FIND)
            assert peer.receive()[0].status == 0xA700


def test_an_n_create_has_only_so_many_items():
    app = App(max_elements=2000)
    app.n_create("MPPS")(lambda request: None)
    items = bytes.fromhex("feff00e000000000") * 2_200
    sequence = struct.pack("<HHI", 0x0008, 0x1140, len(items)) + items
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(MPPS, IMPLICIT)]) as peer:
            peer.send(1, commands.NCreateRQ(message_id=1, affected_sop_class=MPPS), sequence)
            assert peer.receive()[0].status == 0x0213


@pytest.mark.parametrize(
    "size", [0, 300_000, 1_500_000], ids=["in memory", "in its buffer", "in a file"]
)
def test_saved_instance_is_read_even_when_its_file_was_replaced(tmp_path, size):
    app, read = App(spool=tmp_path / "spool"), []

    @app.store
    def store(request):
        path = request.save(tmp_path)
        path.rename(tmp_path / "elsewhere")
        path.write_bytes(b"another instance, stored meanwhile")
        read.append(request.dataset.SOPInstanceUID)

    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
            assert peer.store(instance("1.2.3", size), CT, "1.2.3").status == 0
    assert read == ["1.2.3"]


def test_a_broken_store_leaves_neither_file_nor_descriptor(tmp_path):
    app, ended = App(spool=tmp_path), threading.Semaphore(0)
    app.store(lambda request: None)
    gc.disable()  # it is not the collector that tidies up
    try:
        with app.serve(port=0, grace=1) as server:
            with RawPeer(server.port) as peer:
                assert peer.echo() == 0
            before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
            for _ in range(10):
                with RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
                    command = commands.CStoreRQ(
                        message_id=1, affected_sop_class=CT, affected_sop_instance="1.2"
                    )
                    command.has_data_set = True
                    peer.socket.sendall(
                        pdu.encode(
                            pdu.PDataTF((pdu.PDV(1, True, True, command_set.encode(command)),))
                        )
                    )
                    for _ in range(3):
                        piece = pdu.PDataTF((pdu.PDV(1, False, False, bytes(100_000)),))
                        peer.socket.sendall(pdu.encode(piece))
                    peer.socket.sendall(pdu.encode(pdu.Abort(0)))
                    assert peer.socket.recv(1) == b""  # the server has closed, and tidied up
            for _ in range(100):
                if not list(tmp_path.glob(".pacsroute-*")):
                    break
                ended.acquire(timeout=0.05)
            assert not list(tmp_path.glob(".pacsroute-*"))
            if before:
                assert len(os.listdir("/proc/self/fd")) <= before + 2
    finally:
        gc.enable()


@pytest.mark.parametrize("cut", [0, 4], ids=["an empty first fragment", "tiny fragments"])
def test_fragments_hide_no_other_instance(cut):
    app = App()
    app.store(lambda request: None)
    data = instance("9.9.9")
    pieces = [data[at : at + cut] for at in range(0, len(data), cut)] if cut else [b"", data]
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
            command = commands.CStoreRQ(
                message_id=1, affected_sop_class=CT, affected_sop_instance="1.2.3"
            )
            command.has_data_set = True
            parts = [pdu.PDV(1, True, True, command_set.encode(command))]
            parts += [pdu.PDV(1, False, piece is pieces[-1], piece) for piece in pieces]
            for part in parts:
                peer.socket.sendall(pdu.encode(pdu.PDataTF((part,))))
            assert peer.receive()[0].status == 0xA900


def test_a_store_without_a_byte_of_data_set_is_refused():
    app = App()
    app.store(lambda request: None)
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(b"", CT, "1.2.3").status == 0xA900


def test_a_command_of_another_class_than_its_context_is_refused():
    app, called = App(), []
    app.store("CTImageStorage")(called.append)
    app.store("MRImageStorage", transfer_syntaxes=[EXPLICIT])(called.append)
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(CT, IMPLICIT)]) as peer:
        assert peer.store(b"\x08\0\x05\0\0\0\0\0", MR, "1.2.3").status == 0x0122
        assert peer.store(b"\x08\0\x05\0\0\0\0\0", "garbage", "1.2.3").status == 0x0122
    assert not called


def test_invalid_uid_costs_only_its_context():
    app = App()
    app.store(lambda request: None)
    contexts = [*ECHO, ("1.2.ÿ", EXPLICIT), (CT, "garbage"), (CT, ""), ("", EXPLICIT)]
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, contexts) as peer:
        assert [result.result for result in peer.answer.contexts] == [0, 3, 4, 4, 3]
        assert peer.echo() == 0


def test_an_a_abort_after_the_release_closes_at_once():
    with App().serve(port=0, artim=60, grace=1) as server, RawPeer(server.port) as peer:
        peer.release()
        peer.socket.sendall(pdu.encode(pdu.Abort(0)))
        assert peer.socket.recv(1) == b""


def test_values_that_pydicom_would_complain_about_are_not_in_the_log(caplog, recwarn):
    app, seen = App(), []
    app.store(lambda request: seen.append(request.dataset.StudyInstanceUID))
    data = b"\x20\0\x0d\0UI\x0e\0PATIENT-12345\0"
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(data, CT, "1.2.3").status == 0
    assert seen == ["PATIENT-12345"]
    assert "PATIENT" not in caplog.text
    assert not [warning for warning in recwarn if "PATIENT" in str(warning.message)]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_two_signals_at_once_stop_the_server(tmp_path):
    (tmp_path / "app.py").write_text("from pacsroute import App\napp = App()\n")
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-m", "pacsroute", "run", "--port", "0"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                for line in process.stdout:
                    if "listening" in line:
                        break
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGTERM)
                process.wait(WAIT)
            finally:
                process.kill()


def odd_instances():
    """Yield data sets that hide the UID of another instance from a look at their beginning."""
    other = instance("9.9.9")
    yield "behind a long element", b"\x08\0\5\0LO" + struct.pack("<H", 5000) + bytes(5000) + other
    yield "behind a sequence", b"\x08\0\6\0SQ\0\0\0\0\0\0" + other
    yield "out of order", b"\x10\0\x20\0LO\2\0A " + other
    yield "with another VR", other.replace(b"UI", b"UC\0\0", 1).replace(b"\6\0", b"\6\0\0\0", 1)


@pytest.mark.parametrize("data", [pytest.param(d, id=name) for name, d in odd_instances()])
def test_handler_reads_the_instance_that_the_command_names(data):
    app, read = App(), []
    app.store(lambda request: read.append(request.dataset.SOPInstanceUID))
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(data, CT, "1.2.3").status == 0xA900
        assert peer.store(instance("1.2.3"), CT, "1.2.3").status == 0
    assert read == ["1.2.3"]


def related(sop_class, general, times=1):
    """Return the answer to a request that says what a class is a kind of, and the connection."""
    contexts = tuple(
        pdu.PresentationContext(number, sop_class, (EXPLICIT,)) for number in range(1, 1 + times)
    )
    common = (pdu.CommonExtendedNegotiation(sop_class, "1.2.840.10008.4.2", general),)
    information = pdu.UserInformation(16_384, "1.2.3.4", common_extended=common)
    return pdu.AssociateRQ("ANY", "RAW", contexts, information)


@pytest.mark.parametrize(
    ("sop_class", "general", "result"),
    [
        ("1.2.3.4", CT, 0),
        ("../../etc/cron.d/x", CT, 3),
        ("forged\nline", CT, 3),
        (uids.VERIFICATION.replace("1.1", "1.20.1"), CT, 3),  # of the dictionary, and no storage
        ("1.2.3.4", FIND, 3),
        ("1.2.3.4", uids.VERIFICATION, 3),
    ],
)
def test_related_general_classes_are_storage_classes_only(sop_class, general, result):
    app = App()
    app.store("CTImageStorage")(lambda request: None)
    app.find(lambda request: [])
    request = related(sop_class, (general,))
    answer, _ = negotiate(request, app.policy("RAW", "ANY"), 16_384)
    assert [context.result for context in answer.contexts] == [result]


def test_related_general_classes_are_looked_up_once():
    class Policy(type(App().policy(""))):
        asked = 0

        def serves(self, sop_class):
            self.asked += 1
            return super().serves(sop_class)

    policy = Policy([])
    negotiate(related(MR, tuple(f"1.2.{n}" for n in range(1000)), times=100), policy, 16_384)
    assert policy.asked < 2000


def test_hooks_see_related_general_classes():
    app, audit = App(), []
    app.store("CTImageStorage")(lambda request: None)
    app.after_request(lambda request, status, error: audit.append((request.sop_class, str(status))))
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, []) as peer:
        peer.socket.close()
        peer.socket = socket.create_connection(("127.0.0.1", server.port), WAIT)
        peer.socket.sendall(pdu.encode(related("1.2.3.4", (CT,))))
        peer.answer = peer.read_pdu()
        assert peer.store(instance("1.2.3"), "1.2.3.4", "1.2.3").status == 0
    assert audit == [("1.2.3.4", "0x0000 Success")]


def test_data_set_without_a_handler_is_not_kept(tmp_path):
    app = App(spool=tmp_path)
    app.store("CTImageStorage")(lambda request: None)
    sinks = []

    @app.before_association
    def look(association):
        opened = association._inbox._assembler._open_sink
        association._inbox._assembler._open_sink = lambda *args: (
            sinks.append(opened(*args)) or sinks[-1]
        )

    with app.serve(port=0, grace=1) as server, RawPeer(server.port) as peer:
        for command in (
            commands.CStoreRQ(affected_sop_class=CT, affected_sop_instance="1.2"),
            commands.CFindRQ(affected_sop_class=FIND),
            commands.NSetRQ(requested_sop_class=MPPS, requested_sop_instance="1.2"),
        ):
            command.message_id = 1
            peer.send(1, command, bytes(300_000))
            assert peer.receive()[0].status in (0x0122, 0xA900)
    assert [(type(sink).__name__, len(sink)) for sink in sinks] == [("Memory", 0)] * 3


def retrieving(peer, port):
    """Have a peer that reads slowly ask for all instances with a C-GET."""
    contexts = (
        pdu.PresentationContext(1, GET, (IMPLICIT,)),
        pdu.PresentationContext(3, CT, (EXPLICIT,)),
    )
    roles = (pdu.RoleSelection(CT, True, True),)
    request = pdu.AssociateRQ("ANY", "RAW", contexts, pdu.UserInformation(0, "1.2", roles=roles))
    peer.socket.close()
    peer.socket = socket.socket()
    peer.socket.settimeout(WAIT)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.socket.connect(("127.0.0.1", port))
    peer.socket.sendall(pdu.encode(request))
    peer.answer = peer.read_pdu()
    peer.send(1, commands.CGetRQ(message_id=1, affected_sop_class=GET), ONE_STUDY)


def test_a_peer_is_not_listened_to_without_end_while_its_response_is_waited_for():
    app = App()
    app.get(lambda request: [Instance(instance("1.2.3"), **HINTS)])
    app.store(lambda request: None)
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, []) as peer:
        retrieving(peer, server.port)
        assert isinstance(peer.receive()[0], commands.CStoreRQ)
        for number in range(100):
            command = commands.CStoreRQ(
                message_id=number, affected_sop_class=CT, affected_sop_instance="1.2"
            )
            try:
                peer.send(3, command, instance("1.2"))
            except OSError:
                break
        assert isinstance(peer.read_pdu(), pdu.Abort)


def test_a_peer_that_reads_a_byte_now_and_then_is_given_up(caplog):
    app = App(network_timeout=0.2, min_rate=1_000_000)
    app.get(lambda request: [Instance(instance("1.2.3", 20_000_000), **HINTS)])
    stop = threading.Event()
    with app.serve(port=0, grace=0) as server, RawPeer(server.port, []) as peer:
        retrieving(peer, server.port)
        while "the peer takes the data too slowly" not in caplog.text:
            assert peer.socket.recv(5_000)
            stop.wait(0.02)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_foreign_files_in_the_spool_do_not_stop_the_start(tmp_path):
    os.mkfifo(tmp_path / ".pacsroute-a.part")
    (tmp_path / "kept").write_text("kept")
    (tmp_path / ".pacsroute-b.part").symlink_to(tmp_path / "kept")
    with App(spool=tmp_path).serve(port=0, grace=1) as server, RawPeer(server.port) as peer:
        assert peer.echo() == 0
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_move_destination_is_an_ae_title():
    app, asked = App(), []
    app.move(lambda request: [Instance(instance("1.2.3"), **HINTS)])
    app.destination(lambda title, request: asked.append(title))
    with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(MOVE, IMPLICIT)]) as peer:
        for title in ("WS\nERROR forged", "\x1b[2J", "x" * 60_000, "WS"):
            command = commands.CMoveRQ(message_id=1, affected_sop_class=MOVE)
            command.move_destination = title
            peer.send(1, command, ONE_STUDY)
            assert peer.receive()[0].status == 0xA801
    assert asked == ["WS"]
