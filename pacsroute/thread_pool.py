"""A pool of daemon threads, which never delays the exit of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

_TICK = 0.05  # seconds


class DaemonPool:
    """A few daemon threads that call submitted functions; they are started on demand.

    Unlike those of `concurrent.futures`, they do not keep a process alive when its user wants it
    to exit. Any thread may submit; the lock guards the list of threads.

    Parameters
    ----------
    name : str
        The name of the threads.
    most : int
        The maximum number of threads.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ended = False

    def submit(self, function: Callable[[], object]) -> None:
        """Call a function soon, on one of the threads. It must not raise.

        Raises
        ------
        RuntimeError
            If no thread can be started, or the pool was drained; the function is not called.
        """
        with self._lock:
            if self._ended:
                raise RuntimeError("the threads have ended")
            if len(self._threads) < self._most:
                self._begin()
            self._waiting.put(function)

    def _begin(self) -> None:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        for function in iter(self._waiting.get, None):
            function()
            del function  # it would keep its request until the next function

    def drain(self, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Take nothing more; wait until everything is done, or `is_hurried` returns True."""
        with self._lock:
            self._ended = True
            for _ in self._threads:
                self._waiting.put(None)
        for thread in self._threads:
            while thread.is_alive() and not is_hurried():
                thread.join(_TICK)
