"""Limit the HTTP requests handled at once, and leave associations their share of the interpreter.

The interpreter runs one thread at a time. An association releases it with each system call,
several times for each message, and would wait for all HTTP requests each time. So while
associations are at work, one HTTP request works at a time, and all of them together leave as much
time free as they take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pacsroute.net.at_work import ASSOCIATIONS

_LATELY = 0.05  # seconds for which an association counts as at work
_LOOK = 0.002  # seconds after which it shows whether they use the time that is left to them
_DEBT = 0.01  # the most that is left to them at a time
_PATIENCE = 0.05  # seconds after which a turn begins beside another, which may wait for a disk
_STEP = 0.001  # seconds of work after which another may have a turn


class Turns:
    """The turns of a process.

    Parameters
    ----------
    most : int
        How many requests work at once: the setting ``web_threads``.

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
        """Begin to work, as soon as it is fair; return what `give_back` takes."""
        self._places.acquire()
        if not self.are_associations_at_work():
            self._debt = 0.0
            return False
        self.note()
        is_alone = self._alone.acquire(timeout=_PATIENCE)
        if self._have_read:  # else they wait for their peers, and HTTP owes them the time
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
        """Count the processor time of this thread; return how much it was since the last time."""
        now = time.thread_time()
        spent: float = now - getattr(self._thread, "noted", now)
        self._thread.noted = now
        self._debt = min(self._debt + spent, _DEBT)  # two threads at once may lose a little of it
        return spent

    def are_associations_at_work(self) -> bool:
        """Return whether an association has read something of late."""
        if ASSOCIATIONS.seen:
            ASSOCIATIONS.seen = False
            self._have_read = True
            self._at_work_until = time.monotonic() + _LATELY
            return True
        return time.monotonic() < self._at_work_until

    def _leave_time(self) -> None:
        """Wait as long as HTTP has worked, while associations make use of it."""
        debt, self._debt = self._debt, 0.0
        while debt > 0:
            time.sleep(min(debt, _LOOK))
            debt -= _LOOK
            if not ASSOCIATIONS.seen:
                return
            self.are_associations_at_work()


class Turn:
    """One request's turn to work: it is given up while bytes of the peer are waited for.

    Parameters
    ----------
    turns : Turns
        Those of the process.
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
        """Call a function that waits for the peer, without holding the turn."""
        self._turns.give_back(self._is_alone)
        try:
            return function(*args)
        finally:
            self._is_alone = self._turns.take()

    def pause(self) -> None:
        """Give others a turn between two steps, after working for a while."""
        if not self._turns.are_associations_at_work():
            return
        self._worked += self._turns.note()
        if self._worked > _STEP:
            self._worked = 0.0
            self.while_away(lambda: None)


class Input:
    """The body of a request, whose reader gives up its turn while it waits.

    Parameters
    ----------
    stream : binary file
        The file to read.
    turn : Turn
        Its turn.
    """

    def __init__(self, stream: Any, turn: Turn) -> None:
        self._stream = stream
        self._turn = turn

    def read(self, *size: int) -> bytes:
        """Read some bytes."""
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
    """The body of a response, whose parts are made in turn, and sent without one."""

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
        """End it: what follows a response is worked on in turn, too."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            with self._turn:
                close()
