"""Matching of rows in SQL (PS3.4 §C.2.2.2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

from pydicom import Dataset
from pydicom.datadict import dictionary_VM

from pacsroute.errors import DataSetError
from pacsroute.matching.dialects import DIALECTS, Dialect, Name, Term
from pacsroute.matching.keys import START, Key, Keys
from pacsroute.matching.values import NUMBERS, vr_of

Columns: TypeAlias = "Mapping[str, str | Columns]"


class Where(NamedTuple):
    """A condition for ``WHERE``, and the values of its parameters.

    The marks are ``?`` for SQLite and ``%s`` for PostgreSQL, where a value may be a list.
    """

    sql: str
    parameters: tuple[Any, ...]

    def named(self, prefix: str = "key") -> tuple[str, dict[str, Any]]:
        """Return the condition with names instead of marks, and the values by name.

        SQLAlchemy's ``text`` takes this form, and so does `sqlite3`.

        Parameters
        ----------
        prefix : str
            The beginning of the names: conditions of one statement have different ones.

        Raises
        ------
        ValueError
            If a column contains a parameter mark.

        Examples
        --------
        >>> Where("study.id = ? OR study.id IS NULL", ("1",)).named()
        ('study.id = :key0 OR study.id IS NULL', {'key0': '1'})
        """
        for mark in ("?", "%s"):
            first, *rest = self.sql.split(mark)
            if len(rest) == len(self.parameters):
                break
        else:
            raise ValueError("a column contains a parameter mark")
        names = [f"{prefix}{number}" for number in range(len(rest))]
        sql = first + "".join(f":{name}{part}" for name, part in zip(names, rest, strict=True))
        return sql, dict(zip(names, self.parameters, strict=True))


def where(
    identifier: Dataset,
    columns: Columns,
    *,
    multiple: Collection[str] = (),
    empty_matches: bool = True,
    dialect: Name = "sqlite",
) -> Where:
    r"""Turn an identifier into an SQL condition with the results of `matches`.

    Single values, lists of UIDs and ranges become ``=``, ``IN`` and ``BETWEEN``, wildcards
    ``GLOB``: an index of the column can serve all of these. A column with several values holds them
    joined by backslashes, and is split for each row.

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys. Keys without a column are not conditions.
    columns : mapping
        An SQL expression by keyword, written by the programmer and used as it is, for a value
        in the form that `stored` gives. For a sequence, such a mapping for its items' keys, in
        a query that joins a row for each item.
    multiple : collection of str
        Keywords of which the column may hold several values although the dictionary allows one.
        Those that have another value multiplicity, as ModalitiesInStudy has, need no mention.
    empty_matches : bool
        As for `matches`. NULL and ``''`` are the empty values.
    dialect : {"sqlite", "postgresql"}
        The database. PostgreSQL compares types: columns hold text where `stored` gives text, and
        numbers for attributes that are numbers and have one value. An index serves ranges and
        patterns if the column has ``COLLATE "C"``.

    Raises
    ------
    IdentifierError
        For a key that cannot be a value of its attribute.
    DataSetError
        For invalid columns.

    Examples
    --------
    >>> key = Dataset()
    >>> key.StudyDate = "20240101-20240131"
    >>> where(key, {"StudyDate": "study.date"}, empty_matches=False)
    Where(sql='(study.date BETWEEN ? AND ?)', parameters=('20240101', '20240131'))
    >>> where(key, {"PatientID": "study.patient_id"})
    Where(sql='1 = 1', parameters=())
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect must be 'sqlite' or 'postgresql', not {dialect!r:.40}")
    return _where(Keys(identifier), columns, multiple, empty_matches, DIALECTS[dialect])


def _where(
    keys: Keys,
    columns: Columns,
    multiple: Collection[str],
    empty_matches: bool,
    dialect: Dialect,
) -> Where:
    for keyword, column in columns.items():
        if isinstance(column, str) == (vr_of(keyword) == "SQ"):
            raise DataSetError(f"{keyword}: a sequence needs a mapping of columns, others a column")
    conditions: list[str] = []
    parameters: list[Any] = []
    combined = all(name in columns for name in START) and keys.start
    if combined:
        day, time = (str(columns[name]) for name in START)
        conditions.append(_start(day, time, empty_matches, dialect))
        # Repeat the dates, so that their index can be used.
        parameters += [moment[:8] for moment in combined] + [*combined]
    for keyword, key in keys.conditions(columns, START if combined else ()):
        column = columns[keyword]
        if isinstance(key, list):
            assert not isinstance(column, str)
            alternatives = [_where(item, column, multiple, empty_matches, dialect) for item in key]
        else:
            assert isinstance(column, str)
            several = keyword in multiple or dictionary_VM(keyword) != "1"
            is_text = several or vr_of(keyword) not in NUMBERS
            alternatives = [_condition(column, key, several, is_text, empty_matches, dialect)]
        conditions.append(f"({' OR '.join(sql for sql, _ in alternatives)})")
        parameters += [value for _, values in alternatives for value in values]
    return Where(" AND ".join(conditions) or "1 = 1", tuple(parameters))


def _start(day: str, time: str, empty_matches: bool, dialect: Dialect) -> str:
    """Return the condition of a range of dates and times that belong together."""
    between = f"BETWEEN {dialect.mark} AND {dialect.mark}"
    sql = (
        f"{dialect.text(day)} {between} AND {time} > ''"
        f" AND {dialect.text(f'({day} || {time})')} {between}"
    )
    empty = [f"{part} IS NULL OR {part} = ''" for part in (day, time) if empty_matches]
    return f"({' OR '.join([sql, *empty])})"


def _condition(
    column: str, key: Key, several: bool, is_text: bool, empty_matches: bool, dialect: Dialect
) -> Where:
    operand = "one.value" if several else column
    terms: list[Term] = []
    if key.equal:
        equal = [str(value) for value in key.equal] if several else list(key.equal)
        terms.append(dialect.equal(operand, equal))
    between = f"{dialect.text(operand)} BETWEEN {dialect.mark} AND {dialect.mark}"
    terms += [(between, list(limits)) for limits in key.ranges]
    terms += [dialect.like(operand, pattern) for pattern in key.patterns]
    if empty_matches:
        terms.append((f"{operand} IS NULL", []))
    if empty_matches and (is_text or not dialect.compares_types):
        terms.append((f"{operand} = ''", []))
    sql = _any([sql for sql, _ in terms])
    if several:
        sql = dialect.any_of(column, "one", sql, empty_matches)
    return Where(sql, tuple(value for _, values in terms for value in values))


def _any(terms: list[str]) -> str:
    """Join terms with OR, in a balanced tree: SQLite limits expressions to a depth of 1,000."""
    if len(terms) <= 500:
        return " OR ".join(terms)
    half = len(terms) // 2
    return f"({_any(terms[:half])}) OR ({_any(terms[half:])})"
