"""Decisions about an archive: they are in no instance, and have to survive its index.

The file ``decisions.jsonl`` has a line for each deletion, restoration, hold and correction, with
who and when. It has one for each instance that went into the quarantine, and for each study whose
Issuer of Patient ID was told by the network it came from, too: no file tells that.
The index holds what follows from them, and how far it has read. So a decision that was written
before a crash is carried out at the next start, and an index that is made anew knows all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pacsroute.archive import corrections
from pacsroute.archive.database import Database, Transaction
from pacsroute.archive.files import locked
from pacsroute.archive.intake import known, take_out
from pacsroute.archive.schema import LEAVES, SET_FACT
from pacsroute.instances.atomic_files import sync, write_all

Decision = dict[str, Any]
_READ = "decisions read"  # the name of the fact: bytes of the file


class Decisions:
    """The decisions about an archive.

    Parameters
    ----------
    folder : Path
        Of the archive.
    database : Database
        Its index.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self._path = folder / "decisions.jsonl"
        self._lock = os.fspath(folder / ".decisions.lock")
        self._database = database

    def decide(self, kind: str, by: str, reason: str, **details: Any) -> None:
        """Write a decision down, and carry it out in the index."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"decision": kind, "at": at, "by": by, "reason": reason, **details})
        with locked(self._lock):
            self._append(line.encode() + b"\n")
            self._carry_out()

    def catch_up(self) -> None:
        """Carry out what is written and not yet in the index."""
        with locked(self._lock):
            self._carry_out()

    def _append(self, line: bytes) -> None:
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

    def _carry_out(self) -> None:
        def work(db: Transaction) -> None:
            read = _read_so_far(db)
            for end, decision in self._since(read):
                _CARRY_OUT[decision["decision"]](db, decision)
                db.execute(SET_FACT, [_READ, str(end)])

        self._database.write(work, flush=True, alone=None)

    def _since(self, start: int) -> Iterator[tuple[int, Decision]]:
        """Yield the decisions from a place in the file on, each with where it ends."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                try:
                    decision = json.loads(line)
                except ValueError:  # cut off, and never acknowledged
                    continue
                if decision.get("decision") in _CARRY_OUT:
                    yield start, decision


def _read_so_far(db: Transaction) -> int:
    row = db.execute("SELECT value FROM fact WHERE name = ?", [_READ]).fetchone()
    return int(row[0]) if row else 0


def _delete(db: Transaction, decision: Decision) -> None:
    for uid, series in zip(decision["instances"], decision["series"], strict=True):
        db.execute(
            "INSERT INTO tombstone VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [uid, series, decision["study"], decision["at"], decision["by"]],
        )
        paths = take_out(db, [one.id for one in known(db, uid)])
        db.executemany(LEAVES, [(path,) for path in paths])


def _restore(db: Transaction, decision: Decision) -> None:
    db.executemany(
        "DELETE FROM tombstone WHERE SOPInstanceUID = ?", [(uid,) for uid in decision["instances"]]
    )


def _hold(db: Transaction, decision: Decision) -> None:
    db.execute("INSERT INTO hold VALUES (?) ON CONFLICT DO NOTHING", [decision["study"]])


def _release(db: Transaction, decision: Decision) -> None:
    db.execute("DELETE FROM hold WHERE StudyInstanceUID = ?", [decision["study"]])


def _issue(db: Transaction, decision: Decision) -> None:
    row = [decision["study"], decision["issuer"]]
    db.execute("INSERT INTO issued VALUES (?, ?) ON CONFLICT DO NOTHING", row)


_ASIDE = "SOPInstanceUID SOPClassUID StudyInstanceUID transfer_syntax calling_ae received path"


def _quarantine(db: Transaction, decision: Decision) -> None:
    columns = _ASIDE.split()
    db.execute(
        f"INSERT INTO quarantine ({', '.join(columns)}, reason)"
        f" VALUES ({', '.join('?' * len(columns))}, ?) ON CONFLICT DO NOTHING",
        [*(decision[column] for column in columns), decision["reason"]],
    )


_CARRY_OUT = {
    "delete": _delete,
    "restore": _restore,
    "hold": _hold,
    "release": _release,
    "quarantine": _quarantine,
    "correct": corrections.carry_out,
    "issue": _issue,
}
