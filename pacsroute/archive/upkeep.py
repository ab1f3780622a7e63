"""Keep files and index in step: at a start, on request, and when the index is rebuilt."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from pacsroute.archive import schema
from pacsroute.archive.database import Database, Transaction, UnavailableError
from pacsroute.archive.decisions import Decisions
from pacsroute.archive.entry import Entry
from pacsroute.archive.files import Files, is_whole, remove
from pacsroute.archive.intake import AnotherPatientError, DeletedError, KnownError, admit, take_out
from pacsroute.archive.model import Model
from pacsroute.archive.storing import Storing
from pacsroute.errors import Failure
from pacsroute.instances.instance import Instance

logger = logging.getLogger("pacsroute")

_SIGNATURE = "signature"
_BATCH = 500  # files between transactions


class Finding(NamedTuple):
    """A difference between files and index.

    Parameters
    ----------
    kind : str
        ``missing``: the index has it, the folder does not. ``unknown``: the folder has it, the
        index does not. ``quarantined``: it is kept aside, and a person has to decide.
    path : str
        The file, within the archive's folder.
    sop_instance : str
        The SOP Instance UID; empty where only the file knows it.
    reason : str
        Why it is in quarantine: ``conflict`` or ``mismatch``; else empty.
    """

    kind: str
    path: str
    sop_instance: str = ""
    reason: str = ""


class Upkeep:
    """Brings files and index in step.

    Parameters
    ----------
    model, files, database, decisions, storing
        The parts of the archive.
    read : callable
        Returns the entry of a file, by its path.
    any_patient : bool
        Whether an instance may be of another patient than its study.
    """

    def __init__(
        self,
        model: Model,
        files: Files,
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
        """Do what has to be done before anything is answered; it reads what was under way.

        Only an index that was made for other attributes is made anew, from all files.
        """
        self._database.write(lambda db: _run(db, schema.lasting(self._database)))
        facts = dict(map(tuple, self._database.rows("SELECT name, value FROM fact")))
        wanted = schema.signature(self._model)
        if facts.get(_SIGNATURE) != wanted:
            self._database.write(
                lambda db: _run(db, schema.attributes(self._model, self._database))
            )
            self._decisions.catch_up()
            self.reindex()
            self._database.write(
                lambda db: db.execute(schema.SET_FACT, [_SIGNATURE, wanted]),
                flush=True,
            )
        self._decisions.catch_up()
        self._storing.remove([row[0] for row in self._database.rows("SELECT path FROM leaving")])
        for draft in self._files.leftovers():
            self._settle(draft)

    def _settle(self, draft: str) -> None:
        """Bring what a process had under way when it died to its end."""
        if not is_whole(draft):
            logger.warning("%s was cut off before it was acknowledged: it is removed", draft)
            remove(draft)
            return
        try:
            instance = Instance(draft)
            if not self._is_in(draft, instance.sop_instance):
                self._storing.take_in(draft, self._read(draft))
                logger.warning("%s was not in the index", instance.sop_instance)
            remove(draft)
        except Failure as error:  # of what was refused already, or would have been
            logger.warning("%s is not taken in: %s", draft, error)
            remove(draft)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are served
            logger.error("%s cannot be put into the index: %r", draft, error)

    def _is_in(self, draft: str, sop_instance: str) -> bool:
        """Tell whether a draft is what the index has; its name may be lost to a power cut."""
        same = "SELECT path FROM image WHERE SOPInstanceUID = ? AND received = ?"
        for (name,) in self._database.rows(same, [sop_instance, os.stat(draft).st_mtime_ns]):
            path = self._files.path(name)
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.link(draft, path)
            return True
        return False

    # ------------------------------------------------------------- check and reindex

    def check(self, progress: Callable[[int], object] | None = None) -> Iterator[Finding]:
        """Yield what files and index do not agree on; nothing is changed."""
        tell = _counter(progress)
        with _Seen(self._database) as seen:
            for name, _ in self._files.found():
                tell()
                seen.add(name, 0)
            for (path,) in seen.rows(
                "SELECT path FROM seen EXCEPT SELECT path FROM image ORDER BY 1"
            ):
                known = self._database.rows("SELECT 1 FROM image WHERE path = ?", [path])
                if not known and os.path.exists(
                    self._files.path(path)
                ):  # stored meanwhile, or gone
                    yield Finding("unknown", path)
            sql = "SELECT path, SOPInstanceUID FROM image WHERE path NOT IN (SELECT path FROM seen)"
            for path, uid in seen.rows(sql):
                known = self._database.rows("SELECT 1 FROM image WHERE path = ?", [path])
                if known and not os.path.exists(self._files.path(path)):
                    yield Finding("missing", path, uid)
        aside = "SELECT path, SOPInstanceUID, reason FROM quarantine ORDER BY id"
        for path, uid, reason in self._database.rows(aside):
            yield Finding("quarantined", path, uid, reason)

    def reindex(
        self, since: datetime | None = None, progress: Callable[[int], object] | None = None
    ) -> int:
        """Take in the files that the index does not know; return how many those were.

        The one that was written first is taken in first. Rows without a file leave the index,
        unless only the files since some time are looked at.
        """
        count = 0
        tell = _counter(progress)
        earliest = 0 if since is None else int(since.timestamp() * 1e9)
        with _Seen(self._database) as seen:
            for name, stat in self._files.found():
                tell()
                if stat.st_mtime_ns >= earliest:
                    seen.add(name, stat.st_mtime_ns)
            new = "SELECT path FROM seen WHERE path NOT IN (SELECT path FROM image)"
            batch: list[tuple[str, Entry]] = []
            for (path,) in seen.rows(f"{new} ORDER BY at, path"):
                tell()
                entry = self._entry(path)
                if entry is not None:
                    batch.append((path, entry))
                if len(batch) == _BATCH:
                    count += self._database.write(self._all_of(batch))
                    batch = []
            count += self._database.write(self._all_of(batch), flush=True)
            if since is None:
                self._forget_missing(seen)
        return count

    def _entry(self, path: str) -> Entry | None:
        try:
            return self._read(self._files.path(path))
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are taken in
            logger.error("%s cannot be put into the index: %r", path, error)
            return None

    def _all_of(self, batch: list[tuple[str, Entry]]) -> Callable[[Transaction], int]:
        def work(db: Transaction) -> int:
            return sum(self._admitted(db, path, entry) for path, entry in batch)

        return work

    def _admitted(self, db: Transaction, path: str, entry: Entry) -> bool:
        try:
            admit(db, entry, path, any_patient=self._any_patient)
        except KnownError as error:
            gone = [o.id for o in error.known if not os.path.exists(self._files.path(o.path))]
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
        logger.warning("%s was not in the index", path)
        return True

    def _forget_missing(self, seen: _Seen) -> None:
        gone = "SELECT id, path FROM image WHERE path NOT IN (SELECT path FROM seen)"
        for number, path in seen.rows(gone):
            if not os.path.exists(self._files.path(path)):
                logger.error("%s is gone: it is taken from the index", path)
                self._database.write(partial(take_out, ids=[number]))


class _Seen:
    """The files of a folder in a table of their own: a million of them fit into no list."""

    def __init__(self, database: Database) -> None:
        self._db = database.connect()
        self._db.execute(f"CREATE TEMP TABLE seen (path {database.text} PRIMARY KEY, at BIGINT)")

    def __enter__(self) -> _Seen:
        return self

    def __exit__(self, *exception: object) -> None:
        self._db.close()

    def add(self, path: str, at: int) -> None:
        """Note a file, and when it was written."""
        self._db.execute("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", [path, at])

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query; the index may change meanwhile, which they do not show."""
        self._db.execute("DROP TABLE IF EXISTS answer")
        numbered = f"SELECT row_number() OVER () AS number, one.* FROM ({sql}) AS one"
        self._db.execute(f"CREATE TEMP TABLE answer AS {numbered}")
        for row in self._db.execute("SELECT * FROM answer ORDER BY number"):
            yield tuple(row)[1:]


def _counter(progress: Callable[[int], object] | None) -> Callable[[], object]:
    """Return a function that tells `progress` how often it has been called."""
    if progress is None:
        return lambda: None
    numbers = itertools.count(1)
    return lambda: progress(next(numbers))


def _run(db: Transaction, statements: Iterator[str]) -> None:
    for statement in statements:
        db.execute(statement)
