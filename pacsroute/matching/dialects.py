r"""The words in which SQLite and PostgreSQL ask the same of a column.

Text is compared by code points on both: in PostgreSQL that takes ``COLLATE "C"``, since in many
languages ``'20240131' BETWEEN '20240101' AND '~'`` is false, and open ranges would find nothing.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal, Protocol

Term = tuple[str, list[Any]]
"""A condition, and its parameters."""

Name = Literal["sqlite", "postgresql"]


class Dialect(Protocol):
    """How one engine asks.

    Attributes
    ----------
    mark : str
        The mark of a parameter.
    compares_types : bool
        Whether a number cannot be compared with a text.
    """

    mark: str
    compares_types: bool

    def text(self, operand: str) -> str:
        """Return text to be compared by its code points."""

    def equal(self, operand: str, values: list[Any]) -> Term:
        """Ask whether it is one of several values."""

    def like(self, operand: str, pattern: str) -> Term:
        """Ask whether it fits a pattern with ``*`` and ``?``."""

    def any_of(self, column: str, value: str, condition: str, empty_matches: bool) -> str:
        r"""Ask whether any of the values that a column holds, joined by ``\``, fulfils a condition.

        Parameters
        ----------
        column, value : str
            The column, and what `condition` calls one of its values.
        condition : str
            The condition for it.
        empty_matches : bool
            Whether no value at all will do, too.
        """


class SQLite:
    """SQLite's words."""

    mark = "?"
    compares_types = False

    def text(self, operand: str) -> str:
        """Return it as it is: SQLite knows no other way."""
        return operand

    def equal(self, operand: str, values: list[Any]) -> Term:
        """Ask for several with one IN: SQLite limits how deeply an expression may be nested."""
        if len(values) == 1:
            return f"{operand} = ?", values
        return f"{operand} IN ({', '.join('?' * len(values))})", values

    def like(self, operand: str, pattern: str) -> Term:
        """Ask with GLOB, which reads it as it is meant, once a ``[`` is a class of its own."""
        return f"{operand} GLOB ?", [pattern.replace("[", "[[]")]

    def any_of(self, column: str, value: str, condition: str, empty_matches: bool) -> str:
        """Apply it to the elements of an array; a column without a value has one, null."""
        # JSON writes a backslash as \\; with "," instead, the string is an array's inside.
        array = rf"""'[' || replace(json_quote(CAST({column} AS TEXT)), '\\', '","') || ']'"""
        return f"EXISTS (SELECT 1 FROM json_each({array}) AS {value} WHERE {condition})"


class PostgreSQL:
    """PostgreSQL's words, with the marks of psycopg."""

    mark = "%s"
    compares_types = True

    def text(self, operand: str) -> str:
        """Return it in the collation of code points, whatever that of the column is."""
        return f'{operand} COLLATE "C"'

    def equal(self, operand: str, values: list[Any]) -> Term:
        """Ask for several with one array: more than 65,535 parameters cannot be bound."""
        values = [_exact(value) for value in values]
        if len(values) == 1:
            return f"{operand} = %s", values
        if any(isinstance(value, Decimal) for value in values):
            values = [Decimal(value) for value in values]
        return f"{operand} = ANY(%s)", [values]

    def like(self, operand: str, pattern: str) -> Term:
        """Ask with LIKE, which has other wildcards."""
        escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
        return f"{self.text(operand)} LIKE %s", [escaped.replace("*", "%").replace("?", "_")]

    def any_of(self, column: str, value: str, condition: str, empty_matches: bool) -> str:
        """Ask it of the elements of an array; an empty array has no element."""
        array = rf"string_to_array(CAST({column} AS TEXT), E'\\')"
        sql = f"EXISTS (SELECT 1 FROM unnest({array}) AS {value}(value) WHERE {condition})"
        return f"{sql} OR coalesce(CAST({column} AS TEXT), '') = ''" if empty_matches else sql


def _exact(value: Any) -> Any:
    """Return a number that is compared exactly, also with a column of whole ones."""
    return Decimal(value) if isinstance(value, float) else value


DIALECTS: dict[str, Dialect] = {"sqlite": SQLite(), "postgresql": PostgreSQL()}
