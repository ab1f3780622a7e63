"""The minimum rate of an incoming or outgoing message."""

from __future__ import annotations

import math
import time


class Pace:
    """Checks whether a message is received, or sent, fast enough.

    A slow but steady peer may take long for a large instance; a peer that slows to a trickle may
    not, however much it sent before. The first call of `is_too_slow` starts the time. Only one
    thread at a time may use it.

    Parameters
    ----------
    seconds : float
        The period over which the rate is measured; any message may take that long.
    rate : float
        The minimum rate in bytes per second over that period; if it is infinite, the whole message
        must arrive within it.

    Examples
    --------
    >>> pace = Pace(seconds=60, rate=1000)
    >>> pace.is_too_slow(size=0)
    False
    """

    def __init__(self, seconds: float, rate: float) -> None:
        self._seconds = seconds
        self._rate = rate
        self._since = 0.0
        self._size = 0

    def __str__(self) -> str:
        fixed = f"{self._seconds:g} s"
        return fixed if math.isinf(self._rate) else f"{fixed}, or min_rate, {self._rate:g} bytes/s"

    def is_too_slow(self, size: int) -> bool:
        """Return whether a message made too little progress in the last period.

        Parameters
        ----------
        size : int
            The bytes of it received, or sent, so far.
        """
        now = time.monotonic()
        if self._since:
            passed = now - self._since
            if passed <= self._seconds:
                return False
            if size - self._size < passed * self._rate:
                return True
        self._since, self._size = now, size
        return False

    def begin_anew(self) -> None:
        """Forget the message, which is complete. The next message starts a new period."""
        self._since = 0.0
