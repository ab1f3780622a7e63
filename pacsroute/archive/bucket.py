"""The objects of an archive: each attempt to store an instance has its own key.

The index first notes the key. Then the object is put and the storage acknowledges it. Then one
transaction writes the row and deletes the note, and only then is the response sent. So a crash
leaves at worst an object without a row, and a note of its attempt. Such an object is removed once
the attempt can no longer succeed, as is one whose row was deleted. Other objects are kept.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping

from pacsroute.archive.ahead import Ahead, Opener
from pacsroute.archive.database import Database, Transaction, UnavailableError
from pacsroute.archive.ownership import Ownership
from pacsroute.archive.schema import FORGET_ATTEMPT, LEAVES
from pacsroute.instances import part10
from pacsroute.instances.instance import Instance
from pacsroute.instances.stored import Storage, Stored

logger = logging.getLogger("pacsroute")

_EVERY = 60.0  # seconds between sweeps
_OVER = 3600.0  # seconds after which an attempt is given up: its row can no longer be written
_STAMP = re.compile(r"/(\d{20})-")
_OLDEST = "SELECT path FROM attempt WHERE at < ?"
_GIVE_UP = "DELETE FROM attempt WHERE at < ? RETURNING path"
_LEAVING = (
    "SELECT leaving.path FROM leaving LEFT JOIN image ON image.path = leaving.path"
    " WHERE image.path IS NULL LIMIT 1000"
)


class Bucket:
    """The instances of an archive in a storage; see `Keeper`.

    Parameters
    ----------
    storage : Storage
        The storage of the objects.
    database : Database
        The index, which notes the attempts in progress.
    """

    flushes_rows = True  # after a crash, only the rows show what was stored

    def __init__(self, storage: Storage, database: Database) -> None:
        self._storage = storage
        self._database = database
        self._ownership = Ownership(storage, database)
        self._stores = 0
        self._told = -1  # so that a start counts on, too
        self._opener: Opener | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start sweeping."""
        self._opener = Opener()
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._sweep_often, name="pacsroute-sweep", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop sweeping; stored objects are counted."""
        if self._opener is not None:
            self._opener.close()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with contextlib.suppress(OSError, UnavailableError):
            self._count_on()

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock in the index, shared by all processes of the archive."""
        return self._database.locked(name)

    def instance(
        self,
        name: str,
        *,
        sop_class: str | None = None,
        sop_instance: str | None = None,
        transfer_syntax: str | None = None,
    ) -> Instance:
        """Return the instance of an object, without reading UIDs that are known."""
        return Instance(
            Stored(self._storage, name),
            sop_class=sop_class,
            sop_instance=sop_instance,
            transfer_syntax=transfer_syntax,
        )

    def received(self, name: str) -> int:
        """Return when an object was put, in nanoseconds since 1970, as its key says."""
        found = _STAMP.search(name)
        return int(found[1]) if found else 0

    def sender(self, name: str) -> str:
        """Return the AE title of the sender of an instance, from its file meta information."""
        with Stored(self._storage, name).open() as file:
            return part10.head_of(file).sender

    def ahead(self, instances: list[Instance]) -> list[Instance]:
        """Return the instances as a list that opens the next ones while one is sent."""
        return Ahead(instances, self._opener) if self._opener is not None else instances

    def has(self, name: str) -> bool:
        """Return whether an object exists."""
        try:
            self._storage.open(name, 0, 1).close()
        except FileNotFoundError:
            return False
        return True

    def found(self) -> Iterator[tuple[str, int]]:
        """Yield the keys of all instances, and when each was put."""
        for key in self._storage.list(""):
            if key.endswith(".dcm") and not key.startswith(".") and "/." not in key:
                yield key, self.received(key)

    def remove(self, names: list[str]) -> list[str]:
        """Remove objects; return the removed keys. The rest are swept later."""
        gone: list[str] = []
        if not names or self._ownership.why_not():
            return gone
        for name in names:
            try:
                self._storage.delete(name)
            except OSError as error:
                logger.warning("%s is removed later: %s", name, error)
                break
            gone.append(name)
        return gone

    # ------------------------------------------------------------- from attempt to instance

    def receive(self, instance: Instance) -> tuple[str, int]:
        """Put an instance under its own key, noted in the index first; see `Keeper`."""
        noting = _Noting(self._storage, self._database)
        instance.save(noting)
        self._stores += 1
        return noting.key, self.received(noting.key)

    def may_have(self, sop_instance: str, values: Mapping[str, object]) -> bool:
        """Return True: querying the index is faster than putting an object."""
        return True

    def place(self, draft: str, sop_instance: str, values: Mapping[str, object]) -> str:
        """Return the key, which does not change."""
        return draft

    def keep(self, db: Transaction, name: str) -> None:
        """Forget the attempt in the transaction that writes the row; see `Keeper`."""
        if db.execute(FORGET_ATTEMPT, [name]).fetchone() is None:
            raise UnavailableError("the attempt took too long, and was given up")

    def settle(self, draft: str) -> None:
        """Do nothing: no work is left."""

    def withdraw(self, name: str, draft: str) -> None:
        """Do nothing: an attempt is discarded, or swept."""

    def discard(self, draft: str) -> None:
        """Give up an attempt, unless its row exists: a commit may succeed without a response."""

        def work(db: Transaction) -> bool:
            is_over = db.execute(FORGET_ATTEMPT, [draft]).fetchone() is not None
            if is_over:
                db.execute(LEAVES, [draft])
            return is_over

        try:
            if self._database.write(work):
                self._removed([draft])
        except UnavailableError:
            logger.debug("%s is swept later", draft)

    def quarantine(self, draft: str, sop_instance: str) -> str:
        """Return the key: the index marks it as quarantined."""
        return draft

    def leftovers(self) -> Iterator[str]:
        """Yield nothing: interrupted attempts are swept later."""
        yield from ()

    def is_whole(self, draft: str) -> bool:
        """Return whether an object is complete: a storage has no partial objects."""
        return True

    def bring_back(self, draft: str, name: str) -> None:
        """Do nothing."""

    # ------------------------------------------------------------- sweeping

    def why_unswept(self) -> str:
        """Return why nothing is removed, or an empty string."""
        return self._ownership.look()

    def adopt(self) -> None:
        """Record that the index has all objects, so sweeping may start."""
        self._ownership.adopt()

    def sweep(self) -> None:
        """Remove the objects of expired attempts and of deleted rows."""
        self._count_on()
        until = time.time_ns() - int(_OVER * 1e9)
        over = self._database.rows(f"{_OLDEST} LIMIT 1", [until])
        leaving = self._database.rows(_LEAVING)
        if not (over or leaving) or self._ownership.look():
            return
        if over:
            self._database.write(lambda db: _give_up(db, until), flush=True)
        while leaving := [row[0] for row in self._database.rows(_LEAVING)]:
            if len(self._removed(leaving)) < len(leaving) or self._stop.is_set():
                return

    def _count_on(self) -> None:
        """Increase the counter, so that an index restored later is recognised as older."""
        if self._stores != self._told:
            told, self._told = self._stores, self._stores
            try:
                self._ownership.go_on()
            except BaseException:
                self._told = told - 1
                raise

    def _removed(self, names: list[str]) -> list[str]:
        gone = self.remove(names)
        forget = "DELETE FROM leaving WHERE path = ?"
        if gone:
            self._database.write(lambda db: db.executemany(forget, [(one,) for one in gone]))
        return gone

    def _sweep_often(self) -> None:
        while True:
            try:
                self.sweep()
            except (OSError, UnavailableError) as error:
                logger.warning("nothing was swept: %s", error)
            except Exception:
                logger.exception("a sweep failed")
            if self._stop.wait(_EVERY):
                return


def _give_up(db: Transaction, until: int) -> None:
    """Give up attempts of that age; a later commit finds no attempt and fails."""
    over = [(row[0],) for row in db.execute(_GIVE_UP, [until]).fetchall()]
    db.executemany(LEAVES, over)
    logger.warning("%d objects of failed attempts are removed", len(over))


class _Noting:
    """A storage that notes each key in the index before it puts the object."""

    def __init__(self, storage: Storage, database: Database) -> None:
        self.key = ""
        self._database = database
        self._put = storage.put
        self.open, self.delete, self.list = storage.open, storage.delete, storage.list

    def put(self, key: str, file: object, size: int) -> None:
        """Note the key, then put the file there."""
        self.key = key
        lazily = self._database.lazily

        def work(db: Transaction) -> None:
            if lazily:  # at worst, a lost note leaves an object that is never removed
                db.execute(lazily)
            db.execute("INSERT INTO attempt VALUES (?, ?)", [key, time.time_ns()])

        self._database.write(work)
        self._put(key, file, size)  # type: ignore[arg-type]
