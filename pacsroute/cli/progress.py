"""Progress and remarks on stderr, for the person at the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from pacsroute.trace.layout import printable

_PATIENCE = 1.0  # seconds before a user wonders
_INTERVAL = 0.1  # seconds between two texts, so that showing them costs nothing


def on_a_terminal() -> bool:
    """Return whether progress is shown."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """Write a line to stderr, over the current progress; it may contain a peer's text."""
    text = printable(text)
    click.echo(f"\r\033[K{text}" if on_a_terminal() else text, err=True)


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text on one line of the terminal, in place of the last."""
    shown = on_a_terminal()

    def show(text: str) -> None:
        if shown:
            click.echo(f"\r\033[K{text}", nl=False, err=True)

    try:
        yield show
    finally:
        show("")


@contextlib.contextmanager
def counting(text: str) -> Iterator[Callable[[int | None], None]]:
    """Yield a function that shows a count, once the work takes longer than a second.

    None removes the count before other output.

    Parameters
    ----------
    text : str
        A format with a place for the count, such as ``"{:,} files checked"``.
    """
    due = time.monotonic() + _PATIENCE
    with status_line() as show:

        def count(number: int | None) -> None:
            nonlocal due
            now = time.monotonic()
            if number is None:
                show("")
            elif now >= due:
                due = now + _INTERVAL
                show(text.format(number))

        yield count


def volume(size: int) -> str:
    """Return a number of bytes as a text.

    Examples
    --------
    >>> volume(38_870), volume(52_428_800)
    ('39 kB', '52.4 MB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 999_500 else f"{size / 1e3:.0f} kB"
