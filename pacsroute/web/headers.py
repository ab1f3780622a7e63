"""Request headers, parsed strictly so that no two programs read them differently (RFC 9112).

cheroot's own reader accepts spaces before a colon, folded lines, control characters, and the last
of several lengths or hosts.
"""

from __future__ import annotations

import re
from typing import Any

# Possessive: backtracking over a line of spaces took seconds.
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([\t -~\x80-\xff]*+)\r\n")
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?")
_ONCE = frozenset(
    (b"Authorization", b"Content-Length", b"Content-Type", b"Host", b"Range", b"Transfer-Encoding")
)


def read_headers(file: Any, found: dict[bytes, bytes]) -> dict[bytes, bytes]:
    r"""Read headers up to and including the empty line after them.

    Parameters
    ----------
    file : binary file
        Positioned after the first line of a request.
    found : dict
        Receives the values by name. Names with an underscore are dropped: WSGI cannot distinguish
        them from names with a hyphen, which a proxy may have checked.

    Raises
    ------
    ValueError
        If a line is not a header, or a header that must be unique is repeated.

    Examples
    --------
    >>> import io
    >>> read_headers(io.BytesIO(b"accept: a/b \r\nAccept:c/d\r\n\r\n"), {})
    {b'Accept': b'a/b, c/d'}
    """
    while (line := file.readline()) != b"\r\n":
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError("Illegal header line")
        name, value = match[1].title(), match[2].rstrip(b" \t")
        if b"_" in name:
            continue
        if name in found:
            if name in _ONCE:
                raise ValueError(f"More than one {name.decode('ascii')}")
            value = found[name] + (b"; " if name == b"Cookie" else b", ") + value
        found[name] = value
    return found


def fault(headers: dict[bytes, bytes], version: str) -> tuple[str, str]:
    """Return the status and the error for invalid headers; both are empty if they are valid.

    Parameters
    ----------
    headers : dict
        As `read_headers` returns them.
    version : str
        The HTTP version of the response, such as ``HTTP/1.1``.

    Examples
    --------
    >>> fault({b"Host": b"a", b"Content-Length": b"+5"}, "HTTP/1.1")
    ('400 Bad Request', 'Malformed Content-Length')
    """
    length, encoded = headers.get(b"Content-Length"), headers.get(b"Transfer-Encoding")
    host, expected = headers.get(b"Host"), headers.get(b"Expect", b"100-continue")
    why = ""
    if encoded is not None and length is not None:
        why = "Content-Length and Transfer-Encoding"
    elif encoded is not None and (encoded.lower() != b"chunked" or version != "HTTP/1.1"):
        why = "Malformed Transfer-Encoding"  # cheroot refuses unknown ones
    elif length is not None and not length.isdigit():
        why = "Malformed Content-Length"
    elif host is None and version == "HTTP/1.1":
        why = "there is no Host"
    elif host is not None and not _HOST.fullmatch(host):
        why = "Malformed Host"
    elif expected.lower() != b"100-continue":
        return "417 Expectation Failed", "only 100-continue is expected"
    return ("400 Bad Request" if why else ""), why
