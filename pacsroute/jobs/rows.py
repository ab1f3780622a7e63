"""Jobs as values, and as rows of the database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pacsroute.jobs.database import Transaction

COLUMNS = (
    "id, lane, function, key, arguments, priority, created, due, attempts, failed, error, owner"
)


class NewJob(NamedTuple):
    """A job for the queue.

    Parameters
    ----------
    lane : str
        Jobs of a lane run one after the other, unless the lane has several places.
    function : str
        The name of the function to run.
    arguments : mapping
        The arguments, as JSON values.
    key : str, optional
        Only one job for each key waits: a later one replaces it and its time.
    study : str, optional
        Jobs of equal priority and the same study stay together.
    node : str, optional
        The only machine that can run the job; empty if every machine can.
    priority : int
        Jobs with a higher priority run first within the lane.
    delay : float
        Seconds from now until the job may run.
    """

    lane: str
    function: str
    arguments: Mapping[str, Any]
    key: str | None = None
    study: str = ""
    node: str = ""
    priority: int = 0
    delay: float = 0.0


class Put(NamedTuple):
    """The result of `Queue.put_in` in a transaction that is not committed yet."""

    numbers: list[int]
    replaced: list[Job]
    lanes: set[str]


class Job(NamedTuple):
    """A job of the queue."""

    id: int
    lane: str
    function: str
    key: str | None
    arguments: dict[str, Any]
    priority: int
    created: float
    due: float
    attempts: int
    failed: bool
    error: str
    owner: str | None


def with_json(jobs: Iterable[NewJob]) -> list[tuple[NewJob, str]]:
    """Return jobs with their arguments as JSON.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be written as JSON.
    """
    return [(job, json.dumps(job.arguments, allow_nan=False)) for job in jobs]


def select(transaction: Transaction, condition: str, **values: Any) -> list[Job]:
    """Return the jobs that match an SQL condition."""
    rows = transaction.run(f"SELECT {COLUMNS} FROM jobs WHERE {condition}", **values)
    return [job_of(row) for row in rows]


def job_of(row: tuple[Any, ...]) -> Job:
    """Return the job of a row with `COLUMNS`."""
    number, lane, function, key, arguments, *others = row
    priority, created, due, attempts, failed, error, owner = others
    return Job(
        number,
        lane,
        function,
        key,
        json.loads(arguments),
        priority,
        created,
        due,
        attempts,
        bool(failed),
        error,
        owner,
    )
