"""Which processes use a queue, and which of them have ended."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LEASE = 10.0
"""Seconds after which an owner on another machine that says nothing counts as ended."""


class Owner(Protocol):
    """The process for which a queue is used, among others that use the same one.

    Attributes
    ----------
    id, node : str
        Its name, no other process's ever, and its machine's.
    """

    id: str
    node: str

    def dead(self, others: Iterable[tuple[str, float]], now: float) -> list[str]:
        """Return which of other owners, given with when each was last seen, have ended."""

    def renew(self) -> None:
        """Take another name, after the others have taken this owner for dead."""


class LockedOwner:
    """A process among those of one machine: it holds a lock on a file as long as it lives.

    The lock goes with the process, whatever ends it, and no clock is asked.

    Parameters
    ----------
    folder : Path
        Where the files of all owners are; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.id = uuid.uuid4().hex
        self.node = ""  # all owners are on the same machine: any of them can do any job
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path(self.id), os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.owner"

    def dead(self, others: Iterable[tuple[str, float]], now: float) -> list[str]:
        """Return the other owners that no longer hold a lock."""
        return [owner for owner, _ in others if self.has_ended(owner)]

    def has_ended(self, owner: str) -> bool:
        """Return whether another owner no longer holds a lock."""
        if fcntl is None:
            return False
        try:
            file = os.open(self._path(owner), os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        self._path(owner).unlink(missing_ok=True)
        return True

    def renew(self) -> None:
        """Do nothing: the holder of the lock is alive for the others."""

    def close(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(OSError):
            self._path(self.id).unlink(missing_ok=True)
            os.close(self._file)


class LeasedOwner:
    """A process among those of several machines: alive as long as it renews its lease."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.node = socket.gethostname()

    def renew(self) -> None:
        """Go on as another owner: the others have taken this one for dead."""
        self.id = uuid.uuid4().hex

    def dead(self, others: Iterable[tuple[str, float]], now: float) -> list[str]:
        """Return which of the other owners have not been seen for the time of a lease."""
        return [owner for owner, seen in others if now - seen > LEASE]

    def close(self) -> None:
        """Do nothing: the queue forgets an owner that leaves."""


class LonelyOwner:
    """The only process that uses a queue: a test's, in memory."""

    id = node = ""

    def dead(self, others: Iterable[tuple[str, float]], now: float) -> list[str]:
        """Return no names: there are no other processes."""
        return []

    def has_ended(self, owner: str) -> bool:
        """Return False: there are no other processes."""
        return False

    def renew(self) -> None:
        """Do nothing: no other process shares the queue."""

    def close(self) -> None:
        """Do nothing."""
