"""Headers of the PROXY protocol, as a balancer sends them."""

import ipaddress
import struct

from pacsroute.upper_layer.proxy import SIGNATURE


def _target(host):
    return "fd00::2" if ":" in host else "10.0.0.2"


def line(host="10.1.0.7", port=50_000, target=""):
    """Return a header of version 1."""
    target = target or _target(host)
    family = "TCP6" if ":" in host else "TCP4"
    return f"PROXY {family} {host} {target} {port} 104\r\n".encode()


def binary(host="10.1.0.7", port=50_000, target="", more=b"", command=0x21):
    """Return a header of version 2; `more` is what follows the addresses."""
    addresses = [ipaddress.ip_address(one).packed for one in (host, target or _target(host))]
    family = 0x11 if len(addresses[0]) == 4 else 0x21
    body = b"".join(addresses) + struct.pack("!HH", port, 104) + more
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


LOCAL = SIGNATURE + b"\x20\0\0\0"
UNKNOWN = b"PROXY UNKNOWN\r\n"
