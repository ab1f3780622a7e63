"""Times, formatted for reading."""

from __future__ import annotations

import time

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def ago(seconds: float) -> str:
    """Format a duration in its largest unit.

    Examples
    --------
    >>> ago(0.4), ago(59), ago(3_700), ago(200_000)
    ('0 s', '59 s', '1 h', '2 d')
    """
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name}"
    return "0 s"


def clock(moment: float, now: float) -> str:
    """Format a time in the server's time zone, with its date unless it is today.

    Examples
    --------
    >>> clock(0.0, 0.0)[-3:], len(clock(0.0, 1e9))
    (':00', 16)
    """
    then, today = time.localtime(moment), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%Y-%m-%d %H:%M", then)
