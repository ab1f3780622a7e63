"""The one helper thread of a process: it sends answers that wait for a slow generator."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

logger = logging.getLogger("pacsroute")

TICK = 0.02
"""Seconds between rounds while an answer may be waiting; none waits longer than two."""


class Waiting(Protocol):
    """Something with answers that wait."""

    def flush_waiting(self) -> None:
        """Send what waits, without blocking."""


class Flusher:
    """Sends what associations hold back, soon after.

    An association adds itself when it begins to hold answers back, and removes itself
    when a final response has gone. The thread begins with the first, and sleeps while
    there is none.
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
        except RuntimeError as error:  # what waits goes with the final response; the next tries
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
            while waiting:  # and so nothing is held on to while this thread sleeps
                self._flush(waiting.pop())
            time.sleep(TICK)

    def _flush(self, one: Waiting) -> None:
        try:
            one.flush_waiting()
        except Exception:  # no memory, perhaps; its answers go with the final one
            logger.exception("answers that wait could not be sent")
            self.remove(one)


flusher = Flusher()
