"""Captures of network traffic, made up packet by packet."""

import ipaddress
import struct

from pacsroute.trace.pcap.packets import ACK, FIN, SYN

CLIENT, SERVER = ("10.0.0.7", 50312), ("10.0.0.1", 104)
ETHERNET, NULL, RAW, SLL, LOOP, IPV4, IPV6, SLL2 = 1, 0, 101, 113, 108, 228, 229, 276


# ------------------------------------------------------------- what a network would send


def tcp(source, target, sequence, flags, data):
    head = struct.pack(
        ">HHIIBBHHH", source[1], target[1], sequence & 0xFFFF_FFFF, 0, 6 << 4, flags, 0, 0, 0
    )
    return head + b"\1\1\1\0" + data  # with options


def ip(source, target, body, *, extensions=False, offload=False):
    here, there = (ipaddress.ip_address(end[0]).packed for end in (source, target))
    if len(here) == 4:
        length = 0 if offload else 24 + len(body)
        head = struct.pack(">BBHHHBBH", 0x46, 0, length, 0, 0x4000, 64, 6, 0)
        return head + here + there + bytes(4) + body
    chain, following = b"", 6
    if extensions:
        chain, following = b"\x06\0" + bytes(6), 0  # a hop-by-hop header before TCP
        chain = b"\x2c\0" + bytes(6) + b"\x06\0\0\0" + bytes(4)  # and an atomic fragment
    head = struct.pack(">IHBB", 0x6000_0000, len(chain + body), following, 64)
    return head + here + there + chain + body


def linked(kind, packet):
    family = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    if kind == ETHERNET:
        return bytes(12) + struct.pack(">H", family) + packet + bytes(max(0, 46 - len(packet)))
    if kind == "vlan":
        return bytes(12) + struct.pack(">HHHHH", 0x88A8, 5, 0x8100, 7, family) + packet
    if kind in (NULL, LOOP):
        return b"\2\0\0\0" + packet
    if kind == SLL:
        return bytes(14) + struct.pack(">H", family) + packet
    if kind == SLL2:
        return struct.pack(">H", family) + bytes(18) + packet
    return packet


def pcap(kind, frames, order="<", nanoseconds=False):
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, 1 if kind == "vlan" else kind)
    for number, frame in enumerate(frames):
        fraction = 500_000 * (1000 if nanoseconds else 1)
        data += struct.pack(f"{order}IIII", 1000 + number, fraction, len(frame), len(frame)) + frame
    return data


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def pcapng(kind, frames, order="<", *, simple=False):
    data = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    options = struct.pack(f"{order}HHB3xHHqHH", 9, 1, 3, 14, 8, 1000, 0, 0)  # ms, from 1000 s on
    data += block(order, 1, struct.pack(f"{order}HHI", kind, 0, 65535) + options)
    data += block(order, 5, bytes(12))  # statistics: of no interest
    for number, frame in enumerate(frames):
        if simple:
            data += block(order, 3, struct.pack(f"{order}I", len(frame)) + frame)
        else:
            when = number * 1000 + 500
            head = struct.pack(f"{order}IIIII", 0, 0, when, len(frame), len(frame))
            data += block(order, 6, head + frame)
    return data


def dialogue(client=CLIENT, server=SERVER, first=1000, **how):
    """Return a connection: packets, and what each side says in it."""
    asked, answered = b"abcdef", b"ABC"

    def one(source, target, *segment):
        return ip(source, target, tcp(source, target, *segment), **how)

    return [
        one(client, server, first, SYN, b""),
        one(server, client, 77, SYN | ACK, b""),
        one(client, server, first + 1, ACK, asked[:4]),
        one(client, server, first + 5, ACK, asked[4:]),
        one(server, client, 78, ACK, answered),
        one(client, server, first + 7, FIN | ACK, b""),
        one(server, client, 81, FIN | ACK, b""),
    ]


def raw(*segments, kind=RAW):
    return pcap(kind, [ip(s, t, tcp(s, t, *rest)) for s, t, *rest in segments])
