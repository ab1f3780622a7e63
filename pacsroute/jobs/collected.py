"""Jobs that a function queues while it runs, kept until they are committed with its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from pacsroute.jobs.rows import NewJob

_collected: ContextVar[list[NewJob] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[NewJob]]:
    """Collect the jobs of this thread, to queue them later."""
    jobs: list[NewJob] = []
    token = _collected.set(jobs)
    try:
        yield jobs
    finally:
        _collected.reset(token)


def collected() -> list[NewJob] | None:
    """Return the list in which this thread collects jobs, or None if it queues them at once."""
    return _collected.get()
