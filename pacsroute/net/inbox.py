"""The received messages that wait to be taken, and the cancelled requests."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Container

from pacsroute.dimse.commands import CCancelRQ, Command, Response
from pacsroute.dimse.messages import Assembler, Message, Sink
from pacsroute.errors import ProtocolError
from pacsroute.framework.observer import Traffic
from pacsroute.upper_layer.pdu import UNEXPECTED_PARAMETER, PDataTF

_BUSY = 4  # requests to read ahead of the current one
_UNANSWERED = 64  # messages to accept while waiting for a response
_AHEAD = 1_048_576  # maximum bytes of these messages, except for the first


class Inbox:
    """Assembles messages from fragments, and keeps them until they are taken.

    Only the reading thread calls `add`. If operations overlap, other threads wait for their
    responses in `wait_for_response`; `_arrived` guards the messages, and wakes those threads.

    Parameters
    ----------
    open_sink : callable
        As for `pacsroute.dimse.messages.Assembler`.
    max_command_length : int
        The longest accepted command set, in bytes.
    max_response_length : int
        The longest data set of a response; it is read to its end up to twice that.

    Attributes
    ----------
    waiting : deque of Message
        The messages that were received but not taken; read-only for callers.
    window : int
        How many operations may overlap (PS3.7 §D.3.3.3).
    traffic : Traffic or None
        Counts the received requests, if they are monitored.
    """

    def __init__(
        self,
        open_sink: Callable[[int, Command], Sink],
        max_command_length: int = 65_536,
        max_response_length: int = 4_194_304,
    ) -> None:
        self.window = 1
        self.traffic: Traffic | None = None
        self._longest = 2 * max_response_length
        self._assembler = Assembler(open_sink, max_command_length)
        self.waiting: deque[Message] = deque()
        self._cancelled: set[int] = set()
        self._reader = 0
        # Reentrant: the garbage collector may close an iterator while a thread holds the lock.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._sleepers = 0  # threads
        self._ended = False

    # ------------------------------------------------------------- the thread that reads

    @property
    def partial(self) -> int | None:
        """The number of bytes received of an incomplete message; None between messages.

        Bytes of a response do not count: they do not give a peer more time.
        """
        assembler = self._assembler
        if assembler.command is None:
            return assembler.size if assembler.begun else None
        return 0 if isinstance(assembler.command, Response) else assembler.size

    @property
    def is_busy(self) -> bool:
        """Whether the limit of messages to read ahead is reached."""
        return len(self.waiting) >= _BUSY

    def read_here(self) -> None:
        """Make the calling thread the reading thread."""
        self._reader = threading.get_ident()

    @property
    def is_read_here(self) -> bool:
        """Whether the calling thread is the reading thread."""
        return threading.get_ident() == self._reader

    def add(self, data: PDataTF, contexts: Container[int]) -> bool:
        """Take received fragments; return whether they complete a message.

        Parameters
        ----------
        data : PDataTF
            Its fragments are copied, or written to a sink.
        contexts : container of int
            The IDs of the accepted presentation contexts.

        Raises
        ------
        ProtocolError
            If a fragment is out of place, or too many messages wait.
        """
        whole = False
        for pdv in data.pdvs:
            if pdv.context_id not in contexts:
                raise ProtocolError(
                    f"a PDV on context {pdv.context_id}, which was not accepted",
                    UNEXPECTED_PARAMETER,
                )
            for message in self._assembler.add(pdv):
                whole = True
                self._queue(message)
        if self._assembler.size > self._longest:
            self._check_response()
        return whole

    def _check_response(self) -> None:
        """Refuse a response that is too long."""
        if isinstance(self._assembler.command, Response):
            raise ProtocolError(f"a response of more than {self._longest} bytes")

    def _queue(self, message: Message) -> None:
        """Queue a message until it is taken; note a C-CANCEL for `is_cancelled`."""
        command = message.command
        if isinstance(command, CCancelRQ):
            self._cancelled.add(command.message_id_responded_to)
            return
        if self._cancelled:
            # A late C-CANCEL does not apply to a new request with the same ID.
            self._cancelled.discard(getattr(command, "message_id", -1))
        if self.traffic is not None and not isinstance(command, Response):
            self.traffic.take(command.name, 0 if message.data is None else message.size or 0)
        if self.window > 1:
            with self._lock:
                self.waiting.append(message)
                if self._sleepers:
                    self._arrived.notify_all()
        else:  # no other thread takes messages
            self.waiting.append(message)
        if len(self.waiting) > 1:
            self._check()

    def _check(self) -> None:
        """Refuse more messages than a peer may send before it waits for responses."""
        if len(self.waiting) > _UNANSWERED + self.window:
            raise ProtocolError("too many messages sent ahead")
        behind = itertools.islice(self.waiting, 1, None)
        if sum(message.in_memory for message in behind) > _AHEAD:
            raise ProtocolError("too much data sent ahead")

    # ------------------------------------------------------------- taking messages

    def next(self) -> Message:
        """Take the oldest message; at least one must be waiting."""
        return self.waiting.popleft()

    def next_request(self) -> Message | None:
        """Take the oldest request, and leave the responses."""
        with self._lock:
            for place, message in enumerate(self.waiting):
                if not isinstance(message.command, Response):
                    del self.waiting[place]
                    return message
        return None

    def response(self, message_id: int) -> Message | None:
        """Take the response to a request of ours."""
        if not self.waiting:
            return None
        with self._lock:
            return self._response(message_id)

    def _response(self, message_id: int) -> Message | None:
        for place, message in enumerate(self.waiting):
            command = message.command
            if isinstance(command, Response) and command.message_id_responded_to == message_id:
                del self.waiting[place]
                return message
        return None

    def wait_for_response(self, message_id: int, seconds: float) -> Message | None:
        """Take the response to a request of ours, which another thread reads.

        Return None if the association ends, or the time is up.
        """
        with self._arrived:
            self._sleepers += 1
            try:
                found = self._arrived.wait_for(
                    lambda: self._response(message_id) or self._ended, seconds
                )
            finally:
                self._sleepers -= 1
        return found if isinstance(found, Message) else None

    def is_cancelled(self, message_id: int) -> bool:
        """Return whether the peer has cancelled a request."""
        return message_id in self._cancelled

    # ------------------------------------------------------------- the end

    def wake(self) -> None:
        """Wake the threads that wait for a response: no more will come. Any thread may call it."""
        with self._lock:
            self._ended = True
            if self._sleepers:
                self._arrived.notify_all()

    def close(self) -> None:
        """Drop waiting and incomplete messages; the reading thread calls it."""
        self._assembler.close()
        self.waiting.clear()
