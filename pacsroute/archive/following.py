"""The jobs that follow from an instance that was stored, and are put into the queue with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pacsroute.framework.work import Together, WorkQueue
from pacsroute.instances.instance import Instance


class Following:
    """Calls what `Archive.stored` has registered, so that its jobs are there with the instance.

    Where queue and index are in the same database, the jobs are put in the transaction of the
    instance's row: neither is there without the other. Elsewhere they are put once the row is
    there, and again if the instance comes again: its sender has had no Success before.

    Parameters
    ----------
    function : callable
        Called with the instance where it is now.
    work : WorkQueue
        The queue.
    url : str
        Where the index is; empty for a file.
    """

    def __init__(self, function: Callable[[Instance], object], work: WorkQueue, url: str) -> None:
        self._function = function
        self._work = work
        self.is_shared = bool(url) and work.is_in(url)

    @contextlib.contextmanager
    def with_row(self, instance: Instance) -> Iterator[Together | None]:
        """Collect the jobs of an instance before its row is written; None if they come later."""
        if not self.is_shared:
            yield None
            return
        with self._work.together() as jobs:
            self._function(instance)
            yield jobs

    def after(self, instance: Instance) -> None:
        """Queue the jobs of an instance that is in the index, if they were not queued with it."""
        if not self.is_shared:
            self._function(instance)
