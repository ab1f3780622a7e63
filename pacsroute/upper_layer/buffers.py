"""Reusable receive buffers: allocating new memory costs as much as receiving into it."""

from __future__ import annotations

_MOST = 8  # unused buffers to keep


class Buffers:
    """Unused buffers for the next use; the last returned is the first used.

    All threads share it: a list can be popped from and appended to without a lock.

    Examples
    --------
    >>> spare = Buffers()
    >>> one = spare.take(1000)
    >>> spare.give_back(one)
    >>> spare.take(500) is one
    True
    """

    def __init__(self) -> None:
        self._unused: list[memoryview] = []

    def take(self, size: int) -> memoryview:
        """Return a buffer of a minimum size, with arbitrary content."""
        try:
            view = self._unused.pop()
        except IndexError:
            return memoryview(bytearray(size))
        return view if len(view) >= size else memoryview(bytearray(size))

    def give_back(self, view: memoryview) -> None:
        """Give a buffer back; no part of it may be in use."""
        if len(self._unused) < _MOST:
            self._unused.append(view)


buffers = Buffers()
"""The buffers of this process."""
