"""The database interface of the queue, and its implementation for SQLite."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]

_BUSY = 30.0  # seconds that a process waits for another one's transaction


class DatabaseFailed(OSError):
    """The database of the queue cannot be reached, or has refused an operation."""


class Transaction(Protocol):
    """Runs statements; all of them take effect together, or none does."""

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        """Run a statement, whose ``:names`` are values, and return its rows."""


class Database(Protocol):
    """Where the queue lives.

    Attributes
    ----------
    shared : bool
        Whether other machines may use it, too: an owner is alive by its lease then.
    identity : str
        The SQL type of a number that the database gives to each new row.
    """

    shared: bool
    identity: str

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """Run some work in a transaction of its own, and return what it returns.

        Parameters
        ----------
        work : callable
            It may run again where the database asks for that, so it changes nothing else.
        durable : bool
            Whether it is on the disk before this returns. Without, it survives the end of
            the process, and a power loss may undo it.
        """

    def read(self, statement: str, /, **values: Any) -> list[Row]:
        """Run a query outside of any transaction."""

    def close(self) -> None:
        """Close it; a transaction that is under way ends first."""


class SQLite:
    """A file of SQLite; threads that write at the same time share a commit and its flush.

    Parameters
    ----------
    path : path or None
        The file; None keeps it in memory, for tests.

    Raises
    ------
    OSError, sqlite3.Error
        If it cannot be opened.
    """

    shared = False
    identity = "INTEGER PRIMARY KEY AUTOINCREMENT"

    def __init__(self, path: Path | None) -> None:
        self._reading = threading.Lock()  # guards _reader: one statement at a time
        self._durable = _Writer(_opened(path, "FULL"))
        if path is None:  # each connection to memory is a database of its own
            self._quick = self._durable
            self._reader = None
        else:
            self._quick = _Writer(_opened(path, "NORMAL"))
            self._reader = _opened(path, "NORMAL")

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """See `Database.write`."""
        return (self._durable if durable else self._quick).write(work)

    def read(self, statement: str, /, **values: Any) -> list[Row]:
        """See `Database.read`."""
        if self._reader is None:
            return self._durable.write(lambda transaction: transaction.run(statement, **values))
        with self._reading:
            return _Cursor(self._reader).run(statement, **values)

    def close(self) -> None:
        """See `Database.close`."""
        self._durable.close()
        if self._reader is not None:
            self._quick.close()
            with self._reading:
                self._reader.close()


def _opened(path: Path | None, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path or ":memory:", timeout=_BUSY, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    if path is not None:
        connection.execute("PRAGMA journal_mode = WAL")
    return connection


class _Cursor:
    """Runs statements on a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        return self._connection.execute(statement, values).fetchall()


class _Work:
    """Work that a thread wants to be committed, and its result."""

    def __init__(self, work: Callable[[Transaction], Any]) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class _Writer:
    """Commits what several threads want at the same time in one transaction.

    The thread that has `_turn` commits what all others have put into `_waiting` until then;
    they find it done when they have their turn. `_lock` guards `_waiting`, `_turn` the rest.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Work] = []

    def write(self, work: Callable[[Transaction], T]) -> T:
        mine = _Work(work)
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                with self._lock:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if mine.error is not None:
            raise mine.error
        result: T = mine.result
        return result

    def _commit(self, batch: list[_Work]) -> None:
        try:
            with self._transaction():
                for one in batch:
                    self._run(one, alone=len(batch) == 1)
        except BaseException as error:  # noqa: BLE001 - each thread raises it for itself
            for one in batch:
                one.error = one.error or error
        for one in batch:
            one.done = True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _run(self, one: _Work, *, alone: bool) -> None:
        if alone:
            one.result = one.work(_Cursor(self._connection))
            return
        self._connection.execute("SAVEPOINT one")
        try:
            one.result = one.work(_Cursor(self._connection))
        except BaseException as error:  # noqa: BLE001 - the others' work goes on
            one.error = error
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")

    def close(self) -> None:
        with self._turn:
            self._connection.close()


_NAME = re.compile(r"(?<!:):([a-z_]+)")


def with_percent(statement: str) -> str:
    """Return a statement with its values named as Python's DB API calls *pyformat*.

    Examples
    --------
    >>> with_percent("SELECT 'x'::text WHERE id = :id")
    "SELECT 'x'::text WHERE id = %(id)s"
    """
    return _NAME.sub(r"%(\1)s", statement)
