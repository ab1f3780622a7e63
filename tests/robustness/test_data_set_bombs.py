"""Small data sets that become large ones when they are inflated, parsed or held."""

import struct
import sys
import time
import zlib

import pytest
from support.hostile import hostile, resident
from support.names import CT, DEFLATED, EXPLICIT, IMPLICIT, WAIT
from support.raw_peer import RawPeer
from support.serving import Serving

from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands

MIB = 1_048_576
META, FILM_BOX = "1.2.840.10008.5.1.1.9", "1.2.840.10008.5.1.1.4"
MOST = 64 * MIB  # of max_memory: the defaults are tried by the slow test

APP = """
from pacsroute import App

app = App("BOMBED")

@app.store
def store(request):
    list(request.dataset.iterall())

@app.n_set("GrayscaleImageBox")
def n_set(request): ...
"""

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
    pytest.mark.slow,
]


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts a server in a process of its own."""
    running = []

    def start(*options):
        (tmp_path / "app.py").write_text(APP)
        # Nobody reads what it says: a full pipe would stop it.
        server = Serving(tmp_path, "app.py", "--log-level", "error", *options)
        running.append(server.__enter__())
        with RawPeer(server.port, [(CT, EXPLICIT)]) as peer:  # pydicom is imported by then
            peer.store(encode({"SOPInstanceUID": "1.2.3"}, EXPLICIT), CT, "1.2.3")
        return server

    yield start
    for server in running:
        server.__exit__(None, None, None)


def deflated(pieces):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(map(packer.compress, pieces)) + packer.flush()


def long_element(tag, vr, length):
    return struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, vr, length)


def items(count):
    """Return a sequence of empty items: 8 bytes each, and a thousand when they are read."""
    body = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    return deflated([long_element(0x00081140, b"SQ", len(body)), body])


def elements(count):
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 8) + struct.pack("<HH2sH", 16, 16, b"PN", 0)
    return deflated([long_element(0x00081140, b"SQ", 16 * count), item * count])


def value(size):
    zeros = bytes(MIB)
    return deflated([long_element(0x7FE00010, b"OB", size), *[zeros] * (size // MIB)])


BOMBS = {"items": items(500_000), "elements": elements(300_000), "value": value(200 * MIB)}


def bomb(data, expected=(0xA700,), patience=WAIT):
    """Return an attack with a C-STORE, which has to be refused within some seconds."""

    def attack(port):
        with RawPeer(port, [(CT, DEFLATED)]) as peer:
            peer.socket.settimeout(patience)
            assert peer.store(data, CT, "1.2.3").status in expected

    return attack


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_within_the_memory_of_the_process(serve, kind):
    server = serve("--max-memory", str(MOST))
    before = resident(server, "VmRSS")
    memory, slowest = hostile(server, bomb(BOMBS[kind]), 6)
    assert memory < 2 * MOST  # it was up to 1.5 GB for each
    assert slowest < 10
    small, deadline = items(1000), time.monotonic() + WAIT
    with RawPeer(server.port, [(CT, DEFLATED)]) as peer:
        # A response goes just before what was refused is given back.
        while peer.store(small, CT, "1.2.3").status == 0xA700:
            assert time.monotonic() < deadline, "what was refused is not given back"
    assert resident(server, "VmRSS") < before + MOST


NUMBERS = struct.pack("<HHI", 0x0028, 0x0010, 60 * MIB)  # Rows: US
TEXTS = struct.pack("<HHI", 0x0028, 0x0030, 60 * MIB)  # Pixel Spacing: DS


@pytest.mark.parametrize(("head", "filling"), [(NUMBERS, b"\0\0"), (TEXTS, b"1\\")])
def test_values_that_are_many_once_they_are_read_are_refused(serve, head, filling):
    server = serve("--max-memory", str(2 * MOST))
    data = head + filling * (30 * MIB)

    def attack(port):
        with RawPeer(port, [(CT, IMPLICIT)]) as peer:
            assert peer.store(data, CT, "1.2.3").status == 0xA700

    memory, slowest = hostile(server, attack, 2)
    assert memory < 4 * MOST
    assert slowest < 10


def attribute_lists(megabytes, patience=WAIT):
    """Return an attack with an N-SET that never ends."""
    command = commands.NSetRQ(
        message_id=1, requested_sop_class=FILM_BOX, requested_sop_instance="1.2.3"
    )

    def attack(port):
        with RawPeer(port, [(META, IMPLICIT)]) as peer:
            peer.socket.settimeout(patience)
            peer.send(1, command, bytes(megabytes * MIB))
            assert peer.receive()[0].status in (0x0110, 0x0213, 0x0122, 0x0211, 0x0112)

    return attack


def test_attribute_lists_share_the_memory_of_the_process(serve):
    server = serve("--max-memory", str(MOST))
    memory, slowest = hostile(server, attribute_lists(60), 6)
    assert memory < 2 * MOST
    assert slowest < 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["items", "elements", "value", "attributes"])
def test_250_hostile_associations_stay_below_a_gigabyte(serve, kind):
    server = serve()
    bombs = {"items": items(1_990_000), "elements": elements(990_000), "value": value(1000 * MIB)}
    # All of them take turns: the last one waits for 249, beside whatever else the machine does.
    if kind == "attributes":
        attack = attribute_lists(20, patience=300)
    else:
        attack = bomb(bombs[kind], patience=300)
    memory, slowest = hostile(server, attack, 250)
    assert memory < 950 * MIB
    assert slowest < 60
