"""Deliver instances to a destination, and decide what its responses mean for the queue.

If a peer cannot be reached or is full, the instance is not at fault: the lane rests, and the
instance uses up no attempt. The response to an instance affects only that instance.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from typing import NamedTuple

from pacsroute import uids
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    DataSetError,
    NotAccepted,
    PacsrouteError,
    ReadFailed,
    RequestFailed,
)
from pacsroute.instances.instance import Instance
from pacsroute.jobs.files import Files
from pacsroute.jobs.forwarding import instance_of, is_delivered
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import Job
from pacsroute.net.client import Client
from pacsroute.status import Status

logger = logging.getLogger("pacsroute")

RETRY = (5.0, 60.0, 600.0, 3600.0)
"""Seconds between retries of a refused instance; after the last one, it is given up."""

LINGER = 1.0
"""Seconds for which an association is kept by default."""

_BATCH = 20  # jobs that are claimed at a time
_LOOKS = 10  # checks of the queue while the association is kept
_LONGEST_REST = 60.0  # seconds: the longest wait of a peer that is reachable again
_SUSPECTS = 3  # if this many instances in a row end the association, the peer is at fault
_HANGS = 5.0  # seconds without a response after which a peer is not retried at once


class Verdict(Enum):
    """The meaning of an attempt for the queue."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # the instance is at fault: it is retried later, then given up
    RESTS = "rests"  # the peer is at fault: the lane rests, the instance is unchanged
    PAUSED = "paused"  # the peer forbids it: a user has to intervene
    SUSPECT = "suspect"  # the association ended while the instance was sent


class Attempt(NamedTuple):
    """The result of an attempt to deliver an instance, and a text without patient data."""

    verdict: Verdict
    said: str = ""


def judge(status: Status) -> Attempt:
    """Return the meaning of a C-STORE's status for the queue (PS3.4 §B.2.3).

    Examples
    --------
    >>> judge(Status(0xA700)).verdict, judge(Status(0xC000)).verdict
    (<Verdict.RESTS: 'rests'>, <Verdict.REFUSED: 'refused'>)
    """
    said = f"0x{status.code:04X} {status.name}"
    if status.category == "Success":
        return Attempt(Verdict.DELIVERED)
    if status.category == "Warning":
        return Attempt(Verdict.DELIVERED, said)
    if status.code == 0x0124:
        return Attempt(Verdict.PAUSED, said)
    if status.code >> 8 == 0xA7:
        return Attempt(Verdict.RESTS, said)
    return Attempt(Verdict.REFUSED, said)


def attempt(client: Client, instance: Instance) -> Attempt:
    """Send an instance once, and return the result."""
    try:
        return judge(client.store(instance))
    except RequestFailed as error:
        return judge(error.status)
    except NotAccepted as error:
        return Attempt(Verdict.REFUSED, str(error))
    except (ReadFailed, DataSetError, OSError) as error:
        return Attempt(Verdict.REFUSED, f"it cannot be read: {type(error).__name__}")
    except AssociationError as error:
        ended = isinstance(error, AssociationAborted) and error.began
        return Attempt(Verdict.SUSPECT if ended else Verdict.RESTS, str(error))


def rest(failures: int) -> float:
    """Return how long a lane rests after a number of earlier failures, in seconds.

    Examples
    --------
    >>> rest(0), rest(3), rest(50)
    (1.0, 8.0, 60.0)
    """
    return min(2.0 ** min(failures, 10), _LONGEST_REST)


class Outlet(NamedTuple):
    """The app as deliveries see it.

    Parameters
    ----------
    connect : callable
        Returns a client of a destination for a calling AE title; raises `AssociationError` if the
        destination is unknown.
    delivered : callable
        Called with the category of the status and a delivered job; removes the job from the lane.
    gave_up : callable
        Called with a job that has failed for good, and the reason.
    """

    connect: Callable[[str, str], Client]
    delivered: Callable[[str, Job], object]
    gave_up: Callable[[Job, str], object]


class Delivery:
    """Delivers the waiting instances of a destination's lane.

    It remembers suspected instances from one turn to the next.

    Parameters
    ----------
    queue, files : Queue and Files
        The queue of the jobs, and the files of their instances.
    outlet : Outlet
        The app around them.
    linger : float
        Seconds for which an association is kept for further instances.
    """

    places = 1  # an association for each destination

    def __init__(self, queue: Queue, files: Files, outlet: Outlet, linger: float = LINGER) -> None:
        self._queue = queue
        self._files = files
        self._outlet = outlet
        self._linger = linger
        self._memory = _Memory()

    def work(self, lane: str, stop: threading.Event) -> None:
        """See `Worker.work`."""
        with ExitStack() as clients:
            turn = _Turn(self._queue, self._files, self._outlet, lane, clients, self._memory)
            turn.run(stop, self._linger)


class _Memory:
    """The memory of a lane from one turn to the next: numbers of jobs.

    Attributes
    ----------
    suspects : set of int
        Jobs that are sent after all others.
    on_probation : set of int
        Suspects after which the peer worked again.
    """

    def __init__(self) -> None:
        self.suspects: set[int] = set()
        self.on_probation: set[int] = set()

    def well(self, number: int) -> None:
        """Note that a job was delivered."""
        if self.suspects:
            self.on_probation |= self.suspects
            self.suspects.clear()
        self.on_probation.discard(number)


class _Turn:
    """A thread's turn in a lane, with its clients and suspected instances.

    If the association ends while an instance is sent, the instance is suspected. If another one
    is delivered next, the peer works, and the suspect has used up an attempt. If several in a row
    fail, or the peer does not respond afterwards, the peer is at fault, and the lane rests. After
    that, the others are sent before the suspects, so that one bad instance blocks no other. Once
    another is delivered, a suspect gets one more chance; then it has used up an attempt.
    """

    def __init__(
        self,
        queue: Queue,
        files: Files,
        outlet: Outlet,
        lane: str,
        open_clients: ExitStack,
        memory: _Memory,
    ) -> None:
        self._queue = queue
        self._files = files
        self._outlet = outlet
        self._lane = lane
        self._open = open_clients
        self._clients: dict[str, Client] = {}
        self._suspects: list[tuple[Job, str]] = []  # of this turn, still claimed
        self._memory = memory
        self._failures = queue.failures(lane)

    def run(self, stop: threading.Event, linger: float) -> None:
        while not stop.is_set():
            jobs = self._next_jobs()
            if not jobs:
                if self._suspects and len(self._suspects) + len(self._memory.suspects) >= _SUSPECTS:
                    self._rest(self._suspects[-1][1])
                    return
                self._accuse_suspects()
                jobs = self._last_jobs(stop, linger)
            if not jobs:
                break
            left = iter(jobs)
            for job in left:
                if not self._queue.is_ours(job):
                    return
                outcome = self._deliver(job)
                goes_on = self._settle(job, outcome)
                if stop.is_set() or not goes_on:
                    for other in left:
                        self._queue.put_back(other, tried=False)
                    if not goes_on:
                        return
        self._release_suspects()

    def _next_jobs(self) -> list[Job]:
        """Claim due jobs; suspects of earlier turns come last, one by one."""
        others = self._queue.claim(self._lane, _BATCH, but=self._memory.suspects)
        return others or (self._queue.claim(self._lane, 1) if self._memory.suspects else [])

    def _last_jobs(self, stop: threading.Event, linger: float) -> list[Job]:
        """Return jobs that arrive while the associations are still open."""
        for _ in range(_LOOKS if linger else 0):
            if stop.wait(linger / _LOOKS):
                break
            if jobs := self._next_jobs():
                return jobs
        return []

    def _client(self, job: Job) -> Client:
        title = job.arguments["calling_ae"]
        if title not in self._clients:
            client = self._outlet.connect(self._lane, title)
            self._clients[title] = self._open.enter_context(client)
        return self._clients[title]

    def _deliver(self, job: Job) -> Attempt:
        if is_delivered(job):
            return Attempt(Verdict.DELIVERED)
        try:
            instance = instance_of(job, self._files)
        except OSError as error:
            return Attempt(Verdict.REFUSED, f"it cannot be read: {error}")
        try:
            client = self._client(job)
        except AssociationError as error:
            return Attempt(Verdict.RESTS, str(error))
        except Exception as error:
            logger.exception("@app.destination failed for %s", self._lane)
            return Attempt(Verdict.RESTS, type(error).__name__)
        began, outcome = time.monotonic(), attempt(client, instance)
        if outcome.verdict is Verdict.SUSPECT and time.monotonic() - began < _HANGS:
            again = attempt(client, instance)  # alone on a new association
            outcome = outcome if again.verdict is Verdict.RESTS else again
        return outcome

    def _settle(self, job: Job, outcome: Attempt) -> bool:
        """Record the result of a job; return whether the lane continues."""
        if outcome.verdict is Verdict.DELIVERED:
            self._delivered(job, outcome.said)
        elif outcome.verdict is Verdict.REFUSED:
            self._refused(job, outcome.said)
        elif outcome.verdict is Verdict.SUSPECT:
            if job.id in self._memory.on_probation:
                self._refused(job, outcome.said)
            else:
                self._memory.suspects.discard(job.id)
                self._suspects.append((job, outcome.said))
            if len(self._suspects) >= _SUSPECTS or not self._is_well(job):
                self._rest(outcome.said)
                return False
        else:
            self._queue.put_back(job, error=outcome.said, tried=False)
            if outcome.verdict is Verdict.PAUSED:
                logger.error("%s refuses access (%s): its lane is paused", self._lane, outcome.said)
                self._queue.pause(self._lane, outcome.said)
                self._release_suspects()
            else:
                self._rest(outcome.said)
            return False
        return True

    def _delivered(self, job: Job, said: str) -> None:
        if said:
            logger.warning("%s accepted %s with %s", self._lane, _named(job), said)
        self._memory.well(job.id)
        self._outlet.delivered("Warning" if said else "Success", job)
        if self._failures:
            self._queue.wake(self._lane)
            self._failures = 0
        self._accuse_suspects()

    def _refused(self, job: Job, said: str) -> None:
        self._memory.on_probation.discard(job.id)
        if job.attempts < len(RETRY):
            logger.warning("%s did not accept %s: %s", self._lane, _named(job), said)
            self._queue.put_back(job, delay=RETRY[job.attempts], error=said, tried=True)
        elif self._queue.give_up(job, said):
            logger.error("%s did not accept %s, given up: %s", self._lane, _named(job), said)
            self._outlet.gave_up(job, said)

    def _rest(self, said: str) -> None:
        seconds = rest(self._failures)
        logger.warning("%s is tried again in %.0f s: %s", self._lane, seconds, said)
        self._release_suspects()
        self._queue.back_off(self._lane, seconds, said)

    # ------------------------------------------------------------- suspects

    def _is_well(self, job: Job) -> bool:
        """Return whether the peer responds at all."""
        try:
            self._client(job).echo()
        except PacsrouteError:
            return False
        return True

    def _accuse_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        for job, said in suspects:
            self._refused(job, said)

    def _release_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        for job, said in suspects:
            self._memory.suspects.add(job.id)
            self._queue.put_back(job, error=said, tried=False)


def _named(job: Job) -> str:
    return uids.name(job.arguments["sop_class"])
