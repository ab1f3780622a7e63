"""Values in the form for matching: text, numbers and moments (PS3.5 §6.2)."""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from pacsroute.errors import DataSetError, IdentifierError

WILDCARDS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
NARRATIVE = {"LT", "ST", "UT"}
NUMBERS = {"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"}
MATCHED = WILDCARDS | NUMBERS | {"AS", "DA", "DT", "TM", "UI"}
# The bytes of these are read here: pydicom refuses "*" in an IS, and warns of a wrong date with
# its value, which may be the patient's.
ASCII = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"}
# SQLite would end at a NUL, and cannot bind a surrogate.
_UNBINDABLE = re.compile("[\0\ud800-\udfff]")
MISFITS = (ValueError, ArithmeticError, TypeError)
# Composing the characters of a name takes more than linear time, so values that are too long for an
# attribute are left alone. PS3.5 §6.2 has 64 characters, three times for PN.
LONGEST = 1024

_MONTH, _DAY, _HOUR = "(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"(?:[01]\d|2[0-4])"
_SECOND = r"(?:[0-5]\d|60)(?:\.\d{1,6})?"  # 60 is a leap second
_FORMS = {
    "DA": rf"\d{{4}}\.?{_MONTH}\.?{_DAY}",
    "TM": rf"{_HOUR}(?::?[0-5]\d(?::?{_SECOND})?)?",
    "DT": rf"\d{{4}}(?:{_MONTH}(?:{_DAY}(?:{_HOUR}(?:[0-5]\d(?:{_SECOND})?)?)?)?)?"
    r"(?:[+-](?:0\d|1[0-4])[0-5]\d)?",
}
MOMENT = {vr: re.compile(form, re.ASCII) for vr, form in _FORMS.items()}
RANGE = {vr: re.compile(f"({form})? *- *({form})?", re.ASCII) for vr, form in _FORMS.items()}


def stored(keyword: str, value: object) -> str | int | float | None:
    r"""Return a value in the form for a matched column; call it at insertion.

    Text loses its padding, and a name its case: keep the original name in another column.
    Dates, times and date-times become ``YYYYMMDD``, ``HHMMSS`` and, in UTC, ``YYYYMMDDHHMMSS``,
    with a fraction where there is one. Several values are joined by backslashes.

    Parameters
    ----------
    keyword : str
        The attribute.
    value : object
        A value as `matches` takes it in a row, or the pydicom Dataset that has it.

    Returns
    -------
    str, int, float or None
        A number for a numeric attribute, None for an empty or invalid value.

    Raises
    ------
    DataSetError
        For the keyword of a sequence, a tag or bulk data, or an unknown one.

    Examples
    --------
    >>> stored("PatientName", "Doe^John^^"), stored("StudyTime", "10:30")
    ('doe^john', '103000')
    >>> stored("ModalitiesInStudy", ["CT", "MR"]), stored("SeriesNumber", "007")
    ('CT\\MR', 7)
    """
    if vr_of(keyword) not in MATCHED:
        raise IdentifierError(f"{keyword}: an attribute of its VR cannot be matched")
    found = values(keyword, value_in(value, keyword) if isinstance(value, Dataset) else value)
    if len(found) == 1 and _is_single(keyword):
        return found[0]  # type: ignore[no-any-return]
    return "\\".join(map(str, found)) or None


def values(keyword: str, value: object) -> list[Any]:
    """The values in canonical form, without those that are empty or not of the VR."""
    vr, found = vr_of(keyword), []
    for part in split(vr, value):
        try:
            found.append(canonical(vr, part))
        except MISFITS:
            pass
    return [value for value in found if value != ""]


def split(vr: str, value: Any) -> list[Any]:
    """The single values: text without padding, other values unchanged."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, str | PersonName):
        text = _UNBINDABLE.sub("", str(value))
        if vr in NARRATIVE:
            return [text.rstrip(" ")] if text.strip(" ") else []
        parts = [text] if vr == "UR" else text.split("\\")
        return [part.strip(" ") for part in parts if part.strip(" ")]
    if isinstance(value, Iterable):
        return [part for item in value for part in split(vr, item)]
    return [] if value is None else [value]


def canonical(vr: str, part: Any) -> Any:
    """A single value in canonical form; one that does not fit the VR raises one of `MISFITS`."""
    if vr in MOMENT:
        return moment(vr, moment_text(vr, part))
    if vr in NUMBERS:
        number = Decimal(str(part))
        if abs(number) < 2**63 and number == number.to_integral_value():
            return int(number)
        if not isfinite(number):
            raise ValueError
        return float(number)
    return _fold(str(part)) if vr == "PN" else str(part)


def _fold(name: str) -> str:
    if len(name) > LONGEST:
        raise ValueError
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    groups = [[part.strip(" ") for part in group.split("^")] for group in folded.split("=")]
    return "=".join("^".join(group).rstrip("^") for group in groups).rstrip("=")


def moment_text(vr: str, part: Any) -> str:
    """A date, time or date-time as text."""
    if isinstance(part, datetime):
        if vr != "DT":
            part = part.date() if vr == "DA" else part.time()
        elif part.tzinfo:
            part = part.astimezone(UTC)
    return re.sub("[-:T]", "", part.isoformat()) if isinstance(part, date | time) else str(part)


def moment(vr: str, text: str, *, latest: bool = False) -> str:
    """The first or last moment of a date, time or date-time, in a form that sorts as text."""
    if not MOMENT[vr].fullmatch(text):
        raise ValueError
    if vr == "DA":
        return text.replace(".", "")
    if vr == "TM":
        text = text.replace(":", "")
        return f"{text}~" if latest else _trim(f"{text[:6]:0<6}{text[6:]}")
    local, offset = re.fullmatch(r"([\d.]+)(.*)", text).groups()  # type: ignore[union-attr]
    digits, _, fraction = local.partition(".")
    if latest and len(digits) < 8:
        digits = f"{digits}12"[:6]
        digits += str(monthrange(int(digits[:4]), int(digits[4:]))[1])
    digits += ("--------235960" if latest else "----0101000000")[len(digits) :]
    fraction = fraction.ljust(6, "9" if latest else "0")
    # Offsets are of whole minutes and leave the seconds alone, which may be 60: Python has no such.
    moment = datetime.strptime(f"{digits[:12]}{offset or '+0000'}", "%Y%m%d%H%M%z").astimezone(UTC)
    utc = re.sub("[-:T]", "", moment.replace(tzinfo=None).isoformat(timespec="minutes"))
    return _trim(f"{utc}{digits[12:]}.{fraction}")


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def value_in(row: Mapping[str, Any] | Dataset, keyword: str) -> Any:
    """The value that a row has for a keyword; None if it cannot be read."""
    if not isinstance(row, Dataset):
        return row[keyword]
    try:
        return read(row, keyword)
    except DataSetError:
        return None


def read(dataset: Dataset, keyword: str) -> Any:
    """The value of a data set, as bytes where pydicom might refuse them."""
    element = dataset.get_item(_tag_of(keyword))
    if isinstance(element, RawDataElement) and vr_of(keyword) in ASCII:
        return element.value
    try:
        value = None if element is None else dataset[keyword].value
    except Exception:  # noqa: BLE001, on broken bytes pydicom raises whatever comes up
        raise DataSetError(f"{keyword}: the value cannot be decoded") from None
    if value and vr_of(keyword) == "SQ" and not isinstance(value, Sequence):
        # explicit VR may declare any type
        raise IdentifierError(f"{keyword}: the value is not a sequence")
    return value


@lru_cache(maxsize=1024)
def _tag_of(keyword: str) -> BaseTag:
    return BaseTag(tag_for_keyword(keyword) or 0)


@lru_cache(maxsize=1024)
def _is_single(keyword: str) -> bool:
    """Return whether an attribute has at most one value."""
    return dictionary_VM(keyword) == "1"


@lru_cache(maxsize=1024)
def vr_of(keyword: str) -> str:
    """The VR of an attribute in the dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise DataSetError(f"{keyword}: no such keyword in the dictionary")
    return dictionary_VR(tag)[:2]  # "US or SS" is a number in either case
