"""The interface of what keeps an archive's instances, whichever it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from pacsroute.archive.database import Transaction
from pacsroute.instances.instance import Instance


class Keeper(Protocol):
    """Keeps instances by name.

    A received instance is a draft until the index has a row of it.

    Attributes
    ----------
    flushes_rows : bool
        Whether a row has to be on the disk before its sender is told: a start would not find the
        draft again.
    """

    flushes_rows: bool

    def open(self) -> None:
        """Get ready to receive; the index has its tables."""

    def close(self) -> None:
        """Receive no more."""

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock that all processes of the archive share."""

    # ------------------------------------------------------------- by name, or a draft

    def instance(
        self,
        name: str,
        *,
        sop_class: str | None = None,
        sop_instance: str | None = None,
        transfer_syntax: str | None = None,
    ) -> Instance:
        """Return an instance; known UIDs are not read."""

    def received(self, name: str) -> int:
        """Return when it was written, in nanoseconds since 1970."""

    def sender(self, name: str) -> str:
        """Return the AE title of its sender, from its head; else an empty text."""

    def ahead(self, instances: list[Instance]) -> list[Instance]:
        """Return instances in a list that opens the next ones while one is sent, where it helps."""

    def has(self, name: str) -> bool:
        """Return whether an instance is there."""

    def found(self) -> Iterator[tuple[str, int]]:
        """Yield the names of all instances, each with the time when it was written."""

    def remove(self, names: list[str]) -> list[str]:
        """Remove instances without a row; return the removed names."""

    # ------------------------------------------------------------- from draft to name

    def may_have(self, sop_instance: str, values: dict[str, object]) -> bool:
        """Return whether the index should be asked for an instance before it is kept once more."""

    def receive(self, instance: Instance) -> str:
        """Keep an instance durably; return the draft.

        Raises
        ------
        OSError
            If it cannot be written; no part of it stays behind.
        """

    def place(self, draft: str, sop_instance: str, values: dict[str, object]) -> str:
        """Give a draft the name under which it stays; return that name."""

    def keep(self, db: Transaction, name: str) -> None:
        """Note, in the transaction that writes its row, that a draft has become an instance.

        Raises
        ------
        UnavailableError
            If it was given up meanwhile.
        """

    def settle(self, draft: str) -> None:
        """Record that the row of a draft is written."""

    def withdraw(self, name: str) -> None:
        """Take the name from a draft that has got no row."""

    def discard(self, draft: str) -> None:
        """Remove a draft, unless it has become an instance."""

    def quarantine(self, draft: str, sop_instance: str) -> str:
        """Give a draft a name in the quarantine; return it."""

    # ------------------------------------------------------------- after a crash

    def leftovers(self) -> Iterator[str]:
        """Yield the drafts of processes that have died, which a start has to settle."""

    def is_whole(self, draft: str) -> bool:
        """Return whether a draft is as it was received."""

    def bring_back(self, draft: str, name: str) -> None:
        """Give a draft its name again, if that is lost and its row is not."""

    # ------------------------------------------------------------- whose index it is

    def why_unswept(self) -> str:
        """Return why nothing is removed: the index is another one, or older; empty if it is not."""

    def adopt(self) -> None:
        """Record that the index has everything here."""
