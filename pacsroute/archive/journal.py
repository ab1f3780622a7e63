"""Journals: the decisions about an archive, in order."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from pacsroute.archive.database import Database, Transaction
from pacsroute.archive.files import locked
from pacsroute.archive.schema import SET_FACT
from pacsroute.instances.atomic_files import sync, write_all
from pacsroute.instances.stored import Storage, new_key

Apply = Callable[[Transaction, bytes], None]
"""Carries out a decision in the index; an unreadable one was never acknowledged."""

logger = logging.getLogger("pacsroute")

_NOTES = ".decisions"
_OLDER = (
    "%s is older than the index: its last %d bytes are missing, and a new index would lack them"
)
_READ = "decisions read"  # the name of the fact: bytes of the file


class Journal(Protocol):
    """Keeps decisions beside the instances, so that they survive the index."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Exclude decisions of other processes, if all processes must agree on the order."""

    def append(self, line: bytes) -> str:
        """Record a decision durably; return its key."""

    def carry_out(self, database: Database, apply: Apply, only: str = "") -> None:
        """Carry out recorded decisions that the index lacks.

        Parameters
        ----------
        only : str
            The result of `append`, to carry out that decision only.
        """


class Lines:
    """A journal in a file; the index records how far it was read.

    If the file is shorter than that, it was restored from a backup older than the index. The
    index has its decisions already.

    Parameters
    ----------
    folder : Path
        The folder of the archive.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "decisions.jsonl"
        self._lock = os.fspath(folder / ".decisions.lock")

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Exclude decisions of other processes."""
        return locked(self._lock)

    def append(self, line: bytes) -> str:
        """Record a decision; see `Journal`."""
        line += b"\n"
        is_new = not self._path.exists()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":  # a power cut has left a part of a line
                line = b"\n" + line
            write_all(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        if is_new:
            sync(os.path.dirname(self._path))
        return str(size)

    def carry_out(self, database: Database, apply: Apply, only: str = "") -> None:
        """Carry out recorded decisions that the index lacks, in one transaction."""

        def work(db: Transaction) -> None:
            row = db.execute("SELECT value FROM fact WHERE name = ?", [_READ]).fetchone()
            read, there = int(row[0]) if row else 0, int(only) if only else self._size()
            if read > there:
                logger.error(_OLDER, self._path, read - there)
                db.execute(SET_FACT, [_READ, str(there)])
            for end, line in self._since(min(read, there)):
                apply(db, line)
                db.execute(SET_FACT, [_READ, str(end)])

        database.write(work, flush=True, alone=None)

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _since(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield the lines from an offset in the file, each with its end offset."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                yield start, line


class Notes:
    """A journal in a storage, with an object for each decision.

    Parameters
    ----------
    storage : Storage
        The storage of the archive.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Take no lock: each decision has its own key."""
        return contextlib.nullcontext()

    def append(self, line: bytes) -> str:
        """Record a decision; see `Journal`."""
        key = new_key(_NOTES)
        self._storage.put(key, io.BytesIO(line), len(line))
        return key

    def carry_out(self, database: Database, apply: Apply, only: str = "") -> None:
        """Carry out recorded decisions that the index lacks, each in its own transaction."""
        if only:
            keys = [only]
        else:
            known = {row[0] for row in database.rows("SELECT key FROM decided")}
            keys = sorted(key for key in self._storage.list(_NOTES) if key not in known)
        for key in keys:
            with self._storage.open(key) as file:
                line = file.read()
            database.write(partial(_once, key=key, line=line, apply=apply), flush=True, alone=None)


def _once(db: Transaction, key: str, line: bytes, apply: Apply) -> None:
    is_new = db.execute(
        "INSERT INTO decided VALUES (?) ON CONFLICT DO NOTHING RETURNING key", [key]
    ).fetchone()
    if is_new is not None:
        apply(db, line)
