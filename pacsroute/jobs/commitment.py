"""Storage commitment for deliveries: requested, reported, and acted upon (PS3.4 Annex J).

A job of `App.forward` with ``commit=True`` moves to another lane once its instance is delivered.
There, commitment is requested, together with others of the same destination, and the job waits for
the report. The report may arrive on any association and in any process, even before the response
to its request. So the requests are in the database, and a report changes the jobs there, even
those of another process.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from pacsroute.errors import AssociationAborted, AssociationError, NotAccepted, RequestFailed
from pacsroute.jobs.database import Transaction
from pacsroute.jobs.delivery import RETRY, Attempt, Verdict, judge, rest
from pacsroute.jobs.files import Files
from pacsroute.jobs.forwarding import FORWARD, end
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.replacing import inherit
from pacsroute.jobs.rows import Job, select
from pacsroute.net.client import Client

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger("pacsroute")

GATHER = 5.0
"""Seconds for which deliveries are gathered into one request."""
ASK, OVER = "commit", "committed"
"""The functions of jobs: request a commitment and wait for it; remove committed instances."""

_LANE = "storage commitment of "
_MOST = 500  # instances of a request
_ASKS = 2  # requests without a report after which a job is given up
_LISTENS = 10  # checks for a report on the association of the request
_TICK = 0.5  # seconds between these checks
_NO_SUCH_INSTANCE, _RESOURCE_LIMITATION = 0x0112, 0x0213
_FINAL = {0x0119: "class-instance conflict", 0x0122: "SOP class not supported"}
_PUSH = ("StorageCommitment", "StorageCommitmentPushModel")


def lane_of(title: str) -> str:
    """Return the lane of the commitments of a destination: longer than any AE title.

    Examples
    --------
    >>> lane_of("PACS"), title_of(lane_of("PACS")), title_of("PACS")
    ('storage commitment of PACS', 'PACS', None)
    """
    return f"{_LANE}{title}"


def title_of(lane: str) -> str | None:
    """Return the destination whose commitments are in a lane; None for any other lane."""
    return lane.removeprefix(_LANE) if lane.startswith(_LANE) else None


class Surroundings(NamedTuple):
    """The app as commitments see it.

    Parameters
    ----------
    connect : callable
        Returns a client for a destination.
    gave_up : callable
        Called with a job that has failed for good, and the reason.
    timeout : float
        Seconds within which a report must arrive.
    """

    connect: Callable[[str], Client]
    gave_up: Callable[[Job, str], object]
    timeout: float


class Commitments:
    """Asks a destination to commit to sent instances, and removes the committed ones.

    Parameters
    ----------
    queue, files : Queue and Files
        The queue of the jobs, and the files of their instances.
    surroundings : Surroundings
        The app around them.
    listens : bool
        Whether to keep an association for a while, in case the report arrives on it.
    """

    places = 1

    def __init__(
        self, queue: Queue, files: Files, surroundings: Surroundings, *, listens: bool = True
    ) -> None:
        self._queue = queue
        self._files = files
        self._around = surroundings
        self._looks, self._tick = (_LISTENS, _TICK) if listens else (1, 0.0)

    def work(self, lane: str, stop: threading.Event) -> None:
        """See `Worker.work`."""
        while not stop.is_set() and (jobs := self._queue.claim(lane, _MOST)):
            asks = self._asks(lane)
            for job in jobs:
                if job.function == OVER:
                    end(job, self._queue, self._files)
                elif asks.get(job.id, 0) >= _ASKS:
                    self._give_up(job, f"no report within {self._around.timeout:.0f} s")
            self._queue.database.write(_forget, durable=False)
            asking = [job for job in jobs if job.function == ASK and asks.get(job.id, 0) < _ASKS]
            if asking and not self._ask(lane, asking, stop):
                return

    def _asks(self, lane: str) -> dict[int, int]:
        """Return how often the peer has promised a report, for each of our jobs in a lane."""
        rows = self._queue.database.read(
            "SELECT job, SUM(asked) FROM jobs_commitments JOIN jobs ON jobs.id = job "
            "WHERE owner = :owner AND lane = :lane GROUP BY job",
            owner=self._queue.owner.id,
            lane=lane,
        )
        return dict(rows)

    def _give_up(self, job: Job, said: str) -> None:
        if self._queue.give_up(job, said):
            self._queue.database.write(
                lambda transaction: _count_anew(transaction, job), durable=False
            )
            self._around.gave_up(job, said)

    # ------------------------------------------------------------- requests

    def _ask(self, lane: str, jobs: list[Job], stop: threading.Event) -> bool:
        """Request commitment to instances; return whether the lane continues."""
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        self._queue.database.write(
            lambda transaction: _note(transaction, transaction_uid, jobs), durable=False
        )
        title = title_of(lane)
        assert title is not None
        try:
            with self._around.connect(title) as client:
                answers_echo = _echo(client)  # on the same association as the request
                client.n_action(*_PUSH, 1, _information(transaction_uid, jobs))
                self._asked(lane, transaction_uid, jobs)
                if answers_echo:
                    self._listen(client, transaction_uid, stop)
        except RequestFailed as error:
            limited = error.status.code == _RESOURCE_LIMITATION
            outcome = Attempt(Verdict.RESTS, str(error)) if limited else judge(error.status)
            return self._settle(lane, transaction_uid, jobs, outcome)
        except NotAccepted as error:
            return self._settle(lane, transaction_uid, jobs, Attempt(Verdict.REFUSED, str(error)))
        except AssociationAborted as error:  # the peer may have received the request
            return self._settle(lane, "", jobs, Attempt(Verdict.RESTS, str(error)))
        except AssociationError as error:
            return self._settle(lane, transaction_uid, jobs, Attempt(Verdict.RESTS, str(error)))
        return True

    def _asked(self, lane: str, transaction_uid: str, jobs: list[Job]) -> None:
        """Let jobs wait for the report, unless it has already arrived."""
        if self._queue.failures(lane):
            self._queue.wake(lane)
        self._queue.database.write(
            lambda transaction: transaction.run(
                "UPDATE jobs_commitments SET asked = 1 WHERE transaction_uid = :uid AND EXISTS ("
                "SELECT 1 FROM jobs WHERE jobs.id = job AND jobs.owner = :owner)",
                uid=transaction_uid,
                owner=self._queue.owner.id,
            ),
            durable=False,
        )
        for job in jobs:
            self._queue.put_back(job, delay=self._around.timeout, tried=True)

    def _listen(self, client: Client, transaction_uid: str, stop: threading.Event) -> None:
        """Keep the association for a while; the app answers a report like any other request."""
        with suppress(AssociationError, RequestFailed):
            for _ in range(self._looks):
                client.echo()
                if not _is_awaited(self._queue, transaction_uid) or stop.wait(self._tick):
                    return

    def _settle(self, lane: str, unheard: str, jobs: list[Job], outcome: Attempt) -> bool:
        """Record that a request has failed; return whether the lane continues.

        `unheard` is the UID of a transaction that the peer cannot know.
        """
        if unheard:
            self._queue.database.write(
                lambda transaction: transaction.run(
                    "DELETE FROM jobs_commitments WHERE transaction_uid = :uid", uid=unheard
                ),
                durable=False,
            )
        refused = outcome.verdict is Verdict.REFUSED
        logger.warning("%s: no storage commitment yet: %s", lane, outcome.said)
        for job in jobs:
            if refused and job.attempts >= len(RETRY):
                self._give_up(job, outcome.said)
            else:
                delay = RETRY[job.attempts] if refused else 0.0
                self._queue.put_back(job, delay=delay, error=outcome.said, tried=refused)
        if refused:
            return True
        if outcome.verdict is Verdict.PAUSED:
            self._queue.pause(lane, outcome.said)
        else:
            self._queue.back_off(lane, rest(self._queue.failures(lane)), outcome.said)
        return False


def _echo(client: Client) -> bool:
    try:
        client.echo()
    except (NotAccepted, RequestFailed):
        return False
    return True


def _information(transaction_uid: str, jobs: list[Job]) -> dict[str, Any]:
    named = {job.arguments["sop_instance"]: job.arguments["sop_class"] for job in jobs}
    references = [
        {"ReferencedSOPClassUID": sop_class, "ReferencedSOPInstanceUID": sop_instance}
        for sop_instance, sop_class in named.items()
    ]
    return {"TransactionUID": transaction_uid, "ReferencedSOPSequence": references}


def _note(transaction: Transaction, transaction_uid: str, jobs: list[Job]) -> None:
    for job in jobs:
        transaction.run(
            "INSERT INTO jobs_commitments (transaction_uid, sop_instance, job) "
            "VALUES (:uid, :sop, :job)",
            uid=transaction_uid,
            sop=job.arguments["sop_instance"],
            job=job.id,
        )


def _forget(transaction: Transaction) -> None:
    """Remove requests for jobs that no longer exist."""
    transaction.run(
        "DELETE FROM jobs_commitments WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job)"
    )


def _count_anew(transaction: Transaction, job: Job) -> None:
    """Reset the count of requests without a report: one arrived, or a user may retry the job."""
    transaction.run("UPDATE jobs_commitments SET asked = 0 WHERE job = :job", job=job.id)


def _is_awaited(queue: Queue, transaction_uid: str) -> bool:
    return bool(
        queue.database.read(
            "SELECT 1 FROM jobs_commitments JOIN jobs ON jobs.id = job "
            "WHERE transaction_uid = :uid AND function = :ask AND failed = 0 LIMIT 1",
            uid=transaction_uid,
            ask=ASK,
        )
    )


# ------------------------------------------------------------- reports


def report(queue: Queue, information: Dataset) -> list[tuple[Job, str]]:
    """Apply a report, durably; return the jobs that fail because of it, with the reasons.

    Committed instances are done. Instances that the destination lacks are sent again, those that
    it can never commit to are given up, and commitment to all others is requested again later.

    Parameters
    ----------
    queue : Queue
        The queue of the jobs.
    information : pydicom.Dataset
        The event information (PS3.4 §J.3.3).
    """
    transaction_uid = str(information.get("TransactionUID") or "")

    def work(transaction: Transaction) -> list[tuple[Job, str]]:
        given_up = []
        for job, _ in _named(queue, transaction, transaction_uid, information, committed=True):
            _set(transaction, job, "function = :over, key = NULL, failed = 0, due = :now", queue)
        for job, reason in _named(
            queue, transaction, transaction_uid, information, committed=False
        ):
            if said := _failed(queue, transaction, job, reason):
                given_up.append((job, said))
        return given_up

    return queue.database.write(work)


def _named(
    queue: Queue,
    transaction: Transaction,
    transaction_uid: str,
    information: Dataset,
    *,
    committed: bool,
) -> Iterator[tuple[Job, int]]:
    """Yield the jobs of the instances in one of the sequences, with the failure reasons."""
    items = information.get("ReferencedSOPSequence" if committed else "FailedSOPSequence")
    for item in items or ():
        sop_class = str(item.get("ReferencedSOPClassUID") or "")
        for job in select(
            transaction,
            "function = :ask AND id IN (SELECT job FROM jobs_commitments "
            "WHERE transaction_uid = :uid AND sop_instance = :sop)",
            ask=ASK,
            uid=transaction_uid,
            sop=str(item.get("ReferencedSOPInstanceUID") or ""),
        ):
            if sop_class == job.arguments["sop_class"] or not committed:
                yield job, int(item.get("FailureReason") or 0)


def _failed(queue: Queue, transaction: Transaction, job: Job, reason: int) -> str:
    """Record a failed commitment; return why the instance is given up, or an empty string."""
    said = f"no commitment: 0x{reason:04X}"
    tries = job.arguments.get("tries", 0)
    _count_anew(transaction, job)
    if reason in _FINAL or tries >= len(RETRY):
        said = f"{said} {_FINAL.get(reason, '')}".rstrip()
        _set(transaction, job, "failed = 1, error = :said", queue, said=said)
        return said
    again = job._replace(arguments={**job.arguments, "tries": tries + 1})
    if reason != _NO_SUCH_INSTANCE:
        changes = "arguments = :arguments, due = :now + :delay, error = :said"
        _set(transaction, again, changes, queue, said=said, delay=RETRY[tries])
        return ""
    title = title_of(job.lane)
    assert title is not None
    newer = queue.waiting(transaction, title, FORWARD, job.key)
    if newer:  # it is sent anyway
        inherit(transaction, newer[0], job)
        again.arguments["delete"] = []
        _set(transaction, again, "arguments = :arguments, function = :over, key = NULL", queue)
    else:
        changes = "arguments = :arguments, lane = :lane, function = :forward, due = :now"
        _set(transaction, again, f"{changes}, error = :said", queue, said=said, lane=title)
    return ""


def _set(transaction: Transaction, job: Job, changes: str, queue: Queue, **values: Any) -> None:
    """Change a job of any process: its owner finds out that it no longer owns the job."""
    known = {
        "over": OVER,
        "forward": FORWARD,
        "now": queue.now(),
        "arguments": queue.as_json(job),
        **values,
    }
    used = {name: value for name, value in known.items() if f":{name}" in changes}
    transaction.run(f"UPDATE jobs SET owner = NULL, {changes} WHERE id = :id", id=job.id, **used)
