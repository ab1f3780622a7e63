"""Python values to the bytes of a VR (PS3.5 §6.2)."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pydicom.tag import Tag
from pydicom.valuerep import PersonName, format_number_as_ds

from pacsroute.dataset import charsets
from pacsroute.dataset.vr import (
    NUMBER_FORMATS,
    SINGLE_VRS,
    STRING_VRS,
    TEXT_VRS,
    WORD_SIZES,
    several,
)

_WORDS = WORD_SIZES.keys() - NUMBER_FORMATS.keys()  # their values are bytes or buffers


def to_bytes(
    vr: str, value: Any, target: tuple[str, ...], order: str, *, swap: bool = False
) -> bytes:
    """The bytes of a value, not yet made even.

    Parameters
    ----------
    vr : str
        Its VR, two letters; not SQ.
    value : object
        The value from the user, or read by pydicom.
    target : tuple of str
        The Specific Character Set, as `charsets.terms` gives it.
    order : str
        ``<`` or ``>``, as for `struct`.
    swap : bool
        Whether bytes are in the opposite byte order.

    Raises
    ------
    TypeError, ValueError, ArithmeticError, struct.error, UnicodeEncodeError
        If the value does not fit the VR or the character set.
    """
    if hasattr(value, "tolist") and vr not in _WORDS:  # of NumPy
        value = value.tolist()
    if value is None or (value == "" and vr not in STRING_VRS):
        return b""
    if vr in STRING_VRS:
        return string_bytes(_string(value, vr), vr, target)
    if vr in NUMBER_FORMATS:
        return _numbers(value, vr, order)
    if vr == "AT":
        return _tags(value, order)
    return _octets(value, WORD_SIZES.get(vr, 1), swap)


def pad(vr: str) -> bytes:
    """The byte that makes a value even."""
    return b" " if vr in STRING_VRS and vr != "UI" else b"\0"


def _string(value: Any, vr: str) -> str:
    if isinstance(value, str):
        return value
    if (many := several(value)) is not None:
        if vr in SINGLE_VRS and len(many) > 1:
            raise ValueError("one value only")
        return "\\".join("" if v is None else _FORMATS.get(vr, _plain)(v) for v in many)
    return _FORMATS.get(vr, _plain)(value)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError


def _name(value: Any) -> str:
    return str(value) if isinstance(value, PersonName) else _plain(value)


def _original(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """Values that pydicom read are written as they were."""

    def formatted(value: Any) -> str:
        if isinstance(value, bool):
            raise TypeError
        original = value if isinstance(value, str) else getattr(value, "original_string", None)
        return original if isinstance(original, str) else function(value)

    return formatted


@_original
def _date(value: Any) -> str:
    if not isinstance(value, date):
        raise TypeError
    return f"{value.year:04}{value.month:02}{value.day:02}"


@_original
def _time(value: Any) -> str:
    if not isinstance(value, (time, datetime)):
        raise TypeError
    fraction = f".{value.microsecond:06}" if value.microsecond else ""
    return f"{value.hour:02}{value.minute:02}{value.second:02}{fraction}"


@_original
def _date_time(value: Any) -> str:
    text = _date(value)
    if isinstance(value, datetime):
        text += _time(value)
        if (offset := value.utcoffset()) is not None:
            minutes = round(offset.total_seconds() / 60)
            text += f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    return text


@_original
def _integer_string(value: Any) -> str:
    number = int(value)
    if number != value or not -(2**31) <= number < 2**31:
        raise ValueError
    return str(number)


@_original
def _decimal_string(value: Any) -> str:
    if hasattr(value, "__index__"):
        value = operator.index(value)
        if len(text := str(value)) <= 16:
            return text
        text = format_number_as_ds(float(value))
        if Decimal(text) != value:
            raise ValueError
        return text
    if not isinstance(value, Decimal):
        value = float(value)
    text = str(value)
    if len(text) > 16 or not math.isfinite(value):
        text = format_number_as_ds(value)
    if not math.isfinite(float(text)):
        # the largest numbers, rounded up beyond a reader's range
        raise ValueError
    return text


_FORMATS: dict[str, Callable[[Any], str]] = {
    "DA": _date,
    "DS": _decimal_string,
    "DT": _date_time,
    "IS": _integer_string,
    "PN": _name,
    "TM": _time,
}


def string_bytes(text: str, vr: str, target: tuple[str, ...]) -> bytes:
    """The bytes of a text in a character set."""
    if vr in TEXT_VRS:
        return charsets.encode(text, target, vr)
    # Such a VR has the default repertoire; other bytes of a peer were read as Latin-1, and are
    # written back unchanged.
    try:
        return text.encode("latin_1")
    except UnicodeEncodeError:
        if target == charsets.DEFAULT:
            raise
        return text.encode("utf_8", "replace")


def _numbers(value: Any, vr: str, order: str) -> bytes:
    many = several(value)
    if many is None:
        many = (value,)
    if any(isinstance(v, (str, bytes, bool)) for v in many):
        raise TypeError
    convert: Callable[[Any], Any] = float if vr in ("FD", "FL") else operator.index
    return struct.pack(f"{order}{len(many)}{NUMBER_FORMATS[vr]}", *map(convert, many))


def _tags(value: Any, order: str) -> bytes:
    many = several(value)
    if many is None or (
        isinstance(value, tuple) and len(value) == 2 and all(type(v) is int for v in value)
    ):
        many = (value,)
    if any(isinstance(v, (bool, float, bytes)) for v in many):
        raise TypeError
    tags = [Tag(v) for v in many]
    return b"".join(struct.pack(order + "HH", t >> 16, t & 0xFFFF) for t in tags)


def _octets(value: Any, size: int, swap: bool) -> bytes:
    if hasattr(value, "getbuffer"):
        value = value.getbuffer()
    elif hasattr(value, "read"):
        start = value.tell()
        data = value.read()
        value.seek(start)
        value = data
    data = value if isinstance(value, bytes) else memoryview(value).tobytes()
    return swapped(data, size) if swap else data


def swapped(data: bytes, size: int) -> bytes:
    """Words of a size in the opposite byte order."""
    if size == 1:
        return data
    data += b"\0" * (-len(data) % size)
    out = bytearray(len(data))
    for i in range(size):
        out[i::size] = data[size - 1 - i :: size]
    return bytes(out)
