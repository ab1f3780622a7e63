"""A recorded association as a script: the peer's messages, in turns."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pacsroute.dimse.commands import RequestCommand, Response
from pacsroute.dimse.messages import Message
from pacsroute.status import Status
from pacsroute.trace.conversation import Chunk, Conversation
from pacsroute.trace.files import read
from pacsroute.trace.wire import Frames, Seen, WireReader
from pacsroute.upper_layer.pdu import AssociateAC, Buffer

_PATIENCE = 5.0  # seconds that overlapping operations have to answer

# Command Field of a response, followed later by its Message ID Being Responded To.
_RESPONSE = re.compile(
    rb"\x00\x00\x00\x01\x02\x00\x00\x00.\x80.*?\x00\x00\x20\x01\x02\x00\x00\x00(..)", re.DOTALL
)


class Progress(NamedTuple):
    """The position of an acceptor in the script.

    Pending responses count only up to the next other response: their number before a cancel, or
    while a handler works, depends on the time.
    """

    others: int = 0
    pending: int = 0

    def and_then(self, seen: list[Seen]) -> Progress:
        """Return the position after these messages."""
        others, pending = self
        for one in seen:
            command = one.command if isinstance(one, Message) else None
            if isinstance(command, Response) and Status(command.status).category == "Pending":
                pending += 1
            else:
                others, pending = others + 1, 0
        return Progress(others, pending)


class Turn(NamedTuple):
    """The bytes that the requestor sends once the acceptor has reached this point."""

    data: bytes
    after: Progress


@dataclass
class Script:
    """An association, from the requestor's side.

    Attributes
    ----------
    turns : list of Turn
        The PDUs of the requestor; an empty one at the end means closing.
    said : list
        The same, decoded.
    answers : list
        The PDUs of the acceptor.
    """

    conversation: Conversation
    turns: list[Turn] = field(default_factory=list)
    said: list[Seen] = field(default_factory=list)
    answers: list[Seen] = field(default_factory=list)
    reader: WireReader = field(default_factory=lambda: WireReader(sys.maxsize))
    _frames: Frames = field(default_factory=Frames)
    _progress: Progress = field(default_factory=Progress)

    def add(self, chunk: Chunk) -> None:
        """Take the next recorded bytes."""
        seen = self.reader.add(chunk.by_requestor, chunk.data)
        if not chunk.by_requestor:
            self.answers += seen
            self._progress = self._progress.and_then(seen)
            return
        self.said += seen
        after = self._progress
        self.turns += [Turn(frame, after) for frame in self._frames.add(chunk.data)]
        if self._frames.lost:  # then unchanged
            self.turns.append(Turn(bytes(self._frames.rest), after))
            self._frames.rest.clear()

    def end(self) -> None:
        """Note the end of the recording."""
        after = self._progress
        if self._frames.rest:
            self.turns.append(Turn(bytes(self._frames.rest), after))
        self.turns.append(Turn(b"", after))


def scripts(file: str | os.PathLike[str]) -> Iterator[Script]:
    """Return the associations of a recording or capture."""
    under_way: dict[Conversation, Script] = {}
    for conversation, chunk in read(file):
        script = under_way.setdefault(conversation, Script(conversation))
        if chunk is not None:
            script.add(chunk)
            continue
        script.end()
        del under_way[conversation]
        if script.reader.request is not None:
            yield script


class Wire:
    """The requestor of a script, with the interface of an association's socket.

    When the association wants to read, it is the requestor's turn: no time passes, and
    nothing is sent over a network.

    Attributes
    ----------
    answers : list
        The PDUs of the association.
    """

    def __init__(self, script: Script) -> None:
        self.answers: list[Seen] = []
        self.reader = WireReader(sys.maxsize)
        self._progress = Progress()
        self._turns = deque(script.turns)
        self._ready = memoryview(b"")
        self._address = script.conversation.requestor
        self._recorded = iter(_message_ids(script.answers))
        self._ids: dict[int, int] = {}  # of the acceptor's requests: recorded to current
        self._patience = 0.0
        self._answered = threading.Condition()

    def recv_into(self, view: memoryview, size: int = 0, flags: int = 0) -> int:
        """Read the requestor's current bytes; any flags mean that this may have to wait."""
        if not self._ready:
            with self._answered:
                data = self._next(may_wait=not flags)
            self.reader.add(True, data)
            self._ready = memoryview(data)
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _next(self, *, may_wait: bool) -> bytes:
        if not self._turns:
            return b""
        data, after = self._turns[0]
        if self._progress < after:
            if not may_wait:
                raise BlockingIOError
            self._answered.wait_for(lambda: self._progress >= after, self._patience)
        self._turns.popleft()
        return self._adapted(data)

    def _adapted(self, data: bytes) -> bytes:
        """Give a response of the requestor the current Message ID of the request."""
        found = _RESPONSE.search(data, 0, 1024) if data[:1] == b"\4" else None
        if found is None:
            return data
        recorded = int.from_bytes(found[1], "little")
        number = self._ids.get(recorded, recorded).to_bytes(2, "little")
        return data[: found.start(1)] + number + data[found.end(1) :]

    def sendall(self, data: Buffer) -> None:
        """Accept the bytes that the association sends."""
        with self._answered:
            for seen in self.reader.add(False, data):
                self.answers.append(seen)
                self._progress = self._progress.and_then([seen])
                if isinstance(seen, AssociateAC):
                    overlap = seen.user_information.asynchronous_operations
                    self._patience = _PATIENCE if overlap else 0.0
                for number in _message_ids([seen]):
                    self._ids[next(self._recorded, number)] = number
            self._answered.notify_all()

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Accept the bytes that the association sends."""
        self.sendall(data)
        return len(data)

    def sendmsg(self, buffers: list[memoryview]) -> int:
        """Accept the bytes that the association sends."""
        return sum(map(self.send, buffers))

    def getpeername(self) -> tuple[str, int]:
        """Return the requestor's address."""
        host, _, port = self._address.rpartition(":")
        return host.strip("[]"), int(port) if re.fullmatch("[0-9]{1,5}", port) else 0

    getsockname = getpeername

    def fileno(self) -> int:
        """Raise: this is not a socket of the system."""
        raise OSError("not a socket")

    def setblocking(self, flag: bool) -> None:
        """Do nothing, since there is no network."""

    def setsockopt(self, *option: object) -> None:
        """Do nothing."""

    def shutdown(self, how: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _message_ids(answers: list[Seen]) -> list[int]:
    """Return the Message IDs of the acceptor's own requests."""
    return [
        seen.command.message_id
        for seen in answers
        if isinstance(seen, Message) and isinstance(seen.command, RequestCommand)
    ]
