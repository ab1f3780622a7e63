"""An index in an SQLite file: several connections read, and one writes for all threads."""

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
from pacsroute.group_commit import GroupCommit, connect
from pacsroute.matching.dialects import Name

T = TypeVar("T")
Work = Callable[[Transaction], T]
_STEPS = 1000  # SQLite instructions between checks of the clock: at worst 50 patterns of some ms
_LOOK_EVERY = 0.01  # seconds between checks whether to cancel a query
_TIMEOUT = 30  # seconds that a writer waits for writers of other processes


class SQLite:
    """An SQLite database for many threads.

    Parameters
    ----------
    path : Path
        The file.

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
            Called now and then while the query runs; True ends it with an `UnavailableError`.
        """
        try:
            with self._connection() as db:
                if stop is not None:
                    db.set_progress_handler(_now_and_then(stop), _STEPS)
                try:
                    return db.execute(sql, parameters).fetchall()
                finally:
                    if stop is not None:
                        db.set_progress_handler(None, 0)
        except sqlite3.Error as error:
            raise UnavailableError(str(error)) from error

    def write(self, work: Work[T], *, flush: bool = False, alone: Sequence[str] | None = ()) -> T:
        """Run a function in a transaction, together with pending writes of other threads.

        Parameters
        ----------
        work : callable
            Called with a connection; an exception rolls back its changes and is raised again.
        flush : bool
            Whether this and everything written before must survive a power cut.
        alone : sequence of str, optional
            Ignored: SQLite runs one write transaction at a time.
        """
        try:
            return self._commits.write(work, flush=flush)
        except sqlite3.Error as error:
            raise UnavailableError(str(error)) from error

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock shared by all processes that use the index."""
        return locked(f"{self._path}.{name}")

    def incarnation(self) -> str:
        """Return the identity of the file: a copy has another one."""
        return str(os.stat(self._path).st_ino)

    def connect(self) -> sqlite3.Connection:
        """Return a new connection; the caller closes it."""
        # With a write-ahead log, readers and writers do not wait for each other.
        db = connect(self._path, _TIMEOUT, "journal_mode = WAL")
        db.row_factory = sqlite3.Row
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


def _now_and_then(stop: Callable[[], bool]) -> Callable[[], bool]:
    """Return a function that limits how often `stop` is called: it may have to poll a socket."""
    looked = 0.0

    def is_stopped() -> bool:
        nonlocal looked
        now = time.monotonic()
        if now - looked < _LOOK_EVERY:
            return False
        looked = now
        return stop()

    return is_stopped
