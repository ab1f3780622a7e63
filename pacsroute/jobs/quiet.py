"""Series and studies without new instances for a while: they may be complete.

The period of a series is a job with its UID as the key, and each arriving instance delays it. So it
survives the process, and all processes share it. The UIDs of the instances are stored beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from pacsroute.framework.work import Level
from pacsroute.jobs.database import Transaction
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import Job, NewJob, Put, with_json

Reason = Literal["quiet", "mpps", "commitment", "discontinued"]

HOLD = 3.0
"""Seconds for which `Quiet.hold` keeps a period open; it is called about once a second."""
_REMEMBERED = 90 * 86_400.0  # seconds for which completed series are remembered


class Arrival(NamedTuple):
    """An instance that has arrived, with its series and study."""

    sop_instance: str
    series: str
    study: str
    calling_ae: str
    called_ae: str


@dataclass(frozen=True, slots=True)
class Series:
    """A series or study that is probably complete.

    Parameters
    ----------
    uid : str
        The Series Instance UID, or the Study Instance UID if the level is STUDY.
    study : str
        The Study Instance UID.
    count : int
        The number of instances that arrived in this period; duplicates count once.
    calling_ae, called_ae : str
        The AE titles of the association that brought its first instance.
    first, last : datetime.datetime
        When the first and the last instance arrived, in local time.
    again : bool
        Whether it was complete before, so that these are late instances.
    expected : tuple of str
        The announced SOP Instance UIDs, for example from an MPPS; empty if there are none.
    missing : tuple of str
        The expected SOP Instance UIDs that have not arrived.
    reason : str
        Why it counts as complete: ``quiet``, ``mpps``, ``commitment`` or ``discontinued``.
    """

    uid: str
    study: str
    count: int
    calling_ae: str
    called_ae: str
    first: datetime
    last: datetime
    again: bool = False
    expected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    reason: Reason = "quiet"


_ARRIVED = """
INSERT INTO jobs_arrivals (lane, key, sop_instance, at) VALUES (:lane, :key, :sop_instance, :now)
ON CONFLICT (lane, key, sop_instance) DO UPDATE SET at = excluded.at
"""
_SEEN = """
INSERT INTO jobs_series (lane, key, uid, study, calling_ae, called_ae, changed)
VALUES (:lane, :key, :uid, :study, :calling_ae, :called_ae, :now)
ON CONFLICT (lane, key) DO UPDATE SET changed = excluded.changed
RETURNING expected
"""
_COMPLETED = """
UPDATE jobs_series SET completions = completions + 1, expected = '[]', reason = 'quiet'
WHERE lane = :lane AND key = :key
"""


class Quiet:
    """The periods of one `@app.quiet` function.

    Parameters
    ----------
    queue : Queue
        The queue that holds the periods as jobs.
    lane : str
        The lane of the function, which is also the function's name.
    level : str
        ``SERIES`` or ``STUDY``.
    after : float
        Seconds without a new instance.
    """

    def __init__(self, queue: Queue, lane: str, level: Level, after: float) -> None:
        self._queue = queue
        self._lane = lane
        self._level = level
        self._after = after

    def key(self, arrival: Arrival) -> str:
        """Return the key of the period that an instance belongs to."""
        uid = arrival.series if self._level == "SERIES" else arrival.study
        return f"{arrival.called_ae} {uid}"

    def arrived(self, transaction: Transaction, arrival: Arrival) -> Put:
        """Note an instance that has arrived, and move its period; see `Queue.put_in`."""
        key, now = self.key(arrival), self._queue.now()
        lane = {"lane": self._lane, "key": key, "now": now}
        ((expected,),) = transaction.run(
            _SEEN,
            **lane,
            uid=arrival.series if self._level == "SERIES" else arrival.study,
            study=arrival.study,
            calling_ae=arrival.calling_ae,
            called_ae=arrival.called_ae,
        )
        transaction.run(_ARRIVED, **lane, sop_instance=arrival.sop_instance)
        period = NewJob(self._lane, self._lane, {}, key=key, delay=self._after)
        put = self._queue.put_in(transaction, with_json([period]))
        if expected != "[]":
            self._end_if_all_came(transaction, key)
        return put

    def begin_anew(self, transaction: Transaction) -> None:
        """Restart each open period after an outage."""
        transaction.run(
            "UPDATE jobs SET due = :due WHERE lane = :lane AND owner IS NULL AND failed = 0 "
            "AND attempts = 0",
            lane=self._lane,
            due=self._queue.now() + self._after,
        )

    def hold(self, transaction: Transaction, keys: Iterable[str]) -> None:
        """Keep periods open for a moment, because more instances are arriving."""
        for key in keys:
            transaction.run(
                "UPDATE jobs SET due = :until WHERE lane = :lane AND key = :key "
                "AND owner IS NULL AND failed = 0 AND due < :until",
                lane=self._lane,
                key=key,
                until=self._queue.now() + HOLD,
            )

    def expect(self, key: str, expected: Iterable[str] | None, reason: Reason) -> bool:
        """End a period as soon as all expected instances have arrived; immediately if they have.

        Parameters
        ----------
        key : str
            From `key`.
        expected : iterable of str or None
            SOP Instance UIDs; None ends the period with the instances so far.
        reason : str
            The source of the list.

        Returns
        -------
        bool
            False if no instance has arrived, or it is already complete.
        """

        def work(transaction: Transaction) -> bool:
            where = {"lane": self._lane, "key": key}
            known = transaction.run(
                "UPDATE jobs_series SET expected = :expected, reason = :reason "
                "WHERE lane = :lane AND key = :key RETURNING uid",
                **where,
                expected=json.dumps(sorted(expected or ())),
                reason=reason,
            )
            if not known:
                return False
            return self._end_if_all_came(transaction, key, none_expected=expected is None)

        return self._queue.database.write(work)

    def _end_if_all_came(
        self, transaction: Transaction, key: str, *, none_expected: bool = False
    ) -> bool:
        where = {"lane": self._lane, "key": key}
        ((expected,),) = transaction.run(
            "SELECT expected FROM jobs_series WHERE lane = :lane AND key = :key", **where
        )
        awaited = set(json.loads(expected))
        if not awaited and not none_expected:
            return True
        if awaited and awaited - self._came(transaction, key):
            return True
        return bool(
            transaction.run(
                "UPDATE jobs SET due = :now WHERE lane = :lane AND key = :key "
                "AND owner IS NULL AND failed = 0 RETURNING id",
                **where,
                now=self._queue.now(),
            )
        )

    def _came(self, transaction: Transaction, key: str) -> set[str]:
        rows = transaction.run(
            "SELECT sop_instance FROM jobs_arrivals WHERE lane = :lane AND key = :key",
            lane=self._lane,
            key=key,
        )
        return {uid for (uid,) in rows}

    def series(self, job: Job) -> tuple[Series, float]:
        """Return the series or study of an ended period, and the time of its last instance."""
        where = {"lane": self._lane, "key": job.key}
        (known,) = self._queue.database.read(
            "SELECT uid, study, calling_ae, called_ae, completions, expected, reason "
            "FROM jobs_series WHERE lane = :lane AND key = :key",
            **where,
        )
        uid, study, calling_ae, called_ae, completions, expected, reason = known
        came: dict[str, float] = dict(
            self._queue.database.read(
                "SELECT sop_instance, at FROM jobs_arrivals WHERE lane = :lane AND key = :key",
                **where,
            )
        )
        awaited = tuple(json.loads(expected))
        first, last = min(came.values(), default=0.0), max(came.values(), default=0.0)
        series = Series(
            uid,
            study,
            len(came),
            calling_ae,
            called_ae,
            datetime.fromtimestamp(first),
            datetime.fromtimestamp(last),
            completions > 0,
            awaited,
            tuple(one for one in awaited if one not in came),
            reason,
        )
        return series, last

    def completed(self, transaction: Transaction, job: Job, last: float) -> None:
        """Record that a period is complete; later instances belong to the next one."""
        where = {"lane": self._lane, "key": job.key}
        transaction.run(_COMPLETED, **where)
        transaction.run(
            "DELETE FROM jobs_arrivals WHERE lane = :lane AND key = :key AND at <= :last",
            **where,
            last=last,
        )
        transaction.run(
            "DELETE FROM jobs_series WHERE lane = :lane AND changed < :then AND NOT EXISTS ("
            "SELECT 1 FROM jobs WHERE jobs.lane = jobs_series.lane AND jobs.key = jobs_series.key)",
            lane=self._lane,
            then=self._queue.now() - _REMEMBERED,
        )
