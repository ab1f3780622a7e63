"""The interface for keeping an archive's instances, in a folder or a bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol

from pacsroute.archive.database import Transaction
from pacsroute.instances.instance import Instance


class Keeper(Protocol):
    """Keeps instances by name.

    A received instance is a draft until the index has its row.

    Attributes
    ----------
    flushes_rows : bool
        Whether a row must be on the disk before the response is sent, because the next start
        could not find the draft.
    """

    flushes_rows: bool

    def open(self) -> None:
        """Prepare to receive; the index has its tables already."""

    def close(self) -> None:
        """Stop receiving."""

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock that all processes of the archive share."""

    # ------------------------------------------------------------- by name or draft

    def instance(
        self,
        name: str,
        *,
        sop_class: str | None = None,
        sop_instance: str | None = None,
        transfer_syntax: str | None = None,
    ) -> Instance:
        """Return an instance, without reading UIDs that are known."""

    def received(self, name: str) -> int:
        """Return when an instance was written, in nanoseconds since 1970."""

    def sender(self, name: str) -> str:
        """Return the AE title of an instance's sender, from its file meta information, or ""."""

    def ahead(self, instances: list[Instance]) -> list[Instance]:
        """Return instances as a list that, if useful, opens the next ones while one is sent."""

    def has(self, name: str) -> bool:
        """Return whether an instance exists."""

    def found(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each instance, and when it was written."""

    def remove(self, names: list[str]) -> list[str]:
        """Remove instances without a row; return the removed names."""

    # ------------------------------------------------------------- from draft to name

    def may_have(self, sop_instance: str, values: Mapping[str, object]) -> bool:
        """Return whether to query the index for an instance before keeping it again."""

    def receive(self, instance: Instance) -> tuple[str, int]:
        """Keep an instance durably; return the draft, and when it was written as in `received`.

        Raises
        ------
        OSError
            If it cannot be written; no part of it is left.
        """

    def place(self, draft: str, sop_instance: str, values: Mapping[str, object]) -> str:
        """Give a draft its final name; return that name."""

    def keep(self, db: Transaction, name: str) -> None:
        """Turn a draft into an instance, in the transaction that writes its row.

        Raises
        ------
        UnavailableError
            If the draft was given up meanwhile.
        """

    def settle(self, draft: str) -> None:
        """Record that the row of a draft is written."""

    def withdraw(self, name: str, draft: str) -> None:
        """Remove the final name of a draft that got no row."""

    def discard(self, draft: str) -> None:
        """Remove a draft, unless it has become an instance."""

    def quarantine(self, draft: str, sop_instance: str) -> str:
        """Give a draft a name in the quarantine; return that name."""

    # ------------------------------------------------------------- after a crash

    def leftovers(self) -> Iterator[str]:
        """Yield the drafts of dead processes, for the start to settle."""

    def is_whole(self, draft: str) -> bool:
        """Return whether a draft is complete."""

    def bring_back(self, draft: str, name: str) -> None:
        """Restore the name of a draft if it is lost and its row is not."""

    # ------------------------------------------------------------- ownership by an index

    def why_unswept(self) -> str:
        """Return why nothing is removed: a different or older index; empty if it is current."""

    def adopt(self) -> None:
        """Record that the index has all instances."""
