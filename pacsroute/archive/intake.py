"""Put instances into the index; report conflicts instead of replacing or moving anything.

This module reports an instance whose SOP Instance UID is already indexed, or whose patient is not
its study's patient. `storing` decides how to treat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pacsroute.archive import corrections
from pacsroute.archive.database import Transaction
from pacsroute.archive.entry import Entry, Row, patient_of

_EMPTY = (None, "")


@dataclass(frozen=True)
class Known:
    """The existing entry of an instance that arrives again."""

    id: int
    path: str
    transfer_syntax: str
    patient: str
    study_instance: str


class AnotherPatientError(Exception):
    """An instance's patient contradicts that of its study."""


class DeletedError(Exception):
    """The instance was deleted, and must not be stored again."""


class KnownError(Exception):
    """The index has instances with the same SOP Instance UID."""

    def __init__(self, known: list[Known]) -> None:
        super().__init__("the SOP instance exists already")
        self.known = known


KNOWN = (
    "SELECT image.id, image.path, image.transfer_syntax, study.patient, study.StudyInstanceUID"
    " FROM image JOIN series ON series.id = image.series JOIN study ON study.id = series.study"
    " WHERE image.SOPInstanceUID = ? ORDER BY image.id"
)


def known(db: Transaction, sop_instance: str) -> list[Known]:
    """Return the rows of a SOP Instance UID."""
    return [Known(*row) for row in db.execute(KNOWN, [sop_instance])]


def admit(
    db: Transaction,
    entry: Entry,
    path: str,
    *,
    beside: frozenset[int] = frozenset(),
    any_patient: bool = False,
) -> None:
    """Add an instance to the index.

    Parameters
    ----------
    entry : Entry
        The attributes of the instance.
    path : str
        The name of its file.
    beside : frozenset of int
        The IDs of existing instances that may share its SOP Instance UID.
    any_patient : bool
        Whether its patient may differ from its study's patient.

    Raises
    ------
    DeletedError
        If it was deleted.
    KnownError
        If another instance has the same SOP Instance UID.
    AnotherPatientError
        If its study belongs to another patient.
    """
    sop_instance, series_instance = entry.sop_instance, entry.series["SeriesInstanceUID"]
    there = _one(db, _THERE, [sop_instance, sop_instance, entry.study_instance, series_instance])
    assert there is not None
    found = dict(zip(there.keys(), there, strict=True))
    if found["is_heard_of"]:
        _check_unknown(db, sop_instance, beside)
    study = _study(db, entry, found, any_patient)
    series = _series(db, entry, found, study)
    row = entry.image | {
        "series": series,
        "path": path,
        "transfer_syntax": entry.transfer_syntax,
        "calling_ae": entry.calling_ae,
        "received": entry.received,
    }
    db.execute(_insertion("image", *row), [*row.values()])


# One statement instead of four: in PostgreSQL, each is a round trip.
_THERE = (
    "SELECT study.*, series.*, study.id AS study_id, series.id AS series_id,"
    " EXISTS (SELECT 1 FROM tombstone WHERE SOPInstanceUID = ?)"
    " OR EXISTS (SELECT 1 FROM image WHERE SOPInstanceUID = ?) AS is_heard_of,"
    " EXISTS (SELECT 1 FROM correction"
    " WHERE correction.StudyInstanceUID = study.StudyInstanceUID) AS is_corrected"
    " FROM (SELECT 1) AS one LEFT JOIN study ON study.StudyInstanceUID = ?"
    " LEFT JOIN series ON series.study = study.id AND series.SeriesInstanceUID = ?"
)


def _check_unknown(db: Transaction, sop_instance: str, beside: frozenset[int]) -> None:
    if _one(db, "SELECT 1 FROM tombstone WHERE SOPInstanceUID = ?", [sop_instance]):
        raise DeletedError
    others = [one for one in known(db, sop_instance) if one.id not in beside]
    if others:
        raise KnownError(others)


def _study(db: Transaction, entry: Entry, there: Row, any_patient: bool) -> int:
    number = there["study_id"]
    if number is None:
        return _insert(db, "study", corrections.apply(db, entry.study))
    corrected = corrections.of_study(db, entry.study_instance) if there["is_corrected"] else []
    # Arriving instances still have the values from before a correction.
    as_sent = corrections.undone(db, there) if corrected else there
    if not contradicts(as_sent, entry.study):
        settled = {one.keyword for one in corrected}
        new = {k: v for k, v in entry.study.items() if k not in settled} if settled else entry.study
        _fill(db, "study", there, new, number)
    elif not any_patient and (not corrected or contradicts(there, entry.study)):
        raise AnotherPatientError
    return int(number)


def _series(db: Transaction, entry: Entry, there: Row, study: int) -> int:
    number = there["series_id"]
    if number is None:
        return _insert(db, "series", entry.series | {"study": study})
    _fill(db, "series", there, entry.series, number)
    return int(number)


def contradicts(there: Row, new: Row) -> bool:
    """Return whether two rows of a study name different patients.

    A missing value contradicts nothing; without a Patient ID, the names are compared.
    """
    for key in ("PatientID", "IssuerOfPatientID"):
        if there[key] and new[key] and there[key] != new[key]:
            return True
    if there["PatientID"] and new["PatientID"]:
        return False
    names = there["PatientName_key"], new["PatientName_key"]
    return all(names) and names[0] != names[1]


def _fill(db: Transaction, table: str, there: Row, new: Row, number: int) -> None:
    """Add values from this instance that earlier ones lacked."""
    gaps = {
        key: value
        for key, value in new.items()
        if value not in _EMPTY and there[key] in _EMPTY and key != "patient"
    }
    if not gaps:
        return
    if "PatientID" in gaps or "IssuerOfPatientID" in gaps:
        gaps["patient"] = patient_of(there | gaps)
    names = ", ".join(f"{key} = ?" for key in gaps)
    db.execute(f"UPDATE {table} SET {names} WHERE id = ?", [*gaps.values(), number])


def _one(db: Transaction, sql: str, parameters: list[Any]) -> Any | None:
    found: Any | None = db.execute(sql, parameters).fetchone()
    return found


def _insert(db: Transaction, table: str, row: Row) -> int:
    sql = f"{_insertion(table, *row)} RETURNING id"
    return int(db.execute(sql, [*row.values()]).fetchone()[0])


@lru_cache(maxsize=64)
def _insertion(table: str, *columns: str) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


def take_out(db: Transaction, ids: list[int]) -> list[str]:
    """Remove instances, and the series and studies left empty; return the files."""
    paths = []
    for one in ids:
        row = _one(db, "SELECT path, series FROM image WHERE id = ?", [one])
        if row is None:
            continue
        paths.append(str(row["path"]))
        db.execute("DELETE FROM image WHERE id = ?", [one])
        series = row["series"]
        study = _one(db, "SELECT study FROM series WHERE id = ?", [series])
        db.execute(
            "DELETE FROM series WHERE id = ? AND NOT EXISTS (SELECT 1 FROM image WHERE series = ?)",
            [series, series],
        )
        if study is not None:
            db.execute(
                "DELETE FROM study WHERE id = ?"
                " AND NOT EXISTS (SELECT 1 FROM series WHERE study = ?)",
                [study["study"], study["study"]],
            )
    return paths
