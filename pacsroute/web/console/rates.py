"""Counts per minute over the last hour."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

MINUTES = 60
DICOMWEB, _N_SERVICES = "DICOMweb", "N-services"
REQUESTS = ("C-ECHO", "C-STORE", "C-FIND", "C-GET", "C-MOVE", _N_SERVICES, DICOMWEB)
RECEIVED, SENT, FAILURES = "received", "sent", "failures"

_NAMES = (*REQUESTS, RECEIVED, SENT, FAILURES)


def kind_of(command: str) -> str:
    """Return the name under which a request is counted.

    Examples
    --------
    >>> kind_of("C-STORE"), kind_of("N-ACTION")
    ('C-STORE', 'N-services')
    """
    return _N_SERVICES if command.startswith("N-") else command


class Rates:
    """Counts of requests, bytes and failures in each minute of the last hour.

    Minutes are aligned with the clock, so that several processes agree on them. The caller must
    hold a lock.

    Parameters
    ----------
    now : callable
        Returns the time in seconds since 1970.

    Examples
    --------
    >>> rates = Rates(lambda: 600.0)
    >>> rates.add("C-ECHO", 3)
    >>> minute, counts = rates.all()
    >>> minute, counts["C-ECHO"][-1], sum(counts["C-STORE"])
    (10, 3, 0)
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._minute = int(now() // 60)
        self._counts = {name: [0] * MINUTES for name in _NAMES}

    def add(self, name: str, count: int = 1) -> None:
        """Count an event in the current minute."""
        if int(self._now() // 60) > self._minute:
            self._go_on()
        self._counts[name][self._minute % MINUTES] += count

    def all(self) -> tuple[int, dict[str, list[int]]]:
        """Return the current minute, and the counts of the last hour, oldest first."""
        if int(self._now() // 60) > self._minute:
            self._go_on()
        first = (self._minute + 1) % MINUTES
        return self._minute, {
            name: [*counts[first:], *counts[:first]] for name, counts in self._counts.items()
        }

    def _go_on(self) -> None:
        """Start the current minute; if the clock was set back, keep the last one."""
        minute = int(self._now() // 60)
        for one in range(max(self._minute, minute - MINUTES) + 1, minute + 1):
            for counts in self._counts.values():
                counts[one % MINUTES] = 0
        self._minute = minute


def together(several: Iterable[tuple[int, dict[str, list[int]]]]) -> dict[str, list[int]]:
    """Return the sums over several processes, up to the latest minute of any.

    Examples
    --------
    >>> counts = together([Rates(lambda: 600.0).all(), Rates(lambda: 540.0).all()])
    >>> len(counts["C-ECHO"])
    60
    """
    found = list(several)
    latest = max((minute for minute, _ in found), default=0)
    total = {name: [0] * MINUTES for name in _NAMES}
    for minute, counts in found:
        late = latest - minute
        for name, row in counts.items():
            for at, count in enumerate(row[late:]):
                total[name][at] += count
    return total
