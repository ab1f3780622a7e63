"""Keep files and index consistent: at startup, on request, and when the index is rebuilt."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from pacsroute.archive import schema
from pacsroute.archive.database import Database, Transaction, UnavailableError
from pacsroute.archive.decisions import Decisions
from pacsroute.archive.entry import Entry
from pacsroute.archive.intake import AnotherPatientError, DeletedError, KnownError, admit, take_out
from pacsroute.archive.keeper import Keeper
from pacsroute.archive.model import Model
from pacsroute.archive.ownership import ANOTHER, UNCLAIMED
from pacsroute.archive.schema import FORGET_ATTEMPT
from pacsroute.archive.storing import Storing
from pacsroute.errors import Failure

logger = logging.getLogger("pacsroute")

_SIGNATURE = "signature"
_AND_OTHERS = "UNION ALL SELECT path FROM leaving UNION ALL SELECT path FROM quarantine"
_NOT_THE_OTHERS = (
    "EXCEPT SELECT path FROM attempt EXCEPT SELECT path FROM leaving"
    " EXCEPT SELECT path FROM quarantine"
)
_READERS = 8  # threads that read files, because a bucket is slow to answer
_BATCH = 500  # files between transactions


class Finding(NamedTuple):
    """A difference between files and index.

    Parameters
    ----------
    kind : str
        ``missing``: only the index has it. ``unknown``: only the folder has it.
        ``quarantined``: a person has to decide about it. ``unswept``: nothing is removed from the
        bucket until `reindex` has run.
    path : str
        The file, within the archive's folder, or the key of the object.
    sop_instance : str
        The SOP Instance UID; empty if it is known only from the file.
    reason : str
        Why it is in quarantine, ``conflict`` or ``mismatch``; or why nothing is removed.
    """

    kind: str
    path: str
    sop_instance: str = ""
    reason: str = ""


class Upkeep:
    """Makes files and index consistent.

    Parameters
    ----------
    model, files, database, decisions, storing
        The parts of the archive.
    read : callable
        Returns the entry of an instance from its name.
    any_patient : bool
        Whether an instance's patient may differ from its study's patient.
    """

    def __init__(
        self,
        model: Model,
        files: Keeper,
        database: Database,
        decisions: Decisions,
        storing: Storing,
        read: Callable[[str], Entry],
        any_patient: bool,
    ) -> None:
        self._model = model
        self._files = files
        self._database = database
        self._decisions = decisions
        self._storing = storing
        self._read = read
        self._any_patient = any_patient

    def start(self) -> None:
        """Prepare the archive before it answers: settle interrupted stores.

        The index is rebuilt from all files only if it was made for other attributes.
        """
        self._database.write(lambda db: _run(db, schema.lasting(self._database)))
        facts = dict(map(tuple, self._database.rows("SELECT name, value FROM fact")))
        wanted = schema.signature(self._model)
        why_unswept = self._files.why_unswept()
        if facts.get(_SIGNATURE) != wanted:
            self._database.write(
                lambda db: _run(db, schema.attributes(self._model, self._database))
            )
            self._decisions.catch_up()
            if why_unswept != ANOTHER:
                self.reindex()
            self._database.write(
                lambda db: db.execute(schema.SET_FACT, [_SIGNATURE, wanted]),
                flush=True,
            )
        elif why_unswept == UNCLAIMED and next(self._files.found(), None) is None:
            self._files.adopt()
        self._decisions.catch_up()
        self._storing.remove([row[0] for row in self._database.rows("SELECT path FROM leaving")])
        for draft in self._files.leftovers():
            self._settle(draft)

    def _settle(self, draft: str) -> None:
        """Finish a store that a dead process began."""
        if not self._files.is_whole(draft):
            logger.warning("%s was cut off before it was acknowledged: it is removed", draft)
            self._files.discard(draft)
            return
        try:
            instance = self._files.instance(draft)
            if self._is_in(draft, instance.sop_instance):
                self._files.settle(draft)
            else:
                self._storing.take_in(draft, self._read(draft), is_new_name=False)
                logger.warning("%s was not in the index", instance.sop_instance)
        except Failure as error:  # the instance was or would have been refused
            logger.warning("%s is not added to the index: %s", draft, error)
            self._files.discard(draft)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - any error; the others are still served
            logger.error("%s cannot be put into the index: %r", draft, error)

    def _is_in(self, draft: str, sop_instance: str) -> bool:
        """Return whether a draft is the indexed instance; a power cut may have lost its name."""
        same = "SELECT path FROM image WHERE SOPInstanceUID = ? AND received = ?"
        for (name,) in self._database.rows(same, [sop_instance, self._files.received(draft)]):
            self._files.bring_back(draft, name)
            return True
        return False

    # ------------------------------------------------------------- check and reindex

    def check(self, progress: Callable[[int], object] | None = None) -> Iterator[Finding]:
        """Yield differences between files and index; nothing is changed."""
        tell = _counter(progress)
        if why_unswept := self._files.why_unswept():
            yield Finding("unswept", "", reason=why_unswept)
        with _Seen(self._database) as seen:
            for name, _ in self._files.found():
                tell()
                seen.add(name, 0)
            for (path,) in seen.rows(
                f"SELECT path FROM seen EXCEPT SELECT path FROM image {_NOT_THE_OTHERS} ORDER BY 1"
            ):
                known = self._database.rows("SELECT 1 FROM image WHERE path = ?", [path])
                if not known and self._files.has(path):  # otherwise stored meanwhile, or removed
                    yield Finding("unknown", path)
            sql = "SELECT path, SOPInstanceUID FROM image WHERE path NOT IN (SELECT path FROM seen)"
            for path, uid in seen.rows(sql):
                known = self._database.rows("SELECT 1 FROM image WHERE path = ?", [path])
                if known and not self._files.has(path):
                    yield Finding("missing", path, uid)
        aside = "SELECT path, SOPInstanceUID, reason FROM quarantine ORDER BY id"
        for path, uid, reason in self._database.rows(aside):
            yield Finding("quarantined", path, uid, reason)

    def reindex(
        self, since: datetime | None = None, progress: Callable[[int], object] | None = None
    ) -> int:
        """Add the files that are not in the index; return how many.

        Files are added in the order in which they were written. Rows without a file are removed,
        unless `since` is given.
        """
        count = 0
        tell = _counter(progress)
        is_unswept = bool(self._files.why_unswept())
        if is_unswept and since is None:  # old notes may name objects acknowledged later
            self._database.write(lambda db: db.execute("DELETE FROM attempt"), flush=True)
        earliest = 0 if since is None else int(since.timestamp() * 1e9)
        with _Seen(self._database) as seen, ThreadPoolExecutor(_READERS) as readers:
            for name, at in self._files.found():
                tell()
                if at >= earliest:
                    seen.add(name, at)
            new = f"SELECT path FROM seen WHERE path NOT IN (SELECT path FROM image {_AND_OTHERS})"
            if not is_unswept:  # noted attempts have failed, unless the notes are old
                new += " AND path NOT IN (SELECT path FROM attempt)"
            rows = seen.rows(f"{new} ORDER BY at, path")
            while paths := [path for (path,) in itertools.islice(rows, _BATCH)]:
                batch = []
                for path, entry in zip(paths, readers.map(self._entry, paths), strict=True):
                    tell()
                    if entry is not None:
                        batch.append((path, entry))
                count += self._database.write(self._all_of(batch))
            self._database.write(self._all_of([]), flush=True)
            if since is None:
                self._forget_missing(seen)
                self._files.adopt()
        if count:
            logger.warning("%d instances were not in the index, and are now", count)
        return count

    def _entry(self, path: str) -> Entry | None:
        try:
            return self._read(path)
        except Exception as error:  # noqa: BLE001 - any error; the others are still added
            logger.error("%s cannot be put into the index: %r", path, error)
            return None

    def _all_of(self, batch: list[tuple[str, Entry]]) -> Callable[[Transaction], int]:
        def work(db: Transaction) -> int:
            return sum(self._admitted(db, path, entry) for path, entry in batch)

        return work

    def _admitted(self, db: Transaction, path: str, entry: Entry) -> bool:
        try:
            admit(db, entry, path, any_patient=self._any_patient)
            db.execute(FORGET_ATTEMPT, [path])
        except KnownError as error:
            gone = [o.id for o in error.known if not self._files.has(o.path)]
            if len(gone) < len(error.known):
                logger.error("%s: another file of this SOP instance is in the index", path)
                return False
            take_out(db, gone)
            return self._admitted(db, path, entry)
        except AnotherPatientError:
            logger.error("%s: its patient is not that of its study", path)
            return False
        except DeletedError:
            logger.error("%s: this SOP instance was deleted", path)
            return False
        logger.debug("%s was not in the index", path)
        return True

    def _forget_missing(self, seen: _Seen) -> None:
        gone = "SELECT id, path FROM image WHERE path NOT IN (SELECT path FROM seen)"
        for number, path in seen.rows(gone):
            if not self._files.has(path):
                logger.error("%s is gone: it is removed from the index", path)
                self._database.write(partial(take_out, ids=[number]))


class _Seen:
    """The files of a folder in a temporary table, because a million do not fit into a list."""

    def __init__(self, database: Database) -> None:
        self._db = database.connect()
        self._db.execute(f"CREATE TEMP TABLE seen (path {database.text} PRIMARY KEY, at BIGINT)")

    def __enter__(self) -> _Seen:
        return self

    def __exit__(self, *exception: object) -> None:
        self._db.close()

    def add(self, path: str, at: int) -> None:
        """Record a file and when it was written."""
        self._db.execute("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", [path, at])

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, without changes made to the index meanwhile."""
        self._db.execute("DROP TABLE IF EXISTS answer")
        numbered = f"SELECT row_number() OVER () AS number, one.* FROM ({sql}) AS one"
        self._db.execute(f"CREATE TEMP TABLE answer AS {numbered}")
        for row in self._db.execute("SELECT * FROM answer ORDER BY number"):
            yield tuple(row)[1:]


def _counter(progress: Callable[[int], object] | None) -> Callable[[], object]:
    """Return a function that passes `progress` the number of its calls."""
    if progress is None:
        return lambda: None
    numbers = itertools.count(1)
    return lambda: progress(next(numbers))


def _run(db: Transaction, statements: Iterator[str]) -> None:
    for statement in statements:
        db.execute(statement)
