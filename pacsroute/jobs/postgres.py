"""PostgreSQL for a queue that several machines share; it needs the extra ``postgres``."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
from psycopg_pool import ConnectionPool

from pacsroute.jobs.database import DatabaseFailed, Row, Transaction, with_percent

T = TypeVar("T")

_CONNECTIONS = 8
_ASKED_EACH = 60.0  # seconds after which the server's clock is asked again
_PATIENCE = 10.0  # seconds that a thread waits for a connection


class PostgreSQL:
    """A database of PostgreSQL.

    Parameters
    ----------
    url : str
        As ``postgresql://user@host/database``; it may hold a password, and is not shown.
    schema : str, optional
        The schema of its tables, where that is not the usual one.

    Raises
    ------
    psycopg.Error, DatabaseFailed
        If the URL is not valid, or nobody answers there.
    """

    shared = True
    identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"

    def __init__(self, url: str, schema: str | None = None) -> None:
        options = {} if schema is None else {"options": f"-c search_path={schema}"}
        self._pool = ConnectionPool(
            url, kwargs=options, min_size=1, max_size=_CONNECTIONS, timeout=_PATIENCE, open=True
        )

        self._asking = threading.Lock()
        try:
            self._ask()
        except BaseException:
            self._pool.close()
            raise

    def now(self) -> float:
        """Return the server's time in seconds, which all machines share.

        It is asked for once in a while, by one thread: those that ask have a connection already,
        and would wait for another one until none is left.
        """
        late = time.monotonic() - self._asked > _ASKED_EACH
        if late and self._asking.acquire(blocking=False):
            try:
                with contextlib.suppress(DatabaseFailed):  # what is known is good enough
                    self._ask()
            finally:
                self._asking.release()
        return time.monotonic() + self._offset

    def _ask(self) -> None:
        self._asked = time.monotonic()
        ((seconds,),) = self.read("SELECT extract(epoch FROM clock_timestamp())")
        self._offset = float(seconds) - time.monotonic()

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """See `Database.write`."""
        with self._connection() as connection:
            if not durable:
                connection.execute("SET LOCAL synchronous_commit = off")
            return work(_Cursor(connection))

    def read(self, statement: str, /, **values: Any) -> list[Row]:
        """See `Database.read`."""
        with self._connection() as connection:
            return _Cursor(connection).run(statement, **values)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Row]]:
        try:
            with self._pool.connection() as connection:
                yield connection
        except psycopg.Error as error:
            # The whole message of a server may quote values.
            said = error.diag.message_primary or type(error).__name__
            raise DatabaseFailed(f"PostgreSQL: {said}") from error

    def close(self) -> None:
        """See `Database.close`."""
        self._pool.close()


class _Cursor:
    """Runs statements on a connection, which is in a transaction."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        cursor = self._connection.execute(with_percent(statement).encode(), values)
        return cursor.fetchall() if cursor.description is not None else []
