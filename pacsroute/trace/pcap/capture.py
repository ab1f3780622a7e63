"""Read the packets of pcap and pcapng files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pacsroute.errors import PacsrouteError
from pacsroute.trace.conversation import UnreadableFile

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_RESOLUTION, _OFFSET = 9, 14  # options of an interface
_LONGEST = 1 << 26  # limit for a packet or block, in bytes


class Packet(NamedTuple):
    """A packet, with its time in seconds since 1970 and the type of its link."""

    time: float
    link_type: int
    data: bytes


class DamagedCapture(PacsrouteError):
    """The capture cannot be read beyond this point."""


def packets(file: BinaryIO) -> Iterator[Packet]:
    """Return the packets of a pcap or pcapng file.

    Raises
    ------
    UnreadableFile
        If it is not such a file.
    DamagedCapture
        If the file ends in the middle of a packet.
    """
    magic = file.read(4)
    for order in "<>":
        (number,) = struct.unpack(f"{order}I", magic) if len(magic) == 4 else (0,)
        if number == _SECTION:
            yield from _blocks(file)
            return
        if number in (0xA1B2C3D4, 0xA1B23C4D):
            yield from _records(file, order, 1e-9 if number == 0xA1B23C4D else 1e-6)
            return
    raise UnreadableFile("neither a recording of pacsroute nor a pcap or pcapng capture")


def _exactly(file: BinaryIO, size: int) -> bytes:
    if size > _LONGEST:
        raise DamagedCapture("the capture is damaged here")
    data = file.read(size)
    if len(data) < size:
        raise DamagedCapture("the capture was cut here")
    return data


def _records(file: BinaryIO, order: str, unit: float) -> Iterator[Packet]:
    """Return the packets of a pcap file."""
    (link_type,) = struct.unpack(f"{order}16xI", _exactly(file, 20))
    link_type &= 0x0FFF_FFFF  # the upper bits describe the checksum
    head = struct.Struct(f"{order}IIII")
    while first := file.read(1):
        seconds, fraction, size, _ = head.unpack(first + _exactly(file, head.size - 1))
        yield Packet(seconds + fraction * unit, link_type, _exactly(file, size))


class _Interface(NamedTuple):
    link_type: int
    snap_length: int
    unit: float = 1e-6
    offset: int = 0


def _blocks(file: BinaryIO) -> Iterator[Packet]:
    """Return the packets of a pcapng file; the file is positioned after the first block's type."""
    order, interfaces = "<", list[_Interface]()
    kind = struct.pack("<I", _SECTION)
    while kind:
        kind += _exactly(file, 4 - len(kind))
        (number,) = struct.unpack(f"{order}I", kind)
        size = _exactly(file, 4)
        body = b""
        if number == _SECTION:  # same in both byte orders; the field after the length states which
            body = _exactly(file, 4)
            order, interfaces = "<" if body == b"\x4d\x3c\x2b\x1a" else ">", []
        (length,) = struct.unpack(f"{order}I", size)
        if length < 12 + len(body):
            raise DamagedCapture("the capture is damaged here")
        body += _exactly(file, length - 12 - len(body))
        _exactly(file, 4)  # skip the repeated length
        try:
            if number == _INTERFACE:
                interfaces.append(_interface(order, body))
            elif number in (_ENHANCED, _OLD_PACKET, _SIMPLE):
                yield _packet(order, number, body, interfaces)
        except (struct.error, IndexError):
            raise DamagedCapture("the capture is damaged here") from None
        kind = file.read(1)


def _interface(order: str, body: bytes) -> _Interface:
    link_type, snap_length = struct.unpack_from(f"{order}HxxI", body)
    found = _Interface(link_type, snap_length)
    position = 8
    while position + 4 <= len(body):
        code, size = struct.unpack_from(f"{order}HH", body, position)
        value = body[position + 4 : position + 4 + size]
        position += 4 + (size + 3 & ~3)
        if code == _RESOLUTION:
            power = value[0] & 0x7F
            found = found._replace(unit=2.0**-power if value[0] & 0x80 else 10.0**-power)
        elif code == _OFFSET:
            found = found._replace(offset=struct.unpack(f"{order}q", value)[0])
    return found


def _packet(order: str, number: int, body: bytes, interfaces: list[_Interface]) -> Packet:
    if number == _SIMPLE:
        interface = interfaces[0]
        (size,) = struct.unpack_from(f"{order}I", body)
        size = min(size, interface.snap_length or size)
        return Packet(0.0, interface.link_type, body[4 : 4 + size])
    layout = "IIII" if number == _ENHANCED else "HxxIII"
    which, high, low, size = struct.unpack_from(f"{order}{layout}", body)
    interface = interfaces[which]
    when = (high << 32 | low) * interface.unit + interface.offset
    return Packet(when, interface.link_type, body[20 : 20 + size])
