"""The display of matches: as a table, or as JSON."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence as Items

from pacsroute.cli.identifiers import Path
from pacsroute.dataset.vr import several
from pacsroute.trace.layout import printable

_CONTROLS = re.compile("[\x7f-\x9f]")  # terminals treat some of them like ESC
_NARROWEST = 6  # minimum width of a column in cells


def table(rows: Sequence[list[str]], names: list[str], width: int) -> Iterable[str]:
    """Return the lines of a table, the heading first; or of a block for each row.

    Parameters
    ----------
    rows : sequence of list of str
        The texts of the matches, which are sorted by their columns.
    names : list of str
        The keywords of the columns.
    width : int
        The cells of a line; 0 for no limit. Texts are cut to fit, except for UIDs; if that is not
        enough, each row is a block of lines.
    """
    lines = sorted(rows)
    widths = [max(map(_cells, column)) for column in zip(names, *lines, strict=True)]
    whole = [dictionary_VR(name) == "UI" for name in names]
    if width and not _narrow(widths, width, whole):
        yield from _blocks(names, lines)
        return
    for line in [names, *lines]:
        texts = (_fitted(text, count) for text, count in zip(line, widths, strict=True))
        yield "  ".join(texts).rstrip()


def _narrow(widths: list[int], width: int, whole: Sequence[bool]) -> bool:
    """Narrow the widest columns that may be cut until all fit; return whether they do."""
    too_many = sum(widths) + 2 * (len(widths) - 1) - width
    while too_many > 0:
        cut = [number for number, keep in enumerate(whole) if not keep]
        widest = max(cut, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            return False
        widths[widest] -= 1
        too_many -= 1
    return True


def _blocks(names: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each value, and an empty one after each row."""
    width = max(map(len, names))
    for line in lines:
        for name, text in zip(names, line, strict=True):
            yield f"{name:{width}}  {text}".rstrip()
        yield ""


def _fitted(text: str, width: int) -> str:
    if _cells(text) > width:
        while _cells(text) >= width:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _cells(text))


def _cells(text: str) -> int:
    """How many cells of a terminal a text takes: two for most characters of East Asia."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _shown(row: Dataset, path: Path) -> str:
    rows = [row]
    for name in path[:-1]:
        held = [_items(one, name) for one in rows]
        rows = [item for items in held for item in items]
    text = "\\".join(filter(None, (_text(one, path[-1]) for one in rows)))
    return printable(text)


def _items(row: Dataset, name: str) -> Iterable[Dataset]:
    try:
        value = row.get(name)
    except Exception:  # noqa: BLE001 - as in `_text`
        return ()
    return value if isinstance(value, Items) else ()


def _text(row: Dataset, keyword: str) -> str:
    try:
        value = row.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for invalid values
        return "?"
    if value is None:
        return ""
    if isinstance(value, Items):
        return f"({len(value)} items)" if value else ""
    many = several(value)
    return str(value) if many is None else "\\".join(map(str, many))


@contextlib.contextmanager
def json_array() -> Iterator[Callable[[Any], None]]:
    """Yield the function that writes a row to an array; an early end is valid JSON, too."""
    before = "[\n"

    def write(row: Any) -> None:
        nonlocal before
        # A value that is invalid for its VR has no JSON; the rest of the row has.
        text = json.dumps(row.to_json_dict(suppress_invalid_tags=True), ensure_ascii=False)
        text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # like those below 20H
        click.echo(before + text, nl=False)
        before = ",\n"

    try:
        yield write
    finally:
        click.echo("[]" if before == "[\n" else "\n]")


@contextlib.contextmanager
def aligned(columns: list[Path], *, wide: bool = False) -> Iterator[Callable[[Any], None]]:
    """Yield the function that keeps a row for the table, whose widths are known at the end."""
    rows: list[list[str]] = []
    try:
        yield lambda row: rows.append([_shown(row, path) for path in columns])
    finally:
        # No width without a terminal, unless COLUMNS is set.
        width = 0 if wide else shutil.get_terminal_size((0, 0)).columns
        for line in table(rows, [path[-1] for path in columns], width) if rows else ():
            click.echo(line)
