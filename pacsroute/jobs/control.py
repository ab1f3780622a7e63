"""Inspect and change a queue, for ``pacsroute jobs`` and the console."""

from __future__ import annotations

from collections.abc import Callable

from pacsroute.framework.work import JobView, Lane
from pacsroute.jobs.files import Files
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import Job


class Control:
    """The lanes and jobs of a queue, for users; see `pacsroute.framework.work.WorkControl`.

    Parameters
    ----------
    queue, files : Queue and Files
        The queue, and its files.
    changed : callable
        Called after each change, so that this process acts on it at once. Other processes check
        four times a second.
    """

    def __init__(self, queue: Queue, files: Files, changed: Callable[[], object]) -> None:
        self._queue = queue
        self._files = files
        self._changed = changed

    def lanes(self) -> list[Lane]:
        """See `WorkControl.lanes`."""
        return self._queue.lanes()

    def jobs(self, lane: str | None = None, most: int | None = 1000) -> list[JobView]:
        """See `WorkControl.jobs`."""
        now = self._queue.now()
        return [_view(job, now) for job in self._queue.jobs(most, lane=lane)]

    def retry(self, number: int) -> bool:
        """See `WorkControl.retry`."""
        return self._told(self._queue.retry(number))

    def drop(self, number: int) -> bool:
        """See `WorkControl.drop`."""
        job = self._queue.drop(number)
        if job is not None and "file" in job.arguments:
            self._files.remove(job.arguments["file"])
        return self._told(job is not None)

    def pause(self, lane: str) -> bool:
        """See `WorkControl.pause`."""
        return self._told(self._queue.pause(lane))

    def resume(self, lane: str) -> bool:
        """See `WorkControl.resume`."""
        return self._told(self._queue.resume(lane))

    def _told(self, is_changed: bool) -> bool:
        if is_changed:
            self._changed()
        return is_changed


def _view(job: Job, now: float) -> JobView:
    state = "failed" if job.failed else "waiting" if job.owner is None else "running"
    due_in = max(job.due - now, 0.0) if state == "waiting" else 0.0
    age = max(now - job.created, 0.0)
    return JobView(job.id, state, job.lane, job.key, age, due_in, job.attempts, job.error)
