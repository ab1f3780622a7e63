"""The sending half of an association: at once, held back for a moment, or read from a file."""

from __future__ import annotations

import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

from pacsroute.config import Config
from pacsroute.dimse.commands import Command
from pacsroute.dimse.messages import BATCH, PIECES, fragment, stream
from pacsroute.errors import ReadFailed
from pacsroute.framework.base import BaseApp
from pacsroute.net import transport
from pacsroute.net.channel import Channel
from pacsroute.net.flusher import flusher
from pacsroute.upper_layer.pdu import Buffer

_HELD_BACK = 65_536  # bytes of answers that are sent together at the most
_PULSE = 0.9  # seconds after which a Pending is due, where one a second has to go


class Sender(Channel):
    """A channel that sends messages.

    Parameters
    ----------
    app : App
        Whose observer is told.
    sock, config, remote_address, role, tls
        As `Channel` has them.
    """

    def __init__(
        self,
        sock: socket.socket,
        app: BaseApp,
        config: Config,
        remote_address: str,
        role: Literal["acceptor", "requestor"],
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(sock, config, remote_address, role, tls)
        self.app = app
        self.window = 1
        self._peer_maximum = 0
        self._room: memoryview | None = None
        self._held: list[Buffer] = []
        self._held_size = 0
        self._holding = False
        self._pulses: dict[int, Callable[[], tuple[int, Command]]] = {}
        self._pulsed = 0.0
        self._unanswered: set[int] = set()  # Message IDs, where operations overlap

    def send(
        self,
        context_id: int,
        command: Command,
        data: bytes | BinaryIO | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Send a message.

        Parameters
        ----------
        context_id : int
            Of an accepted presentation context.
        command : Command
            The command set.
        data : bytes or binary file, optional
            The data set, in the context's transfer syntax; an odd number of bytes is made
            even with a NUL. A file is read from where it stands, while it is sent. If that
            fails the association is aborted, for its peer has had half of a message.
        more : bool
            Whether others follow at once. The message may wait for them then, up to 50 ms.

        Raises
        ------
        AssociationAborted, AssociationReleased
            If the association has ended.
        """
        if self._ended is not None:
            raise self._ended
        if isinstance(data, io.BytesIO):
            data = data.read()
        if isinstance(data, bytes) and len(data) > PIECES * self._peer_maximum > 0:
            data = io.BytesIO(data)
        if not (data is None or isinstance(data, bytes)):
            self._send_file(context_id, command, data)
            return
        if data is not None and len(data) & 1:
            data += b"\0"
        buffers = fragment(context_id, command, data, self._peer_maximum)
        if data is not None:
            self.app.observer.sent(command, len(data))
        with self._lock:
            if not (more or self._holding or self.window > 1):
                self._connection.send_data(buffers)
                self._write_out()
                return
            if not more:  # before it goes: the peer may release as soon as it has it
                self._unanswered.discard(getattr(command, "message_id_responded_to", 0))
            self._held += buffers
            if more:
                self._held_size += sum(map(len, buffers))
                if not self._holding:
                    self._holding = True
                    flusher.add(self)
                if self._held_size < _HELD_BACK:
                    return
            elif not self._pulses:
                self._holding = False
                flusher.remove(self)
            self._flush()

    def _send_file(self, context_id: int, command: Command, file: BinaryIO) -> None:
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        with self._lock:
            # Made once for many: new memory costs as much as what is read into it.
            needed = min(BATCH, size + 2 & ~1)
            room = self._room  # which another thread, in `receive`, may let go of
            if room is None or len(room) < needed:
                room = self._room = memoryview(bytearray(needed))
            batches = stream(context_id, file, size, self._peer_maximum, room)
            batch = self._next_batch(batches)
            self._held += fragment(context_id, command, None, self._peer_maximum, follows=True)
            deadline = time.monotonic() + self.config.message_timeout
            while batch is not None:
                self._held += batch
                self._flush(deadline)
                batch = self._next_batch(batches)
        self.app.observer.sent(command, size)

    def _next_batch(self, batches: Iterator[list[Buffer]]) -> list[Buffer] | None:
        try:
            return next(batches, None)
        except (OSError, EOFError) as error:
            why = f"reading an instance failed: {getattr(error, 'strerror', None) or error}"
            self._flush()  # of an earlier message a part may have gone already
            self._give_up(why)
            raise ReadFailed(0, message=why) from None

    def pulse(self, make: Callable[[], tuple[int, Command]] | None) -> None:
        """Have a message sent whenever nothing else has been for a second; None ends it.

        Parameters
        ----------
        make : callable
            Called by another thread, soon and between messages; returns a context ID and
            a command.
        """
        with self._lock:
            self._pulsed = time.monotonic()
            if make is None:
                self._pulses.pop(threading.get_ident(), None)
                return
            self._pulses[threading.get_ident()] = make
            if not self._holding:
                self._holding = True
                flusher.add(self)

    def _flush(self, deadline: float = 0.0) -> None:
        """Send what is held back; the lock is ours."""
        self._pulsed = time.monotonic()
        self._connection.send_data(self._held)
        self._held, self._held_size = [], 0
        self._write_out(deadline)

    def flush_waiting(self) -> None:
        """Send answers that wait for a slow handler, as far as that needs no waiting."""
        if not self._lock.acquire(blocking=False):
            return  # the association's own thread is sending
        try:
            if self._pulses and time.monotonic() - self._pulsed > _PULSE:
                self._pulsed = time.monotonic()
                if not self._held:  # what waits already says that we are alive
                    for make in self._pulses.values():
                        context_id, command = make()
                        self._held += fragment(context_id, command, None, self._peer_maximum)
            if self._held and self._ended is None:
                data = b"".join(self._held)
                sent = self._socket.send(data, transport.DONTWAIT)
                self._held = [data[sent:]] if sent < len(data) else []
                self._held_size = len(data) - sent
                self._halfway = bool(self._held)
        except OSError:
            pass  # the association's own thread meets it too, and knows what to do
        finally:
            self._lock.release()

    def close(self) -> None:
        """Hold nothing back any more, and close the socket as `Channel.close` does."""
        if self._holding:
            self._holding = False
            flusher.remove(self)
        super().close()
