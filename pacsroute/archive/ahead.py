"""Open the next instances of a retrieval while one is sent: each open takes milliseconds."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pacsroute.instances.instance import Instance

_THREADS = 16
_EACH = 4  # instances that one retrieval opens ahead
_ALL = 64  # instances that all retrievals open ahead; each takes up to a megabyte of memory


class Opener:
    """Opens instances ahead for all retrievals of a process."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "pacsroute-ahead")
        self._places = threading.BoundedSemaphore(_ALL)

    def close(self) -> None:
        """Stop opening instances."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, instance: Instance) -> Future[Instance]:
        """Open an instance, or return it unopened if too many are open already."""
        if self._places.acquire(blocking=False):
            try:
                future = self._pool.submit(instance.opened)
            except RuntimeError:  # it is closed
                self._places.release()
            else:
                return future
        return _done(instance)

    def end(self, future: Future[Instance]) -> None:
        """Free the place of an instance that is being sent or no longer needed."""
        if not isinstance(future, _Done):
            self._places.release()


class _Done(Future[Instance]):
    """An instance that is not opened ahead."""


def _done(instance: Instance) -> _Done:
    future = _Done()
    future.set_result(instance)
    return future


class Ahead(list[Instance]):
    """The instances of a retrieval, opened ahead during iteration.

    Parameters
    ----------
    instances : iterable of Instance
        The instances, in order.
    opener : Opener
        The archive's opener.
    """

    def __init__(self, instances: Iterable[Instance], opener: Opener) -> None:
        super().__init__(instances)
        self._opener = opener

    def __iter__(self) -> Iterator[Instance]:
        rest = super().__iter__()
        coming = deque(self._opener.begin(one) for one in itertools.islice(rest, _EACH))
        try:
            while coming:
                future = coming.popleft()
                try:
                    instance = future.result()
                finally:
                    self._opener.end(future)
                coming.extend(self._opener.begin(one) for one in itertools.islice(rest, 1))
                yield instance
        finally:
            for future in coming:
                self._opener.end(future)
                if not future.cancel():
                    future.add_done_callback(_forget)


def _forget(future: Future[Instance]) -> None:
    if future.exception() is None:
        future.result().forget()
