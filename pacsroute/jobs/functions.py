"""Run the functions of `@app.job` and `@app.quiet` for their waiting jobs."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from pacsroute.jobs.collected import collecting
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.quiet import Quiet
from pacsroute.jobs.rows import Job, with_json

logger = logging.getLogger("pacsroute")

Call = Callable[[Job, threading.Event], object]
"""Calls the function for a job, and records that it is done; the event interrupts it."""


class ProcessFailed(Exception):
    """A function in a separate process has raised, timed out or crashed."""


class Interrupted(Exception):
    """The function was interrupted because the app stops; it runs again at the next start."""


class Functions:
    """Runs the jobs of one function, one after the other.

    Parameters
    ----------
    queue : Queue
        The queue of the jobs.
    call : callable
        Calls the function for a job. An exception is a failed attempt.
    retry : sequence of float
        Seconds between retries of a job whose function has raised; after the last one, it has
        failed for good.
    gave_up : callable
        Called with a job that has failed for good, and the exception.
    places : int
        The number of jobs that may run at the same time in all processes.
    """

    def __init__(
        self,
        queue: Queue,
        call: Call,
        retry: Sequence[float],
        gave_up: Callable[[Job, BaseException], object],
        places: int = 1,
    ) -> None:
        self.places = places
        self._queue = queue
        self._call = call
        self._retry = retry
        self._gave_up = gave_up

    def work(self, lane: str, stop: threading.Event) -> None:
        """See `Worker.work`."""
        while not stop.is_set() and (jobs := self._queue.claim(lane, 1)):
            for job in jobs:
                self._do(job, stop)

    def _do(self, job: Job, stop: threading.Event) -> None:
        try:
            self._call(job, stop)
        except Interrupted:
            self._queue.put_back(job, tried=False)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            self._failed(job, error)

    def _failed(self, job: Job, error: Exception) -> None:
        # A user's exception may contain patient data: log its text only at DEBUG.
        ours = isinstance(error, ProcessFailed)
        said = str(error) if ours else type(error).__name__
        where = "" if ours else _where(error)
        logger.debug("job %d, %s failed", job.id, job.function, exc_info=error)
        if job.attempts < len(self._retry):
            seconds = self._retry[job.attempts]
            line = f"job %d, %s: %s%s; again in {seconds:.0f} s"
            logger.warning(line, job.id, job.function, said, where)
            self._queue.put_back(job, delay=seconds, error=said, tried=True)
        elif self._queue.give_up(job, said):
            logger.error("job %d, %s: %s%s; given up", job.id, job.function, said, where)
            self._gave_up(job, error)


def _where(error: Exception) -> str:
    """Return the line of code that raised an exception."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" in {last.name} ({os.path.basename(last.filename)}:{last.lineno})"


def plain(queue: Queue, function: Callable[..., object]) -> Call:
    """Return the runner that calls a job's function, and records that it is done."""

    def call(job: Job, stop: threading.Event) -> object:
        function(*job.arguments["args"], **job.arguments["kwargs"])
        return queue.done(job)

    return call


def completing(queue: Queue, quiet: Quiet, function: Callable[[Any], object]) -> Call:
    """Return the runner that calls a function of `@app.quiet` for a period that has ended.

    Jobs that the function queues are committed together with the end of the period, so
    there is exactly one such job for each period, even if the function ran twice.
    """

    def call(job: Job, stop: threading.Event) -> object:
        series, last = quiet.series(job)
        with collecting() as new:
            if series.count:  # otherwise the last period included all instances
                function(series)
        return queue.finish(
            job, with_json(new), lambda transaction: quiet.completed(transaction, job, last)
        )

    return call
