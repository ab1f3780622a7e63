"""Peers that mean harm, for the soak: each attack is one association, bounded in bytes and time."""

import contextlib
import socket
import struct
import time
import zlib

import pacsroute
from pacsroute import Instance
from tests.benchmarks import client as raw

DEFLATED = b"1.2.840.10008.1.2.1.99"
JPEG_LS = "1.2.840.10008.1.2.4.80"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
UNDEFINED = 0xFFFFFFFF
# A code stream of JPEG-LS that does not say how many rows it has: a decoder looks without end.
FROZEN = (
    bytes.fromhex("ffd8fff7000b080000006401011100ffda0008010100000000")
    + b"\xff\x7f" * 8
    + bytes.fromhex("c0ffd9")
)


def long_head(group, number, vr, length):
    return struct.pack("<HH2s2xI", group, number, vr, length)


def text(group, number, vr, value):
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) & 1)
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


@contextlib.contextmanager
def association(port, abstract, syntax=raw.EXPLICIT):
    """Hold an association, which ends without a word."""
    made = raw.Association(port, abstract, syntax)
    try:
        made.socket.settimeout(20)
        yield made
    finally:
        made.close()


def read_to_the_end(made):
    """Read what the server says until it has said a status, or ended the association."""
    with contextlib.suppress(OSError, struct.error, ValueError):
        made.read()


def bomb(port):
    """A few KB that become 500,000 items without an element."""
    body = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 500_000
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    whole = b"".join(
        (
            text(8, 0x16, b"UI", raw.CT_STORAGE),
            text(8, 0x18, b"UI", b"1.2.830.1"),
            long_head(0x0008, 0x1140, b"SQ", len(body)) + body,
            text(0x10, 0x20, b"LO", b"LOAD"),
            text(0x20, 0x0D, b"UI", b"1.2.830"),
            text(0x20, 0x0E, b"UI", b"1.2.830.9"),
        )
    )
    data = packer.compress(whole) + packer.flush()
    data += b"\0" * (len(data) & 1)
    with association(port, raw.CT_STORAGE, DEFLATED) as made:
        encoded = raw.command(raw.C_STORE, 1, raw.CT_STORAGE, b"1.2.830.1")
        made.socket.sendall(b"".join(made.pdus(encoded, data)))
        read_to_the_end(made)


def fragments_without_a_byte(port):
    """A megabyte of PDUs in which nothing is."""
    with association(port, raw.CT_STORAGE) as made, contextlib.suppress(OSError):
        encoded = raw.command(raw.C_STORE, 1, raw.CT_STORAGE, b"1.2.830.2")
        made.socket.sendall(made.pdus(encoded)[0])
        made.socket.sendall(raw.pdu(1, 0, b"") * 80_000)
        read_to_the_end(made)


def requests_ahead(port):
    """Queries of a megabyte each, sent ahead of their answers."""
    data = text(8, 0x52, b"CS", b"STUDY") + long_head(9, 0x1010, b"OB", 1 << 20) + bytes(1 << 20)
    with association(port, raw.STUDY_FIND) as made, contextlib.suppress(OSError):
        for number in range(1, 17):
            encoded = raw.command(raw.C_FIND, number, raw.STUDY_FIND)
            made.socket.sendall(b"".join(made.pdus(encoded, data)))
        read_to_the_end(made)


def wildcards(port):
    """A query with as many wildcards as its values have room for."""
    data = text(8, 0x52, b"CS", b"STUDY") + b"".join(
        text(group, number, vr, b"*a" * 31)
        for group, number, vr in ((8, 0x90, b"PN"), (8, 0x1030, b"LO"), (0x10, 0x10, b"PN"))
    )
    with association(port, raw.STUDY_FIND) as made:
        encoded = raw.command(raw.C_FIND, 1, raw.STUDY_FIND)
        made.socket.sendall(b"".join(made.pdus(encoded, data)))
        read_to_the_end(made)


def frozen_decoder(port):
    """An image in which a decoder loops for ever, fetched without its compression."""
    uid, of = b"1.2.830.3.1", b"1.2.830.3"
    frame = FROZEN + b"\0" * (len(FROZEN) & 1)
    pixels = b"".join(
        (
            long_head(0x7FE0, 0x10, b"OB", UNDEFINED),
            struct.pack("<HHI", 0xFFFE, 0xE000, 0),
            struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame,
            struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        )
    )
    numbers = [(0x02, 1), (0x10, 100), (0x11, 100), (0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0)]
    values = {number: text(0x28, number, b"US", struct.pack("<H", value))
              for number, value in numbers}  # fmt: skip
    values[0x04] = text(0x28, 0x04, b"CS", b"MONOCHROME2")
    data = b"".join(
        (
            text(8, 0x16, b"UI", SECONDARY_CAPTURE.encode()),
            text(8, 0x18, b"UI", uid),
            text(0x10, 0x20, b"LO", b"LOAD"),
            text(0x20, 0x0D, b"UI", of),
            text(0x20, 0x0E, b"UI", of + b".2"),
            *(values[number] for number in sorted(values)),
            pixels,
        )
    )
    image = Instance(
        data, sop_class=SECONDARY_CAPTURE, sop_instance=uid.decode(), transfer_syntax=JPEG_LS
    )
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": of.decode()}
    with contextlib.suppress(pacsroute.errors.PacsrouteError):
        with pacsroute.connect("127.0.0.1", port, called_ae="ARCHIVE", timeout=20) as peer:
            peer.store(image)
            for _ in peer.get(keys, storage=[SECONDARY_CAPTURE]):
                pass


def another_protocol(port):
    """An HTTP request."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: archive\r\n\r\n")
        with contextlib.suppress(OSError):
            sock.recv(100)


ATTACKS = (
    bomb,
    fragments_without_a_byte,
    requests_ahead,
    wildcards,
    frozen_decoder,
    another_protocol,
)


def seconds_of_an_echo(port):
    """Return how long a good peer waits: it associates, echoes and releases."""
    began = time.monotonic()
    made = raw.Association(port, raw.VERIFICATION, raw.IMPLICIT)
    try:
        encoded = raw.command(raw.C_ECHO, 1, raw.VERIFICATION, data_set=False)
        made.socket.sendall(made.pdus(encoded)[0])
        if made.status()[0] != 0:
            raise RuntimeError("an echo was refused")
        made.release()
    finally:
        made.close()
    return time.monotonic() - began
