"""Outgoing messages: sent at once, held back for a moment, or read from a file."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from pacsroute.dimse.commands import Command
from pacsroute.dimse.messages import BATCH, PIECES, fragment, stream
from pacsroute.errors import ReadFailed
from pacsroute.framework.base import BaseApp
from pacsroute.framework.peer import PeerView
from pacsroute.net.channel import Channel
from pacsroute.net.flusher import flusher
from pacsroute.upper_layer.pdu import Buffer

_HELD_BACK = 65_536  # maximum bytes of answers to send together
_PULSE = 0.9  # seconds of silence before a keep-alive Pending


class Outbox:
    """Sends messages over a channel.

    Any thread may send. The channel's `sending` lock guards waiting messages and pulses; the
    sending threads hold it, and the flusher's thread for a moment at a time.

    Parameters
    ----------
    channel : Channel
        The channel to send over.
    app : App
        The app with the observer.
    peer : PeerView
        The association, for the observer.

    Attributes
    ----------
    maximum_length : int
        The peer's limit for the variable field of a P-DATA-TF, in bytes; 0 for no limit.
    overlapping : bool
        Whether operations may overlap (PS3.7 §D.3.3.3).
    """

    def __init__(self, channel: Channel, app: BaseApp, peer: PeerView) -> None:
        self.maximum_length = 0
        self.overlapping = False
        self._channel = channel
        self._app = app
        self._peer: PeerView | None = peer
        self._room: memoryview | None = None
        self._held: list[Buffer] = []
        self._held_size = 0
        self._holding = False  # whether the flusher will send the held-back messages
        self._pulses: dict[int, Callable[[], tuple[int, Command]]] = {}  # by thread
        self._pulsed = 0.0
        self._owed: set[int] = set()

    def send(
        self,
        context_id: int,
        command: Command,
        data: bytes | BinaryIO | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Send a message; see `Association.send`."""
        channel = self._channel
        if channel.ended is not None:
            raise channel.ended
        if data is not None:
            if isinstance(data, io.BytesIO):
                data = data.read()
            if not isinstance(data, bytes):
                self._send_file(context_id, command, data)
                return
            if len(data) > PIECES * self.maximum_length > 0:
                self._send_file(context_id, command, io.BytesIO(data))
                return
            if len(data) & 1:
                data += b"\0"
            self._tell_sent(command, len(data))
        buffers = fragment(context_id, command, data, self.maximum_length)
        with channel.sending:
            if not (more or self._holding or self.overlapping):
                channel.connection.send_data(buffers)
                channel.write_out()
                return
            if not more:  # before sending: the peer may release after this response
                self._owed.discard(getattr(command, "message_id_responded_to", 0))
            self._held += buffers
            if more:
                self._held_size += sum(map(len, buffers))
                self._hold()
                if self._held_size < _HELD_BACK:
                    return
            elif not self._pulses:
                self._holding = False
                flusher.remove(self)
            self._flush()

    def _hold(self) -> None:
        """Ask the flusher to send waiting messages; the caller holds `sending`."""
        if not self._holding:
            self._holding = True
            flusher.add(self)

    def _send_file(self, context_id: int, command: Command, file: BinaryIO) -> None:
        channel = self._channel
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        with channel.sending:
            # Reused: allocating new memory costs as much as reading into it.
            needed = min(BATCH, size + 2 & ~1)
            room = self._room  # another thread, in `receive`, may free it meanwhile
            if room is None or len(room) < needed:
                room = self._room = memoryview(bytearray(needed))
            batches = stream(context_id, file, size, self.maximum_length, room)
            batch = self._next_batch(batches)
            self._held += fragment(context_id, command, None, self.maximum_length, follows=True)
            while batch is not None:
                self._held += batch
                self._flush()
                batch = self._next_batch(batches)
        self._tell_sent(command, size)

    def _next_batch(self, batches: Iterator[list[Buffer]]) -> list[Buffer] | None:
        try:
            return next(batches, None)
        except (OSError, EOFError) as error:
            why = f"reading an instance failed: {getattr(error, 'strerror', None) or error}"
            self._flush()  # part of an earlier message may have been sent
            self._channel.give_up(why)
            raise ReadFailed(0, message=why) from None

    def free_room(self) -> None:
        """Free the buffer for reading files, so that idle associations do not keep it."""
        self._room = None

    # ------------------------------------------------------------- overlapping operations

    def owe(self, message_id: int) -> None:
        """Note a request that a thread other than the reading one answers."""
        self._owed.add(message_id)

    @property
    def owes(self) -> bool:
        """Whether the final response to such a request has not been sent yet."""
        return bool(self._owed)

    # ------------------------------------------------------------- held back

    def pulse(self, make: Callable[[], tuple[int, Command]] | None) -> None:
        """Send a keep-alive message after each second of silence; see `Association.pulse`."""
        with self._channel.sending:
            self._pulsed = time.monotonic()
            if make is None:
                self._pulses.pop(threading.get_ident(), None)
                return
            self._pulses[threading.get_ident()] = make
            self._hold()

    def _flush(self) -> None:
        """Send waiting messages; the caller holds `sending`."""
        self._pulsed = time.monotonic()
        self._channel.connection.send_data(self._held)
        self._held, self._held_size = [], 0
        self._channel.write_out()

    def flush_waiting(self) -> None:
        """Send answers that are held back by a slow handler, as far as possible without waiting.

        The flusher's thread calls it, for all associations: it must not block.
        """
        if not self._channel.sending.acquire(blocking=False):
            return  # the association's own thread is sending
        try:
            if self._pulses and time.monotonic() - self._pulsed > _PULSE:
                self._pulsed = time.monotonic()
                if not self._held:  # any held-back message serves as a keep-alive
                    for make in self._pulses.values():
                        context_id, command = make()
                        self._held += fragment(context_id, command, None, self.maximum_length)
            if self._held and self._channel.ended is None:
                data = b"".join(self._held)
                sent = self._channel.send_now(data)
                self._held = [data[sent:]] if sent < len(data) else []
                self._held_size = len(data) - sent
        except OSError:
            pass  # the association's own thread handles the error
        finally:
            self._channel.sending.release()

    def _tell_sent(self, command: Command, size: int) -> None:
        if self._peer is not None:
            self._app.observer.sent(self._peer, command, size)

    def close(self) -> None:
        """Stop holding messages back, and drop the reference to the association."""
        self._peer = None
        if self._holding:
            self._holding = False
            flusher.remove(self)
