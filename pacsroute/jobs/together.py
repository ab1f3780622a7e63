"""Jobs that are committed in another transaction, such as that of an archive's index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pacsroute.jobs.database import Row, with_percent
from pacsroute.jobs.opening import Opened
from pacsroute.jobs.rows import NewJob, Put, with_json

Execute = Callable[[str, Mapping[str, Any]], Any]


class Together:
    """See `pacsroute.framework.work.Together`.

    Parameters
    ----------
    opened : Opened
        The queue.
    jobs : list of NewJob
        The collected jobs.
    wake : callable
        Called when the jobs may start.
    """

    def __init__(self, opened: Opened, jobs: list[NewJob], wake: Callable[[], object]) -> None:
        self._opened = opened
        self._jobs = jobs
        self._wake = wake
        self._put: Put | None = None
        self._is_committed = False

    def put_in(self, execute: Execute) -> None:
        """See `Together.put_in`."""
        self._put = self._opened.queue.put_in(_Statements(execute), with_json(self._jobs))

    def committed(self) -> None:
        """See `Together.committed`."""
        if self._put is not None:
            self._is_committed = True
            self._opened.queue.was_put(self._put)
            self._wake()

    def forget(self) -> None:
        """Remove the instances of jobs that were not queued."""
        if not self._is_committed:
            for job in self._jobs:
                self._opened.files.remove(job.arguments.get("file"))


class _Statements:
    """A transaction of another component, for the queue."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def run(self, statement: str, /, **values: Any) -> list[Row]:
        cursor = self._execute(with_percent(statement), values)
        return list(cursor.fetchall()) if cursor.description is not None else []
