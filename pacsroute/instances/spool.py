"""Where the bytes of a data set wait: in memory while few, in a temporary file beyond.

A data set that comes whole in one large PDU stays in the buffer that it was received into, and
is written once: when it is saved. Of others, what is beyond `THRESHOLD` goes to a file, which is
made where the last instance of the route was saved; saving it only gives it a name then.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable
from typing import BinaryIO

from pacsroute import memory
from pacsroute.config import Config
from pacsroute.instances.atomic_files import (
    copy,
    draft,
    make_folder,
    publish,
    start_write_back,
    write_all,
)
from pacsroute.instances.peek import LOOK
from pacsroute.instances.place import Place
from pacsroute.instances.reading import reader
from pacsroute.instances.room import Room, check_room
from pacsroute.upper_layer.buffers import buffers

THRESHOLD = 131_072
"""How many bytes of one data set are copied to memory, before they go to a file."""

LONGEST_KEPT = 1_048_576
"""How many bytes of one data set may stay in the buffer that they were received into."""

Claim = Callable[[memoryview], memoryview | None]
"""Asks for the buffer that a fragment is in; returns all of it, or None: it is used again."""

_MANY = 1024  # fragments that are held apart
_WRITE_BACK = 8 << 20  # bytes of a file that are written to the disk while the rest arrives
_SHARE = 4  # the part of max_memory up to which buffers are kept


class Spool:
    """Takes the fragments of one data set as they come.

    Parameters
    ----------
    head : bytes
        The bytes before the data set in a Part 10 file, so that the temporary file is one already.
    folder : str or None
        Where a temporary file goes; None is the system's folder for them.
    threshold : int
        How many bytes are held in memory before that.
    place : Place, optional
        Where it goes without a folder, if something was saved there.
    claim : callable, optional
        As `Claim`; without it nothing stays in the buffer that it came in.
    most : int, optional
        How many bytes there may be.
    room : Room, optional
        The account that it shares with others.
    most_of_all : int, optional
        How many bytes they may have in files together.
    max_memory : int
        How many bytes the process may hold for all peers, including claimed buffers.

    Attributes
    ----------
    size : int
        The bytes of the data set that have come.
    error : OSError or None
        Why they could not be kept; what comes after it is dropped, so that the rest of a
        message can be read to its end.

    Examples
    --------
    >>> spool = Spool(b"")
    >>> spool.write(b"ab"), spool.write(b"cd"), spool.open().read()
    (None, None, b'abcd')
    """

    def __init__(
        self,
        head: bytes,
        folder: str | None = None,
        threshold: int = THRESHOLD,
        *,
        place: Place | None = None,
        claim: Claim | None = None,
        most: int | None = None,
        room: Room | None = None,
        most_of_all: int | None = None,
        max_memory: int = memory.DEFAULT,
    ) -> None:
        self.head = head
        self.size = 0
        self.error: OSError | None = None
        self._folder = folder
        self._threshold = threshold
        self._place = place
        self._claim = claim
        self._chunks: list[bytes | memoryview] = []
        self._buffer: memoryview | None = None  # which a peer's bytes were received into
        self._held: memory.Holding | None = None
        self._first = b""
        self._fd = -1
        self._path = ""
        self._temporary = False
        self._is_placed = False
        self._begun = 0  # bytes of the file that the disk has begun with
        self._most = most
        self._room = room
        self._most_of_all = most_of_all
        self._max_memory = max_memory
        self._taken = 0

    @property
    def in_memory(self) -> int:
        """The number of bytes in memory that are not counted elsewhere."""
        if self._fd >= 0 or self.error is not None or self._held is not None:
            return 0
        return self.size

    def write(self, data: bytes | memoryview) -> None:
        """Take the next fragment; never raises, see `error`."""
        if not data:
            return
        self.size += len(data)
        if self._fd < 0 and self.error is None:
            if self.size <= self._threshold and (self._most is None or self.size <= self._most):
                self._chunks.append(bytes(data))
                if len(self._chunks) == _MANY:  # of two bytes each take 20 times the memory
                    self._chunks = [b"".join(self._chunks)]
            elif self._claim is None or not self._keep(data):
                self._to_file(data)
        elif self.error is None:
            try:
                self._take(len(data))
                self._append(data)
            except OSError as error:
                self._fail(error)

    def _keep(self, data: bytes | memoryview) -> bool:
        """Leave the first fragment in the buffer that it was received into, if that is possible."""
        longest = LONGEST_KEPT if self._most is None else min(LONGEST_KEPT, self._most)
        if self.size > len(data) or len(data) > longest or not isinstance(data, memoryview):
            return False
        assert self._claim is not None
        self._buffer = self._claim(data)
        if self._buffer is None:
            return False
        # A handler that keeps its instances leaves memory for what others ask.
        self._held = memory.Holding(self._max_memory // _SHARE)
        if not self._held.grow(len(self._buffer)):
            return False  # the buffer is given back when all of it is in a file
        self._chunks.append(data)
        return True

    def _drop_chunks(self) -> None:
        """Hold no bytes in memory; the buffer that they are in may be used again."""
        self._chunks.clear()
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffers.give_back(buffer)
        if self._held is not None:
            self._held.close()
            self._held = None

    def _fail(self, error: OSError) -> None:
        """Free the space: the received part is of no use."""
        self.error = error.with_traceback(None)  # whose frames would keep this spool
        self.close()

    def _take(self, count: int) -> None:
        if self._most is not None and self.size > self._most:
            raise OSError(errno.EFBIG, f"longer than max_dataset_length, {self._most} bytes")
        if self._room is not None:
            self._taken += count
            used = self._room.take(count)
            check_room(used, self._most_of_all)

    def _give_back(self) -> None:
        if self._room is not None and self._taken:
            self._room.take(-self._taken)
            self._taken = 0

    def close(self) -> None:
        """Drop the data, except for a file that has its final name."""
        self._drop_chunks()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            if self._temporary and self._path:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
        self._give_back()

    __del__ = close

    # ------------------------------------------------------------- in a file

    def _to_file(self, data: bytes | memoryview) -> None:
        """Write the received part, and the next fragment."""
        try:
            self._open_file()
            self._take(self.size)
            self._append(*self._chunks, data)
            self._first = b"".join((*self._chunks, data[:LOOK]))[:LOOK]
            self._drop_chunks()
        except OSError as error:
            self._fail(error)

    def _open_file(self) -> None:
        fd = self._place.open() if self._place is not None and self._folder is None else None
        self._is_placed = fd is not None
        self._fd, self._path = draft(self._folder) if fd is None else (fd, "")
        self._temporary = True

    def _append(self, *pieces: bytes | memoryview) -> None:
        """Write the next bytes; somewhere else, where those before are on a disk that is full."""
        size = sum(map(len, pieces))
        if size == self.size:
            pieces = self.head, *pieces
        try:
            write_all(self._fd, *pieces)
        except OSError:
            if not self._is_placed:
                raise
            before = 0 if size == self.size else len(self.head) + self.size - size
            self._leave_place(before)
            write_all(self._fd, *pieces)
        if self._place is not None and self._place.is_durable:
            self._write_back()

    def _write_back(self) -> None:
        """Start writing the received part to the disk: the last of its route was flushed, too."""
        waiting = self.size - self._begun
        if waiting >= _WRITE_BACK:
            start_write_back(self._fd, self._begun, waiting)
            self._begun += waiting

    def _leave_place(self, size: int) -> None:
        """Continue in the default folder, with the written part."""
        assert self._place is not None
        self._place.forget()
        old, self._is_placed, self._begun = self._fd, False, 0
        self._fd, self._path = draft(self._folder)
        try:
            copy(old, self._fd, size)
        finally:
            os.close(old)

    # ------------------------------------------------------------- what is done with it

    def first(self) -> bytes:
        """Return the beginning of the data set, for a look at its first elements."""
        if self._fd >= 0:
            if len(self._first) < min(LOOK, self.size):
                return os.pread(self._fd, LOOK, len(self.head))
            return self._first
        if self._chunks and len(self._chunks[0]) >= LOOK:
            return bytes(self._chunks[0][:LOOK])
        return b"".join(self._chunks)[:LOOK]

    def open(self) -> BinaryIO:
        """Return a file to read, at the beginning of the data set."""
        if self._fd < 0:
            return io.BytesIO(b"".join(self._chunks))
        # Not by its path: under that there may be another instance by now.
        return reader(os.dup(self._fd), len(self.head))

    def copy_to(self, fd: int) -> None:
        """Write the Part 10 file to an open one."""
        if self._fd < 0:
            write_all(fd, self.head, *self._chunks)
        else:
            copy(self._fd, fd, len(self.head) + self.size)

    def saved(self, folder: str, *, durable: bool) -> None:
        """Take it that it was saved in a folder, in a file that had no name before."""
        if self._place is not None:
            self._place.learn(folder, durable=durable)

    def move_to(self, target: str, *, replace: bool, durable: bool) -> bool:
        """Give the temporary file its final name; return False if it has to be copied.

        Raises
        ------
        FileExistsError
            If there is a file of that name, and it is not to be replaced.
        """
        if not self._temporary:
            return False
        if durable:
            os.fsync(self._fd)
        try:
            try:
                publish(self._fd, self._path, target, replace=replace)
            except FileNotFoundError:  # the first in its folder, as in one for each series
                make_folder(os.path.dirname(target))
                publish(self._fd, self._path, target, replace=replace)
        except FileExistsError:
            raise
        except OSError:
            return False  # another file system: copied instead, which tells what is wrong
        self._temporary = False
        self._give_back()
        if not self._path:
            self.saved(os.path.dirname(target), durable=durable)
        return True


def spool_for(
    head: bytes,
    config: Config,
    room: Room | None = None,
    place: Place | None = None,
    claim: Claim | None = None,
) -> Spool:
    """Return a spool by the settings.

    Parameters
    ----------
    head : bytes
        As for `Spool`.
    config : Config
        Its ``spool``, ``max_dataset_length``, ``max_spool`` and ``max_memory``.
    room : Room, optional
        The account that it shares with the other spools of the app.
    place : Place, optional
        Of the route.
    claim : callable, optional
        As for `Spool`.
    """
    return Spool(
        head,
        config.spool,
        place=place,
        claim=claim,
        most=config.max_dataset_length,
        room=room,
        most_of_all=config.max_spool,
        max_memory=config.max_memory,
    )
