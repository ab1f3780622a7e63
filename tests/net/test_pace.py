"""A least rate, in made time."""

import io
import math
import socket
from types import SimpleNamespace

import pytest

from pacsroute import App
from pacsroute.net import pace as paces
from pacsroute.net import transport
from pacsroute.net.channel import Channel
from pacsroute.net.pace import Pace
from pacsroute.upper_layer import pdu


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when a test says so."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(paces, "time", clock)
    return clock


def lasts(pace, clock, rate, seconds, size=0):
    """Ask once a second, at a number of bytes a second; return for how long it was fast enough."""
    for second in range(seconds):
        if pace.is_too_slow(size):
            return second
        clock.now += 1
        size += rate
    return seconds


def test_four_gigabytes_may_come_over_a_slow_line(clock):
    assert lasts(Pace(60, 1000), clock, 1_000_000, 72 * 60) == 72 * 60
    assert lasts(Pace(60, 1000), clock, 1_000, 24 * 3600) == 24 * 3600


def test_a_trickle_is_too_slow(clock):
    assert lasts(Pace(60, 1000), clock, 1, 3600) == 61
    assert lasts(Pace(60, 1000), clock, 900, 3600) == 61


def test_what_came_fast_gives_no_credit(clock):
    pace = Pace(60, 1000)
    assert lasts(pace, clock, 100_000_000, 30) == 30
    assert lasts(pace, clock, 1, 3600, size=3_000_000_000) < 120


def test_a_pause_is_made_up_for(clock):
    pace = Pace(60, 1000)
    assert not pace.is_too_slow(0)
    clock.now += 59
    assert not pace.is_too_slow(1)
    clock.now += 2
    assert not pace.is_too_slow(61_001)


def test_each_message_has_its_own_time(clock):
    pace = Pace(60, 1000)
    for _ in range(10):
        assert lasts(pace, clock, 1, 60) == 60
        pace.begin_anew()


def test_without_a_rate_a_message_has_its_time_and_no_more(clock):
    assert lasts(Pace(60, math.inf), clock, 1_000_000, 3600) == 61
    assert str(Pace(60, math.inf)) == "60 s"


def test_bytes_that_are_not_kept_do_not_count(clock):
    """A PDU of empty fragments has many bytes until it is whole, and none afterwards."""
    pace = Pace(60, 1000)
    assert lasts(pace, clock, 1_000_000, 10) == 10
    clock.now += 51
    assert pace.is_too_slow(0)


@pytest.fixture
def channel():
    ours, theirs = socket.socketpair()
    channel = Channel(ours, App(network_timeout=60, min_rate=1000).config)
    channel.peer = theirs
    yield channel
    ours.close()
    theirs.close()


def test_a_channel_gives_a_peer_up_that_trickles(clock, channel):
    data = io.BytesIO(pdu.encode(pdu.AssociateRQ("A", "B")))
    while channel.ended is None and (byte := data.read(1)):
        channel.peer.sendall(byte)
        channel.read()
        clock.now += 1
    assert str(channel.ended) == "a message did not arrive in time: 60 s, or min_rate, 1000 bytes/s"
    assert data.tell() == 63  # bytes, one a second from the second read on


def test_a_channel_waits_for_a_peer_that_is_steady(clock, channel):
    size = 0
    for _ in range(200):
        channel.peer.sendall(b"\x04")
        channel.read(size)
        size += 10_000
        clock.now += 10
    assert channel.ended is None


@pytest.mark.parametrize(("rate", "goes"), [(2000, True), (500, False)])
def test_sending_has_a_least_rate_too(clock, rate, goes):
    gone = []

    class Slow:
        def send(self, data):
            clock.now += 1
            gone.append(min(rate, len(data)))
            return gone[-1]

        def sendmsg(self, buffers):
            return self.send(buffers[0])

    pace = Pace(60, 1000)
    if goes:
        transport.send_all(Slow(), [bytes(300_000)], lambda: pace)
        assert sum(gone) == 300_000
    else:
        with pytest.raises(TimeoutError, match="too slowly"):
            transport.send_all(Slow(), [bytes(300_000)], lambda: pace)
        assert 60 < len(gone) < 65
