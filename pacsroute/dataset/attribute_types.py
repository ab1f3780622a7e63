"""The attributes that an SOP instance must have, by the tables of PS3.4 (PS3.4 §5.4.2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from pacsroute.errors import Failure
from pacsroute.status import (
    INVALID_ATTRIBUTE_VALUE,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
)

Rules = dict[str, tuple[list[str], "Rules"]]
"""By keyword: the value of each column, and the rules for items of a sequence."""


def rules(table: str) -> Rules:
    """Read a table with a line for each attribute: its keyword and the columns.

    Attributes of an item have one more leading ``>`` than their sequence.
    """
    levels: list[Rules] = [{}]
    for line in table.strip().split("\n"):
        name, *columns = line.split()
        keyword = name.lstrip(">")
        inner: Rules = {}
        levels[len(name) - len(keyword) + 1 :] = [inner]
        levels[-2][keyword] = columns, inner
    return levels[0]


def check(dataset: Dataset, column: int, rules: Rules, before: Dataset | None = None) -> None:
    """Raise a `Failure` for attributes that a data set lacks, or `before` with it applied.

    Type 1 must be present with a value, type 2 must be present; ``-`` requires nothing.
    """
    for keyword, (types, inner) in rules.items():
        where = before if before is not None and keyword not in dataset else dataset
        require(keyword, types[column], where)
        if inner and types[column] != "-":
            for item in where.get(keyword) or ():
                check(item, column, inner)


def check_settable(before: Dataset, modifications: Dataset, column: int, rules: Rules) -> None:
    """Raise a `Failure` for changes to attributes with ``-`` in a column."""
    wrong = [
        keyword
        for keyword, (types, _) in rules.items()
        if types[column] == "-"
        and keyword in modifications
        and _or_none(modifications[keyword].value) != _or_none(before.get(keyword))
    ]
    if wrong:
        raise failure(INVALID_ATTRIBUTE_VALUE, wrong, f"must not be set: {', '.join(wrong)}")


def _or_none(value: Any) -> Any:
    """Return a value, or None for an empty one: empty and missing are the same here."""
    return None if hasattr(value, "__len__") and not len(value) else value


def require(keyword: str, kind: str, dataset: Dataset) -> None:
    """Raise a `Failure` if an attribute is missing (0x0120), or empty but of type 1 (0x0121)."""
    if kind in "12" and keyword not in dataset:
        raise failure(MISSING_ATTRIBUTE, [keyword], f"{keyword} is missing")
    if kind == "1" and dataset[keyword].is_empty:
        raise failure(MISSING_ATTRIBUTE_VALUE, [keyword], f"{keyword} has no value")


def failure(status: int, keywords: Iterable[str], comment: str) -> Failure:
    """Return a `Failure` that lists the attributes concerned."""
    tags = tuple(int(tag_for_keyword(keyword) or 0) for keyword in keywords)
    return Failure(status, comment, AttributeIdentifierList=tags)
