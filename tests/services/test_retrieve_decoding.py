"""Retrievals that decode: what freezes a decoder hurts its own sub-operation and nobody else."""

import logging
import os
import signal
import time
from pathlib import Path

import pytest
from support.images import (
    FROZEN,
    JPEG_LS,
    RLE,
    SECONDARY_CAPTURE,
    blank_jpeg_ls,
    blank_rle,
    decoder_processes,
    end_decoders,
    instance,
    resident,
)
from support.names import EXPLICIT
from support.raw_peer import RawPeer
from support.retrieval import CANCEL, Requestor, counts
from support.serving import Serving
from support.unharmed import until

from pacsroute import App, Peer

pytestmark = pytest.mark.slow

MIB = 1 << 20
CONTEXT = (SECONDARY_CAPTURE, EXPLICIT)


@pytest.fixture(autouse=True)
def nobody_elses():
    end_decoders()


@pytest.fixture
def archive(tmp_path):
    """Return a function that serves the instances it is given, with settings."""

    def serve(*instances, **settings):
        app = App("ARCHIVE", **settings)
        paths = [one.save(tmp_path) for one in instances]

        @app.get("StudyRoot")
        @app.move("StudyRoot")
        def retrieve(request):
            return paths

        return app

    return serve


def frozen(number=1):
    return instance(JPEG_LS, [FROZEN], number=number, Rows=100, Columns=100)


def good(number=2):
    return instance(RLE, [blank_rle(16)], number=number)


def warnings(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_frozen_decoder_fails_its_sub_operation_with_one_line(archive, caplog):
    app = archive(frozen(), good(), decode_seconds=1)
    with app.serve(port=0) as server, Requestor(server.port, CONTEXT) as peer:
        peer.get()
        _, final, failed, came = peer.all()
        peer.release()
    assert (counts(final), failed) == ((None, 1, 1, 0), ["1.2.3.1"])
    assert len(came) == 1
    (line,) = warnings(caplog)
    assert "1.2.3.1 failed" in line.getMessage()
    assert "decode_seconds" in line.getMessage()
    assert line.exc_info is None


def test_others_are_answered_while_a_decoder_is_frozen(archive):
    app = archive(frozen(), decode_seconds=1000)
    with app.serve(port=0, grace=0) as server, Requestor(server.port, CONTEXT) as peer:
        before = resident()[0]
        peer.get()
        assert until(decoder_processes)
        (process,) = decoder_processes()
        assert process != os.getpid()
        for _ in range(20):
            with RawPeer(server.port) as other:
                started = time.monotonic()
                assert other.echo() == 0
                assert time.monotonic() - started < 10
                other.release()
        assert resident()[0] < before + 100 * MIB
    assert until(lambda: not decoder_processes(), seconds=10)


def test_a_decoder_is_ended_when_its_peer_has_left(archive):
    app = archive(frozen(), decode_seconds=1000)
    with app.serve(port=0) as server:
        with Requestor(server.port, CONTEXT) as peer:
            peer.get()
            assert until(decoder_processes)
        assert until(lambda: not decoder_processes(), seconds=10)
        with RawPeer(server.port) as other:
            assert other.echo() == 0
            other.release()


def test_a_cancel_ends_a_decoder(archive):
    app = archive(frozen(), good(), decode_seconds=1000)
    with app.serve(port=0) as server, Requestor(server.port, CONTEXT) as peer:
        peer.get()
        assert until(decoder_processes)
        peer.cancel(1)
        _, final, _, came = peer.all()
        assert (final.status, counts(final), came) == (CANCEL, (1, 0, 1, 0), [])
        assert until(lambda: not decoder_processes(), seconds=10)
        peer.release()


def test_a_move_goes_on_after_a_frozen_decoder(archive):
    app = archive(frozen(), good(), decode_seconds=1)
    destination = App("DEST")
    received = []
    destination.store(transfer_syntaxes=[EXPLICIT])(received.append)
    with destination.serve(port=0) as other, app.serve(port=0) as server:
        app.destinations["DEST"] = Peer("127.0.0.1", other.port)
        with Requestor(server.port) as peer:
            peer.move()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (counts(final), failed) == ((None, 1, 1, 0), ["1.2.3.1"])
    assert [request.sop_instance for request in received] == ["1.2.3.2"]


def test_instance_too_large_to_decode_is_stored_and_sent_as_it_is(archive, tmp_path):
    frames = [blank_jpeg_ls(2000, 2000)] * 600
    size = {"Rows": 2000, "Columns": 2000, "BitsAllocated": 16, "NumberOfFrames": 600}
    image = instance(JPEG_LS, frames, number=1, **size)
    app = archive(image)
    app.store(lambda request: request.save(tmp_path / "stored") and None)
    with image.open() as file:
        data = file.read()
    with app.serve(port=0) as server:
        with RawPeer(server.port, [(SECONDARY_CAPTURE, JPEG_LS)]) as peer:
            assert peer.store(data, SECONDARY_CAPTURE, "1.2.3.1").status == 0
            peer.release()
        with Requestor(server.port, (SECONDARY_CAPTURE, JPEG_LS)) as peer:
            peer.get()
            _, final, _, ((_, came),) = peer.all()
            peer.release()
        assert (counts(final), came) == ((None, 1, 0, 0), data)
        with Requestor(server.port, CONTEXT) as peer:
            peer.get()
            _, final, failed, came = peer.all()
            peer.release()
    assert (counts(final), failed, came) == ((None, 0, 1, 0), ["1.2.3.1"], [])


def test_pixel_bombs_of_many_peers_take_no_memory(archive, caplog):
    bomb = instance(RLE, [blank_rle(128)], number=1, Rows=65535, Columns=65535)
    app = archive(bomb)
    before = resident()[1]
    with app.serve(port=0) as server:
        peers = [Requestor(server.port, CONTEXT) for _ in range(6)]
        for peer in peers:
            peer.get()
        for peer in peers:
            _, final, _, _ = peer.all()
            assert counts(final) == (None, 0, 1, 0)
            peer.release()
            peer.socket.close()
        assert all(resident(process)[1] < 200 * MIB for process in decoder_processes())
    assert resident()[1] < before + 50 * MIB
    assert len(warnings(caplog)) == 6
    assert all("of RLE cannot be" in line.getMessage() for line in warnings(caplog))


WORKERS = """
from pathlib import Path
from pacsroute import App
app = App("ARCHIVE", decode_seconds=1000)

@app.get("StudyRoot")
def retrieve(request):
    return list(Path(__file__).parent.glob("*.dcm"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["worker killed", "arbiter killed", "stopped"])
def test_no_decoder_outlives_its_worker(tmp_path, how):
    (tmp_path / "app.py").write_text(WORKERS)
    frozen().save(tmp_path)
    with Serving(tmp_path, "app.py", "--port", "0", "--workers", "1", "--grace", "1") as server:
        arbiter = server.process.pid
        (worker,) = map(int, Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split())
        with Requestor(server.port, CONTEXT) as peer:
            peer.get()
            assert until(lambda: decoder_processes(worker))
            number = signal.SIGTERM if how == "stopped" else signal.SIGKILL
            os.kill(worker if how == "worker killed" else arbiter, number)
            assert until(lambda: not decoder_processes(worker), seconds=10)
