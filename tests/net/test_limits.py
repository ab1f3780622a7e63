"""Each limit, over a socket: what bites, what the peer is told, and that the log names it."""

from __future__ import annotations

import gc
import time

import pytest
from support.names import CT, DEFLATED, EXPLICIT, FIND

from pacsroute import App
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands
from pacsroute.dimse.messages import fragment


def _image(pixels, syntax=EXPLICIT, uid="1.2.3", **more):
    return encode(
        {"SOPClassUID": CT, "SOPInstanceUID": uid, "PixelData": bytes(pixels), **more}, syntax
    )


def _nested(depth):
    row = {"PatientID": "1"}
    for _ in range(depth):
        row = {"ReferencedSeriesSequence": [row]}
    return row


@pytest.fixture
def served(tmp_path):
    """Return a function that starts an app with some settings, which saves and parses."""
    servers = []

    def start(**settings):
        app = App("ARCHIVE", spool=tmp_path / "spool", **settings)

        @app.store
        def store(request):
            list(request.dataset.iterall())
            request.save(tmp_path / "archive", durable=False)

        @app.find("StudyRoot")
        def find(request):
            yield {"PatientID": "1"}

        server = app.serve(port=0, grace=1)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()
    assert list((tmp_path / "spool").glob("*")) == []


@pytest.mark.parametrize("size", [9_000, 300_000])
def test_a_data_set_that_is_too_long_is_refused_and_the_association_lives(
    served, raw_peer, caplog, size, tmp_path
):
    server = served(max_dataset_length=8_000)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(_image(size), CT, "1.2.3").status == 0xA700
        assert peer.store(_image(500), CT, "1.2.3").status == 0
    assert "max_dataset_length" in caplog.text
    assert [path.name for path in (tmp_path / "archive").iterdir()] == ["1.2.3.dcm"]


def test_the_spool_has_an_end_and_is_given_back(served, raw_peer, caplog):
    server = served(max_spool=2_000_000)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        for _ in range(3):
            assert peer.store(_image(2_400_000), CT, "1.2.3").status == 0xA700
            assert peer.store(_image(1_600_000), CT, "1.2.3").status == 0
    assert "max_spool" in caplog.text
    assert server.app.room.used == 0


def test_a_long_identifier_is_refused(served, raw_peer, caplog):
    server = served(max_identifier_length=1000)
    with raw_peer(server.port, [(FIND, EXPLICIT)]) as peer:
        peer.find(encode({"PatientComments": "x" * 2000}, EXPLICIT), FIND)
        assert peer.receive()[0].status == 0xA700
        peer.find(encode({"PatientID": ""}, EXPLICIT), FIND)
        assert peer.receive()[0].status == 0xFF00
    assert "max_identifier_length" in caplog.text


def test_a_long_command_set_is_an_abort(served, raw_peer, caplog):
    server = served(max_command_length=600)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        command = commands.CStoreRQ(message_id=1, affected_sop_class=CT)
        command.affected_sop_instance = "1" * 600
        for part in fragment(1, command, None, peer.maximum):
            peer.socket.sendall(part)
        assert type(peer.read_pdu()).__name__ == "Abort"
    server.stop()
    assert "600 bytes" in caplog.text


def test_nesting_has_a_limit(served, raw_peer, caplog):
    server = served(max_depth=5)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(_image(2, **_nested(4)), CT, "1.2.3").status == 0
        assert peer.store(_image(2, **_nested(9)), CT, "1.2.3").status == 0xA700
    assert "max_depth" in caplog.text


def test_elements_and_items_have_a_limit(served, raw_peer, caplog):
    server = served(max_elements=1000)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        few, many = ({"ReferencedSeriesSequence": [{}] * count} for count in (800, 1100))
        assert peer.store(_image(2, **few), CT, "1.2.3").status == 0
        assert peer.store(_image(2, **many), CT, "1.2.3").status == 0xA700
    assert "max_elements" in caplog.text


@pytest.mark.parametrize("limit", ["max_inflated", "max_memory"])
def test_a_deflate_bomb_is_refused_when_it_is_parsed(served, raw_peer, caplog, limit):
    gc.collect()  # the data of earlier tests counts, too
    server = served(**{limit: 3_000_000})
    with raw_peer(server.port, [(CT, DEFLATED)]) as peer:
        assert peer.store(_image(20_000_000, DEFLATED), CT, "1.2.3").status == 0xA700
        assert peer.store(_image(2_000_000, DEFLATED), CT, "1.2.3").status == 0
    assert limit in caplog.text


def test_a_peer_that_sends_a_byte_now_and_then_is_given_up(served, raw_peer, caplog):
    server = served(network_timeout=0.5, min_rate=10_000)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        command = commands.CStoreRQ(message_id=1, affected_sop_class=CT)
        command.affected_sop_instance = "1.2.3"
        parts = fragment(1, command, _image(10_000), peer.maximum)
        started = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012 - some byte meets the end
            for byte in b"".join(parts):
                peer.socket.sendall(bytes([byte]))
                peer.socket.settimeout(0.05)
                try:
                    assert peer.socket.recv(10)[:1] in (b"\x07", b"")
                    raise ConnectionError
                except TimeoutError:
                    peer.socket.settimeout(30)
        assert time.monotonic() - started < 5
    server.stop()
    assert "a message did not arrive in time: 0.5 s, or min_rate, 10000 bytes/s" in caplog.text


def test_an_association_that_takes_its_time_between_messages_lives(served, raw_peer):
    server = served(network_timeout=0.2)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        for number in range(3):
            command = commands.CStoreRQ(message_id=1, affected_sop_class=CT)
            command.affected_sop_instance = f"1.{number}"
            image = _image(100, uid=f"1.{number}")
            # At once, for the message itself must not take that long.
            peer.socket.sendall(b"".join(fragment(1, command, image, peer.maximum)))
            assert peer.receive()[0].status == 0
            peer.socket.settimeout(0.25)
            with pytest.raises(TimeoutError):
                peer.socket.recv(1)
            peer.socket.settimeout(30)
