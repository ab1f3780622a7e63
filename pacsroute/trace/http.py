"""Traces of HTTP requests and responses, without patient data or secrets."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from pacsroute import uids
from pacsroute.trace.layout import dim, printable
from pacsroute.trace.safe import is_safe

_MASK = "…"
_HEADERS = """
    accept accept-charset accept-encoding content-encoding content-length content-location
    content-range content-type etag if-none-match location range retry-after transfer-encoding
    user-agent warning
"""
_SHOWN = frozenset(_HEADERS.split())
_SECRET = re.compile(r"token|key|secret|pass|sig|auth|code|session", re.IGNORECASE)
_NAMES = """
    accept annotation charset columns contentType deletionlock frameNumber fuzzymatching
    iccprofile imageAnnotation imageQuality includefield limit offset quality region requestType
    rows transferSyntax viewport window windowCenter windowWidth
"""
_PARAMETERS = frozenset(_NAMES.split())
_WORD = re.compile(r"[a-z][a-z-]{0,19}|[0-9,]{1,40}|[0-9A-Fa-f]{8}")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")


class HttpExchange(NamedTuple):
    """An HTTP request and its response.

    Parameters
    ----------
    when : float
        When the request came, in seconds since 1970.
    peer : str
        The address of the client.
    method, path, query : str
        The parts of the request line; the path is decoded, the query is not.
    is_dicomweb : bool
        Whether the path is below the root of DICOMweb.
    asked, answered : sequence of (str, str)
        The headers of the request and of the response.
    status : str
        The status line, such as ``200 OK``.
    size : int
        The length of the response body in bytes.
    seconds : float
        The duration in seconds.
    """

    when: float
    peer: str
    method: str
    path: str
    query: str
    is_dicomweb: bool
    asked: Sequence[tuple[str, str]]
    answered: Sequence[tuple[str, str]]
    status: str
    size: int
    seconds: float


def http_tracer(
    write: Callable[[str], object], *, values: bool = False
) -> Callable[[HttpExchange], None]:
    """Return the tap that shows each request and response, for `App.http_taps`.

    Parameters
    ----------
    write : callable
        Called with some lines of text; several threads may call it at once.
    values : bool
        Whether to show values that may contain patient data. Credentials are never shown.

    Examples
    --------
    >>> one = HttpExchange(
    ...     0, "127.0.0.1", "GET", "/dicom-web/studies", "PatientName=Doe*&limit=5&key=abc", True,
    ...     [("Accept", "*/*"), ("Authorization", "Basic abc")], [], "200 OK", 2, 0.001,
    ... )
    >>> text = []
    >>> http_tracer(text.append)(one)
    >>> "GET /dicom-web/studies?PatientName=…&limit=5&key=…" in text[0], "abc" in text[0]
    (True, False)
    """
    numbers = itertools.count(1)

    def show(one: HttpExchange) -> None:
        query = f"?{'&'.join(_parameters(one.query, values))}" if one.query else ""
        clock = time.strftime("%H:%M:%S", time.localtime(one.when))
        head = f"#H{next(numbers)} {clock}.{int(one.when % 1 * 1000):03d}  {printable(one.peer)} → "
        lines = [f"{head}{printable(one.method)} {printable(_path(one, values))}{query}"]
        lines += _headers(one.asked)
        took = f"{one.seconds * 1000:.1f} ms"
        lines.append(f"  ← {printable(one.status)}, {one.size:,} bytes, {took}")
        lines += _headers(one.answered)
        write("\n".join(lines))

    return show


def _headers(headers: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, value in headers:
        if name.lower() in _SHOWN and value:
            yield dim(f"    {printable(name)}: {printable(value.partition('?')[0])}")


def _path(one: HttpExchange, values: bool) -> str:
    if values:
        return one.path
    parts = one.path.split("/")
    if not one.is_dicomweb:  # the app's own page: show only the beginning
        return "/".join(parts[:2]) + (f"/{_MASK}" if len(parts) > 2 else "")
    named = zip(["", *parts], parts, strict=False)
    return "/".join(part if _tells(part, before) else _MASK for before, part in named)


def _tells(part: str, before: str) -> bool:
    """Return whether a part of a path is safe: a known word, a UID, a tag or an AE title."""
    return not part or bool(_WORD.fullmatch(part)) or uids.is_uid(part) or before == "aets"


def _parameters(query: str, values: bool) -> Iterator[str]:
    for name, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        shown = values or name in _PARAMETERS or _is_safe(name, value)
        if _SECRET.search(name) and not _tag(name):
            shown = False
        yield f"{printable(name)}={printable(value) if shown else _MASK}"


def _is_safe(name: str, value: str) -> bool:
    """Return whether a value of an attribute, or a UID, may be shown."""
    values = value.replace("\\", ",").split(",")
    if all(map(uids.is_uid, values)):
        return True
    tag = _tag(name.rpartition(".")[2])
    return tag is not None and is_safe(Tag(tag), values)


def _tag(name: str) -> int | None:
    return int(name, 16) if _TAG.fullmatch(name) else tag_for_keyword(name)
