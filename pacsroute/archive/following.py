"""The jobs of a stored instance, queued together with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pacsroute.framework.work import Together, WorkQueue
from pacsroute.instances.instance import Instance


class Following:
    """Calls the functions of `Archive.stored`, and queues their jobs with the instance.

    If queue and index share a database, the jobs are queued in the transaction that writes the
    instance's row: both are committed, or neither. Otherwise they are queued after the row is
    written, and again if the instance is resent, as a sender does if it has not received Success.

    Parameters
    ----------
    function : callable
        Called with the stored instance.
    work : WorkQueue
        The queue.
    url : str
        The URL of the index; empty for a file.
    """

    def __init__(self, function: Callable[[Instance], object], work: WorkQueue, url: str) -> None:
        self._function = function
        self._work = work
        self.is_shared = bool(url) and work.is_in(url)

    @contextlib.contextmanager
    def with_row(self, instance: Instance) -> Iterator[Together | None]:
        """Collect the jobs of an instance before its row is written; None if that is done later."""
        if not self.is_shared:
            yield None
            return
        with self._work.together() as jobs:
            self._function(instance)
            yield jobs

    def after(self, instance: Instance) -> None:
        """Queue the jobs of an indexed instance, if they were not queued with its row."""
        if not self.is_shared:
            self._function(instance)
