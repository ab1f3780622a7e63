"""How fast a message has to come, or to go."""

from __future__ import annotations

import math
import time


class Pace:
    """Tells whether a message comes, or goes, as fast as it has to.

    A slow but steady peer may take its time for a large instance; one that trickles may not,
    however much it has sent before. The time begins with the first question. One thread at a
    time may use it.

    Parameters
    ----------
    seconds : float
        How long the rate is measured, and how long a message of any length may take.
    rate : float
        Bytes a second that have to make their way in that time; where it is infinite, all of
        the message has to.

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
        """Return whether a message should have made more way in the last while.

        Parameters
        ----------
        size : int
            The bytes of it that have come, or gone, so far.
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
        """Forget the message: it is whole. The time of the next one begins with it."""
        self._since = 0.0
