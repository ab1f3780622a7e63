"""The database interface of the queue, and its implementation for SQLite."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pacsroute.group_commit import GroupCommit, connect

T = TypeVar("T")
Row = tuple[Any, ...]

_LOG = 4_200_000  # bytes of the log: SQLite checkpoints it at 1000 pages
_BUSY = 30.0  # seconds that a process waits for a transaction of another process


class DatabaseFailed(OSError):
    """The database of the queue cannot be reached, or has refused an operation."""


class Transaction(Protocol):
    """Runs statements; either all of them take effect or none."""

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        """Run a statement with ``:name`` parameters, and return its rows."""


class Database(Protocol):
    """The database of a queue.

    Attributes
    ----------
    shared : bool
        Whether other machines may also use it; if so, owners stay alive by leases.
    identity : str
        The SQL type of a number that the database assigns to each new row.
    """

    shared: bool
    identity: str

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """Run a function in its own transaction, and return its result.

        Parameters
        ----------
        work : callable
            The function. It must change nothing else, because the database may require a rerun.
        durable : bool
            Whether to flush the transaction to the disk before returning. If not, it survives the
            end of the process, but a power loss may undo it.

        Raises
        ------
        DatabaseFailed
            If the database cannot carry it out.
        """

    def read(self, statement: str, /, **values: Any) -> list[Row]:
        """Run a query outside of any transaction."""

    def close(self) -> None:
        """Close the database; a transaction in progress ends first."""


class SQLite:
    """An SQLite file; threads that write at the same time share a commit and its flush.

    Parameters
    ----------
    path : path or None
        The file; None keeps it in memory, for tests.

    Raises
    ------
    DatabaseFailed
        If it cannot be opened.
    """

    shared = False
    identity = "INTEGER PRIMARY KEY AUTOINCREMENT"

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._is_closed = False
        self._reading = threading.Lock()  # guards _reader: one statement at a time
        # Each in-memory connection has a separate database.
        with _AsFailure():
            self._reader = None if path is None else _opened(path)
        self._commits = GroupCommit(self._connect)

    def _connect(self) -> sqlite3.Connection:
        if self._is_closed:
            raise sqlite3.ProgrammingError("the queue is closed")
        connection = _opened(self._path)
        if self._path is not None:
            _lengthen_log(connection, self._path)
        return connection

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """See `Database.write`."""
        with _AsFailure():
            return self._commits.write(lambda connection: work(_Cursor(connection)), flush=durable)

    def read(self, statement: str, /, **values: Any) -> list[Row]:
        """See `Database.read`."""
        if self._reader is None:
            return self.write(lambda transaction: transaction.run(statement, **values))
        with self._reading, _AsFailure():
            return _Cursor(self._reader).run(statement, **values)

    def close(self) -> None:
        """See `Database.close`."""
        self._is_closed = True
        self._commits.close()
        if self._reader is not None:
            with self._reading:
                self._reader.close()


class _AsFailure:
    """Raise SQLite's errors as `DatabaseFailed`."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            locked = "database is locked" in str(error)
            said = "another process has had it locked too long" if locked else str(error)
            raise DatabaseFailed(said) from error


def _opened(path: Path | None) -> sqlite3.Connection:
    log = () if path is None else ("journal_mode = WAL",)
    return connect(path or ":memory:", _BUSY, "foreign_keys = ON", *log)


def _lengthen_log(connection: sqlite3.Connection, path: Path) -> None:
    """Extend the write-ahead log to its usual length now.

    A flush takes half as long if it need not record a new file length. SQLite writes pages that
    exceed its cache to the log, and the log keeps its length when they are rolled back.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size >= _LOG:
        return
    ((cache,),) = connection.execute("PRAGMA cache_size").fetchall()
    connection.execute("PRAGMA cache_size = 10")
    with contextlib.suppress(sqlite3.Error):  # the disk is full, but a job may still fit
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE room (bytes BLOB)")
        connection.execute("INSERT INTO room VALUES (zeroblob(?))", (_LOG,))
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute(f"PRAGMA cache_size = {cache}")


class _Cursor:
    """Runs statements on a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        return self._connection.execute(statement, values).fetchall()


_NAME = re.compile(r"(?<!:):([a-z_]+)")


def with_percent(statement: str) -> str:
    """Return a statement with its parameters in the *pyformat* style of Python's DB API.

    Examples
    --------
    >>> with_percent("SELECT 'x'::text WHERE id = :id")
    "SELECT 'x'::text WHERE id = %(id)s"
    """
    return _NAME.sub(r"%(\1)s", statement)
