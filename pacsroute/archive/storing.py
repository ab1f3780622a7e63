"""Store an instance: first the file, then the row; quarantine conflicting ones."""

from __future__ import annotations

import logging
from typing import Literal

from pacsroute.archive.database import (
    Database,
    Transaction,
    UnknownCommitError,
)
from pacsroute.archive.decisions import Decisions
from pacsroute.archive.entry import Entry
from pacsroute.archive.following import Following
from pacsroute.archive.intake import (
    KNOWN,
    AnotherPatientError,
    DeletedError,
    Known,
    KnownError,
    admit,
    take_out,
)
from pacsroute.archive.keeper import Keeper
from pacsroute.archive.same import is_same
from pacsroute.archive.schema import LEAVES
from pacsroute.errors import DataSetError, Failure
from pacsroute.framework.observer import Observer
from pacsroute.framework.work import Together
from pacsroute.instances.instance import Instance
from pacsroute.status import SUB_OPERATIONS_WARNING, UNABLE_TO_PROCESS, Status

logger = logging.getLogger("pacsroute")

Conflict = Literal["refuse", "replace", "keep-both"]
Mismatch = Literal["quarantine", "refuse", "accept"]

DUPLICATE_SOP_INSTANCE = 0x0111
_COERCED = SUB_OPERATIONS_WARNING  # the same code, 0xB000, is a warning of C-STORE


class Storing:
    """Stores instances in an archive.

    Parameters
    ----------
    files, database, decisions : Keeper, Database and Decisions
        The parts of the archive.
    conflict : {"refuse", "replace", "keep-both"}
        How to treat different content with a known SOP Instance UID.
    mismatch : {"quarantine", "refuse", "accept"}
        How to treat an instance whose patient differs from its study's patient.
    """

    def __init__(
        self,
        files: Keeper,
        database: Database,
        decisions: Decisions,
        conflict: Conflict,
        mismatch: Mismatch,
    ) -> None:
        self.observer = Observer()  # the app's, while it runs
        self._files = files
        self._database = database
        self._decisions = decisions
        self._conflict = conflict
        self._mismatch = mismatch

    def add(
        self, instance: Instance, entry: Entry, following: Following | None = None
    ) -> Status | None:
        """Store a received instance; return a warning or None."""
        # This only saves work for a known instance: the transaction checks again.
        if self._files.may_have(entry.sop_instance, entry.values):
            there = self._database.rows(KNOWN, [entry.sop_instance])
            if any(self._is_same(instance, Known(*row)) for row in there):
                self._follow(following, entry)
                return None
        draft, entry.received = self._files.receive(instance)
        try:
            return self.take_in(draft, entry, following)
        except UnknownCommitError:
            raise  # the next start finds out
        except BaseException:
            self._files.discard(draft)
            raise

    def _follow(self, following: Following | None, entry: Entry) -> None:
        """Queue the jobs of an indexed instance, if they were not queued with its row."""
        if following is not None and not following.is_shared:
            *_, row = self._database.rows(KNOWN, [entry.sop_instance])
            following.after(self._instance(Known(*row).path, entry))

    def _instance(self, name: str, entry: Entry) -> Instance:
        return self._files.instance(
            name,
            sop_class=entry.image["SOPClassUID"],
            sop_instance=entry.sop_instance,
            transfer_syntax=entry.transfer_syntax,
        )

    def take_in(
        self,
        draft: str,
        entry: Entry,
        following: Following | None = None,
        *,
        is_new_name: bool = True,
    ) -> Status | None:
        """Move a draft into the archive or into the quarantine.

        A draft of an earlier run may already have its final name, and a row.
        """
        name = self._files.place(draft, entry.sop_instance, entry.values)
        try:
            if following is None:
                is_new = self._admit(draft, entry, name)
            else:
                with following.with_row(self._instance(name, entry)) as jobs:
                    is_new = self._admit(draft, entry, name, jobs)
        except AnotherPatientError:
            self._withdraw(name, draft, is_new_name)
            return self._of_another_patient(draft, entry)
        except KnownError:
            self._withdraw(name, draft, is_new_name)
            self.set_aside(draft, entry, "conflict")
            raise Failure(
                DUPLICATE_SOP_INSTANCE, "another version of this SOP instance is stored"
            ) from None
        except DeletedError:
            self._withdraw(name, draft, is_new_name)
            raise Failure(UNABLE_TO_PROCESS, "this SOP instance was deleted") from None
        except UnknownCommitError:
            raise
        except BaseException:
            self._withdraw(name, draft, is_new_name)
            raise
        if is_new:
            self._files.settle(draft)
        else:
            self._withdraw(name, draft, is_new_name)
            self._files.discard(draft)
        self._follow(following, entry)
        return None

    def _withdraw(self, name: str, draft: str, is_new: bool) -> None:
        """Remove the final name of a draft, unless the index had it before."""
        if is_new or not self._database.rows("SELECT 1 FROM image WHERE path = ?", [name]):
            self._files.withdraw(name, draft)

    def _admit(self, draft: str, entry: Entry, name: str, jobs: Together | None = None) -> bool:
        """Add a draft to the index; return whether it is new."""
        beside: frozenset[int] = frozenset()
        replaced: list[int] = []
        any_patient = self._mismatch == "accept"

        def work(db: Transaction) -> list[str]:
            admit(db, entry, name, beside=beside, any_patient=any_patient)
            self._files.keep(db, name)
            paths = take_out(db, replaced)
            if paths:
                db.executemany(LEAVES, [(path,) for path in paths])
            if jobs is not None:
                jobs.put_in(db.execute)
            return paths

        while True:
            try:
                leaving = self._database.write(
                    work,
                    flush=self._files.flushes_rows,
                    alone=[entry.sop_instance, entry.study_instance],
                )
            except KnownError as error:
                mine = self._files.instance(draft, transfer_syntax=entry.transfer_syntax)
                if any(self._is_same(mine, one) for one in error.known):
                    return False
                if not self._may_join(entry, error.known):
                    raise
                beside |= {one.id for one in error.known}
                replaced = sorted(beside) if self._conflict == "replace" else []
            else:
                if jobs is not None:
                    jobs.committed()
                if leaving:
                    self.remove(leaving)
                return True

    def _may_join(self, entry: Entry, others: list[Known]) -> bool:
        """Return whether an instance may be stored beside or instead of others with its UID."""
        if self._conflict == "replace":
            place = entry.study["patient"], entry.study_instance
            return all((one.patient, one.study_instance) == place for one in others)
        return self._conflict == "keep-both"

    def _is_same(self, instance: Instance, one: Known) -> bool:
        there = self._files.instance(one.path, transfer_syntax=one.transfer_syntax)
        try:
            return is_same(instance, there)
        except (DataSetError, OSError, Failure) as error:
            logger.error("%s cannot be compared: %s", one.path, type(error).__name__)
            return False

    def remove(self, paths: list[str]) -> None:
        """Remove files without a row."""
        gone = self._files.remove(paths)
        if gone:
            self._database.write(
                lambda db: db.executemany(
                    "DELETE FROM leaving WHERE path = ?", [(path,) for path in gone]
                )
            )

    # ------------------------------------------------------------- conflicts

    def _of_another_patient(self, draft: str, entry: Entry) -> Status:
        if self._mismatch == "refuse":
            logger.warning(
                "%s: %s contradicts the patient of its study: refused",
                ascii(entry.calling_ae)[1:-1],
                entry.sop_instance,
            )
            raise Failure(UNABLE_TO_PROCESS, "its patient is not that of its study")
        self.set_aside(draft, entry, "mismatch")
        return Status(_COERCED, "quarantined: its patient is not that of its study")

    def set_aside(self, draft: str, entry: Entry, reason: str) -> None:
        """Put a draft into the quarantine, unless an equal one is already there."""
        mine = self._files.instance(draft, transfer_syntax=entry.transfer_syntax)
        there = self._database.rows(_ASIDE, [entry.sop_instance, entry.calling_ae])
        if any(self._is_same(mine, Known(row[0], row[1], row[2], "", "")) for row in there):
            self._files.discard(draft)
            return
        name = self._files.quarantine(draft, entry.sop_instance)
        self._decisions.decide(
            "quarantine",
            by=entry.calling_ae,
            reason=reason,
            SOPInstanceUID=entry.sop_instance,
            SOPClassUID=entry.image["SOPClassUID"],
            StudyInstanceUID=entry.study_instance,
            transfer_syntax=entry.transfer_syntax,
            calling_ae=entry.calling_ae,
            received=entry.received,
            path=name,
        )
        self._files.settle(draft)
        self.observer.quarantined(reason)
        logger.warning(
            "%s: %s contradicts the stored data (%s) and is in quarantine: %s",
            ascii(entry.calling_ae)[1:-1],
            entry.sop_instance,
            reason,
            name,
        )


_ASIDE = (
    "SELECT id, path, transfer_syntax FROM quarantine"
    " WHERE SOPInstanceUID = ? AND calling_ae = ? ORDER BY id"
)
