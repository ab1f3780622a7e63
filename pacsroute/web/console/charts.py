"""Small SVG charts of the last hour's rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pacsroute.web.console.rates import FAILURES, MINUTES, RECEIVED, REQUESTS, SENT

_ALWAYS = ("C-ECHO", "C-STORE", "C-FIND", "C-GET", "C-MOVE")
_STEP, _WIDTH, HEIGHT = 4, 3, 40
WIDTH = _STEP * MINUTES


class Chart(NamedTuple):
    """A bar for each minute of the last hour.

    Parameters
    ----------
    title : str
        The command that is counted.
    total, most : str
        The total, and the highest count of any minute.
    bars : str
        The bars, as an SVG path in a box of `WIDTH` by `HEIGHT`.
    is_bad : bool
        Whether it counts failures and the count is not zero.
    """

    title: str
    total: str
    most: str
    bars: str
    is_bad: bool = False


def charts(counts: Mapping[str, Sequence[int]]) -> list[Chart]:
    """Return the charts for the counts of an hour.

    The five usual kinds of requests always have a chart; others only if their count is not zero.
    """
    found = [
        _chart(name, counts[name], number)
        for name in REQUESTS
        if name in _ALWAYS or any(counts[name])
    ]
    found.append(_chart("Received", counts[RECEIVED], size))
    found.append(_chart("Sent", counts[SENT], size))
    failures = _chart("Failures", counts[FAILURES], number)
    return [*found, failures._replace(is_bad=any(counts[FAILURES]))]


def _chart(title: str, row: Sequence[int], shown: Callable[[float], str]) -> Chart:
    most = max(row)
    bars = []
    for at, count in enumerate(row):
        if count:
            tall = max(2, round(count / most * HEIGHT))
            bars.append(f"M{at * _STEP} {HEIGHT - tall}h{_WIDTH}v{tall}h-{_WIDTH}z")
    return Chart(title, shown(sum(row)), shown(most), "".join(bars))


def number(count: float) -> str:
    """Format a number for reading.

    Examples
    --------
    >>> number(1234567)
    '1,234,567'
    """
    return f"{count:,.0f}"


def size(count: float) -> str:
    """Format a number of bytes for reading.

    Examples
    --------
    >>> size(512), size(40_960), size(3_200_000_000)
    ('512 B', '41 kB', '3.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    digits = 1 if count < 9.95 and unit != "B" else 0
    return f"{count:.{digits}f} {unit}"
