"""The header of HAProxy's PROXY protocol, versions 1 and 2, which names the peer.

Without I/O: the caller reads as many bytes as `missing` returns, and none after the header.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from pacsroute.errors import PacsrouteError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""The first bytes of version 2."""

_FIRST = b"PROXY "
_END = b"\r\n"
_LONGEST_LINE = 107  # maximum bytes of a version 1 header, including its line end
_LONGEST = 4096  # maximum bytes after the fixed part of version 2
_FIXED = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_TCP4, _TCP6 = 0x11, 0x21  # family and transport
_LENGTHS = {_TCP4: 4, _TCP6: 16}
_UNSPECIFIED = 0x00


class ProxyHeaderError(PacsrouteError):
    """The bytes are not a header of the PROXY protocol."""


class Source(NamedTuple):
    """The peer of a connection.

    Parameters
    ----------
    host, port : str and int
        The address of the peer; an empty text and 0 for the balancer's own connections, such as
        health checks.
    """

    host: str
    port: int


_NOBODY = Source("", 0)


def missing(data: bytes) -> int:
    r"""Return the minimum number of bytes still to read; 0 when the header is complete.

    Parameters
    ----------
    data : bytes
        The bytes read so far: never more than the header.

    Raises
    ------
    ProxyHeaderError
        If it is not a header, or one that is too long.

    Examples
    --------
    >>> missing(b"PROXY UNKNOWN\r"), missing(b"PROXY UNKNOWN\r\n")
    (1, 0)
    """
    if SIGNATURE.startswith(data[:12]):
        if len(data) < _FIXED.size:
            return _FIXED.size - len(data) if len(data) >= 12 else 12 - len(data)
        *_, length = _FIXED.unpack_from(data)
        if length > _LONGEST:
            raise ProxyHeaderError(f"a PROXY header of {length} bytes is too long")
        return int(_FIXED.size + length - len(data))
    if not _FIRST.startswith(data[:6]):
        raise ProxyHeaderError("it does not begin with a PROXY header")
    if data.endswith(_END):
        return 0
    if len(data) >= _LONGEST_LINE:
        raise ProxyHeaderError("the line of a PROXY header is too long")
    return max(1, 12 - len(data))


def source(data: bytes) -> Source:
    r"""Return the peer of a connection from its complete header.

    Raises
    ------
    ProxyHeaderError
        If it is not a valid header.

    Examples
    --------
    >>> source(b"PROXY TCP4 10.1.0.7 10.0.0.2 50000 104\r\n")
    Source(host='10.1.0.7', port=50000)
    >>> source(b"PROXY UNKNOWN\r\n")
    Source(host='', port=0)
    """
    return _binary(data) if data.startswith(SIGNATURE) else _line(data)


def _line(data: bytes) -> Source:
    """Return the peer of a header of version 1."""
    try:
        words = data[: -len(_END)].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ProxyHeaderError("the PROXY header is not in ASCII") from None
    if words[1:2] == ["UNKNOWN"]:
        return _NOBODY
    versions = {"TCP4": 4, "TCP6": 6}
    if len(words) != 6 or words[1] not in versions:
        raise ProxyHeaderError("the PROXY header has no TCP address")
    _, family, host, target, port, target_port = words
    for address in (host, target):
        try:
            version = ipaddress.ip_address(address).version
        except ValueError:
            version = 0  # type: ignore[assignment]
        if version != versions[family] or "%" in address:
            raise ProxyHeaderError("the PROXY header has an invalid address")
    ports = [_port(port), _port(target_port)]
    return Source(_plain(ipaddress.ip_address(host)), ports[0])


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise ProxyHeaderError("the PROXY header has an invalid port")
    return int(text)


def _binary(data: bytes) -> Source:
    """Return the peer of a header of version 2."""
    _, command, family, length = _FIXED.unpack_from(data)
    if command == _LOCAL or (command == _PROXY and family == _UNSPECIFIED):
        return _NOBODY
    if command != _PROXY:
        raise ProxyHeaderError("the PROXY header has an unknown version or command")
    if family not in _LENGTHS:
        raise ProxyHeaderError("the PROXY header has no TCP address")
    size = _LENGTHS[family]
    if length < 2 * size + 4:
        raise ProxyHeaderError("the PROXY header is too short for its addresses")
    start = _FIXED.size
    (port,) = struct.unpack_from("!H", data, start + 2 * size)
    return Source(_plain(ipaddress.ip_address(data[start : start + size])), port)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return an address in a socket's notation; IPv4 mapped to IPv6 becomes IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
