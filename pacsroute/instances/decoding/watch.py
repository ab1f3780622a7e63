"""The limits within which a decoder works; the system ends it, whatever it hangs in."""

from __future__ import annotations

import contextlib
import math
import resource
import signal

_EACH = 16 * 1_048_576  # bytes for which there are so many seconds
_WAITS = 10  # times the processor time, which others take too


class Watch:
    """Limits of this process, which end it without a message.

    Parameters
    ----------
    seconds : float
        Processor time for one frame; large ones have as much for each 16 MiB.

    Notes
    -----
    It is the signal's default action that ends the process: a decoder that holds the
    interpreter's lock never gives it back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def allow(self, size: int, times: int = 1) -> None:
        """Give time from now on for a frame of this many bytes, or for `times` as much work."""
        seconds = self._seconds * times * max(1, math.ceil(size / _EACH))
        used = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(used.ru_utime + used.ru_stime + seconds)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
        signal.setitimer(signal.ITIMER_REAL, _WAITS * seconds)

    def rest(self) -> None:
        """End the time limit: there is nothing to do."""
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit_memory(size: int) -> None:
    """Limit the address space of this process to this many bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def memory() -> int:
    """Return how many bytes of addresses this process has."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
