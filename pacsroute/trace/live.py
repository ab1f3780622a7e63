"""Live traces of associations."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from pacsroute.trace.conversation import Conversation
from pacsroute.trace.text import Trace
from pacsroute.upper_layer.pdu import Buffer
from pacsroute.upper_layer.tap import Link, TapFactory


def tracer(
    write: Callable[[str], object],
    *,
    values: bool = False,
    width: Callable[[], int] = lambda: 100,
) -> TapFactory:
    """Return the factory of tracers for associations, for `App.taps`.

    Parameters
    ----------
    write : callable
        Called with some lines of text, by one thread at a time.
    values, width
        As for `pacsroute.trace.text.Trace`.

    Examples
    --------
    ::

        app.taps.append(tracer(print))
    """
    numbers = itertools.count(1)
    writing = threading.Lock()

    def write_alone(text: str) -> None:
        with writing:
            write(text)

    def make(link: Link) -> _Live:
        trace = Trace(
            Conversation.of(link),
            write_alone,
            label=f"#{next(numbers)} ",
            values=values,
            width=width,
        )
        return _Live(trace, we_request=link.role == "requestor")

    return make


class _Live:
    """A `Tap` that shows an association."""

    def __init__(self, trace: Trace, *, we_request: bool) -> None:
        self._trace = trace
        self._we_request = we_request
        self._lock = threading.Lock()

    def received(self, data: Buffer) -> None:
        with self._lock:
            self._trace.add(time.time(), not self._we_request, data)

    def sent(self, data: Buffer) -> None:
        with self._lock:
            self._trace.add(time.time(), self._we_request, data)

    def closed(self) -> None:
        with self._lock:
            self._trace.end()
