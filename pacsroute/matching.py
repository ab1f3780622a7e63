r"""Matching of C-FIND keys, on rows in Python and in SQL, with the same answers (PS3.4 §C.2.2.2).

`matches` tests one row; `where` turns the same identifier into the WHERE clause of an SQLite
query, with every value from the wire in a bound parameter; `stored` gives the text that a matched
column has to hold for the two to agree:

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

A database that keeps values as they came can be matched as well, at the price of a function call
for each row: ``connection.create_function("stored", 2, matching.stored, deterministic=True)``, and
``"stored('PatientName', study.name)"`` as the column; SQLite can have an index on that, too.

What the standard leaves open is decided so:

- A key that is empty or only ``*`` matches everything. ``A\B`` matches either, whatever the VR.
- A value that is not of its VR, such as a date with letters in it, is an unknown value, which is
  to say an empty one. A *key* that is not of its VR is a `DataSetError`.
- Person names are compared by Unicode's case folding, on composed characters; accents count.
  Spaces around a component and trailing ``^`` and ``=`` do not, so ``DOE^*`` finds ``Doe`` too.
  A key is tried on the whole name and on its leading component groups; an empty group in a key,
  as in ``=山田*``, stands for any.
- Times and date-times as keys mean all of what they leave out: ``10`` is the hour from 10:00 to
  10:59:59.999999, and ``-11`` ends with 11:59:59.999999. As values they mean the first moment.
- Date-times are compared in UTC. One without an offset is taken as UTC: right when neither side
  has one, off by the zone when only one has. ``20240101-0500`` is a date-time with an offset, not a
  range, since -1200 to +1400 are offsets; ``2023-2024`` is a range.
- IS, DS and binary numbers are compared as numbers. Other binary VRs are never conditions.
- Date and time are two keys, not combined; ``""`` is no key for empty values: both take extended
  negotiation.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword

from pacsroute.errors import DataSetError

Columns: TypeAlias = "Mapping[str, str | Columns]"
"""The SQL expression of each keyword; for a sequence, those of its items."""

_IGNORED = frozenset(
    {"SpecificCharacterSet", "QueryRetrieveLevel", "TimezoneOffsetFromUTC", "RetrieveAETitle"}
)
_WILDCARDS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NARRATIVE = frozenset({"LT", "ST", "UT"})
_NUMBERS = frozenset("AT DS FD FL IS SL SS SV UL US UV".split())
_MATCHED = _WILDCARDS | _NUMBERS | {"AS", "DA", "DT", "TM", "UI"}
# Of VRs without character sets the bytes are read here: pydicom refuses "*" in an IS, and warns
# with the value, which may be the patient's.
_ASCII = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"})

_DA = r"\d{4}\.?(?:0[1-9]|1[0-2])\.?(?:0[1-9]|[12]\d|3[01])"
_TM = r"(?:[01]\d|2[0-4])(?::?[0-5]\d(?::?(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?"
_DT = (
    r"\d{4}(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12]\d|3[01])(?:(?:[01]\d|2[0-3])"
    r"(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?)?)?)?(?:[+-](?:0\d|1[0-4])[0-5]\d)?"
)
_MOMENT = {vr: re.compile(form, re.A) for vr, form in (("DA", _DA), ("TM", _TM), ("DT", _DT))}
_RANGE = {
    vr: re.compile(f"({form.pattern})? *- *({form.pattern})?", re.A)
    for vr, form in _MOMENT.items()
}


class Where(NamedTuple):
    """A condition to put behind ``WHERE``, and the values of its ``?``."""

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


def matches(
    identifier: Dataset, row: Mapping[str, Any] | Dataset, *, empty_matches: bool = True
) -> bool:
    r"""Tell whether a row is what the keys of an identifier ask for (PS3.4 §C.2.2.2).

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys. Those that the row does not have at all are not conditions: the standard's
        optional keys that are not supported.
    row : mapping or pydicom.Dataset
        The values by keyword: text as in DICOM, numbers, dates, times, None for an empty one;
        a list where any of its values may match; a list of rows for a sequence, of which one
        item has to match all keys of the sequence's item.
    empty_matches : bool
        Whether an empty value matches every key, as in Query/Retrieve, or only a universal one,
        as in worklists (PS3.4 §K.2.2.1.1.1).

    Raises
    ------
    DataSetError
        For a key that cannot be a value of its attribute; it names the keyword only.

    Examples
    --------
    >>> key = Dataset()
    >>> key.StudyDate, key.ModalitiesInStudy = "20240101-20240131", "MR"
    >>> matches(key, {"StudyDate": "20240115", "ModalitiesInStudy": ["CT", "MR"]})
    True
    """
    for keyword, key in _keys(identifier, row):
        value = _read(row, keyword) if isinstance(row, Dataset) else row[keyword]
        if _vr(keyword) == "SQ":
            items = [value] if isinstance(value, Mapping | Dataset) else value or ()
            found = [matches(k, i, empty_matches=empty_matches) for k in key for i in items]
            # An item of which no key is a condition matches a sequence without items, too.
            empty = empty_matches or any(not any(_conditions(item)) for item in key)
        else:
            values = _values(keyword, value)
            found = [test.passes(v) for test in key for v in values]
            empty = empty_matches
        if not (any(found) if found else empty):
            return False
    return True


def where(
    identifier: Dataset,
    columns: Columns,
    *,
    multiple: Collection[str] = (),
    empty_matches: bool = True,
) -> Where:
    r"""Turn an identifier into an SQLite condition with the answers of `matches`.

    Single values, lists of UIDs and ranges become ``=``, ``IN`` and ``BETWEEN``, and a wildcard
    ``GLOB``, all of which an index of the column serves. A column that may hold several values
    holds them joined by backslashes, and is split for each row.

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys. Those that have no column are not conditions.
    columns : mapping
        An SQL expression by keyword, written by the programmer and used as it is; its value has
        to be the one that `stored` gives. For a sequence, such a mapping for its items' keys,
        of a query that joins one row for each item.
    multiple : collection of str
        Keywords of columns that may hold several values although the dictionary allows one.
        Those with another value multiplicity, such as ModalitiesInStudy, need no mention.
    empty_matches : bool
        As in `matches`. NULL and ``''`` are the empty values.

    Raises
    ------
    DataSetError
        For a key that cannot be a value of its attribute, and for a column that has no such
        keyword in the dictionary.

    Examples
    --------
    >>> key = Dataset()
    >>> key.StudyDate = "20240101-20240131"
    >>> where(key, {"StudyDate": "study.date"}, empty_matches=False)
    Where(sql='(study.date BETWEEN ? AND ?)', parameters=('20240101', '20240131'))
    >>> where(key, {"StudyTime": "study.time"})
    Where(sql='1 = 1', parameters=())
    """
    for keyword, column in columns.items():
        if (_vr(keyword) == "SQ") != isinstance(column, Mapping):
            raise DataSetError(f"{keyword}: a sequence has a mapping of columns, others have one")
    conditions = []
    parameters: list[Any] = []
    for keyword, key in _keys(identifier, columns):
        column = columns[keyword]
        if isinstance(column, str):
            split = keyword in multiple or dictionary_VM(keyword) != "1"
            sql, values = _condition(column, key, split, empty_matches)
            conditions.append(f"({sql})")
            parameters += values
        else:
            items = [
                where(item, column, multiple=multiple, empty_matches=empty_matches) for item in key
            ]
            conditions.append("(" + " OR ".join(f"({item.sql})" for item in items) + ")")
            parameters += [value for item in items for value in item.parameters]
    return Where(" AND ".join(conditions) or "1 = 1", tuple(parameters))


def stored(keyword: str, value: object) -> str | int | float | None:
    r"""Give a value the form in which a column is matched; users call it as they insert.

    Text loses its padding, and a name its case: keep a name as it came in a column of its own.
    Dates, times and date-times become ``YYYYMMDD``, ``HHMMSS`` and ``YYYYMMDDHHMMSS`` in UTC,
    with a fraction if it is not zero. Several values are joined by backslashes.

    Parameters
    ----------
    keyword : str
        The attribute.
    value : object
        Anything that `matches` takes as a value, or the Dataset that has it.

    Returns
    -------
    str, int, float or None
        A number for an attribute that is one, None for what is empty or not of the VR.

    Raises
    ------
    DataSetError
        For a keyword that is unknown, of a sequence or of binary data.

    Examples
    --------
    >>> stored("PatientName", "Doe^John^^"), stored("StudyTime", "10:30")
    ('doe^john', '103000')
    >>> stored("ModalitiesInStudy", ["CT", "MR"]), stored("SeriesNumber", "007")
    ('CT\\MR', 7)
    """
    if _vr(keyword) not in _MATCHED:
        raise DataSetError(f"{keyword}: not an attribute that a column can be matched by")
    values = _values(keyword, _read(value, keyword) if isinstance(value, Dataset) else value)
    if len(values) == 1 and dictionary_VM(keyword) == "1":
        return values[0]
    return "\\".join(map(str, values)) or None


def _condition(
    column: str, tests: Sequence[_Test], split: bool, empty_matches: bool
) -> tuple[str, list[Any]]:
    operand = "json_each.value" if split else column
    # SQLite limits the depth of an expression to 1,000: a long list of UIDs has to be one IN.
    equal = [test.operands[0] for test in tests if test.operator == "="]
    others = [test for test in tests if test.operator != "="]
    terms = [f"{operand} IN ({', '.join('?' * len(equal))})"] if len(equal) > 1 else []
    terms += [f"{operand} = ?"] if len(equal) == 1 else []
    terms += [f"{operand} {t.operator} {' AND '.join('?' * len(t.operands))}" for t in others]
    terms += [f"{operand} IS NULL", f"{operand} = ''"] if empty_matches else []
    sql = " OR ".join(terms)
    parameters = equal + [operand for test in others for operand in test.operands]
    if split:
        # A backslash is \\ in JSON: with "," instead of it, the string is the items of an array.
        array = rf"""'[' || replace(json_quote(CAST({column} AS TEXT)), '\\', '","') || ']'"""
        sql = f"EXISTS (SELECT 1 FROM json_each({array}) WHERE {sql})"
        parameters = [str(parameter) for parameter in parameters]
    return sql, parameters


def _keys(identifier: Dataset, supported: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    """The keys that are conditions: tests of which one has to pass, or items of a sequence."""
    for keyword, key in _conditions(identifier):
        if keyword in supported:
            yield keyword, key


@lru_cache(maxsize=1024)
def _vr(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise DataSetError(f"{keyword}: no such keyword in the dictionary")
    return dictionary_VR(tag)[:2]  # "US or SS" is a number in either case
