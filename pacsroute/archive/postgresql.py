"""An index in PostgreSQL, for several machines; it needs the extra ``postgres``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from pacsroute.archive.database import Transaction, UnavailableError, UnknownCommitError
from pacsroute.archive.model import TABLES, Model
from pacsroute.matching.dialects import Name

T = TypeVar("T")

_CONNECTIONS = 16
_PATIENCE = 10.0  # seconds that a thread waits for a connection
_AGAIN = 2.0  # seconds for which the pool tries to connect before it waits for a request
_LOOK_EVERY = 0.05  # seconds between checks whether to cancel a query
_NAMES = (
    "StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID PatientID IssuerOfPatientID "
    "PatientName_key"
)


# A restored dump has other tables.
_INCARNATION = (
    "SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    " || '/' || 'attempt'::regclass::oid FROM pg_control_system()"
)


class PostgreSQL:
    """A PostgreSQL database.

    Parameters
    ----------
    url : str
        As ``postgresql://user@host/database``; it may contain a password, and is never shown.
    model : Model
        The attributes of the index; PostgreSQL folds their names to lower case.
    """

    dialect: Name = "postgresql"
    identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    text, list_of, ordered_join = 'TEXT COLLATE "C"', "string_agg", "JOIN"
    for_update = " FOR UPDATE SKIP LOCKED"
    lazily = "SET LOCAL synchronous_commit TO off"

    def __init__(self, url: str, model: Model) -> None:
        self.url = url
        names = [*_NAMES.split(), *(name for table in TABLES for name in model.columns(table))]
        self._names = {name.lower(): name for name in names}
        self._pool: ConnectionPool[Any] | None = None
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    def rows(
        self, sql: str, parameters: Sequence[Any] = (), stop: Callable[[], bool] | None = None
    ) -> list[Any]:
        """Return all rows of a query; see `Database`."""
        with self._connection() as db:
            with contextlib.nullcontext() if stop is None else _watched(db, stop):
                found: list[Any] = db.execute(_marked(sql), parameters).fetchall()
            return found

    def write(
        self,
        work: Callable[[Transaction], T],
        *,
        flush: bool = False,
        alone: Sequence[str] | None = (),
    ) -> T:
        """Run a function in a transaction, which is always durable; see `Database`."""
        with self._connection() as db:
            if alone is None:
                db.execute("LOCK TABLE image IN EXCLUSIVE MODE")
            for uid in sorted(alone or ()):  # in a fixed order, to avoid deadlocks
                db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [uid])
            result = work(_Statements(db))
            try:
                db.commit()
            except psycopg.OperationalError as error:  # the connection is lost, and the answer
                raise UnknownCommitError(f"PostgreSQL: {type(error).__name__}") from error
            return result

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock shared by all machines; losing the connection releases it."""
        own = self.connect()
        try:
            own.execute("SELECT pg_advisory_lock(hashtextextended(?, 0))", [f"archive {name}"])
            yield
        finally:
            own.close()

    def incarnation(self) -> str:
        """Return the identity of the database: a promoted replica has another timeline."""
        ((found,),) = self.rows(_INCARNATION)
        return str(found)

    def connect(self) -> _Own:
        """Return a new connection."""
        with _available():
            return _Own(psycopg.connect(self.url, autocommit=True, row_factory=self._row))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        with self._opening:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self.url,
                    kwargs={"row_factory": self._row},
                    min_size=1,
                    max_size=_CONNECTIONS,
                    timeout=_PATIENCE,
                    reconnect_timeout=_AGAIN,
                    check=ConnectionPool.check_connection,
                    open=True,
                )
        with _available(), self._pool.connection() as db:
            yield db

    def _row(self, cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], _Row]:
        columns = [column.name for column in cursor.description or ()]
        names = [self._names.get(name, name) for name in columns]
        places = {name.lower(): place for place, name in enumerate(names)}
        return lambda values: _Row(values, names, places)


class _Row(tuple[Any, ...]):
    """A row with values by number, or by name in any case."""

    _names: list[str]
    _places: dict[str, int]

    def __new__(cls, values: Sequence[Any], names: list[str], places: dict[str, int]) -> _Row:
        row = super().__new__(cls, values)
        row._names, row._places = names, places
        return row

    def keys(self) -> list[str]:
        """The names of the columns."""
        return self._names

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._places[key.lower()] if isinstance(key, str) else key)


class _Statements:
    """A transaction that takes statements with SQLite's parameter marks."""

    def __init__(self, db: psycopg.Connection[Any]) -> None:
        self._db = db

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> Any:
        return self._db.execute(_marked(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Any:
        with self._db.cursor() as cursor:
            cursor.executemany(_marked(sql), parameters)


class _Own(_Statements):
    """A separate connection."""

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> Any:
        with _available():
            return super().execute(sql, parameters)

    def close(self) -> None:
        self._db.close()


def _marked(sql: str) -> Any:
    return sql.replace("?", "%s")


@contextlib.contextmanager
def _available() -> Iterator[None]:
    """Raise psycopg's errors as `UnavailableError`, without their address."""
    try:
        yield
    except (psycopg.Error, PoolTimeout) as error:
        raise UnavailableError(f"PostgreSQL: {type(error).__name__}") from error


@contextlib.contextmanager
def _watched(db: psycopg.Connection[Any], stop: Callable[[], bool]) -> Iterator[None]:
    """Cancel a query when it is no longer wanted."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY):
            if stop():
                db.cancel()
                return

    watcher = threading.Timer(_LOOK_EVERY, watch)
    watcher.daemon = True
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.cancel()
