"""A decoder's process, as its parent sees it."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from pacsroute.child_processes import start_child
from pacsroute.errors import DataSetError
from pacsroute.instances.decoding.channel import hear, tell

TICK = 0.25
"""Seconds after which a thread that waits looks whether its peer is still there."""

_PROGRAM = "pacsroute.instances.decoding"
_SOON = 0.01
_DYING = 2.0  # seconds from when a process closes its files to when it has ended

Wanted = Callable[[], bool]
"""Tells whether the result of a decoder is still wanted."""


def check_wanted(wanted: Wanted | None) -> None:
    """Raise a `DataSetError` if the result is no longer wanted."""
    if wanted is not None and not wanted():
        raise DataSetError("the result is no longer wanted")


class Child:
    """A decoder's process."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = start_child(_PROGRAM, theirs)
            except BaseException:
                self.channel.close()
                raise
        self.is_free = True
        self.has_worked = False

    def begin(
        self, job: dict[str, Any], files: tuple[int, int], wanted: Wanted | None
    ) -> dict[str, Any]:
        """Give it a job; return its first answer. EOFError if it has died."""
        self._say(job, files)
        return self._answer(wanted)

    def go_on(self, wanted: Wanted | None) -> dict[str, Any]:
        """Continue its job; return its next answer. EOFError if it has died."""
        self._say({})
        return self._answer(wanted)

    def _say(self, message: dict[str, Any], files: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(OSError):  # that it has died shows when it has to answer
            tell(self.channel, message, files)

    def _answer(self, wanted: Wanted | None) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        while not poll.poll(None if wanted is None else TICK * 1000):
            check_wanted(wanted)
        try:
            return hear(self.channel)[0]
        except OSError:
            raise EOFError from None

    def end(self) -> int:
        """End it at once; return the signal or status that it ended with."""
        self.channel.close()
        self.process.kill()
        return self.process.wait()

    def last_words(self, seconds: float) -> str:
        """Return why it died: a frame took too long, or something else."""
        deadline = time.monotonic() + _DYING
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(_SOON)
        status = self.end()
        if -status in (signal.SIGXCPU, signal.SIGALRM):
            return f"a frame takes more than {seconds:g} s of decode_seconds"
        try:
            return f"the decoder was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"the decoder has ended with status {status}"
