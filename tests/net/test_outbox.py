"""The outbox alone: what goes at once, what is held back, and keep-alive messages."""

import io
import socket
import threading
import time

import pytest
from support.names import WAIT

from pacsroute import App
from pacsroute.dimse import commands, messages
from pacsroute.errors import AssociationAborted, ReadFailed
from pacsroute.net import outbox as outboxes
from pacsroute.net.channel import Channel
from pacsroute.net.outbox import Outbox
from pacsroute.services.sinks import Memory
from pacsroute.upper_layer import pdu


class Peer:
    """The other end: it takes messages apart."""

    def __init__(self, sock):
        self.socket = sock
        self.socket.settimeout(WAIT)
        self._file = sock.makefile("rb")
        self._assembler = messages.Assembler(lambda context_id, command: Memory(10_000_000))

    def read_pdu(self):
        head = self._file.read(6)
        return pdu.decode(head + self._file.read(int.from_bytes(head[2:], "big")))

    def read(self):
        while True:
            for pdv in self.read_pdu().pdvs:
                for message in self._assembler.add(pdv):
                    return message


@pytest.fixture
def ends():
    """An outbox over an association that is established, and its peer."""
    ours, theirs = socket.socketpair()
    app = App(network_timeout=5)
    channel = Channel(ours, app.config)
    channel.connection.receive_data(pdu.encode(pdu.AssociateRQ("A", "B")))
    channel.connection.next_event()
    channel.connection.accept(pdu.AssociateAC("A", "B"))
    channel.write_out()
    peer = Peer(theirs)
    assert isinstance(peer.read_pdu(), pdu.AssociateAC)
    outbox = Outbox(channel, app, "the association")
    outbox.maximum_length = 16_384
    yield outbox, channel, peer
    outbox.close()
    peer._file.close()
    theirs.close()
    ours.close()


def pending(number):
    return commands.CFindRSP(
        message_id_responded_to=number, affected_sop_class="1.2.3", status=0xFF00
    )


def final(number):
    return commands.CFindRSP(message_id_responded_to=number, affected_sop_class="1.2.3", status=0)


def test_a_message_goes_at_once(ends):
    outbox, _, peer = ends
    outbox.send(1, final(7), b"odd")
    message = peer.read()
    assert message.command.message_id_responded_to == 7
    assert bytes(message.data) == b"odd\0"


def test_answers_are_held_back_and_go_with_the_final_one(ends, monkeypatch):
    monkeypatch.setattr(outboxes.flusher, "add", lambda one: None)
    outbox, _, peer = ends
    outbox.send(1, pending(7), b"12", more=True)
    peer.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.socket.recv(1)
    peer.socket.settimeout(WAIT)
    outbox.send(1, final(7))
    assert [peer.read().command.status for _ in range(2)] == [0xFF00, 0]


def test_held_answers_are_bounded(ends, monkeypatch):
    monkeypatch.setattr(outboxes.flusher, "add", lambda one: None)
    outbox, _, peer = ends
    outbox.send(1, pending(7), bytes(70_000), more=True)
    assert len(peer.read().data) == 70_000


def test_the_flusher_sends_what_waits_for_a_slow_handler(ends):
    outbox, _, peer = ends
    outbox.send(1, pending(7), b"12", more=True)
    assert peer.read().command.status == 0xFF00


def test_a_keep_alive_goes_after_silence_and_stops(ends, monkeypatch):
    monkeypatch.setattr(outboxes, "_PULSE", 0.01)
    outbox, _, peer = ends
    made = []

    def make():
        made.append(threading.current_thread().name)
        return 1, pending(7)

    outbox.pulse(make)
    assert peer.read().command.status == 0xFF00
    outbox.pulse(None)
    outbox.send(1, final(7))
    assert set(made) == {"pacsroute-flusher"}
    count = len(made)
    outbox.flush_waiting()
    assert len(made) == count


def test_flusher_does_not_wait_for_a_sender(ends):
    outbox, channel, peer = ends
    outbox.send(1, pending(7), b"12", more=True)
    with channel.sending:
        started = time.monotonic()
        thread = threading.Thread(target=outbox.flush_waiting)
        thread.start()
        thread.join(WAIT)
        assert time.monotonic() - started < WAIT
    assert peer.read().command.status == 0xFF00


def test_a_file_is_sent_in_pieces(ends):
    outbox, _, peer = ends
    content = bytes(range(256)) * 200 + b"!"
    outbox.send(1, commands.CStoreRQ(message_id=1, affected_sop_class="1.2"), File(content))
    assert bytes(peer.read().data) == content + b"\0"
    assert outbox._room is not None
    outbox.free_room()
    assert outbox._room is None


class File(io.BufferedReader):
    """A file that is not in memory, as far as the outbox knows."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))


class Broken(File):
    def readinto(self, view):
        raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_ends_the_association(ends):
    outbox, channel, peer = ends
    with pytest.raises(ReadFailed, match="Input/output error"):
        outbox.send(1, commands.CStoreRQ(message_id=1, affected_sop_class="1.2"), Broken(b"12"))
    assert isinstance(channel.ended, AssociationAborted)
    assert isinstance(peer.read_pdu(), pdu.Abort)


def test_nothing_goes_after_the_end(ends):
    outbox, channel, _ = ends
    channel.abort()
    with pytest.raises(AssociationAborted):
        outbox.send(1, final(7))


def test_a_request_is_owed_until_its_final_response_goes(ends):
    outbox, _, peer = ends
    outbox.overlapping = True
    outbox.owe(7)
    outbox.send(1, pending(7), b"12", more=True)
    assert outbox.owes
    outbox.send(1, final(7))
    assert not outbox.owes
    assert [peer.read().command.status for _ in range(2)] == [0xFF00, 0]


def test_the_observer_learns_of_data_sets(ends):
    outbox, _, _ = ends
    seen = []
    outbox._app.observer.sent = lambda peer, command, size: seen.append(
        (peer, type(command).__name__, size)
    )
    outbox.send(1, pending(7), b"1234")
    outbox.send(1, final(7))
    assert seen == [("the association", "CFindRSP", 4)]
