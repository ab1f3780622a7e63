"""The processes that use a queue, and how to detect that one has ended."""

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
"""Seconds of silence after which an owner on another machine counts as dead."""


class Owner(Protocol):
    """One of the processes that use a queue.

    Attributes
    ----------
    id, node : str
        A name that no other process ever has, and the name of its machine.
    """

    id: str
    node: str

    def dead(self, others: Iterable[tuple[str, float]], now: float) -> list[str]:
        """Return which of the other owners have ended, given when each was last seen."""

    def renew(self) -> None:
        """Take a new name, after other processes have declared this owner dead."""


class LockedOwner:
    """A process on a single machine: it holds a lock on a file as long as it lives.

    The lock is released whenever the process ends, and no clock is involved.

    Parameters
    ----------
    folder : Path
        The folder for the files of all owners; created if needed.
    """

    def __init__(self, folder: Path) -> None:
        self.id = uuid.uuid4().hex
        self.node = ""  # all owners are on one machine: each can run any job
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
        """Do nothing: the lock shows that this owner is alive."""

    def close(self) -> None:
        """Release the lock."""
        with contextlib.suppress(OSError):
            self._path(self.id).unlink(missing_ok=True)
            os.close(self._file)


class LeasedOwner:
    """A process on one of several machines: alive as long as it renews its lease."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.node = socket.gethostname()

    def renew(self) -> None:
        """Continue as a new owner, because other processes have declared this one dead."""
        self.id = uuid.uuid4().hex

    def dead(self, others: Iterable[tuple[str, float]], now: float) -> list[str]:
        """Return the other owners whose lease has expired."""
        return [owner for owner, seen in others if now - seen > LEASE]

    def close(self) -> None:
        """Do nothing: the queue forgets an owner that leaves."""


class LonelyOwner:
    """The only process that uses a queue in memory, for tests."""

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
