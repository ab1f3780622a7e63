"""PostgreSQL for a queue that several machines share; it needs the extra ``postgres``."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from pacsroute.jobs.database import DatabaseFailed, Row, Transaction, with_percent

T = TypeVar("T")

_CONNECTIONS = 8
_ASKED_EACH = 60.0  # seconds between readings of the server's clock
_PATIENCE = 10.0  # seconds that a thread waits for a connection


class PostgreSQL:
    """A PostgreSQL database.

    Parameters
    ----------
    url : str
        As ``postgresql://user@host/database``; it may contain a password, and is never shown.
    schema : str, optional
        The schema of the tables, if not the default one.

    Raises
    ------
    DatabaseFailed
        If the URL is not valid, or the server cannot be reached.
    """

    shared = True
    identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"

    def __init__(self, url: str, schema: str | None = None) -> None:
        options = {} if schema is None else {"options": f"-c search_path={schema}"}
        self._url = url
        self._asking = threading.Lock()
        self._ask()  # before the pool exists: it would retry for a while and hide the error
        self._pool = ConnectionPool(
            url, kwargs=options, min_size=1, max_size=_CONNECTIONS, timeout=_PATIENCE, open=True
        )

    def now(self) -> float:
        """Return the server's time in seconds, which all machines share.

        The clock is read now and then, on a separate connection: the calling thread may be in a
        transaction that blocks all others, and the pool may have no free connection.
        """
        late = time.monotonic() - self._asked > _ASKED_EACH
        if late and self._asking.acquire(blocking=False):
            try:
                with contextlib.suppress(DatabaseFailed):  # the last reading is good enough
                    self._ask()
            finally:
                self._asking.release()
        return time.monotonic() + self._offset

    def _ask(self) -> None:
        self._asked = time.monotonic()
        with (
            _as_failure(),
            psycopg.connect(self._url, connect_timeout=int(_PATIENCE)) as connection,
        ):
            ((seconds,),) = connection.execute("SELECT extract(epoch FROM clock_timestamp())")
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
        with _as_failure(), self._pool.connection() as connection:
            yield connection

    def close(self) -> None:
        """See `Database.close`."""
        self._pool.close()


@contextlib.contextmanager
def _as_failure() -> Iterator[None]:
    """Raise psycopg's errors as `DatabaseFailed`, without values and passwords."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseFailed("PostgreSQL does not answer") from error
    except psycopg.Error as error:
        # The full message of a server may quote values.
        raise DatabaseFailed(f"PostgreSQL: {_said(error)}") from error


def _said(error: psycopg.Error) -> str:
    """Return the error without the URL, which may contain a password."""
    if error.diag.message_primary:
        return error.diag.message_primary
    text = str(error)
    if "resolve host" in text:
        return "its host name cannot be resolved"
    if "invalid" in text:
        return "its URL is not valid"
    return text.partition("failed: ")[2].partition("\n")[0] or type(error).__name__


class _Cursor:
    """Runs statements on a connection that is in a transaction."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        cursor = self._connection.execute(with_percent(statement).encode(), values)
        return cursor.fetchall() if cursor.description is not None else []
