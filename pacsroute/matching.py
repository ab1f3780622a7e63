r"""Matching of C-FIND keys, on rows in Python and in SQL, with the same answers (PS3.4 §C.2.2.2).

`matches` tests one row. `where` turns the same identifier into the condition of an SQLite query,
every value from the wire a bound parameter. `stored` is what a matched column has to hold:

>>> import sqlite3
>>> from pydicom import Dataset
>>> from pacsroute import matching
>>> db = sqlite3.connect(":memory:")
>>> _ = db.execute("CREATE TABLE study (name, name_key, date)")
>>> name, date = "Müller^Jürgen", "20240115"
>>> row = (name, matching.stored("PatientName", name), matching.stored("StudyDate", date))
>>> _ = db.execute("INSERT INTO study VALUES (?, ?, ?)", row)

>>> key = Dataset()
>>> key.PatientName, key.StudyDate = "MÜLLER*", "20240101-"
>>> sql, parameters = matching.where(key, {"PatientName": "name_key", "StudyDate": "date"})
>>> db.execute(f"SELECT name FROM study WHERE {sql}", parameters).fetchall()
[('Müller^Jürgen',)]
>>> matching.matches(key, {"PatientName": name, "StudyDate": date})
True

A database that keeps its values as they came can be matched too, with a function call for each
row: ``connection.create_function("stored", 2, matching.stored, deterministic=True)``, and
``"stored('PatientName', name)"`` for the column; SQLite can even have an index on that.

What the standard leaves open is decided so:

- A key that is empty or only ``*`` matches everything. ``A\B`` matches either, whatever the VR.
- A value that is not of its VR, such as a date with letters in it or a name of more than 1024
  characters, is unknown, which is to say empty. A *key* that is not of its VR is an
  `IdentifierError`.
- Names are compared by Unicode case folding, on composed characters; accents count. Spaces around
  a component and trailing ``^`` and ``=`` do not, and ``DOE^*`` finds ``Doe`` too. A key is
  tried on the whole name and on its leading component groups; an empty group in a key, as in
  ``=山田*``, stands for any.
- Times and date-times mean, as keys, all of what they leave out: ``10`` is the hour from 10:00 to
  10:59:59.999999, and ``-11`` ends with 11:59:59.999999. As values they mean the first moment.
- Date-times are compared in UTC. One without an offset is taken as UTC: right where neither side
  has one, off by the zone where one side has. ``20240101-0500`` has an offset, since those from
  -0000 to -1459 are; ``2023-2024`` is a range.
- IS, DS and binary numbers are compared as numbers. Tags and bulk data are never conditions.
- Date and time are two keys, not combined, and ``""`` is no key for empty values: both take
  extended negotiation. But ranges of the start of a scheduled step are one range, from the first
  date and time to the last (PS3.4 Table K.6-1): the night of a worklist is ``20240705-20240706``
  and ``1800-0600``.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

from pydicom import Dataset
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from pacsroute.errors import DataSetError, IdentifierError

__all__ = ["Columns", "Where", "matches", "stored", "where"]

Row: TypeAlias = "Mapping[str, Any] | Dataset"
Columns: TypeAlias = "Mapping[str, str | Columns]"

_IGNORED = {
    "",  # private, group length or unknown
    "QueryRetrieveLevel",
    "RetrieveAETitle",
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
}
_WILDCARDS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
_NARRATIVE = {"LT", "ST", "UT"}
_NUMBERS = {"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"}
_MATCHED = _WILDCARDS | _NUMBERS | {"AS", "DA", "DT", "TM", "UI"}
# The bytes of these are read here: pydicom refuses "*" in an IS, and warns of a wrong date with
# its value, which may be the patient's.
_ASCII = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"}
# SQLite would end at a NUL, and cannot bind a surrogate.
_UNBINDABLE = re.compile("[\0\ud800-\udfff]")
_START = ("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime")
_MISFITS = (ValueError, ArithmeticError, TypeError)
# What takes more than linear time is not done to what no attribute is: composing the characters
# of a name, and looking for a part of a value. PS3.5 §6.2 has 64 characters, three times for PN.
_LONGEST = 1024
_MOST = 10_000  # values of one key, which SQL has to bind
_COMPONENTS = 5  # of a name

_MONTH, _DAY, _HOUR = "(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"(?:[01]\d|2[0-4])"
_SECOND = r"(?:[0-5]\d|60)(?:\.\d{1,6})?"  # 60 is a leap second
_FORMS = {
    "DA": rf"\d{{4}}\.?{_MONTH}\.?{_DAY}",
    "TM": rf"{_HOUR}(?::?[0-5]\d(?::?{_SECOND})?)?",
    "DT": rf"\d{{4}}(?:{_MONTH}(?:{_DAY}(?:{_HOUR}(?:[0-5]\d(?:{_SECOND})?)?)?)?)?"
    r"(?:[+-](?:0\d|1[0-4])[0-5]\d)?",
}
_MOMENT = {vr: re.compile(form, re.ASCII) for vr, form in _FORMS.items()}
_RANGE = {vr: re.compile(f"({form})? *- *({form})?", re.ASCII) for vr, form in _FORMS.items()}


class Where(NamedTuple):
    """A condition to put behind ``WHERE``, and the values of its question marks."""

    sql: str
    parameters: tuple[str | int | float, ...]


class _Test(NamedTuple):
    """One thing to ask of one value, in words that SQLite and Python share."""

    operator: str  # "=", "GLOB" or "BETWEEN"
    operands: tuple[Any, ...]

    def passes(self, value: Any) -> bool:
        if self.operator == "GLOB":
            return fnmatchcase(value, self.operands[0])
        return bool(self.operands[0] <= value <= self.operands[-1])


def matches(identifier: Dataset, row: Row, *, empty_matches: bool = True) -> bool:
    r"""Tell whether a row is what the keys of an identifier ask for (PS3.4 §C.2.2.2).

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys. Those that the row does not have at all are not conditions: they are the
        standard's optional keys without support.
    row : mapping or pydicom.Dataset
        The values by keyword: text as in DICOM, numbers, dates, times, None for an empty one;
        a list where any of its values may match; for a sequence a list of rows, of which one
        has to match all keys of the sequence's item.
    empty_matches : bool
        Whether an empty value matches every key, as in queries (PS3.4 §C.2.2.1.2), or only a
        universal one, as in worklists (§K.2.2.1.1.1). For what a C-GET or C-MOVE sends it has to
        be False: what has no Patient ID is not of every patient.

    Raises
    ------
    IdentifierError
        For a key that cannot be a value of its attribute; it names the keyword only.

    Examples
    --------
    >>> key = Dataset()
    >>> key.StudyDate, key.ModalitiesInStudy = "20240101-20240131", "MR"
    >>> matches(key, {"StudyDate": "20240115", "ModalitiesInStudy": ["CT", "MR"]})
    True
    """
    span = _span(identifier, row)
    if span is not None:
        days, times = (_values(name, _value(row, name)) for name in _START)
        found = [span.passes(day + time) for day in days for time in times]
        if not (any(found) if found else empty_matches):
            return False
    for keyword, key in _keys(identifier, row, () if span is None else _START):
        value = _value(row, keyword)
        if _vr(keyword) == "SQ":
            items = [value] if isinstance(value, Mapping | Dataset) else value or ()
            found = [matches(k, i, empty_matches=empty_matches) for k in key for i in items]
        else:
            found = [test.passes(v) for test in key for v in _values(keyword, value)]
        if not (any(found) if found else empty_matches):
            return False
    return True


def where(
    identifier: Dataset,
    columns: Columns,
    *,
    multiple: Collection[str] = (),
    empty_matches: bool = True,
) -> Where:
    r"""Turn an identifier into an SQLite condition that answers as `matches` does.

    Single values, lists of UIDs and ranges become ``=``, ``IN`` and ``BETWEEN``, wildcards
    ``GLOB``: all of them conditions that an index of the column can serve. A column that may
    hold several values holds them joined by backslashes, and is taken apart for each row.

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys. Those without a column are not conditions.
    columns : mapping
        An SQL expression by keyword, written by the programmer and used as it is, for a value
        in the form that `stored` gives. For a sequence, such a mapping for its items' keys, in
        a query that joins a row for each item.
    multiple : collection of str
        Keywords of which the column may hold several values although the dictionary allows one.
        Those that have another value multiplicity, as ModalitiesInStudy has, need no mention.
    empty_matches : bool
        As for `matches`. NULL and ``''`` are the empty values.

    Raises
    ------
    IdentifierError
        For a key that cannot be a value of its attribute.
    DataSetError
        For columns that cannot be right.

    Examples
    --------
    >>> key = Dataset()
    >>> key.StudyDate = "20240101-20240131"
    >>> where(key, {"StudyDate": "study.date"}, empty_matches=False)
    Where(sql='(study.date BETWEEN ? AND ?)', parameters=('20240101', '20240131'))
    >>> where(key, {"PatientID": "study.patient_id"})
    Where(sql='1 = 1', parameters=())
    """
    for keyword, column in columns.items():
        if isinstance(column, str) == (_vr(keyword) == "SQ"):
            raise DataSetError(f"{keyword}: a sequence has a mapping of columns, others a column")
    conditions: list[str] = []
    parameters: list[Any] = []
    span = _span(identifier, columns)
    if span is not None:
        day, time = (columns[name] for name in _START)
        between = f"{day} BETWEEN ? AND ? AND {time} > '' AND {day} || {time} BETWEEN ? AND ?"
        empty = [f"{part} IS NULL OR {part} = ''" for part in (day, time) if empty_matches]
        conditions.append(f"({' OR '.join([between, *empty])})")
        # The dates are there once more for an index that they have.
        parameters += [moment[:8] for moment in span.operands] + [*span.operands]
    for keyword, key in _keys(identifier, columns, () if span is None else _START):
        column = columns[keyword]
        if isinstance(column, str):
            split = keyword in multiple or dictionary_VM(keyword) != "1"
            alternatives = [_condition(column, key, split, empty_matches)]
        else:
            options: dict[str, Any] = {"multiple": multiple, "empty_matches": empty_matches}
            alternatives = [where(item, column, **options) for item in key]
        conditions.append(f"({' OR '.join(sql for sql, _ in alternatives)})")
        parameters += [value for _, values in alternatives for value in values]
    return Where(" AND ".join(conditions) or "1 = 1", tuple(parameters))


def stored(keyword: str, value: object) -> str | int | float | None:
    r"""Give a value the form in which a column is matched: to be called at insertion.

    Text loses its padding, and a name its case: keep the name as it came in a column of its own.
    Dates, times and date-times become ``YYYYMMDD``, ``HHMMSS`` and, in UTC, ``YYYYMMDDHHMMSS``,
    with a fraction where there is one. Several values are joined by backslashes.

    Parameters
    ----------
    keyword : str
        The attribute.
    value : object
        Anything that `matches` takes for it in a row, or the pydicom Dataset that has it.

    Returns
    -------
    str, int, float or None
        A number for an attribute that is one, None for what is empty or not of its VR.

    Raises
    ------
    DataSetError
        For a keyword that is unknown, of a sequence, a tag or bulk data.

    Examples
    --------
    >>> stored("PatientName", "Doe^John^^"), stored("StudyTime", "10:30")
    ('doe^john', '103000')
    >>> stored("ModalitiesInStudy", ["CT", "MR"]), stored("SeriesNumber", "007")
    ('CT\\MR', 7)
    """
    if _vr(keyword) not in _MATCHED:
        raise IdentifierError(f"{keyword}: nothing is matched by an attribute of its VR")
    values = _values(keyword, _value(value, keyword) if isinstance(value, Dataset) else value)
    if len(values) == 1 and dictionary_VM(keyword) == "1":
        return values[0]  # type: ignore[no-any-return]
    return "\\".join(map(str, values)) or None


def _condition(column: str, tests: list[_Test], split: bool, empty_matches: bool) -> Where:
    operand = "json_each.value" if split else column
    # One IN for all, since SQLite limits how deeply an expression may be nested.
    equal = [test.operands[0] for test in tests if test.operator == "="]
    others = [test for test in tests if test.operator != "="]
    terms = [f"{operand} = ?"] if len(equal) == 1 else []
    terms += [f"{operand} IN ({', '.join('?' * len(equal))})"] if len(equal) > 1 else []
    terms += [f"{operand} {t.operator} {' AND '.join('?' * len(t.operands))}" for t in others]
    terms += [f"{operand} IS NULL", f"{operand} = ''"] if empty_matches else []
    sql = _any(terms)
    parameters = equal + [value for test in others for value in test.operands]
    if split:
        # JSON writes a backslash as \\; with "," in its place the string is an array's inside.
        array = rf"""'[' || replace(json_quote(CAST({column} AS TEXT)), '\\', '","') || ']'"""
        sql = f"EXISTS (SELECT 1 FROM json_each({array}) WHERE {sql})"
        parameters = [str(value) for value in parameters]
    return Where(sql, tuple(parameters))


def _any(terms: list[str]) -> str:
    """Join terms; SQLite takes 1,000 one after the other for an expression of that depth."""
    if len(terms) <= 500:
        return " OR ".join(terms)
    half = len(terms) // 2
    return f"({_any(terms[:half])}) OR ({_any(terms[half:])})"


def _span(identifier: Dataset, supported: Any) -> _Test | None:
    """The test of date and time as one text, where both keys of a step's start are ranges."""
    limits = []
    for keyword, vr in zip(_START, ("DA", "TM"), strict=True):
        parts = _split(vr, _read(identifier, keyword)) if keyword in supported else []
        found = _RANGE[vr].fullmatch(_moment_text(vr, parts[0])) if len(parts) == 1 else None
        if found is None or not any(found.groups()):
            return None
        limits.append(found.groups(""))
    (first, last), (begin, end) = limits
    low = _moment("DA", first) + (_moment("TM", begin) if begin else "0") if first else "0"
    high = _moment("DA", last) + (_moment("TM", end, latest=True) if end else "~") if last else "~"
    return _Test("BETWEEN", (low, high))


def _keys(
    identifier: Dataset, supported: Any = None, without: Collection[str] = ()
) -> Iterator[tuple[str, list[Any]]]:
    """The keys that are conditions: tests of which one has to pass, or items of a sequence."""
    for tag in sorted(identifier.keys()):
        keyword = keyword_for_tag(tag)
        if (
            keyword in _IGNORED
            or keyword in without
            or not (supported is None or keyword in supported)
        ):
            continue
        vr = _vr(keyword)
        if vr == "SQ":
            items = list(_read(identifier, keyword) or ())
            if items and all(any(True for _ in _keys(item)) for item in items):
                yield keyword, items
        elif vr in _MATCHED and (tests := _tests(keyword, vr, _read(identifier, keyword))):
            yield keyword, tests


def _tests(keyword: str, vr: str, value: object) -> list[_Test]:
    """The tests of which one has to pass; none for a universal key."""
    tests: list[_Test] = []
    parts = _split(vr, value)
    if len(parts) > _MOST:
        raise IdentifierError(f"{keyword}: more than {_MOST} values")
    for part in parts:
        if isinstance(part, str) and not part.strip("*"):
            return []
        try:
            alternatives = _alternatives(vr, part)
        except _MISFITS:
            # Without the cause, which quotes the value.
            raise IdentifierError(f"{keyword}: the key cannot be a value of VR {vr}") from None
        if not alternatives:
            return []
        tests += alternatives
    return tests


def _alternatives(vr: str, part: Any) -> list[_Test]:
    if vr in _MOMENT:
        first = last = _moment_text(vr, part)
        if not _MOMENT[vr].fullmatch(first):
            limits = _RANGE[vr].fullmatch(first)
            first, last = limits.groups("") if limits else ("", "")
            if not (first or last):
                raise ValueError
        # Every moment lies between "0" and "~", so that a range with an open end is a range.
        low = _moment(vr, first) if first else "0"
        high = _moment(vr, last, latest=True) if last else "~"
        return [_Test("=", (low,)) if low == high else _Test("BETWEEN", (low, high))]
    value = _canonical(vr, part)
    if vr not in _WILDCARDS:
        return [_Test("=", (value,))]
    texts = [re.sub(r"\*+", "*", value)]
    if vr == "PN":
        texts = ["=".join(group or "*" for group in texts[0].split("="))]
        while len(texts) < _COMPONENTS and texts[-1].endswith("^*"):
            texts.append(texts[-1][:-2])
        texts += [f"{text}=*" for text in texts if not text.endswith("*")]
    return [] if "*" in texts else [_text_test(text) for text in texts]


def _text_test(text: str) -> _Test:
    if not {"*", "?"} & {*text}:
        return _Test("=", (text,))
    if len(text) > _LONGEST:
        raise ValueError
    # SQLite's GLOB and fnmatch read a pattern alike, once a "[" is a class of its own.
    return _Test("GLOB", (text.replace("[", "[[]"),))


def _values(keyword: str, value: object) -> list[Any]:
    """The values in canonical form, without those that are empty or not of the VR."""
    vr, values = _vr(keyword), []
    for part in _split(vr, value):
        try:
            values.append(_canonical(vr, part))
        except _MISFITS:
            pass
    return [value for value in values if value != ""]


def _split(vr: str, value: Any) -> list[Any]:
    """The single values: text without its padding, or whatever else is in them."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, str | PersonName):
        text = _UNBINDABLE.sub("", str(value))
        if vr in _NARRATIVE:
            return [text.rstrip(" ")] if text.strip(" ") else []
        parts = [text] if vr == "UR" else text.split("\\")
        return [part.strip(" ") for part in parts if part.strip(" ")]
    if isinstance(value, Iterable):
        return [part for item in value for part in _split(vr, item)]
    return [] if value is None else [value]


def _canonical(vr: str, part: Any) -> Any:
    if vr in _MOMENT:
        return _moment(vr, _moment_text(vr, part))
    if vr in _NUMBERS:
        number = Decimal(str(part))
        if abs(number) < 2**63 and number == number.to_integral_value():
            return int(number)
        if not isfinite(number):
            raise ValueError
        return float(number)
    return _fold(str(part)) if vr == "PN" else str(part)


def _fold(name: str) -> str:
    if len(name) > _LONGEST:
        raise ValueError
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    groups = [[part.strip(" ") for part in group.split("^")] for group in folded.split("=")]
    return "=".join("^".join(group).rstrip("^") for group in groups).rstrip("=")


def _moment_text(vr: str, part: Any) -> str:
    if isinstance(part, datetime):
        if vr != "DT":
            part = part.date() if vr == "DA" else part.time()
        elif part.tzinfo:
            part = part.astimezone(UTC)
    return re.sub("[-:T]", "", part.isoformat()) if isinstance(part, date | time) else str(part)


def _moment(vr: str, text: str, *, latest: bool = False) -> str:
    """The first or last moment of a date, time or date-time, in a form that sorts as text."""
    if not _MOMENT[vr].fullmatch(text):
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


def _value(row: Row, keyword: str) -> Any:
    if not isinstance(row, Dataset):
        return row[keyword]
    try:
        return _read(row, keyword)
    except DataSetError:
        return None


def _read(dataset: Dataset, keyword: str) -> Any:
    element = dataset.get_item(tag_for_keyword(keyword) or 0)
    if isinstance(element, RawDataElement) and _vr(keyword) in _ASCII:
        return element.value
    try:
        value = None if element is None else dataset[keyword].value
    except Exception:  # noqa: BLE001, on broken bytes pydicom raises whatever comes up
        raise DataSetError(f"{keyword}: the value cannot be decoded") from None
    if value and _vr(keyword) == "SQ" and not isinstance(value, Sequence):
        # explicit VR may say that it is anything
        raise IdentifierError(f"{keyword}: the value is no sequence")
    return value


@lru_cache(maxsize=1024)
def _vr(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise DataSetError(f"{keyword}: no such keyword in the dictionary")
    return dictionary_VR(tag)[:2]  # "US or SS" is a number in either case
