"""The disk space that all spools of an app use together."""

from __future__ import annotations

import errno
import threading


class Room:
    """Counts the bytes that all spools of an app have in files."""

    def __init__(self) -> None:
        self.used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        """Take this many bytes, or give them back if negative; return the bytes in use."""
        with self._lock:
            self.used += count
            return self.used


def check_room(used: int, most: int | None) -> None:
    """Raise an `OSError` if spools use more bytes in files than allowed."""
    if most is not None and used > most:
        raise OSError(errno.ENOSPC, f"max_spool reached, {most} bytes")
