r"""The SQL dialects of SQLite and PostgreSQL, for the same conditions on a column.

Both compare text by code points. PostgreSQL needs ``COLLATE "C"`` for that, because in many
locales ``'20240131' BETWEEN '20240101' AND '~'`` is false, and open ranges would find nothing.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal, Protocol

Term = tuple[str, list[Any]]
"""A condition, and its parameters."""

Name = Literal["sqlite", "postgresql"]


class Dialect(Protocol):
    """The dialect of a database.

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
        """Return an expression that compares text by code points."""

    def equal(self, operand: str, values: list[Any]) -> Term:
        """Test whether an operand equals one of several values."""

    def like(self, operand: str, pattern: str) -> Term:
        """Test whether an operand matches a pattern with ``*`` and ``?``."""

    def any_of(self, column: str, value: str, condition: str, empty_matches: bool) -> str:
        r"""Test whether any of a column's values, joined by ``\``, meets a condition.

        Parameters
        ----------
        column, value : str
            The column, and the name of one of its values in `condition`.
        condition : str
            The condition on that value.
        empty_matches : bool
            Whether an empty column matches, too.
        """


class SQLite:
    """SQLite's dialect."""

    mark = "?"
    compares_types = False

    def text(self, operand: str) -> str:
        """Return the operand unchanged: SQLite compares by code points anyway."""
        return operand

    def equal(self, operand: str, values: list[Any]) -> Term:
        """Test several values with one IN, because SQLite limits the depth of expressions."""
        if len(values) == 1:
            return f"{operand} = ?", values
        return f"{operand} IN ({', '.join('?' * len(values))})", values

    def like(self, operand: str, pattern: str) -> Term:
        """Test with GLOB, which has the same wildcards; each ``[`` is escaped as a class."""
        return f"{operand} GLOB ?", [pattern.replace("[", "[[]")]

    def any_of(self, column: str, value: str, condition: str, empty_matches: bool) -> str:
        """Test the elements of a JSON array; an empty column gives one null element."""
        # JSON writes a backslash as \\; with "," instead, the string is an array's inside.
        array = rf"""'[' || replace(json_quote(CAST({column} AS TEXT)), '\\', '","') || ']'"""
        return f"EXISTS (SELECT 1 FROM json_each({array}) AS {value} WHERE {condition})"


class PostgreSQL:
    """PostgreSQL's dialect, with psycopg's parameter marks."""

    mark = "%s"
    compares_types = True

    def text(self, operand: str) -> str:
        """Return the operand with code-point collation, overriding the column's."""
        return f'{operand} COLLATE "C"'

    def equal(self, operand: str, values: list[Any]) -> Term:
        """Test several values with one array, because at most 65,535 parameters can be bound."""
        values = [_exact(value) for value in values]
        if len(values) == 1:
            return f"{operand} = %s", values
        if any(isinstance(value, Decimal) for value in values):
            values = [Decimal(value) for value in values]
        return f"{operand} = ANY(%s)", [values]

    def like(self, operand: str, pattern: str) -> Term:
        """Test with LIKE, after translating the wildcards."""
        escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
        return f"{self.text(operand)} LIKE %s", [escaped.replace("*", "%").replace("?", "_")]

    def any_of(self, column: str, value: str, condition: str, empty_matches: bool) -> str:
        """Test the elements of an array; an empty array has none."""
        array = rf"string_to_array(CAST({column} AS TEXT), E'\\')"
        sql = f"EXISTS (SELECT 1 FROM unnest({array}) AS {value}(value) WHERE {condition})"
        return f"{sql} OR coalesce(CAST({column} AS TEXT), '') = ''" if empty_matches else sql


def _exact(value: Any) -> Any:
    """Return a number that compares exactly, even with an integer column."""
    return Decimal(value) if isinstance(value, float) else value


DIALECTS: dict[str, Dialect] = {"sqlite": SQLite(), "postgresql": PostgreSQL()}
