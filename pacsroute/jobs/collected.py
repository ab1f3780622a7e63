"""Jobs that a function puts while it runs, kept until they can be committed with its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from pacsroute.jobs.rows import NewJob

_collected: ContextVar[list[NewJob] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[NewJob]]:
    """Collect the jobs of this thread, and queue them later."""
    jobs: list[NewJob] = []
    token = _collected.set(jobs)
    try:
        yield jobs
    finally:
        _collected.reset(token)


def collected() -> list[NewJob] | None:
    """Return where this thread collects jobs; None if it puts them at once."""
    return _collected.get()
