"""An index in a file of SQLite: connections that read, and one that writes for all threads."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pacsroute.archive.database import Transaction, UnavailableError
from pacsroute.archive.files import locked
from pacsroute.group_commit import GroupCommit
from pacsroute.matching.dialects import Name

T = TypeVar("T")
Work = Callable[[Transaction], T]
_STEPS = 1000  # of SQLite's machine between looks at the clock: 50 patterns of some ms at worst
_LOOK_EVERY = 0.01  # seconds between looks whether a query is still wanted
_TIMEOUT = 30  # seconds that a writer waits for those of other processes


class SQLite:
    """An SQLite database for many threads.

    Parameters
    ----------
    path : Path
        Its file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     database = SQLite(Path(folder, "index.db"))
    ...     _ = database.write(lambda db: db.execute("CREATE TABLE study (uid)"))
    ...     rows = database.rows("SELECT count(*) FROM study")
    ...     database.close()
    >>> rows[0][0]
    0
    """

    dialect: Name = "sqlite"
    identity, text, list_of = "INTEGER PRIMARY KEY", "TEXT", "group_concat"
    ordered_join, for_update, lazily, url = "CROSS JOIN", "", "", ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._commits = GroupCommit(self.connect)

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()
        self._commits.close()

    def rows(
        self, sql: str, parameters: Sequence[Any] = (), stop: Callable[[], bool] | None = None
    ) -> list[sqlite3.Row]:
        """Return all rows of a query.

        Parameters
        ----------
        sql, parameters : str and sequence
            The query.
        stop : callable, optional
            Asked now and then while it runs; True ends it with an `UnavailableError`.
        """
        with _available(), self._connection() as db:
            if stop is not None:
                db.set_progress_handler(_now_and_then(stop), _STEPS)
            try:
                return db.execute(sql, parameters).fetchall()
            finally:
                if stop is not None:
                    db.set_progress_handler(None, 0)

    def write(self, work: Work[T], *, flush: bool = False, alone: Sequence[str] | None = ()) -> T:
        """Do something in a transaction, together with what other threads wait to write.

        Parameters
        ----------
        work : callable
            Called with a connection; an exception of it undoes what it did, and is raised.
        flush : bool
            Whether it must survive a power cut, with everything written before it.
        alone : sequence of str, optional
            Nothing that SQLite needs: it has one transaction that writes at a time.
        """
        with _available():
            return self._commits.write(work, flush=flush)

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock that all processes of the index share."""
        return locked(f"{self._path}.{name}")

    def incarnation(self) -> str:
        """Return which file it is: a copy is another one."""
        return str(os.stat(self._path).st_ino)

    def connect(self) -> sqlite3.Connection:
        """Return a new connection, to be closed by the caller."""
        db = sqlite3.connect(
            self._path, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")  # readers and writers do not wait for each other
        return db

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._idle.pop()
        except IndexError:
            db = self.connect()
        try:
            yield db
        finally:
            self._idle.append(db)


@contextlib.contextmanager
def _available() -> Iterator[None]:
    """Raise errors of SQLite as `UnavailableError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise UnavailableError(str(error)) from error


def _now_and_then(stop: Callable[[], bool]) -> Callable[[], bool]:
    """Return a function that asks only so often: it may have to look at a socket."""
    looked = 0.0

    def is_stopped() -> bool:
        nonlocal looked
        now = time.monotonic()
        if now - looked < _LOOK_EVERY:
            return False
        looked = now
        return stop()

    return is_stopped
