"""The folders and names of an archive's files."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from typing import Any

from pydicom.datadict import keyword_dict

from pacsroute.errors import SetupError, nearest

_LONGEST = 100  # characters of a name: file systems allow 255 bytes
_SAFE = frozenset(string.ascii_letters + string.digits + "-_ .^")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Layout:
    """A pattern such as ``{PatientID}/{StudyInstanceUID}``: a folder for each instance.

    Parameters
    ----------
    pattern : str
        Keywords in braces, and slashes between folder names.

    Raises
    ------
    SetupError
        If it has an unknown keyword, or leads out of the folder.

    Examples
    --------
    >>> Layout("{PatientID}/{Modality}").folder_of({"PatientID": "../etc", "Modality": "CT"})
    '%2E.%2Fetc/CT'
    """

    def __init__(self, pattern: str) -> None:
        self._parts: list[list[tuple[str, str]]] = []
        for part in pattern.split("/") if pattern else ():
            found = [(text, key or "") for text, key, *_ in _pieces(pattern, part)]
            if part in ("", ".", "..") or part.startswith((".", "\\")):
                raise SetupError(f"layout: {pattern!r} has {part!r} as the name of a folder")
            self._parts.append(found)

    @property
    def keys(self) -> frozenset[str]:
        """The keywords in the pattern."""
        return frozenset(key for part in self._parts for _, key in part if key)

    def folder_of(self, values: Mapping[str, Any]) -> str:
        """Return the folder for these values, separated by slashes; may be empty."""
        return "/".join(
            _name("".join(text + (_value(values, key) if key else "") for text, key in part))
            for part in self._parts
        )


def _pieces(pattern: str, part: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        pieces = list(string.Formatter().parse(part))
    except ValueError as error:
        raise SetupError(f"layout: {pattern!r}: {error}") from None
    for _, key, form, conversion in pieces:
        if key is not None and (not key or key not in keyword_dict or form or conversion):
            hint = nearest(key, keyword_dict)
            raise SetupError(f"layout: {pattern!r}: {{{key}}} is not an attribute's keyword{hint}")
    return pieces


def _value(values: Mapping[str, Any], key: str) -> str:
    """Return a value as a part of a name; different values give different names."""
    text = escaped(str(values.get(key) or ""))
    if key == "PatientID" and values.get("IssuerOfPatientID"):
        return f"{text}@{escaped(str(values['IssuerOfPatientID']))}"
    return text


def escaped(text: str) -> str:
    """Return a text with everything but letters, digits and a few signs escaped.

    Examples
    --------
    >>> escaped("A/B:é")
    'A%2FB%3A%C3%A9'
    """
    return "".join(
        char
        if char in _SAFE
        else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace"))
        for char in text
    )


def _name(text: str) -> str:
    """Return a text as a folder name: not hidden, not too long, and valid on Windows too."""
    if not text:
        return "_"
    if text == "_" or text[0] == "." or _RESERVED.fullmatch(text):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if text[-1] in ". ":
        text = f"{text[:-1]}%{ord(text[-1]):02X}"
    if len(text) > _LONGEST:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        text = f"{text[: _LONGEST - 17]}~{digest}"
    return text
