"""Extract the TCP segment from a packet of any link type."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import NamedTuple

from pacsroute.trace.conversation import UnreadableFile
from pacsroute.trace.pcap.capture import Packet

FIN, SYN, RST, ACK = 1, 2, 4, 16

_TCP = 6
_IPV4, _IPV6 = 0x0800, 0x86DD
_VLANS = (0x8100, 0x88A8, 0x9100)
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
_FRAGMENT = 44


class Segment(NamedTuple):
    """A TCP segment; each end is a host and a port."""

    time: float
    source: tuple[str, int]
    target: tuple[str, int]
    sequence: int
    flags: int
    data: bytes


def segment(packet: Packet) -> Segment | None:
    """Return the TCP segment in a packet; None if it has none or is truncated.

    Raises
    ------
    UnreadableFile
        If the link type is not supported.
    """
    network = _LINKS.get(packet.link_type)
    if network is None:
        raise UnreadableFile(
            f"a capture on links of type {packet.link_type}, which is not supported"
        )
    try:
        found = _internet(network(packet.data))
        if found is None:
            return None
        source, target, body = found
        ports = struct.unpack_from(">HH", body)
        sequence, offset, flags = struct.unpack_from(">4xI4xBB", body)
        data = body[(offset >> 4) * 4 :]
    except (struct.error, IndexError, ValueError):  # ValueError: half an address
        return None
    return Segment(packet.time, (source, ports[0]), (target, ports[1]), sequence, flags, data)


def _internet(data: bytes) -> tuple[str, str, bytes] | None:
    """Return the ends and the TCP bytes of an IPv4 or IPv6 packet."""
    version = data[0] >> 4
    if version == 4:
        length, fragment, protocol = struct.unpack_from(">2xH2xHxB", data)
        if protocol != _TCP or fragment & 0x1FFF:
            return None
        # With segmentation offload the length is 0, and Ethernet pads short packets.
        body = data[(data[0] & 15) * 4 : length or len(data)]
        return _address(data[12:16]), _address(data[16:20]), body
    if version == 6:
        length, header = struct.unpack_from(">4xHB", data)
        body = data[40 : 40 + length if length else len(data)]
        while header in _EXTENSIONS:
            header, body = body[0], body[8 + body[1] * 8 :]
        if header == _FRAGMENT:
            if struct.unpack_from(">2xH", body)[0] & 0xFFF8:
                return None
            header, body = body[0], body[8:]
        return (_address(data[8:24]), _address(data[24:40]), body) if header == _TCP else None
    return None


def _address(data: bytes) -> str:
    return str(ipaddress.ip_address(data))


def _ethernet(data: bytes) -> bytes:
    at = 12
    (kind,) = struct.unpack_from(">H", data, at)
    while kind in _VLANS:
        at += 4
        (kind,) = struct.unpack_from(">H", data, at)
    return data[at + 2 :] if kind in (_IPV4, _IPV6) else b""


# Skip the link header; the IP packet states its own version.
_LINKS: dict[int, Callable[[bytes], bytes]] = {
    1: _ethernet,
    113: lambda data: data[16:],  # Linux cooked capture
    276: lambda data: data[20:],  # Linux cooked capture, version 2
    **dict.fromkeys((0, 108), lambda data: data[4:]),  # BSD loopback
    **dict.fromkeys((12, 14, 101, 228, 229), lambda data: data),  # raw IP
}
