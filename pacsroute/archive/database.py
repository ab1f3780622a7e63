"""The interface of the index's database, whichever it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pacsroute.matching.dialects import Name

T = TypeVar("T")


class UnavailableError(Exception):
    """The database cannot be asked or changed now."""


class UnknownCommitError(UnavailableError):
    """The database was lost while a transaction was committed: it may be, or not."""


class Transaction(Protocol):
    """Executes statements; parameters are marked with ``?``."""

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> Any:
        """Execute a statement; return a cursor of its rows."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Any:
        """Execute a statement for each set of parameters."""


class Connection(Transaction, Protocol):
    """A separate connection."""

    def close(self) -> None:
        """Close it."""


class Database(Protocol):
    """A database for many threads.

    Attributes
    ----------
    dialect : str
        As `pacsroute.matching.where` takes it.
    identity : str
        The type of a column that numbers its rows.
    text : str
        The type of a column of text, which is compared by code points.
    list_of : str
        The function that joins values with a separator.
    ordered_join : str
        The words that join tables in the order in which they are written.
    for_update : str
        The end of a SELECT that takes a row from others.
    lazily : str
        The beginning of a transaction that need not be on the disk; may be empty.
    """

    dialect: Name
    identity: str
    text: str
    list_of: str
    ordered_join: str
    for_update: str
    url: str
    lazily: str

    def rows(
        self, sql: str, parameters: Sequence[Any] = (), stop: Callable[[], bool] | None = None
    ) -> list[Any]:
        """Return all rows of a query, each to be asked by number and by name.

        Parameters
        ----------
        sql, parameters : str and sequence
            The query.
        stop : callable, optional
            Asked now and then while it runs; True ends it with an `UnavailableError`.
        """

    def write(
        self,
        work: Callable[[Transaction], T],
        *,
        flush: bool = False,
        alone: Sequence[str] | None = (),
    ) -> T:
        """Do something in a transaction.

        Parameters
        ----------
        work : callable
            Called with the transaction; what it raises undoes what it did, and is raised.
        flush : bool
            Whether it must survive a power cut, with everything written before it.
        alone : sequence of str, optional
            UIDs that no other transaction changes meanwhile; None is everything.
        """

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock that all processes of the index share."""

    def incarnation(self) -> str:
        """Return a text that differs after the database was restored, or another took over."""

    def connect(self) -> Connection:
        """Return a new connection, to be closed by the caller; it commits each statement."""

    def close(self) -> None:
        """Close the connections."""
