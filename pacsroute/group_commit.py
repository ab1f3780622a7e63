"""Transactions of SQLite that several threads share: one commit, and one flush, for all of them."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Job(Generic[T]):
    """Work that a thread wants to be committed, and its result."""

    def __init__(self, work: Callable[[sqlite3.Connection], T], is_flushed: bool) -> None:
        self.work = work
        self.is_flushed = is_flushed
        self.is_done = False
        self.error: BaseException | None = None
        self.value: T | None = None

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class GroupCommit:
    """Commits what several threads write at the same time in one transaction.

    The thread that has `_turn` commits what all others have put into `_jobs` until then; they
    find it done when they have their turn. `_turn` guards the connection.

    Parameters
    ----------
    connect : callable
        Opens the connection, for the first write; it has no transaction of its own making
        (``isolation_level=None``) and serves all threads (``check_same_thread=False``).

    Examples
    --------
    >>> from functools import partial
    >>> connect = partial(
    ...     sqlite3.connect, ":memory:", isolation_level=None, check_same_thread=False
    ... )
    >>> commits = GroupCommit(connect)
    >>> _ = commits.write(lambda db: db.execute("CREATE TABLE study (uid)"))
    >>> commits.write(lambda db: db.execute("SELECT count(*) FROM study").fetchone())
    (0,)
    >>> commits.close()
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._jobs: deque[_Job[Any]] = deque()
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._mode = ""

    def write(self, work: Callable[[sqlite3.Connection], T], *, flush: bool = True) -> T:
        """Do something in a transaction, together with what other threads wait to write.

        Parameters
        ----------
        work : callable
            Called with the connection; an exception of it undoes what it did, and is raised.
        flush : bool
            Whether it must survive a power cut, with everything written before it.
        """
        job = _Job(work, flush)
        self._jobs.append(job)
        with self._turn:
            if not job.is_done:  # else the thread before has done it, too
                self._do_all()
        return job.result()

    def close(self) -> None:
        """Close the connection; a transaction that is under way ends first."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection, self._mode = None, ""

    def _do_all(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
        try:
            if self._connection is None:
                self._connection = self._connect()
            mode = "FULL" if any(job.is_flushed for job in jobs) else "NORMAL"
            if mode != self._mode:
                self._mode = ""
                self._connection.execute(f"PRAGMA synchronous = {mode}")
                self._mode = mode
            _do(self._connection, jobs)
        except BaseException as error:  # noqa: BLE001 - each thread raises it for itself
            for job in jobs:
                job.error = job.error or error
        finally:
            for job in jobs:
                job.is_done = True


def _do(db: sqlite3.Connection, jobs: list[_Job[Any]]) -> None:
    """Do the work of all jobs in one transaction; one that fails leaves nothing of its own."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if len(jobs) == 1:
            jobs[0].value = jobs[0].work(db)
        else:
            _do_each(db, jobs)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _do_each(db: sqlite3.Connection, jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        db.execute("SAVEPOINT job")
        try:
            job.value = job.work(db)
        except BaseException as error:  # noqa: BLE001 - it is raised in its own thread
            job.error = error
            db.execute("ROLLBACK TO job")
        db.execute("RELEASE job")
