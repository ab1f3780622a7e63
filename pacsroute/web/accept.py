"""Parse the Accept header (RFC 9110 §12.5.1, PS3.18 §8.7.5).

werkzeug cuts an unquoted ``type=application/octet-stream`` at its slash, hence this parser.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

# Each character belongs to exactly one token and is read once: patterns that can start anywhere
# take seconds on a header full of spaces.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.?)*+"?|[^",;]++|[,;]', re.DOTALL)
_MOST = 100  # media ranges read from a header
_FORMER = {
    "image/x-dicom-rle": "image/dicom-rle",
    "image/x-jls": "image/jls",
}  # names used before the types were registered


class MediaRange(NamedTuple):
    """A media type that a client accepts.

    Parameters
    ----------
    type : str
        The media type, possibly with ``*``; for multipart, the type of the parts.
    multipart : bool or None
        Whether a multipart body is required; None accepts either.
    transfer_syntax : str
        A UID, ``*`` for any, or empty if not specified.
    quality : float
        The client's preference, from 0 (not acceptable) to 1.
    """

    type: str
    multipart: bool | None
    transfer_syntax: str
    quality: float

    def covers(self, media_type: str) -> bool:
        """Return whether this range includes a media type.

        Examples
        --------
        >>> MediaRange("image/*", None, "", 1).covers("image/jpeg")
        True
        """
        if self.type in ("*/*", media_type):
            return True
        kind, _, rest = self.type.partition("/")
        return rest == "*" and media_type.startswith(kind + "/")

    @property
    def wildcards(self) -> int:
        """The number of wildcards in the media type, from 0 to 2."""
        return self.type.count("*")


def ranges(*headers: str) -> list[MediaRange]:
    """Return the accepted media ranges, most preferred first; ``*/*`` if there are none.

    Parameters
    ----------
    *headers : str
        Values of the Accept header, or of the ``accept`` query parameter.

    Examples
    --------
    >>> ranges("multipart/related; type=application/octet-stream; transfer-syntax=*")
    [MediaRange(type='application/octet-stream', multipart=True, transfer_syntax='*', quality=1.0)]
    """
    found = [one for header in headers for one in _ranges(header)]
    found.sort(key=lambda one: -one.quality)
    return found or [MediaRange("*/*", None, "", 1.0)]


def _ranges(header: str) -> Iterable[MediaRange]:
    for text in itertools.islice(filter(str.strip, _split(header, ",")), _MOST):
        kind, *rest = (part.strip() for part in _split(text, ";"))
        kind = kind.lower()
        pairs = (part.partition("=") for part in rest)
        parameters = {
            name.rstrip().lower(): _unquoted(value.lstrip()) for name, sign, value in pairs if sign
        }
        try:
            quality = min(1.0, max(0.0, float(parameters.get("q", 1))))
        except ValueError:
            quality = 1.0
        multipart: bool | None = False
        if kind in ("multipart/related", "multipart/*"):
            kind, multipart = parameters.get("type", "").lower() or "*/*", True
        if kind in ("*", "*/*"):
            kind, multipart = "*/*", multipart or None
        syntax = parameters.get("transfer-syntax", "")
        yield MediaRange(_FORMER.get(kind, kind), multipart, syntax, quality)


def _split(text: str, mark: str) -> list[str]:
    """Split a text at a separator, except inside quotes."""
    parts = [""]
    for token in _TOKEN.findall(text):
        if token == mark:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:].removesuffix('"')) if text.startswith('"') else text


def acceptable(accepted: list[MediaRange], offers: Iterable[str]) -> list[tuple[str, MediaRange]]:
    """Return the accepted offers, each with the range that matches it, most preferred first.

    The matching range with the fewest wildcards sets the preference (PS3.18 §8.7.8.1). Ties are
    broken by the client's order, then by ours.

    Parameters
    ----------
    accepted : list of MediaRange
        The media ranges of the client.
    offers : iterable of str
        Media types that the server can send, the default first.

    Examples
    --------
    >>> accepted = ranges("application/json;q=0.1, */*")
    >>> [offer for offer, _ in acceptable(accepted, ["application/json", "text/html"])]
    ['text/html', 'application/json', 'application/json']
    >>> acceptable(ranges("application/json;q=0, */*"), ["application/json"])
    []
    """
    found: list[tuple[float, int, int, str, MediaRange]] = []
    for place, offer in enumerate(offers):
        covering = [(number, one) for number, one in enumerate(accepted) if one.covers(offer)]
        fewest = min((one.wildcards for _, one in covering), default=0)
        most = max((one.quality for _, one in covering if one.wildcards == fewest), default=0)
        for number, one in covering:
            quality = min(one.quality, most)
            if quality:
                found.append((-quality, number, place, offer, one))
    found.sort()
    return [(offer, one) for *_, offer, one in found]
