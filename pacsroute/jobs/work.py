"""The durable work of an app: deliveries, jobs, and quiet series.

The threads of associations queue jobs, and the threads of the runner claim them. `_lock` guards
opening the queue and starting the runner. After that, all threads use the queue, which is
thread-safe.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsroute import uids
from pacsroute.errors import DataSetError, Failure, PacsrouteError, SetupError
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import StoreRequest
from pacsroute.framework.work import Lane, current_priority, where
from pacsroute.instances.instance import Instance
from pacsroute.jobs.background import Background
from pacsroute.jobs.collected import collected, collecting
from pacsroute.jobs.commitment import (
    ASK,
    GATHER,
    Commitments,
    Surroundings,
    lane_of,
    report,
    title_of,
)
from pacsroute.jobs.control import Control
from pacsroute.jobs.database import Transaction
from pacsroute.jobs.delivery import LINGER, Delivery, Outlet
from pacsroute.jobs.forwarding import delivery, end, names_of_files
from pacsroute.jobs.functions import Functions, completing, plain
from pacsroute.jobs.holding import Holding
from pacsroute.jobs.opening import MadeTime, Opened, open_queue, shown
from pacsroute.jobs.processes import in_process
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.quiet import Arrival, Quiet, Reason
from pacsroute.jobs.rows import Job, NewJob, Put
from pacsroute.jobs.runner import Runner, Worker
from pacsroute.jobs.together import Together
from pacsroute.net.client import Client
from pacsroute.status import OUT_OF_RESOURCES, PROCESSING_FAILURE

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger("pacsroute")

_PATIENCE = 5.0  # seconds that a function of `@app.background` has to finish
_LATELY = 10.0  # seconds for which a failure to queue is reported
_IDLE = 3  # checks of the queue without progress, in a test, after which `drain` ends


class Work:
    """Stores and runs the durable work of an app.

    Parameters
    ----------
    app : App
        The app.
    connect : callable
        `App.connect`.
    opener : callable
        Opens the queue when it is first needed.
    runs : bool
        Whether jobs run while the app serves; a test runs them on demand.
    """

    def __init__(
        self,
        app: BaseApp,
        connect: Callable[..., Client],
        opener: Callable[[], Opened] | None = None,
        *,
        runs: bool = True,
    ) -> None:
        self._app = app
        self._declared = app.declared
        self._connect = connect
        self._runs = runs
        self._opener = opener or (lambda: _opened(app))
        self._lock = threading.RLock()
        self._opened: Opened | None = None
        self._runner: Runner | None = None
        self._background: list[Background] = []
        self._deliveries: dict[str, Delivery] = {}
        self._holding: Holding | None = None
        self._refused = -math.inf  # when queueing last failed

    # ------------------------------------------------------------- the queue

    @property
    def opened(self) -> Opened:
        """The queue, opened when it is first needed."""
        with self._lock:
            if self._opened is None:
                self._opened = self._opener()
                if self._app.serving and self._runs:
                    self._run(self._opened)
            return self._opened

    def lanes(self) -> list[Lane]:
        """See `WorkQueue.lanes`."""
        with self._lock:
            opened = self._opened
        return [] if opened is None else opened.queue.lanes()

    @property
    def control(self) -> Control | None:
        """See `WorkQueue.control`."""
        with self._lock:
            opened = self._opened
        return None if opened is None else Control(opened.queue, opened.files, self._wake)

    def open(self) -> Control:
        """Open the queue for users, and return its control."""
        opened = self.opened
        return Control(opened.queue, opened.files, self._wake)

    def _wake(self) -> None:
        with self._lock:
            if self._runner is not None:
                self._runner.wake()

    def obstacle(self) -> str:
        """See `WorkQueue.obstacle`."""
        with self._lock:
            runner = self._runner
        lately = time.monotonic() - self._refused < _LATELY
        if lately or (runner is not None and runner.in_trouble):
            return "the queue of jobs cannot be written"
        return ""

    def _no_room(self, error: Exception) -> Failure:
        logger.error("the queue of jobs cannot be written: %s", error)
        self._refused = time.monotonic()
        return Failure(OUT_OF_RESOURCES, "the queue cannot be written")

    def close(self) -> None:
        """Close the queue."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None
                self._deliveries.clear()

    def _put(self, job: NewJob) -> None:
        """Queue a job, or collect it until the running function of `@app.quiet` ends."""
        if (collecting := collected()) is not None:
            collecting.append(job)
            return
        try:
            self.opened.queue.put([job])
        except OSError as error:
            raise self._no_room(error) from error
        self._wake()

    def is_in(self, url: str) -> bool:
        """See `WorkQueue.is_in`."""
        return self.opened.queue.database.shared and where(self._app.config) == url

    @contextlib.contextmanager
    def together(self) -> Iterator[Together]:
        """See `WorkQueue.together`."""
        with collecting() as jobs:
            made = Together(self.opened, jobs, self._wake)
            try:
                yield made
            finally:
                made.forget()

    # ------------------------------------------------------------- requests of apps

    def forward(
        self,
        what: Instance | Dataset | str | os.PathLike[str],
        to: str,
        *,
        key: str | None,
        commit: bool,
        delete: bool,
        priority: int | None,
        calling_ae: str | None,
    ) -> None:
        """See `App.forward`."""
        if commit and self._declared.commit_timeout is None:
            raise SetupError(
                "forward(commit=True): reports of storage commitment have no handler; "
                "call app.commitment() where the app is made"
            )
        instance = what if isinstance(what, Instance) else Instance(what)
        try:
            opened = self.opened
            file = opened.files.keep(instance)
        except OSError as error:
            raise self._no_room(error) from error
        try:
            self._put(
                delivery(
                    instance,
                    file,
                    to,
                    calling_ae=calling_ae or self._app.ae_title,
                    node=opened.queue.owner.node,
                    key=key,
                    commit=commit,
                    delete=delete,
                    priority=current_priority.get() if priority is None else priority,
                )
            )
        except BaseException:
            with contextlib.suppress(OSError):
                opened.files.remove(file)
            raise

    def later(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        key: str | None,
        delay: float,
    ) -> None:
        """See `Job.later`."""
        arguments = {"args": args, "kwargs": kwargs}
        self._put(NewJob(_lane_of(name), name, arguments, key=key, delay=delay))

    def associated(self, calling_ae: str) -> None:
        """See `WorkQueue.associated`."""
        if (runner := self._runner) is not None:
            runner.seen(calling_ae)

    def receiving(self, association: Any) -> None:
        """Keep the periods open to which an association may be sending another instance."""
        with self._lock:
            holding = self._holding
        if holding is not None:
            holding.begins(association)

    def answered(self, association: Any) -> None:
        """See `WorkQueue.answered`."""
        with self._lock:
            holding = self._holding
        if holding is not None:
            holding.ends(association)

    def stored(self, request: StoreRequest) -> None:
        """Record an instance that a handler accepted, for the periods of `@app.quiet`.

        Raises
        ------
        Failure
            With 0xA700 if the queue cannot be written, so that the sender retries.
        """
        arrival = _arrival(request)
        if arrival is None:
            return
        try:
            opened = self.opened
            periods = self._quiet(opened)

            def work(transaction: Transaction) -> list[Put]:
                return [quiet.arrived(transaction, arrival) for quiet in periods.values()]

            for put in opened.queue.database.write(work):
                opened.queue.was_put(put)
        except OSError as error:
            raise self._no_room(error) from error
        if self._holding is not None and request.association is not None:
            self._holding.came(request.association, arrival)

    def complete(
        self,
        uid: str,
        expected: Iterable[str] | None,
        *,
        called_ae: str | None,
        reason: Reason,
    ) -> bool:
        """See `App.complete`."""
        title = called_ae or self._app.ae_title
        awaited = None if expected is None else list(expected)
        known = [
            quiet.expect(f"{title} {uid}", awaited, reason)
            for quiet in self._quiet(self.opened).values()
        ]
        return any(known)

    def _quiet(self, opened: Opened) -> dict[str, Quiet]:
        return {
            name: Quiet(opened.queue, _lane_of(name), one.level, one.after)
            for name, one in self._declared.quiet.items()
        }

    # ------------------------------------------------------------- while the app serves

    def start(self) -> None:
        """Start the runners of waiting and future jobs.

        Raises
        ------
        SetupError
            If the queue cannot be opened.
        """
        with self._lock:
            try:
                opened = self.opened
            except OSError as error:
                place = shown(where(self._app.config))
                raise SetupError(f"the queue {place} cannot be opened: {error}") from error
            if self._runner is None and self._runs:  # it was opened before the app served
                self._run(opened)

    def _run(self, opened: Opened) -> None:
        logger.info("jobs are kept in %s", shown(where(self._app.config)))
        if opened.queue.serve():  # no process has been listening
            for quiet in self._quiet(opened).values():
                opened.queue.database.write(quiet.begin_anew)
        self._sweep()
        self._runner = Runner(opened.queue, self.worker_of, self._lost, self._sweep)
        self._runner.start()
        if self._declared.quiet:
            shortest = min(one.after for one in self._declared.quiet.values())
            self._holding = Holding(opened.queue.database, self._quiet(opened), shortest)
            self._holding.start()
        self._background = [
            Background(opened.queue, one) for one in self._declared.background.values()
        ]
        for background in self._background:
            background.start()

    def _sweep(self) -> None:
        """Remove files that dead processes kept without queueing a job."""
        opened = self.opened
        known = lambda: names_of_files(opened.queue.jobs(most=None))  # noqa: E731
        if count := opened.files.sweep(known):
            logger.info("%d instances that were never queued removed", count)

    def _lost(self) -> None:
        for background in self._background:
            background.lost()

    def stop(self) -> None:
        """Start no new job, wait a while for running ones, and close the queue."""
        with self._lock:
            background, self._background = self._background, []
            runner, self._runner = self._runner, None
            holding, self._holding = self._holding, None
        for one in background:
            one.stop(_PATIENCE)
        if holding is not None:
            holding.stop()
        if runner is not None:
            runner.stop()
        self.close()

    def drain(self, now: MadeTime) -> None:
        """Run all waiting jobs on this thread, and skip their delays.

        A failed job is retried until it is given up. Jobs without a function, or whose destination
        cannot be reached, keep waiting.
        """
        queue, over = self.opened.queue, threading.Event()
        idle = 0
        while (due := queue.next_due()) is not None and idle < _IDLE:
            now.seconds = max(now.seconds, due)
            before = _standing(queue)
            for lane in queue.ready():
                if (worker := self.worker_of(lane, linger=0.0)) is not None:
                    worker.work(lane, over)
            idle = idle + 1 if _standing(queue) == before else 0

    def worker_of(self, lane: str, linger: float = LINGER) -> Worker | None:
        """Return the worker of a lane; None if its function no longer exists."""
        opened = self.opened
        if (title := title_of(lane)) is not None:
            return self._commitments(opened, listens=linger > 0) if title else None
        if not lane.endswith("()"):
            if lane not in self._deliveries:
                outlet = Outlet(self._client, self._delivered, self._not_delivered)
                self._deliveries[lane] = Delivery(opened.queue, opened.files, outlet, linger)
            return self._deliveries[lane]
        name = lane.removesuffix("()")
        if (quiet := self._declared.quiet.get(name)) is not None:
            call = completing(opened.queue, self._quiet(opened)[name], quiet.function)
            return Functions(opened.queue, call, quiet.retry, self._gave_up)
        if (job := self._declared.jobs.get(name)) is not None:
            if job.process and self._runs:
                call = in_process(opened.queue, job, self._app)
            else:
                call = plain(opened.queue, job.function)
            return Functions(opened.queue, call, job.retry, self._gave_up, job.places)
        return None

    def _client(self, title: str, calling_ae: str) -> Client:
        return self._connect(title, calling_ae=calling_ae)

    def _commitments(self, opened: Opened, *, listens: bool) -> Commitments | None:
        if (timeout := self._declared.commit_timeout) is None:  # removed by an upgrade: jobs wait
            return None
        around = Surroundings(self._connect, self._not_delivered, timeout)
        return Commitments(opened.queue, opened.files, around, listens=listens)

    def report(self, information: Dataset) -> None:
        """See `WorkQueue.report`."""
        try:
            given_up = report(self.opened.queue, information)
        except OSError as error:
            logger.error("the queue of jobs cannot be written: %s", error)
            raise Failure(PROCESSING_FAILURE, "the queue cannot be written") from error
        for job, said in given_up:
            logger.error(
                "%s, %s: given up: %s", job.lane, uids.name(job.arguments["sop_class"]), said
            )
            self._not_delivered(job, said)
        self._wake()

    def _delivered(self, category: str, job: Job) -> None:
        self._app.observer.delivered(job.lane, category)
        opened = self.opened
        if self._app.auditors:
            self._audit(job)
        if job.arguments.get("commit"):
            delay = GATHER - opened.queue.now() % GATHER  # gathered jobs become due together
            opened.queue.move(job, lane_of(job.lane), ASK, delay)
        else:
            end(job, opened.queue, opened.files)

    def _audit(self, job: Job) -> None:
        from pacsroute.framework import auditing  # noqa: PLC0415 - only for apps that audit

        instance = Instance(self.opened.files.path(job.arguments["file"]))
        auditing.exported(self._app, job.lane, job.arguments["calling_ae"], instance)

    def _not_delivered(self, job: Job, said: str) -> None:
        self._gave_up(job, PacsrouteError(said))

    def _gave_up(self, job: Job, error: BaseException) -> None:
        for function in self._declared.gave_up:
            try:
                function(job, error)
            except Exception:
                logger.exception("@app.gave_up failed")


def _standing(queue: Queue) -> list[tuple[int, str, int, bool]]:
    """Return a value that changes with each finished or tried job."""
    return [(job.id, job.function, job.attempts, job.failed) for job in queue.jobs(most=None)]


def _lane_of(name: str) -> str:
    """Return the lane of a function, which cannot be an AE title."""
    return f"{name}()"


def _opened(app: BaseApp) -> Opened:
    folder = Path(app.config.spool or "") / "jobs.files"
    return open_queue(where(app.config), folder, app.ae_title)


def _arrival(request: StoreRequest) -> Arrival | None:
    """Return the series of a C-STORE, or None if it has none."""
    with contextlib.suppress(DataSetError, Failure):
        dataset = request.dataset
        study, series = dataset.get("StudyInstanceUID"), dataset.get("SeriesInstanceUID")
        if study and series:
            return Arrival(
                request.sop_instance,
                str(series),
                str(study),
                request.calling_ae,
                request.called_ae,
            )
    return None
