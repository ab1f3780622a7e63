"""Text on a terminal: cells and columns that keep to a width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

_GAP = 2
_NARROWEST = 8


class Cell(NamedTuple):
    """A cell of a table: its lines, wrapped where they are too long, and their colour."""

    text: str
    colour: str | None = None


def printable(text: str) -> str:
    r"""Return a text that cannot steer a terminal, whoever wrote it.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def shortened(text: str, width: int) -> str:
    """Return a text that is no longer than so many characters.

    Examples
    --------
    >>> shortened("abcdefghijkl", 10)
    'abcdefghi…'
    """
    width = max(width, _NARROWEST)
    return text if len(text) <= width else text[: width - 1] + "…"


def dim(text: str) -> str:
    """Return a text that stays in the background."""
    return click.style(text, dim=True)


def table(rows: Sequence[Sequence[Cell]], width: int, indent: int) -> Iterator[str]:
    """Lay out rows of cells; columns are as wide as they need and as there is room.

    Parameters
    ----------
    rows : sequence of sequences of Cell
        All of the same length.
    width : int
        Of the terminal, in characters.
    indent : int
        Characters to the left of it.
    """
    columns = len(rows[0])
    widths = [
        max(len(line) for row in rows for line in row[i].text.split("\n")) for i in range(columns)
    ]
    room = width - indent - _GAP * (columns - 1)
    while sum(widths) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    for row in rows:
        cells = [_wrapped(cell.text, size) for cell, size in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            line = " " * indent
            for cell, lines, size in zip(row, cells, widths, strict=True):
                text = lines[number] if number < len(lines) else ""
                line += click.style(text, fg=cell.colour) if cell.colour and text else text
                line += " " * (size - len(text) + _GAP)
            yield line.rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for line in text.split("\n"):
        after = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(line, width, subsequent_indent=after, drop_whitespace=True) or [""]
    return lines
