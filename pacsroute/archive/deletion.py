"""Deletion: a person decides it, with a reason, and a resend does not undo it."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

from pacsroute.archive.database import Database
from pacsroute.archive.decisions import Decisions
from pacsroute.archive.storing import Storing
from pacsroute.errors import Failure, SetupError

_NO_SUCH_INSTANCE, _NOT_AUTHORIZED = 0x0112, 0x0124


_DAYS = {"d": 1.0, "w": 7.0, "m": 30.4375, "y": 365.25}


def duration(value: timedelta | str | None) -> timedelta | None:
    """Return how long something is retained.

    Examples
    --------
    >>> duration("10y").days
    3652
    """
    if value is None or isinstance(value, timedelta):
        return value
    found = re.fullmatch(r"(\d+) *([dwmy])", str(value).strip())
    if found is None:
        raise SetupError(
            "retain must be a timedelta, or a number of days, weeks, months or years "
            f"such as '10y', not {value!r}"
        )
    return timedelta(days=int(found[1]) * _DAYS[found[2]])


class Deletion:
    """Deletes from an archive, restores and holds.

    Parameters
    ----------
    database, decisions, storing
        The parts of the archive.
    retain : timedelta, optional
        How long a study is kept after its last instance arrived.
    """

    def __init__(
        self,
        database: Database,
        decisions: Decisions,
        storing: Storing,
        retain: timedelta | None,
    ) -> None:
        self._retain = retain
        self._database = database
        self._decisions = decisions
        self._storing = storing

    def find(self, study: str, series: str, instance: str) -> list[Any]:
        """Return the instances of a study or series, or a single one."""
        where, parameters = _named(study, series, instance, _COLUMNS)
        return self._database.rows(f"{_FOUND} WHERE {where}", parameters)

    def delete(self, found: list[Any], reason: str, by: str) -> int:
        """Delete the instances: first the rows, then the files."""
        studies = {row["StudyInstanceUID"] for row in found}
        if not found:
            raise Failure(_NO_SUCH_INSTANCE, "nothing here has this UID")
        if len(studies) > 1:
            raise Failure(_NO_SUCH_INSTANCE, "several studies have this UID: name the study, too")
        (uid,) = studies
        self._check_may_go(uid)
        gone = list(dict.fromkeys(row["SOPInstanceUID"] for row in found))
        series_of = {row["SOPInstanceUID"]: row["SeriesInstanceUID"] for row in found}
        self._decisions.decide(
            "delete", by, reason, study=uid, instances=gone, series=[series_of[one] for one in gone]
        )
        self._storing.remove([row[0] for row in self._database.rows("SELECT path FROM leaving")])
        return len(found)

    def _check_may_go(self, study: str) -> None:
        if self._database.rows("SELECT 1 FROM hold WHERE StudyInstanceUID = ?", [study]):
            raise Failure(_NOT_AUTHORIZED, "the study is held")
        if self._retain is not None:
            ((last,),) = self._database.rows(_LAST, [study])
            if last / 1e9 + self._retain.total_seconds() > time.time():
                raise Failure(_NOT_AUTHORIZED, "the study must be retained for longer")

    def restore(self, study: str, series: str, instance: str, reason: str, by: str) -> int:
        """Allow deleted instances to be stored again."""
        where, parameters = _named(study, series, instance, _TOMBSTONES)
        found = self._database.rows(
            f"SELECT SOPInstanceUID FROM tombstone WHERE {where}", parameters
        )
        if not found:
            raise Failure(_NO_SUCH_INSTANCE, "nothing that was deleted has this UID")
        self._decisions.decide("restore", by, reason, instances=[row[0] for row in found])
        return len(found)

    def hold(self, study: str, reason: str, by: str) -> None:
        """Protect a study from deletion."""
        self._decisions.decide("hold", by, reason, study=study)

    def release(self, study: str, reason: str, by: str) -> None:
        """Allow a study to be deleted again."""
        self._decisions.decide("release", by, reason, study=study)


_FOUND = (
    "SELECT image.SOPInstanceUID, image.SOPClassUID, series.SeriesInstanceUID,"
    " study.StudyInstanceUID FROM image JOIN series ON series.id = image.series"
    " JOIN study ON study.id = series.study"
)
_LAST = (
    "SELECT max(image.received) FROM image JOIN series ON series.id = image.series"
    " JOIN study ON study.id = series.study WHERE study.StudyInstanceUID = ?"
)
_COLUMNS = ("study.StudyInstanceUID", "series.SeriesInstanceUID", "image.SOPInstanceUID")
_TOMBSTONES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def _named(
    study: str, series: str, instance: str, columns: tuple[str, ...]
) -> tuple[str, list[str]]:
    """Return the condition for the named instances, and its parameters."""
    given = {
        column: uid for column, uid in zip(columns, (study, series, instance), strict=True) if uid
    }
    if not given:
        raise ValueError("name one of study=, series= and instance=")
    return " AND ".join(f"{column} = ?" for column in given), list(given.values())
