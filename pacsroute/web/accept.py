"""Read the header Accept (RFC 9110 §12.5.1, PS3.18 §8.7.5).

werkzeug cuts an unquoted ``type=application/octet-stream`` at its slash, so it is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_PARAMETER = re.compile(r';\s*([\w!#$%&\'*+.^`|~-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s]*)')
_RANGE = re.compile(r'\s*([^\s;,"]+)((?:"(?:[^"\\]|\\.)*"|[^,"])*)(?:,|$)')
_MOST = 100  # media ranges that are looked at


class MediaRange(NamedTuple):
    """A media type that a client accepts.

    Parameters
    ----------
    type : str
        What it is, or with ``*``; of the parts, where it is multipart.
    multipart : bool or None
        Whether it is to come in a multipart body; None leaves that open.
    transfer_syntax : str
        A UID, ``*`` for any, or empty where nothing is said.
    quality : float
        How welcome it is, from 0 to 1.
    """

    type: str
    multipart: bool | None
    transfer_syntax: str
    quality: float

    def covers(self, media_type: str) -> bool:
        """Tell whether a media type is one of these.

        Examples
        --------
        >>> MediaRange("image/*", None, "", 1).covers("image/jpeg")
        True
        """
        if self.type in ("*/*", "*", media_type):
            return True
        kind, _, rest = self.type.partition("/")
        return rest == "*" and media_type.startswith(kind + "/")


def ranges(*headers: str) -> list[MediaRange]:
    """Return what is accepted, the most welcome first; anything, where nothing is said.

    Parameters
    ----------
    *headers : str
        Values of the header Accept, and of the query parameter of this name.

    Examples
    --------
    >>> ranges("multipart/related; type=application/octet-stream; transfer-syntax=*")
    [MediaRange(type='application/octet-stream', multipart=True, transfer_syntax='*', quality=1.0)]
    """
    found = [one for header in headers for one in _ranges(header)]
    found.sort(key=lambda one: -one.quality)
    return found or [MediaRange("*/*", None, "", 1.0)]


def _ranges(header: str) -> Iterable[MediaRange]:
    for number, match in enumerate(_RANGE.finditer(header)):
        if number >= _MOST:
            return
        kind = match[1].lower()
        parameters = {key.lower(): _unquoted(value) for key, value in _PARAMETER.findall(match[2])}
        try:
            quality = min(1.0, max(0.0, float(parameters.get("q", 1))))
        except ValueError:
            quality = 1.0
        if quality == 0:
            continue
        syntax = parameters.get("transfer-syntax", "")
        if kind == "multipart/related":
            inner = parameters.get("type", "*/*").lower() or "*/*"
            yield MediaRange(inner, True, syntax, quality)
        else:
            is_any = kind in ("*/*", "*", "multipart/*")
            multipart = True if kind == "multipart/*" else None if is_any else False
            yield MediaRange("*/*" if is_any else kind, multipart, syntax, quality)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def chosen(accepted: list[MediaRange], offers: Iterable[str]) -> tuple[str, MediaRange] | None:
    """Return the first offer that is accepted, by the client's order and then by ours.

    Examples
    --------
    >>> chosen(ranges("text/html, application/json"), ["application/dicom+json", "application/json"])
    ('application/json', MediaRange(type='application/json', multipart=False, transfer_syntax='', quality=1.0))
    """  # noqa: E501 - the example
    offered = list(offers)
    for one in accepted:
        for offer in offered:
            if one.covers(offer):
                return offer, one
    return None
