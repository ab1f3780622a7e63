"""An account of the memory that this process holds for its peers.

Messages, identifiers, inflated and parsed data sets count while they are held. Each has a
`Holding`. If one would exceed the setting ``max_memory``, it is refused; the others continue.
"""

from __future__ import annotations

import threading
from typing import Any

DEFAULT = 512 * 1_048_576
"""How many bytes may be held, unless the setting ``max_memory`` says otherwise."""

FREE = 65_536
"""Bytes of each holding that are not counted: small messages take no lock."""

_STEP = 65_536  # bytes taken from the account at a time


class Account:
    """The total number of bytes of all holdings of the process.

    Examples
    --------
    >>> account = Account()
    >>> account.take(60, 100), account.take(60, 100), account.held
    (True, False, 60)
    """

    def __init__(self) -> None:
        self.held = 0
        self._lock = threading.Lock()

    def take(self, count: int, most: int) -> bool:
        """Take some bytes; return False, and take none, if the total would exceed `most`."""
        with self._lock:
            if self.held + count > most:
                return False
            self.held += count
            return True

    def give_back(self, count: int) -> None:
        """Give back bytes that were taken."""
        with self._lock:
            self.held -= count


PROCESS = Account()
"""The account of this process."""


class Holding:
    """The memory of one message, data set or queue; given back when it is closed or deleted.

    One thread at a time may use it.

    Parameters
    ----------
    most : int
        How many bytes all holdings of the process may have: the setting ``max_memory``.
    account : Account
        The account that counts it.

    Attributes
    ----------
    size : int
        The bytes that it holds.

    Examples
    --------
    >>> holding = Holding(most=1_000_000)
    >>> holding.grow(800_000), holding.grow(800_000), holding.size
    (True, False, 800000)
    >>> holding.close()
    """

    __slots__ = ("_account", "_limit", "most", "size")

    def __init__(self, most: int = DEFAULT, account: Account = PROCESS) -> None:
        self.most = most
        self.size = 0
        self._account = account
        self._limit = FREE  # the size up to which it need not ask the account

    def grow(self, count: int) -> bool:
        """Hold more bytes; if that exceeds the limit, hold no more and return False."""
        self.size += count
        return self.size <= self._limit or self._take(count)

    def _take(self, count: int) -> bool:
        more = -(-(self.size - self._limit) // _STEP) * _STEP
        if not self._account.take(more, self.most):
            self.size -= count
            return False
        self._limit += more
        return True

    def shrink(self, count: int) -> None:
        """Hold fewer bytes."""
        self.size -= count
        limit = max(FREE, FREE - (FREE - self.size) // _STEP * _STEP)
        if limit < self._limit:
            self._account.give_back(self._limit - limit)
            self._limit = limit

    def close(self) -> None:
        """Hold nothing any more."""
        if self._limit > FREE:
            self._account.give_back(self._limit - FREE)
            self._limit = FREE
        self.size = 0

    __del__ = close

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle an empty holding: the peer did not cause the copy."""
        return Holding, (self.most,)
