"""Check that an index belongs to the objects of a storage and is as new as they are.

An object ``.index`` contains the name of the index, the identity of its database, and a number
that grows with use. An index that was restored, or took over from another machine, may lack
acknowledged objects. It has a smaller number, or another database.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import uuid
from typing import Any, NamedTuple

from pacsroute.archive.database import Database, Transaction
from pacsroute.archive.schema import SET_FACT
from pacsroute.instances.stored import Storage

logger = logging.getLogger("pacsroute")

_KEY = ".index"
_IDENTITY, _GENERATION = "identity", "generation"
UNCLAIMED = "the objects belong to no index yet"
ANOTHER = "the objects belong to another index"
OLDER = "the index is older than the objects, or was restored"


class _Mark(NamedTuple):
    """The content of `.index`."""

    identity: str
    database: str
    generation: int


class Ownership:
    """Decides whether an index may remove objects of a storage.

    Parameters
    ----------
    storage, database : Storage and Database
        The storage of the objects, and the index.
    """

    def __init__(self, storage: Storage, database: Database) -> None:
        self._storage = storage
        self._database = database
        self._why = "it was not checked yet"
        self._lock = threading.Lock()

    def why_not(self) -> str:
        """Return the result of the last check."""
        return self._why

    def look(self) -> str:
        """Return why nothing may be removed; empty if the index is the newest one.

        Raises
        ------
        OSError, UnavailableError
            If the storage or the index cannot be read.
        """
        with self._lock:
            there, own = self._read(), self._own()  # in this order: the number may grow meanwhile
            before, self._why = self._why, _difference(there, own)
            if self._why and self._why not in (before, UNCLAIMED):
                logger.error(
                    "%s: nothing is removed until `pacsroute archive reindex` has run", self._why
                )
            return self._why

    def go_on(self) -> None:
        """Increase the number, if the index is the newest one."""
        if not self.look():
            self._write()

    def adopt(self) -> None:
        """Record that the index has all objects."""
        with self._lock:
            self._write(self._read())
            self._why = ""

    def _read(self) -> _Mark | None:
        try:
            with self._storage.open(_KEY) as file:
                told: Any = json.loads(file.read())
            return _Mark(str(told["identity"]), str(told["database"]), int(told["generation"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return _Mark("", "", 0)  # of an unknown index

    def _own(self) -> _Mark:
        sql = "SELECT name, value FROM fact WHERE name IN (?, ?)"
        facts = {row[0]: row[1] for row in self._database.rows(sql, [_IDENTITY, _GENERATION])}
        database = self._database.incarnation()
        return _Mark(facts.get(_IDENTITY, ""), database, int(facts.get(_GENERATION, 0)))

    def _write(self, there: _Mark | None = None) -> None:
        """Increase the number, first in the index, so that it is never behind `.index`."""
        least = there.generation if there else 0

        def work(db: Transaction) -> tuple[str, int]:
            db.execute(_IDENTIFIED, [_IDENTITY, uuid.uuid4().hex])
            facts = dict(map(tuple, db.execute("SELECT name, value FROM fact")))
            generation = max(least, int(facts.get(_GENERATION, 0))) + 1
            db.execute(SET_FACT, [_GENERATION, str(generation)])
            return facts[_IDENTITY], generation

        identity, generation = self._database.write(work, flush=True)
        mark = _Mark(identity, self._database.incarnation(), generation)
        text = json.dumps(mark._asdict()).encode()
        self._storage.put(_KEY, io.BytesIO(text), len(text))


def _difference(there: _Mark | None, own: _Mark) -> str:
    if there is None:
        return UNCLAIMED
    if there.identity != own.identity:
        return ANOTHER
    is_older = own.generation < there.generation or own.database != there.database
    return OLDER if is_older else ""


_IDENTIFIED = "INSERT INTO fact VALUES (?, ?) ON CONFLICT DO NOTHING"
