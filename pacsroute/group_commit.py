"""SQLite transactions that several threads share: one commit and one flush for all of them."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def connect(path: str | Path, timeout: float, *pragmas: str) -> sqlite3.Connection:
    """Open a connection that all threads may use, and that begins no transaction by itself.

    Parameters
    ----------
    path : str or Path
        The file, or ``:memory:``.
    timeout : float
        Seconds to wait for the locks of other processes.
    *pragmas : str
        Settings such as ``journal_mode = WAL``.

    Raises
    ------
    sqlite3.Error
        If it cannot be opened, or is not a database.
    """
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


class _Job(Generic[T]):
    """A thread's work to commit, and its result."""

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
    """Commits concurrent writes of several threads in one transaction.

    The thread that holds `_turn` commits everything that the others have put into `_jobs`. They
    find their work done once they get `_turn`, which also guards the connection.

    Parameters
    ----------
    open_connection : callable
        Calls `connect`, on the first write.

    Examples
    --------
    >>> commits = GroupCommit(lambda: connect(":memory:", timeout=30))
    >>> _ = commits.write(lambda db: db.execute("CREATE TABLE study (uid)"))
    >>> commits.write(lambda db: db.execute("SELECT count(*) FROM study").fetchone())
    (0,)
    >>> commits.close()
    """

    def __init__(self, open_connection: Callable[[], sqlite3.Connection]) -> None:
        self._open_connection = open_connection
        self._jobs: deque[_Job[Any]] = deque()
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._mode = ""

    def write(self, work: Callable[[sqlite3.Connection], T], *, flush: bool = True) -> T:
        """Do something in a transaction, together with the pending writes of other threads.

        Parameters
        ----------
        work : callable
            Called with the connection. If it raises, its changes are undone.
        flush : bool
            Whether this write, and everything before it, must survive a power cut.
        """
        job = _Job(work, flush)
        self._jobs.append(job)
        with self._turn:
            if not job.is_done:  # otherwise the previous thread has done it
                self._do_all()
        return job.result()

    def close(self) -> None:
        """Close the connection, after any transaction in progress."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection, self._mode = None, ""

    def _do_all(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
        try:
            if self._connection is None:
                self._connection = self._open_connection()
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
    """Do the work of all jobs in one transaction; the changes of a failed job are undone."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if len(jobs) == 1:
            jobs[0].value = jobs[0].work(db)
        else:
            _do_each(db, jobs)
        db.commit()  # to execute COMMIT would release the interpreter's lock three times
    except BaseException:
        db.rollback()
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
