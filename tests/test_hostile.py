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
from conftest import RawPeer

from pacsroute import App, uids
from pacsroute.dimse import commands
from pacsroute.upper_layer import pdu

CT = uids.sop_class("CTImageStorage", "store")
MR = uids.sop_class("MRImageStorage", "store")
STUDY = uids.sop_class("StudyRoot", "find")
MPPS = uids.sop_class("MPPS", "n_create")
IMPLICIT, EXPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN
DEFLATED = uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
WAIT = 8

ECHO = [(uids.VERIFICATION, IMPLICIT)]
IDENTIFIER = bytes.fromhex("0800520006000000") + b"STUDY " + bytes.fromhex("1000200000000000")


def instance(uid, size=0):
    """Return a data set in explicit VR with a SOP Instance UID and as many zeros."""
    value = uid.encode().ljust(len(uid) + len(uid) % 2, b"\0")
    data = b"\x08\0\x18\0UI" + struct.pack("<H", len(value)) + value
    return data + b"\xe0\x7f\x10\0OB\0\0" + struct.pack("<I", size) + bytes(size) if size else data


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, SystemExit, MemoryError]
)
def test_whatever_handlers_raise_the_server_goes_on(error):
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
        with RawPeer(server.port, [(STUDY, IMPLICIT), *ECHO]) as peer:
            command = commands.CEchoRQ(message_id=9, affected_sop_class=uids.VERIFICATION)
            encoded = commands.encode(command)
            flood = pdu.encode(pdu.PDataTF((pdu.PDV(3, True, True, encoded),))) * 100

            def send():
                peer.socket.settimeout(WAIT)
                try:
                    while not stop.is_set():
                        peer.socket.sendall(flood)
                except OSError:
                    pass

            peer.find(IDENTIFIER, STUDY)
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
        with RawPeer(server.port, [(STUDY, DEFLATED)]) as peer:
            peer.find(data, STUDY)
            assert peer.receive()[0].status == 0xA900


def test_an_identifier_has_only_so_many_elements():
    app = App()
    app.find(lambda request: [])
    many = b"".join(struct.pack("<HHI", 0x0011, element, 0) for element in range(60_000))
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(STUDY, IMPLICIT)]) as peer:
            peer.find(many, STUDY)
            assert peer.receive()[0].status == 0xA900


def test_an_identifier_has_only_so_many_items():
    app = App()
    app.find(lambda request: [])
    items = bytes.fromhex("feff00e000000000") * 60_000
    sequence = struct.pack("<HHI", 0x0008, 0x1140, len(items)) + items
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(STUDY, IMPLICIT)]) as peer:
            peer.find(sequence, STUDY)
            assert peer.receive()[0].status == 0xA900


def test_an_n_create_has_only_so_many_items():
    app = App()
    app.n_create("MPPS")(lambda request: None)
    items = bytes.fromhex("feff00e000000000") * 220_000
    sequence = struct.pack("<HHI", 0x0008, 0x1140, len(items)) + items
    with app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [(MPPS, IMPLICIT)]) as peer:
            peer.send(1, commands.NCreateRQ(message_id=1, affected_sop_class=MPPS), sequence)
            assert peer.receive()[0].status == 0x0110


@pytest.mark.parametrize("size", [0, 300_000], ids=["in memory", "in a file"])
def test_what_was_saved_is_read_even_when_the_file_is_another(tmp_path, size):
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
                        pdu.encode(pdu.PDataTF((pdu.PDV(1, True, True, commands.encode(command)),)))
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
            parts = [pdu.PDV(1, True, True, commands.encode(command))]
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


def test_a_uid_that_is_none_costs_only_its_context():
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
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
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
