"""The free space of an archive's file system."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pacsroute.errors import Failure, SetupError
from pacsroute.framework.observer import Gauge
from pacsroute.status import OUT_OF_RESOURCES

_NO_ROOM = "too little room is left in the archive"
_FREE = "Free space of the file system that an archive is on."
_LOOK_EVERY = 0.1  # seconds
_LEAST = "Below this free space an archive refuses stores: min_free."


class Room:
    """Checks the free space that an archive must leave.

    Parameters
    ----------
    name : str
        The name of the archive.
    folder : Path or None
        A folder of the file system, or None.
    least : str or int
        The space that must stay free: a share such as ``5%``, or bytes.

    Raises
    ------
    SetupError
        If `least` is neither.

    Examples
    --------
    >>> Room("archive", Path(), "0%").why_not() is None
    True
    """

    def __init__(self, name: str, folder: Path | None, least: str | int) -> None:
        self._name = name
        self._folder = folder
        self._bytes, self._share = _parsed(least)
        self._enough_until = 0.0

    def check(self) -> None:
        """Refuse a store if too little space is free; if enough is, look again a little later."""
        if time.monotonic() < self._enough_until:
            return
        if not self._is_left():
            raise Failure(OUT_OF_RESOURCES, _NO_ROOM)
        self._enough_until = time.monotonic() + _LOOK_EVERY

    def why_not(self) -> str | None:
        """Return why a store would be refused, for ``/ready``."""
        if self._folder is None or self._is_left():
            return None
        free, least = self._measured(self._folder)
        return f"{self._name}: {_NO_ROOM}: {_gib(free)} are free, but {_gib(least)} must stay free"

    def gauges(self) -> Iterator[Gauge]:
        """Yield the free space, and the space that must stay free."""
        if self._folder is not None:
            with contextlib.suppress(OSError):  # the folder does not exist yet
                free, least = self._measured(self._folder)
                yield Gauge("archive_free_bytes", _FREE, "archive", self._name, free)
                yield Gauge("archive_min_free_bytes", _LEAST, "archive", self._name, least)

    def _is_left(self) -> bool:
        if self._folder is None or not (self._bytes or self._share):
            return True
        free, least = self._measured(self._folder)
        return free >= least

    def _measured(self, folder: Path) -> tuple[int, float]:
        disk = shutil.disk_usage(folder)
        return disk.free, max(self._bytes, disk.total * self._share)


def _parsed(least: str | int) -> tuple[int, float]:
    """Return the space that must stay free: in bytes, and as a share of the file system."""
    text = str(least).strip()
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share < 1:
                return 0, share
        elif int(text) >= 0:
            return int(text), 0
    except ValueError:
        pass
    raise SetupError(f"min_free must be a share such as '5%', or a number of bytes, not {least!r}")


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"
