"""Matching of rows in SQLite (PS3.4 §C.2.2.2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

from pydicom import Dataset
from pydicom.datadict import dictionary_VM

from pacsroute.errors import DataSetError
from pacsroute.matching.keys import START, Key, Keys
from pacsroute.matching.values import vr_of

Columns: TypeAlias = "Mapping[str, str | Columns]"


class Where(NamedTuple):
    """A condition to put behind ``WHERE``, and the values of its question marks."""

    sql: str
    parameters: tuple[str | int | float, ...]


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
    return _where(Keys(identifier), columns, multiple, empty_matches)


def _where(keys: Keys, columns: Columns, multiple: Collection[str], empty_matches: bool) -> Where:
    for keyword, column in columns.items():
        if isinstance(column, str) == (vr_of(keyword) == "SQ"):
            raise DataSetError(f"{keyword}: a sequence has a mapping of columns, others a column")
    conditions: list[str] = []
    parameters: list[Any] = []
    combined = all(name in columns for name in START) and keys.start
    if combined:
        day, time = (columns[name] for name in START)
        between = f"{day} BETWEEN ? AND ? AND {time} > '' AND {day} || {time} BETWEEN ? AND ?"
        empty = [f"{part} IS NULL OR {part} = ''" for part in (day, time) if empty_matches]
        conditions.append(f"({' OR '.join([between, *empty])})")
        # The dates are there once more for an index that they have.
        parameters += [moment[:8] for moment in combined] + [*combined]
    for keyword, key in keys.conditions(columns, START if combined else ()):
        column = columns[keyword]
        if isinstance(key, list):
            assert not isinstance(column, str)
            alternatives = [_where(item, column, multiple, empty_matches) for item in key]
        else:
            assert isinstance(column, str)
            several = keyword in multiple or dictionary_VM(keyword) != "1"
            alternatives = [_condition(column, key, several, empty_matches)]
        conditions.append(f"({' OR '.join(sql for sql, _ in alternatives)})")
        parameters += [value for _, values in alternatives for value in values]
    return Where(" AND ".join(conditions) or "1 = 1", tuple(parameters))


def _condition(column: str, key: Key, several: bool, empty_matches: bool) -> Where:
    operand = "json_each.value" if several else column
    # One IN for all, since SQLite limits how deeply an expression may be nested.
    terms = [f"{operand} = ?"] if len(key.equal) == 1 else []
    terms += [f"{operand} IN ({', '.join('?' * len(key.equal))})"] if len(key.equal) > 1 else []
    terms += [f"{operand} BETWEEN ? AND ?"] * len(key.ranges)
    terms += [f"{operand} GLOB ?"] * len(key.patterns)
    terms += [f"{operand} IS NULL", f"{operand} = ''"] if empty_matches else []
    sql = _any(terms)
    # GLOB reads a pattern as ours are meant, once a "[" is a class of its own.
    globs = [text.replace("[", "[[]") for text in key.patterns]
    parameters = [*key.equal, *(limit for limits in key.ranges for limit in limits), *globs]
    if several:
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
