"""The PROXY protocol's headers: read to their end and no further, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.balancers import LOCAL, UNKNOWN, binary, line

from pacsroute.upper_layer.proxy import SIGNATURE, ProxyHeaderError, Source, missing, source


def read(data):
    """Read a header as from a socket; return who it is of, and what was left unread."""
    taken = b""
    while count := missing(taken):
        piece = data[len(taken) : len(taken) + count]
        if not piece:
            raise EOFError
        taken += piece
    return source(taken), data[len(taken) :]


IPV6 = {"host": "fd00::7", "target": "fd00::2"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (line(), Source("10.1.0.7", 50_000)),
        (line(**IPV6), Source("fd00::7", 50_000)),
        (line("::ffff:10.1.0.7", target="::1"), Source("10.1.0.7", 50_000)),
        (line("255.255.255.255", 65_535), Source("255.255.255.255", 65_535)),
        (UNKNOWN, Source("", 0)),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", Source("", 0)),
        (binary(), Source("10.1.0.7", 50_000)),
        (binary(**IPV6), Source("fd00::7", 50_000)),
        (binary(more=b"\x04\0\x05hello"), Source("10.1.0.7", 50_000)),
        (LOCAL, Source("", 0)),
        (binary(command=0x20), Source("", 0)),
        (SIGNATURE + b"\x21\0\0\x02xx", Source("", 0)),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"\x01\0\0\0", b"\r\n", b"PROXY TCP4"])
def test_header_tells_who_it_is_of_and_nothing_behind_it_is_read(header, expected, behind):
    assert read(header + behind) == (expected, behind)


@pytest.mark.parametrize(
    "header",
    [
        b"\x01\0\0\0\0\xcd\0\1\0\0ARCHIVE",
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 10.1.0.7 10.0.0.2 50000\r\n",
        b"PROXY TCP4 10.1.0.7 10.0.0.2 50000 104 105\r\n",
        b"PROXY TCP4  10.1.0.7 10.0.0.2 50000 104\r\n",
        b"PROXY TCP4 10.1.0.777 10.0.0.2 50000 104\r\n",
        b"PROXY TCP4 fd00::7 fd00::2 50000 104\r\n",
        b"PROXY TCP6 10.1.0.7 10.0.0.2 50000 104\r\n",
        b"PROXY TCP6 fe80::1%eth0 fd00::2 50000 104\r\n",
        b"PROXY TCP4 10.1.0.7 10.0.0.2 65536 104\r\n",
        b"PROXY TCP4 10.1.0.7 10.0.0.2 -1 104\r\n",
        b"PROXY TCP4 10.1.0.7 evil 50000 104\r\n",
        "PROXY TCP4 10.1.0.7 10.0.0.2 5\u0660 104\r\n".encode(),
        b"PROXY UDP4 10.1.0.7 10.0.0.2 50000 104\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 " + b"1" * 200,
        binary(command=0x22),
        binary(command=0x31),
        SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),
        SIGNATURE + b"\x21\x12\0\x0c" + bytes(12),
        SIGNATURE + b"\x21\x31\0\xd8" + bytes(216),
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(65_535),
    ],
)
def test_what_is_not_a_header_is_refused(header):
    with pytest.raises(ProxyHeaderError):
        read(header)


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda data: b"PROXY TCP4 " + data))
def test_any_bytes_are_a_header_or_refused_and_few_are_read(data):
    try:
        found, rest = read(data)
    except (ProxyHeaderError, EOFError):
        return
    assert found.port <= 65_535
    assert len(data) - len(rest) <= 4112
