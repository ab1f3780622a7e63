"""Limit concurrent HTTP requests, and leave associations their share of the interpreter.

The interpreter runs one thread at a time. An association releases it with each system call,
several times per message, and would wait for all HTTP requests each time. So while associations
are active, only one HTTP request runs at a time, and HTTP as a whole leaves as much time free as it
uses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pacsroute.net.at_work import ASSOCIATIONS

_LATELY = 0.05  # seconds after a read during which an association counts as active
_LOOK = 0.002  # seconds between checks whether associations use the time left to them
_DEBT = 0.01  # most seconds left to them at a time
_PATIENCE = 0.05  # seconds until a turn starts beside another, which may be waiting for a disk
_STEP = 0.001  # seconds of work before another request may get a turn


class Turns:
    """The turns of a process.

    Parameters
    ----------
    most : int
        The maximum number of requests running at once: the setting ``web_threads``.

    Examples
    --------
    >>> turns = Turns(16)
    >>> with Turn(turns) as turn:
    ...     turn.pause()
    """

    def __init__(self, most: int) -> None:
        self._places = threading.BoundedSemaphore(most)
        self._alone = threading.Lock()
        self._thread = threading.local()
        self._debt = 0.0
        self._at_work_until = 0.0
        self._have_read = False

    def take(self) -> bool:
        """Start a turn as soon as that is fair; return the argument for `give_back`."""
        self._places.acquire()
        if not self.are_associations_at_work():
            self._debt = 0.0
            return False
        self.note()
        is_alone = self._alone.acquire(timeout=_PATIENCE)
        if self._have_read:  # otherwise they wait for their peers, and HTTP still owes them time
            self._have_read = False
            self._leave_time()
        return is_alone

    def give_back(self, is_alone: bool) -> None:
        """End a turn."""
        if time.monotonic() < self._at_work_until:
            self.note()
        if is_alone:
            self._alone.release()
        self._places.release()

    def note(self) -> float:
        """Count this thread's processor time; return the time since the last call."""
        now = time.thread_time()
        spent: float = now - getattr(self._thread, "noted", now)
        self._thread.noted = now
        self._debt = min(self._debt + spent, _DEBT)  # two threads at once may lose a little of it
        return spent

    def are_associations_at_work(self) -> bool:
        """Return whether an association has read anything recently."""
        if ASSOCIATIONS.seen:
            ASSOCIATIONS.seen = False
            self._have_read = True
            self._at_work_until = time.monotonic() + _LATELY
            return True
        return time.monotonic() < self._at_work_until

    def _leave_time(self) -> None:
        """Wait as long as HTTP has worked, if associations use the time."""
        debt, self._debt = self._debt, 0.0
        while debt > 0:
            time.sleep(min(debt, _LOOK))
            debt -= _LOOK
            if not ASSOCIATIONS.seen:
                return
            self.are_associations_at_work()


class Turn:
    """One request's turn to run, given up while it waits for the peer.

    Parameters
    ----------
    turns : Turns
        The turns of the process.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._is_alone = False
        self._worked = 0.0

    def __enter__(self) -> Turn:
        self._is_alone = self._turns.take()
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.give_back(self._is_alone)

    def while_away(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that waits for the peer, with the turn given up."""
        self._turns.give_back(self._is_alone)
        try:
            return function(*args)
        finally:
            self._is_alone = self._turns.take()

    def pause(self) -> None:
        """Give other requests a turn if this one has worked for a while."""
        if not self._turns.are_associations_at_work():
            return
        self._worked += self._turns.note()
        if self._worked > _STEP:
            self._worked = 0.0
            self.while_away(lambda: None)


class Input:
    """The body of a request; its reader gives up the turn while waiting.

    Parameters
    ----------
    stream : binary file
        The file to read.
    turn : Turn
        The turn of its request.
    """

    def __init__(self, stream: Any, turn: Turn) -> None:
        self._stream = stream
        self._turn = turn

    def read(self, *size: int) -> bytes:
        """Read bytes."""
        data: bytes = self._turn.while_away(self._stream.read, *size)
        return data

    def readline(self, *size: int) -> bytes:
        """Read a line."""
        data: bytes = self._turn.while_away(self._stream.readline, *size)
        return data

    def readlines(self, *hint: int) -> list[bytes]:
        """Read all lines."""
        lines: list[bytes] = self._turn.while_away(self._stream.readlines, *hint)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


class Output:
    """The body of a response: chunks are made with the turn held, and sent without it."""

    def __init__(self, chunks: Iterable[bytes], turn: Turn) -> None:
        self._chunks = chunks
        self._next = iter(chunks)
        self._turn = turn

    def __iter__(self) -> Output:
        return self

    def __next__(self) -> bytes:
        with self._turn:
            return next(self._next)

    def close(self) -> None:
        """Close the body with the turn held, since hooks run after the response."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            with self._turn:
                close()
