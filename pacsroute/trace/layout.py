"""Terminal text in cells and columns of limited width."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

HARD_SPACE = "\u00a0"
"""A non-breaking space in a cell."""

_GAP = 2
_NARROWEST = 8


class Cell(NamedTuple):
    """A cell of a table: its lines, wrapped if too long, and their colour."""

    text: str
    colour: str | None = None


def printable(text: str) -> str:
    r"""Replace the terminal control codes in a text.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def shortened(text: str, width: int) -> str:
    """Shorten a text to a maximum number of characters.

    Examples
    --------
    >>> shortened("abcdefghijkl", 10)
    'abcdefghi…'
    """
    width = max(width, _NARROWEST)
    return text if len(text) <= width else text[: width - 1] + "…"


def dim(text: str) -> str:
    """Return a dimmed text."""
    return click.style(text, dim=True)


def table(rows: Sequence[Sequence[Cell]], width: int, indent: int) -> Iterator[str]:
    """Lay out rows of cells; columns are as wide as necessary, within the available width.

    Parameters
    ----------
    rows : sequence of sequences of Cell
        The rows, all of the same length.
    width : int
        The width of the terminal, in characters.
    indent : int
        The left margin, in characters.
    """
    widths = _widths(rows, width - indent)
    for row in rows:
        cells = [_wrapped(cell.text, size) for cell, size in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            line = " " * indent
            for cell, lines, size in zip(row, cells, widths, strict=True):
                text = lines[number] if number < len(lines) else ""
                line += click.style(text, fg=cell.colour) if cell.colour and text else text
                line += " " * (size - len(text) + _GAP)
            yield line.rstrip()


def _widths(rows: Sequence[Sequence[Cell]], room: int) -> list[int]:
    """Return the widths of columns that fit; words stay whole if possible."""
    columns = [[row[number].text for row in rows] for number in range(len(rows[0]))]
    widths = [max(len(line) for text in column for line in text.split("\n")) for column in columns]
    words = [
        max(len(word) for text in column for word in re.split("[ \n]", text)) for column in columns
    ]
    room -= _GAP * (len(columns) - 1)
    for narrowest in (words, [_NARROWEST] * len(columns)):
        while sum(widths) > room:
            spare = [size - least for size, least in zip(widths, narrowest, strict=True)]
            if max(spare) <= 0:
                break
            widths[spare.index(max(spare))] -= 1
    return widths


def _wrapped(text: str, width: int) -> list[str]:
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]]
    return [line.replace(HARD_SPACE, " ") for line in lines]
