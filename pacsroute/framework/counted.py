"""A context that several use at the same time: entered once, ended once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager


class Counted:
    """A context that the first user enters, and the last one ends.

    Others wait while it begins or ends, unless they run on the same thread.

    Parameters
    ----------
    make : callable
        Returns the context.

    Examples
    --------
    >>> from contextlib import contextmanager
    >>> @contextmanager
    ... def resources():
    ...     print("made")
    ...     yield
    ...     print("ended")
    >>> held = Counted(resources)
    >>> with held, held:
    ...     print("used")
    made
    used
    ended
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._count = 0
        # Of one thread several times: what it makes may hold it, too.
        self._lock = threading.RLock()
        self._made: AbstractContextManager[object] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count > 1:
                return
            try:
                made = self._make()
                made.__enter__()
            except BaseException:
                self._count -= 1
                raise
            self._made = made

    def __exit__(self, *_: object) -> None:
        with self._lock:
            try:
                if self._count == 1 and self._made is not None:
                    made, self._made = self._made, None
                    made.__exit__(None, None, None)  # errors of one holder concern no other
            finally:
                self._count -= 1
