"""Limit the HTTP requests handled at once; those that wait for their peers do not count."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Turn:
    """One request's turn to work: it is given up while bytes of the peer are waited for.

    Parameters
    ----------
    turns : threading.Semaphore
        How many there are.
    """

    def __init__(self, turns: threading.Semaphore) -> None:
        self._turns = turns

    def __enter__(self) -> Turn:
        self._turns.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.release()

    def while_away(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what waits for the peer, without a turn meanwhile."""
        self._turns.release()
        try:
            return function(*args)
        finally:
            self._turns.acquire()


class Input:
    """The body of a request, whose reader gives up its turn while it waits.

    Parameters
    ----------
    stream : binary file
        What it is read from.
    turn : Turn
        Whose turn it is.
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
