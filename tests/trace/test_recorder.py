"""What is kept of an association, and how it is read back."""

import errno
import io
import json
import logging
import math
import os
import re
import socket
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.raw_peer import RawPeer

from pacsroute import App, Peer, uids
from pacsroute.net import transport
from pacsroute.net.pace import Pace
from pacsroute.net.tapped import TappedSocket
from pacsroute.trace import recording
from pacsroute.trace.conversation import UnreadableFile
from pacsroute.trace.files import read
from pacsroute.trace.recording import Recorder, recorder
from pacsroute.upper_layer.tap import Link

IMAGE = ("1.2.840.10008.5.1.4.1.1.7", uids.EXPLICIT_VR_LITTLE_ENDIAN)
LINK = Link("acceptor", "10.0.0.1:104", "10.0.0.7:50312")


def recorded(path):
    """Return a recording's conversation, its chunks without their times, and its trouble."""
    found = list(read(path))
    conversation = found[-1][0]
    assert found[-1][1] is None
    chunks = [(chunk.by_requestor, chunk.data) for _, chunk in found[:-1]]
    return conversation, chunks, conversation.trouble


def sides(chunks):
    return [b"".join(data for who, data in chunks if who is side) for side in (True, False)]


def test_every_byte_of_both_directions_is_in_the_file(tmp_path, raw_peer):
    app = App()
    app.taps.append(recorder(tmp_path / "here" / "recordings"))
    with app.serve(port=0, grace=1) as server:
        with raw_peer(server.port) as peer:
            address = "{}:{}".format(*peer.socket.getsockname())
            peer.echo()
            peer.release()
    (path,) = (tmp_path / "here" / "recordings").iterdir()
    conversation, chunks, trouble = recorded(path)
    assert (conversation.requestor, conversation.acceptor) == (
        address,
        f"127.0.0.1:{server.port}",
    )
    assert trouble == ""
    asked, answered = sides(chunks)
    assert [asked[0], asked[-10]] == [1, 5]
    assert [answered[0], answered[-10]] == [2, 6]
    assert [who for who, _ in chunks] == [True, False] * 3


def test_recording_is_readable_by_its_owner_only(tmp_path, raw_peer):
    folder = tmp_path / "recordings"
    app = App()
    app.taps.append(recorder(folder))
    with app.serve(port=0, grace=1) as server:
        for _ in range(2):
            with raw_peer(server.port) as peer:
                peer.release()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    paths = sorted(folder.iterdir())
    assert len(paths) == 2
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z-[0-9]+-[0-9]{6,}\.rec", path.name)


def test_client_is_recorded_from_its_side(tmp_path):
    served, asking = App("PACS"), App("ASKING")
    asking.taps.append(recorder(tmp_path))
    with served.serve(port=0, grace=1) as server:
        asking.destinations["PACS"] = Peer("127.0.0.1", server.port)
        with asking.connect("PACS") as client:
            client.echo()
    (path,) = tmp_path.iterdir()
    header = json.loads(path.read_bytes().split(b"\n")[1])
    assert header["role"] == "requestor"
    assert header["peer"] == f"127.0.0.1:{server.port}"
    assert header["version"] == uids.IMPLEMENTATION_VERSION
    conversation, chunks, _ = recorded(path)
    assert conversation.acceptor == f"127.0.0.1:{server.port}"
    assert [side[0] for side in sides(chunks)] == [1, 2]


def test_channel_without_taps_reads_the_socket_directly(raw_peer):
    app = App()
    seen = []

    @app.echo
    def echo(request):
        seen.append(type(request.association._channel._socket))

    with app.serve(port=0, grace=1) as server, raw_peer(server.port) as peer:
        peer.echo()
        app.taps.append(lambda link: Recorder)
        peer.release()
    assert seen == [socket.socket]


# ------------------------------------------------------------- the file


def make(folder, *records):
    """Write a recording; return its path."""
    tap = Recorder(folder, LINK)
    for by_peer, data in records:
        (tap.received if by_peer else tap.sent)(data)
    tap.closed()
    (path,) = folder.iterdir()
    return path


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=50))))
def test_recording_round_trips(tmp_path_factory, records):
    path = make(tmp_path_factory.mktemp("recording"), *records)
    conversation, chunks, trouble = recorded(path)
    assert chunks == records
    assert trouble == ""
    assert (conversation.requestor, conversation.acceptor) == (LINK.peer, LINK.local)


def test_a_cut_recording_is_read_as_far_as_it_goes(tmp_path):
    records = [(True, b"abc"), (False, b"defgh"), (True, b"ij")]
    whole = make(tmp_path, *records).read_bytes()
    header = whole.index(b"}\n") + 2
    before = []
    for end in range(header, len(whole)):
        found = list(recording.read(io.BytesIO(whole[len(recording.MAGIC) : end])))
        assert found[-1][0].trouble == "the recording was cut here"
        told = sides([(c.by_requestor, c.data) for _, c in found[:-1]])
        assert told[0] in (b"abcij"[:n] for n in range(6))
        assert told[1] in (b"defgh"[:n] for n in range(6))
        assert sum(map(len, told)) >= sum(map(len, before or [b""]))
        before = told
    assert before == [b"abcij", b"defgh"]


@given(st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=5))
def test_a_damaged_recording_is_no_traceback(tmp_path_factory, damage):
    path = make(tmp_path_factory.mktemp("recording"), (True, b"abc"), (False, b"defgh"))
    damaged = bytearray(path.read_bytes())
    for at, byte in damage:
        damaged[at % len(damaged)] = byte
    path.write_bytes(damaged)
    try:
        list(read(path))
    except UnreadableFile:
        pass


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 60_000,
        b'{"role": "acceptor", "local": "a", "peer": "b", "began": 1%s}' % (b"0" * 400),
    ],
)
def test_a_header_that_no_recorder_writes_is_no_traceback(tmp_path, header):
    path = tmp_path / "odd.rec"
    path.write_bytes(recording.MAGIC + header + b"\n")
    with pytest.raises(UnreadableFile, match="header is damaged"):
        list(read(path))


# ------------------------------------------------------------- when it fails


@pytest.fixture
def full_disk(monkeypatch):
    """No recording may become longer than 2,000 bytes, as if the disk was full."""
    # Not by a limit of the process: what pytest prints to a file would meet it, too.
    write_all = recording.write_all

    def limited(fd, data):
        room = 2000 - os.fstat(fd).st_size
        write_all(fd, data[:room])
        if len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recording, "write_all", limited)


def test_a_full_disk_ends_the_recording_and_not_the_association(tmp_path, caplog, full_disk):
    app = App()
    sizes = []

    @app.store
    def store(request):
        with request.instance.open() as file:
            sizes.append(len(file.read()))

    app.taps.append(recorder(tmp_path))
    data = bytes.fromhex("0800180055490a00") + b"1.2.3.4.5\0" + bytes(4000)
    with caplog.at_level(logging.ERROR), app.serve(port=0, grace=1) as server:
        with RawPeer(server.port, [IMAGE]) as peer:
            assert peer.store(data[:18], IMAGE[0], "1.2.3.4.5").status == 0
            for _ in range(3):
                assert peer.store(data, IMAGE[0], "1.2.3.4.5").status == 0
            peer.release()
    assert len(sizes) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "recording or tracing of an association ends: No space left on device"
    ]
    (path,) = tmp_path.iterdir()
    _, chunks, trouble = recorded(path)
    assert trouble == "the recording was cut here"
    assert sides(chunks)[1][0] == 2  # what there was before is there


def test_missing_recording_folder_harms_no_association(tmp_path, caplog, raw_peer):
    app = App()
    app.taps.append(recorder(tmp_path / "gone"))
    os.rmdir(tmp_path / "gone")
    with caplog.at_level(logging.ERROR), app.serve(port=0, grace=1) as server:
        with raw_peer(server.port) as peer:
            assert peer.echo() == 0
            peer.release()
    assert [record.getMessage() for record in caplog.records] == [
        "recording or tracing of an association ends: No such file or directory"
    ]


def test_failing_tap_is_not_called_again(caplog, raw_peer):
    told = []

    class Broken:
        def received(self, data):
            told.append(bytes(data))
            raise ZeroDivisionError

        def sent(self, data): ...

        def closed(self): ...

    app = App()
    app.taps.append(lambda link: Broken())
    with caplog.at_level(logging.ERROR), app.serve(port=0, grace=1) as server:
        with raw_peer(server.port) as peer:
            assert peer.echo() == 0
            peer.release()
    assert len(told) == 1
    assert len(caplog.records) == 1


def test_addresses_are_recorded():
    seen = []

    class Looking:
        def __init__(self, link):
            seen.append(link)

    here, there = socket.socketpair()
    with here, there:
        TappedSocket(here, "acceptor", [Looking])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as sock:
            TappedSocket(sock, "requestor", [Looking])
    assert seen[0] == Link("acceptor", "", "")
    assert (seen[1].role, seen[1].peer) == ("requestor", f"127.0.0.1:{port}")


def test_a_peer_that_takes_nothing_is_given_up_while_it_is_observed():
    here, there = socket.socketpair()
    with here, there:
        transport.set_up(here, 1, 0.05)
        tapped = TappedSocket(here, "acceptor", [])
        with pytest.raises(OSError, match=r"too slowly|temporarily"):
            transport.send_all(tapped, [bytes(10_000_000)], lambda: Pace(0, math.inf))
