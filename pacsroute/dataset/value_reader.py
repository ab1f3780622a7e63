"""Convert raw values of elements to pydicom's types (PS3.5 §6.2).

pydicom's own conversion warns, and its warnings quote values, which are patient data.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from pydicom import config
from pydicom.charset import python_encoding
from pydicom.dataelem import empty_value_for_VR
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import DS, IS, PersonName

from pacsroute.dataset import charsets
from pacsroute.dataset.vr import (
    NUMBER_FORMATS,
    SINGLE_VRS,
    STRING_VRS,
    TEXT_VRS,
    WORD_SIZES,
)

_SMALL = 1024  # the size check skips values below this many bytes
_ELEMENT, _NUMBER, _STRING, _OBJECT = 512, 40, 64, 320  # bytes of memory for each


@lru_cache(256)
def encodings(names: tuple[str, ...]) -> tuple[str, ...]:
    """Pydicom's names of the encodings, including the one that pydicom lacks.

    Parameters
    ----------
    names : tuple of str
        The Specific Character Set, as `charsets.terms` gives it.

    Examples
    --------
    >>> encodings(("ISO_IR 100", "ISO 2022 IR 203"))
    ('latin_1', 'iso8859_15')
    """
    known = python_encoding | {"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}
    return tuple(known.get(name, "iso8859") for name in names or ("",))


def character_set(data: bytes, around: tuple[str, ...] = charsets.DEFAULT) -> tuple[str, ...]:
    r"""Return the terms in the bytes of (0008,0005); if empty, those of the data set around it.

    Examples
    --------
    >>> character_set(b"\\ISO 2022 IR 87 "), character_set(b"", ("GB18030",))
    (('', 'ISO 2022 IR 87'), ('GB18030',))
    """
    text = data.decode("latin_1").rstrip("\0 ")
    return charsets.terms(text) if text else around


def read_value(
    vr: str, data: bytes, little: bool, names: tuple[str, ...], *, strip: bool = False
) -> Any:
    r"""Return a value as pydicom would, without its warnings, which quote values.

    Parameters
    ----------
    vr : str
        Its VR, two letters; not SQ.
    data : bytes
        The value as received.
    little : bool
        Whether it is little endian.
    names : tuple of str
        The Specific Character Set, as `charsets.terms` gives it.
    strip : bool
        Whether to strip trailing spaces of each of several values, as for matching keys. pydicom
        keeps them in codes.

    Examples
    --------
    >>> read_value("US", b"\1\0\2\0", True, ())
    [1, 2]
    """
    if vr in STRING_VRS:
        return _strings(vr, data, names, strip=strip or vr in TEXT_VRS)
    if not data:
        return empty_value_for_VR(vr)
    order = "<" if little else ">"
    if vr in NUMBER_FORMATS:
        count = len(data) // WORD_SIZES[vr]
        size = count * WORD_SIZES[vr]
        return _one_or_more(struct.unpack(f"{order}{count}{NUMBER_FORMATS[vr]}", data[:size]))
    if vr == "AT":
        words = struct.unpack(f"{order}{len(data) // 4 * 2}H", data[: len(data) // 4 * 4])
        return _one_or_more([Tag(g, e) for g, e in zip(words[::2], words[1::2], strict=True)])
    return data


def size_of_value(vr: str, data: bytes) -> int:
    """Return the approximate memory in bytes that a value takes once it is read.

    Parameters
    ----------
    vr : str
        Its VR, two letters; not SQ.
    data : bytes
        The value as received.

    Examples
    --------
    >>> size_of_value("US", bytes(20_000)) > 200_000
    True
    """
    if len(data) < _SMALL:
        return _ELEMENT
    if vr in NUMBER_FORMATS or vr == "AT":
        return _ELEMENT + len(data) // WORD_SIZES[vr] * _NUMBER
    if vr not in STRING_VRS:
        return _ELEMENT  # the bytes themselves
    count = 1 if vr in SINGLE_VRS else data.count(b"\\") + 1
    return _ELEMENT + len(data) + count * (_OBJECT if vr in ("DS", "IS", "PN") else _STRING)


def _strings(vr: str, data: bytes, names: tuple[str, ...], *, strip: bool) -> Any:
    text = charsets.decode(data, names, vr) if vr in TEXT_VRS else data.decode("latin_1")
    text = text.rstrip("\0 ")
    if not text:
        return empty_value_for_VR(vr)
    if vr in SINGLE_VRS:
        return _string(vr, text, names)
    values = text.split("\\")
    return _one_or_more([_string(vr, v.rstrip("\0 ") if strip else v, names) for v in values])


def _string(vr: str, text: str, names: tuple[str, ...]) -> Any:
    if vr == "PN":
        return PersonName(text, list(encodings(names)), validation_mode=config.IGNORE)
    if vr == "UI":
        return UID(text, config.IGNORE)
    if vr == "AE":
        return text.strip()
    if vr in ("DS", "IS"):
        try:
            number = IS if vr == "IS" else DS
            return number(text, validation_mode=config.IGNORE)
        except (ValueError, TypeError, ArithmeticError):
            return text
    return text


def _same(value: Any) -> Any:
    return value


def _one_or_more(values: Any) -> Any:
    if not values:
        return None
    return values[0] if len(values) == 1 else MultiValue(_same, values)
