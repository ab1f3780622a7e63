"""Assemble messages from PDVs, and fragment them (PS3.7 §6.3, PS3.8 Annex E)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

from pacsroute.dimse import command_set
from pacsroute.dimse.commands import Command
from pacsroute.errors import ProtocolError
from pacsroute.upper_layer.pdu import PDV, UNEXPECTED_PARAMETER, Buffer

_HEADER = struct.Struct(">BxIIBB")  # of a P-DATA-TF and its single PDV
_COMMAND, _LAST = 1, 2
_EMPTY = 64  # empty fragments in a message before it is refused


class Sink(Protocol):
    """A receiver of the bytes of a data set as they arrive."""

    def write(self, data: memoryview, /) -> object:
        """Take a fragment; the view is not valid afterwards. It must not raise."""


class Message(NamedTuple):
    """A complete message: its context, its command, and its data set, if any."""

    context_id: int
    command: Command
    data: Sink | None = None

    @property
    def size(self) -> int | None:
        """The length of the data set in bytes; None if there is none."""
        data = self.data
        if data is None:
            return None
        return len(data) if isinstance(data, bytearray) else getattr(data, "size", None)

    @property
    def in_memory(self) -> int:
        """The bytes of the data set that are not in a file."""
        return getattr(self.data, "in_memory", 0)


def message_ids() -> Iterator[int]:
    """Return an iterator of Message IDs for the requests of one association."""
    return itertools.cycle(range(1, 0x10000))


class Assembler:
    """Assembles the messages of one association from their fragments.

    Parameters
    ----------
    open_sink : callable
        Called with the context ID and the command of each message that has a data
        set; returns the sink for its bytes.
    maximum_command_length : int
        The maximum length of a command set, in bytes.

    Attributes
    ----------
    command : Command or None
        The command of the message whose data set is awaited.
    begun : bool
        Whether part of a command set has arrived.
    size : int
        The number of bytes received of the incomplete message.
    """

    def __init__(
        self,
        open_sink: Callable[[int, Command], Sink],
        maximum_command_length: int = 65_536,
    ) -> None:
        self.command: Command | None = None
        self.size = 0
        self._open_sink = open_sink
        self._limit = maximum_command_length
        self._bytes = bytearray()
        self.begun = False
        self._context_id = 0
        self._sink: Sink | None = None
        self._empty = 0

    @property
    def partial(self) -> bool:
        """Whether a message is incomplete."""
        return self.command is not None or self.begun

    @property
    def incomplete(self) -> Message | None:
        """The message whose data set is awaited, with the received part."""
        if self.command is None:
            return None
        return Message(self._context_id, self.command, self._sink)

    def close(self) -> None:
        """Drop the incomplete message."""
        close = getattr(self._sink, "close", None)
        if close is not None:
            close()
        self.command = self._sink = None
        self._open_sink = _closed

    def add(self, pdv: PDV) -> list[Message]:
        """Take the next fragment; return the messages that it completes.

        It completes at most one, unless a peer announced a data set but sent the next command
        instead: then that data set is empty.

        Raises
        ------
        ProtocolError
            If the fragment is out of place.
        """
        context_id, is_command, is_last, fragment = pdv
        done: list[Message] = []
        if is_last:
            self._empty = self.size = 0
        elif fragment:
            self.size += len(fragment)
        else:
            self._empty += 1
            if self._empty > _EMPTY:
                raise ProtocolError(f"more than {_EMPTY} fragments without a byte")
        if is_command:
            if self.command is not None:
                if self._sink is not None:
                    raise ProtocolError("a command inside a data set", UNEXPECTED_PARAMETER)
                done.append(Message(self._context_id, self.command))
                self.command = None
            if self.begun and context_id != self._context_id:
                raise ProtocolError("fragments of two messages mixed", UNEXPECTED_PARAMETER)
            self._context_id = context_id
            if self.begun or not is_last:
                self._bytes += fragment
                fragment = self._bytes
            self.begun = not is_last
            if len(fragment) > self._limit:
                raise ProtocolError(f"a command set of more than {self._limit} bytes")
            if is_last:
                command = command_set.decode(fragment)
                if self._bytes:
                    self._bytes = bytearray()
                if command.has_data_set:
                    self.command = command
                else:
                    done.append(Message(context_id, command))
            return done
        if self.command is None or context_id != self._context_id:
            raise ProtocolError("a data set that no command announced", UNEXPECTED_PARAMETER)
        if self._sink is None:
            self._sink = self._open_sink(context_id, self.command)
        self._sink.write(memoryview(fragment))
        if is_last:
            done.append(Message(context_id, self.command, self._sink))
            self.command = self._sink = None
        return done


def _closed(context_id: int, command: Command) -> Sink:
    raise ProtocolError("a data set after the end")


def fragment(
    context_id: int,
    command: Command,
    data: bytes | memoryview | None,
    maximum_length: int,
    *,
    follows: bool = False,
) -> list[Buffer]:
    """Fragment a message into encoded P-DATA-TF PDUs.

    Parameters
    ----------
    maximum_length : int
        The peer's limit for the variable field of a PDU, in bytes; 0 for no limit. Fragments
        are of even length.
    follows : bool
        Whether a data set follows that is streamed, not passed here.

    Examples
    --------
    >>> from pacsroute.dimse.commands import CEchoRQ
    >>> pdus = fragment(1, CEchoRQ(message_id=1), None, 16384)
    >>> [len(part) for part in pdus]
    [62]
    """
    command.has_data_set = data is not None or follows
    room = (maximum_length or 0x7FFF_FFFE) - 6 & ~1
    if room < 2:
        raise ValueError(f"a maximum length of {maximum_length} holds no fragment")
    encoded = command_set.encode(command)
    size = len(encoded)
    if size <= room:
        header = _HEADER.pack(4, size + 6, size + 2, context_id, _COMMAND | _LAST)
        parts: list[Buffer] = [header + encoded]
    else:
        parts = _cut(context_id, encoded, room, _COMMAND)
    if data is not None:
        if len(data) <= room:
            parts += (_HEADER.pack(4, len(data) + 6, len(data) + 2, context_id, _LAST), data)
        else:
            parts += _cut(context_id, data, room, 0)
    return parts


def _cut(context_id: int, data: bytes | memoryview, room: int, control: int) -> list[Buffer]:
    view, parts = memoryview(data), list[Buffer]()
    for start in range(0, len(view), room):
        piece = view[start : start + room]
        last = _LAST if start + room >= len(view) else 0
        header = _HEADER.pack(4, len(piece) + 6, len(piece) + 2, context_id, control | last)
        parts += (header, piece)
    return parts


BATCH = 1_048_576
"""The number of bytes of a file that are read and sent at a time."""

PIECES = 4096
"""The maximum number of PDUs per batch: a peer may allow only two bytes in each, and not read."""


def stream(
    context_id: int, file: BinaryIO, size: int, maximum_length: int, room: memoryview
) -> Iterator[list[Buffer]]:
    """Fragment a data set from a file into P-DATA-TF PDUs, in batches.

    The buffers of one step are valid until the next.

    Parameters
    ----------
    file : binary file
        The file, positioned at the data set.
    size : int
        The length of the data set in bytes. An odd length is padded with a NUL.
    maximum_length : int
        As for `fragment`.
    room : memoryview
        The buffer that the bytes are read into: of even length, with room for all of them and the
        NUL, or for `BATCH`.

    Raises
    ------
    EOFError
        If the file ends before the data set does.
    """
    length = min(maximum_length or BATCH, BATCH) - 6 & ~1
    batch = room[: min(max(1, len(room) // length), PIECES) * length]
    left = size
    while True:
        count = 0
        wanted = min(left, len(batch))
        while count < wanted:
            read = file.readinto(batch[count:wanted])  # type: ignore[attr-defined]
            if not read:
                raise EOFError(f"a data set of {size} bytes ends {left - count} bytes too early")
            count += read
        left -= count
        if left == 0 and size & 1:
            batch[count] = 0
            count += 1
        parts: list[Buffer] = []
        for start in range(0, count, length) or (0,):
            piece = batch[start : min(start + length, count)]
            last = _LAST if left == 0 and start + length >= count else 0
            parts += (_HEADER.pack(4, len(piece) + 6, len(piece) + 2, context_id, last), piece)
        yield parts
        if left == 0:
            return
