"""The interface of the index's database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pacsroute.matching.dialects import Name

T = TypeVar("T")


class UnavailableError(Exception):
    """The database cannot be queried or changed now."""


class UnknownCommitError(UnavailableError):
    """The connection was lost during a commit: the transaction may or may not be committed."""


class Transaction(Protocol):
    """Executes statements; ``?`` marks a parameter."""

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
        The type of a column that numbers the rows.
    text : str
        The type of a text column that is compared by code points.
    list_of : str
        The function that joins values with a separator.
    ordered_join : str
        The keywords that join tables in the order written.
    for_update : str
        The end of a SELECT that locks its rows.
    lazily : str
        The start of a transaction that need not be flushed to the disk; may be empty.
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
        """Return all rows of a query; values are read by number or by name.

        Parameters
        ----------
        sql, parameters : str and sequence
            The query.
        stop : callable, optional
            Called now and then while the query runs; True ends it with an `UnavailableError`.
        """

    def write(
        self,
        work: Callable[[Transaction], T],
        *,
        flush: bool = False,
        alone: Sequence[str] | None = (),
    ) -> T:
        """Run a function in a transaction.

        Parameters
        ----------
        work : callable
            Called with the transaction; an exception rolls it back and is raised again.
        flush : bool
            Whether this and everything written before must survive a power cut.
        alone : sequence of str, optional
            UIDs that no other transaction may change meanwhile; None means all.
        """

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock that all processes of the index share."""

    def incarnation(self) -> str:
        """Return a string that changes if the database is restored or another takes over."""

    def connect(self) -> Connection:
        """Return a new connection that commits each statement; the caller closes it."""

    def close(self) -> None:
        """Close the connections."""
