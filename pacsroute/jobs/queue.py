"""The queue: jobs in lanes, the processes that own them, and every statement that changes them.

A job waits, is running (it has an owner), or has failed for good; a finished job is removed.
An owner is a process. When it dies, its jobs and its places in lanes are released. On one machine,
the lock on its file shows that it is dead; on several machines, an expired lease does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from pacsroute.framework.work import Lane
from pacsroute.jobs.database import Database, Transaction
from pacsroute.jobs.owners import LEASE, Owner
from pacsroute.jobs.replacing import give_way, with_inheritance
from pacsroute.jobs.rows import COLUMNS, Job, NewJob, Put, job_of, select, with_json

# A job takes the turn of its study, if that has one already, so that its jobs stay together.
_PUT = """
INSERT INTO jobs (lane, function, key, study, arguments, node, priority, created, due, turn)
VALUES (:lane, :function, :key, :study, :arguments, :node, :priority, :now, :now + :delay, COALESCE(
    (SELECT MIN(turn) FROM jobs WHERE lane = :lane AND study = :study AND study <> ''
        AND failed = 0),
    (SELECT MAX(id) + 1 FROM jobs), 1))
ON CONFLICT (lane, function, key) WHERE key IS NOT NULL AND owner IS NULL AND failed = 0
DO UPDATE SET arguments = excluded.arguments, due = excluded.due, node = excluded.node,
    priority = CASE WHEN excluded.priority > jobs.priority THEN excluded.priority
        ELSE jobs.priority END, attempts = 0, error = ''
RETURNING id
"""
_WAITS = "lane = :lane AND function = :function AND key = :key AND owner IS NULL AND failed = 0"
_OPEN_LANE = "INSERT INTO jobs_lanes (name) VALUES (:lane) ON CONFLICT (name) DO NOTHING"
_CLAIM = f"""
UPDATE jobs SET owner = :owner WHERE id IN (
    SELECT id FROM jobs WHERE lane = :lane AND owner IS NULL AND failed = 0 AND due <= :now
        AND node IN ('', :node) {{but}}
        AND EXISTS (SELECT 1 FROM jobs_lanes WHERE name = :lane AND paused = 0 AND retry_at <= :now)
    ORDER BY priority DESC, turn, id LIMIT :most {{skip}})
RETURNING {COLUMNS}, turn
"""
_TAKE_PLACE = """
INSERT INTO jobs_slots (lane, slot, owner) VALUES (:lane, :slot, :owner)
ON CONFLICT (lane, slot) DO NOTHING RETURNING slot
"""
_READY = """
SELECT name FROM jobs_lanes WHERE paused = 0 AND retry_at <= :now AND EXISTS (
    SELECT 1 FROM jobs WHERE lane = name AND owner IS NULL AND failed = 0 AND due <= :now
        AND node IN ('', :node))
"""
_LANES = """
SELECT name,
    (SELECT COUNT(*) FROM jobs WHERE lane = name AND owner IS NULL AND failed = 0),
    (SELECT COUNT(*) FROM jobs WHERE lane = name AND owner IS NOT NULL),
    (SELECT COUNT(*) FROM jobs WHERE lane = name AND failed = 1),
    (SELECT MIN(created) FROM jobs WHERE lane = name AND failed = 0),
    paused, reason, retry_at
FROM jobs_lanes ORDER BY name
"""
_RELEASE = (
    "UPDATE jobs SET owner = NULL WHERE owner = :owner AND lane = :lane",
    "DELETE FROM jobs_slots WHERE owner = :owner AND lane = :lane",
)


class Queue:
    """Jobs that survive the process, in a database that other processes may also use.

    Parameters
    ----------
    database : Database
        The database; its tables must exist.
    owner : Owner
        The process that queues and claims jobs.
    now : callable
        Returns the time in seconds.
    replaced : callable, optional
        Called with each job that was removed because a newer one with its key waits.
    """

    def __init__(
        self,
        database: Database,
        owner: Owner,
        now: Callable[[], float],
        replaced: Callable[[Job], object] = lambda job: None,
    ) -> None:
        self.database = database
        self.owner = owner
        self.now = now
        self._replaced = replaced
        self._lanes: set[str] = set()  # lanes known to exist: lanes are never removed
        self._entering = threading.Lock()  # guards the attributes below, and the owner's name
        self._entered = self._serving = False
        self._seen = 0.0

    # ------------------------------------------------------------- jobs

    def put(self, jobs: Iterable[NewJob]) -> list[int]:
        """Put jobs into their lanes durably, all or none; return their numbers."""
        new = with_json(jobs)
        put = self.database.write(lambda transaction: self.put_in(transaction, new))
        self.was_put(put)
        return put.numbers

    def put_in(self, transaction: Transaction, jobs: Iterable[tuple[NewJob, str]]) -> Put:
        """Put jobs, each with its arguments as JSON, into their lanes in a transaction.

        Call `was_put` after its commit.
        """
        put = Put([], [], set())
        for job, arguments in jobs:
            if job.lane not in self._lanes:
                transaction.run(_OPEN_LANE, lane=job.lane)
                put.lanes.add(job.lane)
            values = job._asdict() | {"arguments": arguments, "now": self.now()}
            for old in self.waiting(transaction, job.lane, job.function, job.key):
                values["arguments"] = with_inheritance(job.arguments, old)
                put.replaced.append(old)
            ((number,),) = transaction.run(_PUT, **values)
            put.numbers.append(number)
        return put

    def was_put(self, put: Put) -> None:
        """Note that the transaction of `put_in` was committed."""
        self._lanes |= put.lanes
        self._told(put.replaced)

    def _told(self, replaced: Iterable[Job]) -> None:
        for job in replaced:
            self._replaced(job)

    def waiting(
        self, transaction: Transaction, lane: str, function: str, key: str | None
    ) -> list[Job]:
        """Return the job that a new one with the same key would replace, if any."""
        if key is None:
            return []
        return select(transaction, _WAITS, lane=lane, function=function, key=key)

    @staticmethod
    def as_json(job: Job) -> str:
        """Return the arguments of a job as stored in the database."""
        return json.dumps(job.arguments, allow_nan=False)

    def move(self, job: Job, lane: str, function: str, delay: float) -> None:
        """Move a job to another lane and function; it replaces its twin."""

        def work(transaction: Transaction) -> list[Job]:
            arguments, twins = job.arguments, self.waiting(transaction, lane, function, job.key)
            for twin in twins:
                transaction.run("DELETE FROM jobs WHERE id = :id", id=twin.id)
                arguments = json.loads(with_inheritance(arguments, twin))
            transaction.run(_OPEN_LANE, lane=lane)
            transaction.run(
                "UPDATE jobs SET lane = :lane, function = :function, owner = NULL, attempts = 0, "
                "error = '', due = :due, arguments = :arguments WHERE id = :id AND owner = :owner",
                **self._mine(job),
                lane=lane,
                function=function,
                due=self.now() + delay,
                arguments=json.dumps(arguments),
            )
            return twins

        self._told(self.database.write(work, durable=False))

    def finish(
        self, job: Job, new: Iterable[tuple[NewJob, str]], also: Callable[[Transaction], object]
    ) -> bool:
        """Remove a finished job and queue the jobs that follow it, in one transaction.

        Parameters
        ----------
        job : Job
            A claimed job.
        new : iterable of (NewJob, str)
            The jobs that follow it, from `with_json`.
        also : callable
            Called with the transaction, to make further changes in it.

        Returns
        -------
        bool
            False if the job is no longer ours; nothing has changed in that case.
        """

        def work(transaction: Transaction) -> Put | None:
            statement = "DELETE FROM jobs WHERE id = :id AND owner = :owner RETURNING id"
            if not transaction.run(statement, **self._mine(job)):
                return None
            put = self.put_in(transaction, new)
            also(transaction)
            return put

        put = self.database.write(work)
        if put is not None:
            self.was_put(put)
        return put is not None

    def claim(self, lane: str, most: int, *, but: Iterable[int] = ()) -> list[Job]:
        """Claim the next due jobs of a lane, in order, for this process.

        Parameters
        ----------
        lane : str
            The name of the lane.
        most : int
            The maximum number of jobs.
        but : iterable of int
            The numbers of jobs not to claim.
        """
        skip = "FOR UPDATE SKIP LOCKED" if self.database.shared else ""
        left = ", ".join(map(str, but))
        rows = self.database.write(
            lambda transaction: transaction.run(
                _CLAIM.format(skip=skip, but=f"AND id NOT IN ({left})" if left else ""),
                lane=lane,
                most=most,
                owner=self.owner.id,
                node=self.owner.node,
                now=self.now(),
            ),
            durable=False,
        )
        rows.sort(key=lambda row: (-row[5], row[-1], row[0]))  # RETURNING has no order
        return [job_of(row[:-1]) for row in rows]

    def amend(self, job: Job, **arguments: Any) -> bool:
        """Change arguments of a job durably; return False if it is no longer ours."""
        text = json.dumps(job.arguments | arguments, allow_nan=False)
        statement = "UPDATE jobs SET arguments = :text WHERE {ours} RETURNING id"
        return self._ours(statement, job, text=text)

    def done(self, job: Job) -> bool:
        """Remove a finished job; return False if it is no longer ours.

        The removal survives the end of the process; after a power loss, the job may run again.
        """
        return self._ours("DELETE FROM jobs WHERE {ours} RETURNING id", job, durable=False)

    def put_back(self, job: Job, *, delay: float = 0.0, error: str = "", tried: bool) -> bool:
        """Put a job back into the queue; return False if it is no longer ours.

        Parameters
        ----------
        job : Job
            A claimed job.
        delay : float
            Seconds until the job is due.
        error : str
            The error, without patient data.
        tried : bool
            Whether to count this as an attempt.
        """

        def work(transaction: Transaction) -> tuple[bool, list[Job]]:
            if replaced := give_way(transaction, "id = :id", **self._mine(job)):
                return True, replaced
            rows = transaction.run(
                "UPDATE jobs SET owner = NULL, due = :now + :delay, error = :error, "
                "attempts = attempts + :tried WHERE id = :id AND owner = :owner RETURNING id",
                **self._mine(job),
                now=self.now(),
                delay=delay,
                error=error,
                tried=int(tried),
            )
            return bool(rows), []

        is_back, replaced = self.database.write(work, durable=False)
        self._told(replaced)
        return is_back

    def give_up(self, job: Job, error: str) -> bool:
        """Mark a job as failed for good; return False if it is no longer ours."""
        return self._ours(
            "UPDATE jobs SET owner = NULL, failed = 1, attempts = attempts + 1, error = :error "
            "WHERE {ours} RETURNING id",
            job,
            error=error,
        )

    def _ours(self, statement: str, job: Job, *, durable: bool = True, **values: Any) -> bool:
        text = statement.format(ours="id = :id AND owner = :owner")
        return bool(
            self.database.write(
                lambda transaction: transaction.run(text, **self._mine(job), **values),
                durable=durable,
            )
        )

    def _mine(self, job: Job) -> dict[str, Any]:
        return {"id": job.id, "owner": self.owner.id}

    def is_ours(self, job: Job) -> bool:
        """Return whether a claimed job is still ours; after a long suspension, it is not.

        Other processes release the jobs of a process that has not renewed its lease. This checks
        only the clock, unless the last renewal was so long ago that they may have done so.
        """
        if self.database.shared and time.monotonic() - self._seen > LEASE / 2:
            self.enter()
        return job.owner == self.owner.id

    # ------------------------------------------------------------- lanes

    def ready(self) -> list[str]:
        """Return the lanes with a due job that are neither paused nor backing off."""
        rows = self.database.read(_READY, now=self.now(), node=self.owner.node)
        return [name for (name,) in rows]

    def next_due(self) -> float | None:
        """Return when the next job is due, ignoring paused lanes; None if none waits."""
        ((due,),) = self.database.read(
            "SELECT MIN(CASE WHEN due > retry_at THEN due ELSE retry_at END) FROM jobs "
            "JOIN jobs_lanes ON name = lane WHERE owner IS NULL AND failed = 0 AND paused = 0"
        )
        return None if due is None else float(due)

    def take_place(self, lane: str, places: int) -> int | None:
        """Take one of the places of a lane, shared by all processes; None if all are taken."""

        def work(transaction: Transaction) -> int | None:
            for place in range(places):
                values = {"lane": lane, "slot": place, "owner": self.owner.id}
                if transaction.run(_TAKE_PLACE, **values):
                    return place
            return None

        return self.database.write(work, durable=False)

    def leave_place(self, lane: str, place: int) -> None:
        """Release a place."""
        self.database.write(
            lambda transaction: transaction.run(
                "DELETE FROM jobs_slots WHERE lane = :lane AND slot = :slot AND owner = :owner",
                lane=lane,
                slot=place,
                owner=self.owner.id,
            ),
            durable=False,
        )

    def back_off(self, lane: str, seconds: float, reason: str = "") -> None:
        """Pause a lane for a while, with the reason: its peer cannot be reached, or is full."""
        changes = (
            "failures = failures + 1, retry_at = :until, "
            "reason = CASE WHEN paused = 1 THEN reason ELSE :reason END"
        )
        self._set_lane(lane, changes, until=self.now() + seconds, reason=reason)

    def wake(self, lane: str) -> None:
        """End the rest of a lane, because its peer can be reached."""
        changes = "reason = CASE WHEN paused = 1 THEN reason ELSE '' END"
        self._set_lane(lane, f"failures = 0, retry_at = 0, {changes}")

    def end_rests(self, lanes: Iterable[str]) -> None:
        """Let resting lanes try now; if that fails, they rest longer than before."""
        now = self.now()
        rows = self.database.read("SELECT name FROM jobs_lanes WHERE retry_at > :now", now=now)
        for name in {name for (name,) in rows} & set(lanes):
            self._set_lane(name, "retry_at = 0")

    def failures(self, lane: str) -> int:
        """Return how often a lane has backed off since its peer was last reached."""
        rows = self.database.read("SELECT failures FROM jobs_lanes WHERE name = :lane", lane=lane)
        return rows[0][0] if rows else 0

    def pause(self, lane: str, reason: str = "") -> bool:
        """Stop a lane until `resume`; return False if the lane does not exist."""
        return self._set_lane(lane, "paused = 1, reason = :reason", reason=reason, durable=True)

    def resume(self, lane: str) -> bool:
        """Resume a lane; return False if the lane does not exist."""
        changes = "paused = 0, reason = '', failures = 0, retry_at = 0"
        return self._set_lane(lane, changes, durable=True)

    def _set_lane(self, lane: str, changes: str, *, durable: bool = False, **values: Any) -> bool:
        statement = f"UPDATE jobs_lanes SET {changes} WHERE name = :lane RETURNING name"
        return bool(
            self.database.write(
                lambda transaction: transaction.run(statement, lane=lane, **values),
                durable=durable,
            )
        )

    # ------------------------------------------------------------- for users

    def lanes(self) -> list[Lane]:
        """Return the state of each lane."""
        now = self.now()
        return [
            Lane(
                name,
                waiting,
                running,
                failed,
                None if oldest is None else max(now - oldest, 0.0),
                bool(paused),
                reason,
                max(retry_at - now, 0.0),
            )
            for name, waiting, running, failed, oldest, paused, reason, retry_at in (
                self.database.read(_LANES)
            )
        ]

    def jobs(self, most: int | None = 1000, *, lane: str | None = None) -> list[Job]:
        """Return the jobs of one lane or of all, oldest first."""
        limit = "" if most is None else f" LIMIT {most:d}"
        where = "" if lane is None else "WHERE lane = :lane"
        statement = f"SELECT {COLUMNS} FROM jobs {where} ORDER BY id{limit}"
        rows = self.database.read(statement, **({} if lane is None else {"lane": lane}))
        return [job_of(row) for row in rows]

    def retry(self, number: int) -> bool:
        """Retry a failed job, or run a waiting one at once; return False if it does not exist."""

        def work(transaction: Transaction) -> tuple[bool, list[Job]]:
            if twins := give_way(transaction, "id = :id AND failed = 1", id=number, owner=""):
                return True, twins
            rows = transaction.run(
                "UPDATE jobs SET failed = 0, attempts = 0, due = :now "
                "WHERE id = :id AND owner IS NULL RETURNING id",
                id=number,
                now=self.now(),
            )
            return bool(rows), []

        is_there, replaced = self.database.write(work)
        self._told(replaced)
        return is_there

    def drop(self, number: int) -> Job | None:
        """Remove a job that is not running, and return it; None if there is none."""
        rows = self.database.write(
            lambda transaction: transaction.run(
                f"DELETE FROM jobs WHERE id = :id AND owner IS NULL RETURNING {COLUMNS}",
                id=number,
            )
        )
        return job_of(rows[0]) if rows else None

    # ------------------------------------------------------------- owners

    def enter(self) -> bool:
        """Announce that this process uses the queue.

        Returns
        -------
        bool
            False if other processes have declared it dead since the last call: it has lost its
            jobs, and continues as a new owner.
        """
        with self._entering:
            began, known = time.monotonic(), self.database.write(self._renewed, durable=False)
            lost = self._entered and not known
            if lost:
                self.owner.renew()
            if not known:
                self.database.write(self._register, durable=False)
            self._entered, self._seen = True, began
        return not lost

    def _renewed(self, transaction: Transaction) -> bool:
        statement = "UPDATE jobs_owners SET seen = :now WHERE id = :id RETURNING id"
        return bool(transaction.run(statement, id=self.owner.id, now=self.now()))

    def _register(self, transaction: Transaction) -> None:
        transaction.run(
            "INSERT INTO jobs_owners (id, node, seen, serving) VALUES (:id, :node, :now, :serving)",
            id=self.owner.id,
            node=self.owner.node,
            now=self.now(),
            serving=int(self._serving),
        )

    def serve(self) -> bool:
        """Announce that this process runs jobs; return whether it is the only living one."""
        self.enter()

        def work(transaction: Transaction) -> bool:
            others = transaction.run(
                "SELECT id, seen FROM jobs_owners WHERE id <> :own AND serving = 1",
                own=self.owner.id,
            )
            transaction.run("UPDATE jobs_owners SET serving = 1 WHERE id = :own", own=self.owner.id)
            return len(self.owner.dead(others, self.now())) == len(others)

        first = self.database.write(work, durable=False)
        self._serving = True
        return first

    def leave(self) -> None:
        """Release everything that this process holds."""
        self._told(self.database.write(lambda transaction: self.bury(transaction, [self.owner.id])))
        self._entered = self._serving = False

    def release(self, lane: str) -> None:
        """Release what this process still holds of a lane after an error."""

        def work(transaction: Transaction) -> list[Job]:
            values = {"owner": self.owner.id, "lane": lane}
            replaced = give_way(transaction, "owner = :owner AND lane = :lane", **values)
            for statement in _RELEASE:
                transaction.run(statement, **values)
            return replaced

        self._told(self.database.write(work, durable=False))

    def reap(self) -> list[str]:
        """Release what dead processes held; return their names."""

        def work(transaction: Transaction) -> tuple[list[str], list[Job]]:
            others = transaction.run(
                "SELECT id, seen FROM jobs_owners WHERE id <> :own", own=self.owner.id
            )
            dead = self.owner.dead(others, self.now())
            return dead, self.bury(transaction, dead)

        if not self.database.read("SELECT 1 FROM jobs_owners WHERE id <> :own", own=self.owner.id):
            return []
        dead, replaced = self.database.write(work, durable=False)
        self._told(replaced)
        return dead

    def bury(self, transaction: Transaction, owners: Iterable[str]) -> list[Job]:
        """Release, in a transaction, what dead owners held.

        Returns
        -------
        list of Job
            The jobs that were removed because newer ones with their keys wait.
        """
        replaced = []
        for owner in owners:
            replaced += give_way(transaction, "owner = :owner", owner=owner)
            transaction.run("UPDATE jobs SET owner = NULL WHERE owner = :owner", owner=owner)
            transaction.run("DELETE FROM jobs_owners WHERE id = :owner", owner=owner)
        return replaced
