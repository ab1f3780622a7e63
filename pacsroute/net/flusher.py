"""The one helper thread of a process: it sends answers that wait for a slow generator."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

logger = logging.getLogger("pacsroute")

TICK = 0.02
"""Seconds between rounds while an answer may be waiting; no answer waits longer than two rounds."""


class Waiting(Protocol):
    """Something with answers that wait."""

    def flush_waiting(self) -> None:
        """Send the waiting answers, without blocking."""


class Flusher:
    """Sends the answers that associations hold back, after a short delay.

    An association adds itself when it begins to hold back answers, and removes itself once it has
    sent the final response. The thread starts with the first association, and sleeps while there
    are none.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: set[Waiting] = set()
        self._started = False
        self._asleep = False

    def add(self, waiting: Waiting) -> None:
        """Send the answers that an association holds back, from now on."""
        with self._condition:
            self._waiting.add(waiting)
            if not self._started:
                self._start()
            elif self._asleep:
                self._condition.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="pacsroute-flusher", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the final response flushes these; the next call retries
            logger.error("no thread for answers that wait: %s", error)
        else:
            self._started = True

    def remove(self, waiting: Waiting) -> None:
        """Send no more for an association."""
        with self._condition:
            self._waiting.discard(waiting)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting:
                    self._asleep = True
                    self._condition.wait()
                self._asleep = False
                waiting = list(self._waiting)
            while waiting:  # so a sleeping thread keeps no reference
                self._flush(waiting.pop())
            time.sleep(TICK)

    def _flush(self, one: Waiting) -> None:
        try:
            one.flush_waiting()
        except Exception:  # perhaps out of memory; the final response flushes them
            logger.exception("answers that wait could not be sent")
            self.remove(one)


flusher = Flusher()
