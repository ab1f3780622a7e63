"""Keep a period open while an association that sent one of its instances sends another."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from pacsroute.jobs.database import Database, Transaction
from pacsroute.jobs.quiet import Arrival, Quiet

logger = logging.getLogger("pacsroute")

_BEAT = 1.0  # seconds: less than `quiet.HOLD`


class Holding:
    """Moves the ends of periods, once a second, while more of their instances are arriving.

    It does so at once if an instance begins to arrive so late that its period could end.

    The threads of associations report what they receive. A separate thread updates the database,
    so that the periods stay open for all processes. `_lock` guards the state that both use.

    Parameters
    ----------
    database : Database
        The database of the periods.
    periods : mapping of str to Quiet
        The periods of each function.
    shortest : float
        The length of the shortest period in seconds.
    """

    def __init__(self, database: Database, periods: Mapping[str, Quiet], shortest: float) -> None:
        self._beat = min(_BEAT, shortest / 3)
        self._safe = shortest - 2 * self._beat  # seconds after an instance in which no period ends
        self._woken = threading.Event()
        self._came: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        self._database = database
        self._periods = periods
        self._lock = threading.Lock()
        self._brought: weakref.WeakKeyDictionary[Any, set[tuple[str, str]]] = (
            weakref.WeakKeyDictionary()
        )
        self._under_way: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pacsroute-periods", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._woken.set()
        self._thread.join()

    def begins(self, association: Any) -> None:
        """Note that an association is receiving an instance."""
        with self._lock:
            self._under_way[association] = self._under_way.get(association, 0) + 1
            before = self._came.get(association)
        if before is not None and time.monotonic() - before > self._safe:
            self._woken.set()

    def ends(self, association: Any) -> None:
        """Note that the instance has been answered, stored or not."""
        with self._lock:
            left = self._under_way.pop(association, 0) - 1
            if left > 0:
                self._under_way[association] = left

    def came(self, association: Any, arrival: Arrival) -> None:
        """Note that an instance has arrived, and which series the association may continue."""
        with self._lock:
            self._came[association] = time.monotonic()
            keys = self._brought.setdefault(association, set())
            keys.update((name, quiet.key(arrival)) for name, quiet in self._periods.items())

    def _held(self) -> set[tuple[str, str]]:
        with self._lock:
            return {
                key
                for association in self._under_way
                if association.ended() is None
                for key in self._brought.get(association, ())
            }

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait(self._beat)
            self._woken.clear()
            if not (held := self._held()):
                continue

            def work(transaction: Transaction, held: set[tuple[str, str]] = held) -> None:
                for name, key in held:
                    self._periods[name].hold(transaction, [key])

            try:
                self._database.write(work, durable=False)
            except Exception as error:  # noqa: BLE001 - the next beat tries again
                logger.error("periods cannot be held open: %s", type(error).__name__)
