"""A context shared by several users: entered once, exited once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager


class Counted:
    """A context that the first user enters and the last one exits.

    Other threads wait while it begins or ends; the same thread may enter it again.

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
        # Reentrant: `make` may enter this context again.
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
                    made.__exit__(None, None, None)  # one holder's errors do not concern the others
            finally:
                self._count -= 1
