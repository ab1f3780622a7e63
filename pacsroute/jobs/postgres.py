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
_ASKED_EACH = 60.0  # seconds after which the server's clock is asked again
_PATIENCE = 10.0  # seconds that a thread waits for a connection


class PostgreSQL:
    """A database of PostgreSQL.

    Parameters
    ----------
    url : str
        As ``postgresql://user@host/database``; it may hold a password, and is not shown.
    schema : str, optional
        The schema of its tables, if that is not the usual one.

    Raises
    ------
    DatabaseFailed
        If the URL is not valid, or nobody answers there.
    """

    shared = True
    identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"

    def __init__(self, url: str, schema: str | None = None) -> None:
        options = {} if schema is None else {"options": f"-c search_path={schema}"}
        self._url = url
        self._asking = threading.Lock()
        self._ask()  # before there is a pool, which would try for a while and not say what is wrong
        self._pool = ConnectionPool(
            url, kwargs=options, min_size=1, max_size=_CONNECTIONS, timeout=_PATIENCE, open=True
        )

    def now(self) -> float:
        """Return the server's time in seconds, which all machines share.

        It is asked for once in a while, on a connection of its own: the thread that asks may be in
        a transaction for which all others wait, and none of those of the pool may be left.
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
    """Raise errors of psycopg as `DatabaseFailed`, without values and passwords."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseFailed("PostgreSQL does not answer") from error
    except psycopg.Error as error:
        # The whole message of a server may quote values.
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
    """Runs statements on a connection, which is in a transaction."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        cursor = self._connection.execute(with_percent(statement).encode(), values)
        return cursor.fetchall() if cursor.description is not None else []
