"""Decisions about an archive: no instance contains them, and they must survive the index.

The journal has an entry for each deletion, restoration, hold and correction, with the user and the
time. It also has one for each quarantined instance, and for each study whose Issuer of Patient ID
was derived from its network, because no file contains that. The index holds the effects of the
decisions, and which ones it has applied. So a decision written before a crash is carried out at
the next start, and a new index applies all of them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pacsroute.archive import corrections
from pacsroute.archive.database import Database, Transaction
from pacsroute.archive.intake import known, take_out
from pacsroute.archive.journal import Journal
from pacsroute.archive.schema import FORGET_ATTEMPT, LEAVES

Decision = dict[str, Any]


class Decisions:
    """The decisions about an archive.

    Parameters
    ----------
    journal : Journal
        The journal of the decisions.
    database : Database
        The index.
    """

    def __init__(self, journal: Journal, database: Database) -> None:
        self._journal = journal
        self._database = database

    def decide(self, kind: str, by: str, reason: str, **details: Any) -> None:
        """Write a decision to the journal, and carry it out in the index."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"decision": kind, "at": at, "by": by, "reason": reason, **details})
        with self._journal.locked():
            written = self._journal.append(line.encode())
            self._journal.carry_out(self._database, _carry_out, written)

    def catch_up(self) -> None:
        """Carry out decisions that are not in the index yet."""
        with self._journal.locked():
            self._journal.carry_out(self._database, _carry_out)


def _carry_out(db: Transaction, line: bytes) -> None:
    try:
        decision = json.loads(line)
    except ValueError:  # truncated, so never acknowledged
        return
    if decision.get("decision") in _CARRY_OUT:
        _CARRY_OUT[decision["decision"]](db, decision)


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
    db.execute(FORGET_ATTEMPT, [decision["path"]])  # it stays


_CARRY_OUT = {
    "delete": _delete,
    "restore": _restore,
    "hold": _hold,
    "release": _release,
    "quarantine": _quarantine,
    "correct": corrections.carry_out,
    "issue": _issue,
}
