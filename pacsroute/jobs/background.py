"""Functions that run while the app serves, each in only one of the processes that use a queue."""

from __future__ import annotations

import logging
import threading

from pacsroute.framework.work import BackgroundFunction
from pacsroute.jobs.queue import Queue

logger = logging.getLogger("pacsroute")

_LOOK = 1.0  # seconds between attempts to take over from a dead process
_LONGEST_REST = 60.0


class Background:
    """Runs a function of `@app.background` on a thread, while this process holds its place.

    Parameters
    ----------
    queue : Queue
        The queue, which has one place for each function.
    background : BackgroundFunction
        The function. If it raises, it is restarted after a pause; if it returns, it is done.
    """

    def __init__(self, queue: Queue, background: BackgroundFunction) -> None:
        self._queue = queue
        self._background = background
        self._lane = f"background {background.name}"
        self._stop = threading.Event()
        self._ending = threading.Event()  # passed to the function; also set if the place is lost
        self._thread = threading.Thread(
            target=self._run, name=f"pacsroute-{background.name}", daemon=True
        )

    def start(self) -> None:
        """Start waiting for the place."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Set the function's event, and wait a while for the function to end."""
        self._stop.set()
        self._ending.set()
        self._thread.join(seconds)

    def lost(self) -> None:
        """Set the function's event, because another process has the place; then wait again."""
        self._ending.set()

    def _run(self) -> None:
        rest, failed = _LOOK, False
        while not self._stop.is_set():
            try:
                if failed:  # this process may still hold the place
                    self._queue.release(self._lane)
                    failed = False
                if self._has_run():
                    return
            except Exception:
                failed = True
                logger.exception(
                    "%s failed; it starts again in %.0f s", self._background.name, rest
                )
                self._stop.wait(rest)
                rest = min(rest * 2, _LONGEST_REST)
            else:
                self._stop.wait(_LOOK)

    def _has_run(self) -> bool:
        """Run the function if its place is free; return whether it is done for good."""
        place = self._queue.take_place(self._lane, 1)
        if place is None:
            return False
        self._ending = threading.Event()
        if self._stop.is_set():
            self._ending.set()
        try:
            self._background.function(self._ending)
        finally:
            self._queue.leave_place(self._lane, place)
        return self._stop.is_set() or not self._ending.is_set()
