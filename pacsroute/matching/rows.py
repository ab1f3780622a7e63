"""Matching of rows in Python (PS3.4 §C.2.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pydicom import Dataset

from pacsroute.matching.keys import START, Keys
from pacsroute.matching.values import value_in, values

Row: TypeAlias = "Mapping[str, Any] | Dataset"


def matches(identifier: Dataset, row: Row, *, empty_matches: bool = True) -> bool:
    r"""Return whether a row matches the keys of an identifier (PS3.4 §C.2.2.2).

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys. Keys that the row does not have are not conditions: they are the standard's
        unsupported optional keys.
    row : mapping or pydicom.Dataset
        The values by keyword: text as in DICOM, numbers, dates, times, None for an empty one;
        a list if any of its values may match; for a sequence, a list of rows, one of which must
        match all keys of the sequence's item.
    empty_matches : bool
        Whether an empty value matches every key, as in queries (PS3.4 §C.2.2.1.2), or only a
        universal one, as in worklists (§K.2.2.1.1.1). It must be False for the instances of a C-GET
        or C-MOVE: an instance without a Patient ID does not belong to every patient.

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
    return _matches(Keys(identifier), row, empty_matches)


def matcher(identifier: Dataset, *, empty_matches: bool = True) -> Callable[[Row], bool]:
    """Compile an identifier once, for many rows.

    Parameters
    ----------
    identifier, empty_matches
        As for `matches`.

    Returns
    -------
    callable
        A function that tests a row as `matches` does. It raises an `IdentifierError` at the first
        row with an attribute whose key is not valid.

    Examples
    --------
    >>> key = Dataset()
    >>> key.PatientName = "DOE*"
    >>> found = matcher(key)
    >>> [name for name in ("Doe^John", "Roe^Jane") if found({"PatientName": name})]
    ['Doe^John']
    """
    keys = Keys(identifier)
    return lambda row: _matches(keys, row, empty_matches)


def _matches(keys: Keys, row: Row, empty_matches: bool) -> bool:
    combined = all(name in row for name in START) and keys.start
    if combined:
        days, times = (values(name, value_in(row, name)) for name in START)
        found = [combined[0] <= day + time <= combined[1] for day in days for time in times]
        if not (any(found) if found else empty_matches):
            return False
    for keyword, key in keys.conditions(row, START if combined else ()):
        value = value_in(row, keyword)
        if isinstance(key, list):
            items = [value] if isinstance(value, Mapping | Dataset) else value or ()
            has_any = bool(items)
            passes = any(_matches(k, item, empty_matches) for k in key for item in items)
        else:
            held = values(keyword, value)
            has_any, passes = bool(held), key.matches(held)
        if not (passes if has_any else empty_matches):
            return False
    return True
