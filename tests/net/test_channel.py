"""The channel alone: bytes in and out, and how it ends."""

import socket
import ssl
import threading
import time

import pytest
from support.names import WAIT

from pacsroute import App
from pacsroute.errors import AssociationAborted, AssociationReleased, ProtocolError
from pacsroute.net import channel as channel_module
from pacsroute.net import transport
from pacsroute.net.channel import Channel, NothingCame
from pacsroute.upper_layer import pdu


class End:
    """The peer's end of a channel."""

    def __init__(self, sock):
        self.socket = sock
        self.socket.settimeout(WAIT)

    def send(self, *pdus):
        self.socket.sendall(b"".join(map(pdu.encode, pdus)))

    def read(self):
        head = self.socket.recv(6, socket.MSG_WAITALL)
        body = self.socket.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)
        return pdu.decode(head + body) if head else None


@pytest.fixture
def ends():
    """Return a function that makes a channel on which an association is established."""
    made = []

    def make(**settings):
        ours, theirs = socket.socketpair()
        made.extend((ours, theirs))
        told = []
        channel = Channel(
            ours, App(**{"artim": 1, **settings}).config, on_end=lambda: told.append(True)
        )
        channel.told = told
        peer = End(theirs)
        peer.send(pdu.AssociateRQ("A", "B"))
        assert channel.read_before(time.monotonic() + WAIT)
        channel.connection.next_event()
        channel.connection.accept(pdu.AssociateAC("A", "B"))
        channel.write_out()
        assert isinstance(peer.read(), pdu.AssociateAC)
        return channel, peer

    yield make
    for sock in made:
        sock.close()


def test_what_comes_is_read(ends):
    channel, peer = ends()
    assert not channel.read_now()
    data = pdu.PDataTF((pdu.PDV(1, True, True, b"1234"),))
    peer.send(data)
    channel.read()
    assert channel.connection.next_event() == data
    peer.send(data)
    assert channel.read_now()
    assert channel.connection.next_event() == data


def test_how_it_ends_is_said_once(ends):
    channel, _ = ends()
    first = AssociationAborted(0)
    channel.end(first)
    channel.end(AssociationReleased("later"))
    channel.give_up("later still")
    assert channel.ended is first
    assert channel.told == [True]


def test_a_lost_connection_ends_it(ends):
    channel, peer = ends()
    peer.socket.close()
    channel.read()
    assert isinstance(channel.ended, AssociationAborted)
    assert str(channel.ended) == "the connection was lost"


def test_silence_ends_it(ends):
    channel, peer = ends(idle_timeout=0.05)
    channel.read()
    assert str(channel.ended) == "no message received for 0.05 s"
    assert isinstance(peer.read(), pdu.Abort)


def test_silence_within_a_message_ends_it_sooner(ends):
    channel, _ = ends(network_timeout=0.05)
    channel.read(10)
    assert str(channel.ended) == "nothing received in the middle of a message"


def test_another_thread_stops_it(ends):
    channel, peer = ends()
    thread = threading.Thread(target=channel.read)
    thread.start()
    channel.stop()
    thread.join(WAIT)
    assert str(channel.ended) == "stopped by this side"
    assert isinstance(peer.read(), pdu.Abort)


def test_a_release_is_asked_for_and_answered(ends):
    channel, peer = ends()
    peer.send(pdu.ReleaseRP())
    channel.release()
    assert isinstance(peer.read(), pdu.ReleaseRQ)
    assert isinstance(channel.ended, AssociationReleased)
    channel.close()
    assert peer.read() is None


def test_the_peers_release_is_answered(ends):
    channel, peer = ends()
    peer.send(pdu.ReleaseRQ())
    channel.read()
    assert isinstance(channel.connection.next_event(), pdu.ReleaseRQ)
    channel.respond_release()
    assert isinstance(peer.read(), pdu.ReleaseRP)
    assert str(channel.ended) == "the peer released the association"


def test_what_the_peer_did_wrong_is_raised_and_answered(ends):
    channel, peer = ends()
    with pytest.raises(AssociationAborted, match="nonsense") as raised:
        channel.abort_for(ProtocolError("nonsense", 5))
    assert raised.value is channel.ended
    assert peer.read() == pdu.Abort(2, 5)


def test_an_abort_does_not_go_into_the_middle_of_a_pdu(ends):
    channel, peer = ends()
    with channel.sending:
        sent = channel.send_now(bytes(10_000_000))  # more than the socket takes
    assert 0 < sent < 10_000_000
    channel.abort()
    came = 0
    while data := peer.socket.recv(1 << 20):
        came += len(data)
        assert not any(data)
    assert came == sent


def test_a_peer_that_takes_nothing_ends_it(ends):
    channel, _ = ends(network_timeout=0.05)
    channel.connection.send_data([bytes(10_000_000)])
    with pytest.raises(AssociationAborted, match="sending failed"), channel.sending:
        channel.write_out()


def test_a_tls_port_tells_a_health_check_from_a_peer_that_does_not_speak_tls():
    for data, expected in ((b"", NothingCame), (b"\x01", ConnectionError)):
        ours, theirs = socket.socketpair()
        with ours:
            channel = Channel(ours, App().config, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            theirs.sendall(data)
            theirs.close()
            with pytest.raises(expected):
                channel.secure(time.monotonic() + WAIT)


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    def monotonic(self):
        return self.now


class Quick:
    """A socket of a peer whose messages come while the processor is given to others once."""

    def __init__(self):
        self.flags = []
        self.is_there = False

    def recv_into(self, room, size, flags):
        self.flags.append(flags)
        if flags and not self.is_there:
            raise BlockingIOError
        self.is_there = False
        room[:2] = b"ab"
        return 2


@pytest.mark.parametrize(("takes", "spins"), [(10e-6, True), (0.004, False)])
def test_a_processor_that_others_need_is_not_asked_for_again_and_again(
    ends, monkeypatch, takes, spins
):
    channel, _ = ends()
    clock, sock = Clock(), Quick()
    channel._socket, channel._alone = sock, lambda: True

    def yield_cpu():
        clock.now += takes
        sock.is_there = True

    monkeypatch.setattr(channel_module, "time", clock)
    monkeypatch.setattr(channel_module, "_yield_cpu", yield_cpu)
    dont_wait = transport.DONTWAIT
    assert channel._receive() == 2
    assert sock.flags == [dont_wait, dont_wait]
    sock.flags.clear()
    assert channel._receive() == 2
    assert sock.flags == ([dont_wait, dont_wait] if spins else [0])
    sock.flags.clear()
    clock.now += 1  # others may have gone
    assert channel._receive() == 2
    assert sock.flags == [dont_wait, dont_wait]
