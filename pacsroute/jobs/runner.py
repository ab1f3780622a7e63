"""Run the lanes of a queue, with a thread for each place of a lane that has due jobs.

The runner's thread looks for ready lanes, signals that this process is alive, and releases the
jobs of dead processes. The threads of lanes only claim jobs, run them and report. They share the
queue, and `_places`, which `_lock` guards. If a thread cannot release a job because the database
failed, the runner does so as soon as possible.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from pacsroute.jobs.queue import Queue

logger = logging.getLogger("pacsroute")

_POLL = 0.25  # seconds between checks for due jobs and jobs that other processes queued
_BEAT = 2.0  # seconds between signs of life
_MOST_SEEN = 100  # AE titles to remember: they come from the network
_PATIENCE = 10.0  # seconds that `stop` waits for running jobs


class Worker(Protocol):
    """Runs the jobs of one lane.

    Attributes
    ----------
    places : int
        The number of threads in all processes that may work in the lane at the same time.
    """

    places: int

    def work(self, lane: str, stop: threading.Event) -> None:
        """Claim and run jobs until none is due, or `stop` is set; exceptions are logged."""


class Runner:
    """Works in the lanes of a queue while the app serves.

    Parameters
    ----------
    queue : Queue
        The queue of the jobs.
    worker_of : callable
        Returns the worker of a lane. It returns None, and the jobs wait, if this process has none,
        for example after an upgrade removed the function.
    lost : callable
        Called when other processes have declared this one dead and taken its jobs.
    reaped : callable
        Called when other processes are found to have ended.
    """

    def __init__(
        self,
        queue: Queue,
        worker_of: Callable[[str], Worker | None],
        lost: Callable[[], object] = lambda: None,
        reaped: Callable[[], object] = lambda: None,
    ) -> None:
        self._queue = queue
        self._worker_of = worker_of
        self._lost = lost
        self._reaped = reaped
        self._owner = queue.owner.id
        self._lock = threading.Lock()
        self._places: Counter[str] = Counter()
        self._failed: set[str] = set()  # lanes in which this process may still hold jobs
        self._threads: set[threading.Thread] = set()
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._beaten = 0.0
        self._seen: set[str] = set()  # AE titles that have associated since the last check
        self.in_trouble = False
        self._thread = threading.Thread(target=self._run, name="pacsroute-jobs", daemon=True)

    def start(self) -> None:
        """Start the runner; it has entered the queue before this returns."""
        self._queue.enter()
        self._thread.start()

    def wake(self) -> None:
        """Look for jobs at once, because one was queued."""
        self._woken.set()

    def seen(self, title: str) -> None:
        """Retry the lane of a peer soon if it rests, because the peer has associated with us."""
        if len(self._seen) < _MOST_SEEN:
            self._seen.add(title)

    def stop(self) -> None:
        """Start no new job, wait a while for running ones, and release the rest."""
        self._stop.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()
        deadline = time.monotonic() + _PATIENCE
        for thread in self._alive():
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._queue.leave()

    def _alive(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait(_POLL)
            self._woken.clear()
            try:
                self._look()
                self.in_trouble = False
            except Exception as error:  # noqa: BLE001 - such as a full disk or a database restart
                if not self.in_trouble:
                    logger.error("the queue of jobs cannot be used: %s", type(error).__name__)
                self.in_trouble = True

    def _look(self) -> None:
        if self._stop.is_set():
            return
        if time.monotonic() - self._beaten > _BEAT:
            self._beat()
            self._beaten = time.monotonic()
        seen, self._seen = self._seen, set()
        if seen:
            self._queue.end_rests(seen)
        for lane in self._queue.ready():
            if lane in self._failed:
                continue
            worker = self._worker_of(lane)
            if worker is not None:
                self._begin(lane, worker)

    def _beat(self) -> None:
        self._queue.enter()
        if self._queue.owner.id != self._owner:
            logger.error("this process was taken for dead: others have taken over its jobs")
            self._owner = self._queue.owner.id
            self._lost()
        if dead := self._queue.reap():
            logger.info("jobs of %d processes that have ended are queued again", len(dead))
            self._reaped()
        with self._lock:
            failed = [lane for lane in self._failed if not self._places[lane]]
        for lane in failed:
            self._queue.release(lane)
            self._failed.discard(lane)

    def _begin(self, lane: str, worker: Worker) -> None:
        with self._lock:
            if self._places[lane] >= worker.places:
                return
            self._places[lane] += 1
            thread = threading.Thread(
                target=self._work, args=(lane, worker), name=f"pacsroute-lane-{lane}", daemon=True
            )
            self._threads.add(thread)
        thread.start()

    def _work(self, lane: str, worker: Worker) -> None:
        try:
            place = self._queue.take_place(lane, worker.places)
            if place is None:  # another process works in this lane
                return
            try:
                worker.work(lane, self._stop)
            finally:
                self._queue.leave_place(lane, place)
        except Exception as error:
            if isinstance(error, OSError):
                logger.error("lane %s: the queue of jobs: %s", lane, type(error).__name__)
            else:
                logger.exception("lane %s failed", lane)
            self._failed.add(lane)
        finally:
            with self._lock:
                self._places[lane] -= 1
                self._threads.discard(threading.current_thread())
