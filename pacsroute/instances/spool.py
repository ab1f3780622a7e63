"""Spools for received data sets: small ones in memory, larger ones in a temporary file.

A data set that arrives whole in one large PDU stays in its receive buffer, and is written once:
when it is saved. Others are written to a file once they exceed `THRESHOLD`. The file is made where
the last instance of the route was saved, so that saving only gives it a name.
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
"""The maximum bytes of a data set to hold in memory before writing to a file."""

LONGEST_KEPT = 1_048_576
"""The maximum bytes of a data set that may stay in its receive buffer."""

Claim = Callable[[memoryview], memoryview | None]
"""Claims the buffer of a fragment; returns the whole buffer, or None if it will be reused."""

_MANY = 1024  # maximum number of separate fragments
_WRITE_BACK = 8 << 20  # bytes between write-backs to the disk while the rest arrives
_SHARE = 4  # divisor of max_memory that limits kept buffers


class Spool:
    """Takes the fragments of one data set as they arrive.

    Parameters
    ----------
    head : bytes
        The bytes before the data set in a Part 10 file, so that the temporary file is one already.
    folder : str or None
        The folder of the temporary file; None means the system's temporary folder.
    threshold : int
        The number of bytes to hold in memory before using a file.
    place : Place, optional
        The preferred place of the file if `folder` is None.
    claim : callable, optional
        See `Claim`; without it, all bytes are copied from their buffers.
    most : int, optional
        The maximum number of bytes.
    room : Room, optional
        The disk space that it shares with other spools.
    most_of_all : int, optional
        The maximum bytes of these spools in files together.
    max_memory : int
        How many bytes the process may hold for all peers, including claimed buffers.

    Attributes
    ----------
    size : int
        The number of bytes received.
    error : OSError or None
        The reason why they could not be kept; later bytes are dropped, so that the message can be
        read to its end.

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
        self._buffer: memoryview | None = None  # the claimed receive buffer
        self._held: memory.Holding | None = None
        self._first = b""
        self._fd = -1
        self._path = ""
        self._temporary = False
        self._is_placed = False
        self._begun = 0  # bytes whose write-back has started
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
                if len(self._chunks) == _MANY:  # chunks of two bytes take 20 times the memory
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
        """Leave the first fragment in its receive buffer, if possible."""
        longest = LONGEST_KEPT if self._most is None else min(LONGEST_KEPT, self._most)
        if self.size > len(data) or len(data) > longest or not isinstance(data, memoryview):
            return False
        assert self._claim is not None
        self._buffer = self._claim(data)
        if self._buffer is None:
            return False
        # Leave memory for others if a handler keeps its instances.
        self._held = memory.Holding(self._max_memory // _SHARE)
        if not self._held.grow(len(self._buffer)):
            return False  # the buffer is given back once the bytes are in a file
        self._chunks.append(data)
        return True

    def _drop_chunks(self) -> None:
        """Drop the bytes in memory; their buffer may be reused."""
        self._chunks.clear()
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffers.give_back(buffer)
        if self._held is not None:
            self._held.close()
            self._held = None

    def _fail(self, error: OSError) -> None:
        """Free the space: the received part is useless."""
        self.error = error.with_traceback(None)  # its frames would keep this spool alive
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
        """Write the next bytes; if the disk is full, move the file elsewhere."""
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
        # Not by path, which may belong to another instance by now.
        return reader(os.dup(self._fd), len(self.head))

    def copy_to(self, fd: int) -> None:
        """Write the Part 10 file to an open one."""
        if self._fd < 0:
            write_all(fd, self.head, *self._chunks)
        else:
            copy(self._fd, fd, len(self.head) + self.size)

    def saved(self, folder: str, *, durable: bool) -> None:
        """Note that it was saved in a folder, from a file without a name."""
        if self._place is not None:
            self._place.learn(folder, durable=durable)

    def move_to(self, target: str, *, replace: bool, durable: bool) -> bool:
        """Give the temporary file its final name; return False if it must be copied.

        Raises
        ------
        FileExistsError
            If a file of that name exists, and `replace` is false.
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
    """Return a spool with the limits of the settings.

    Parameters
    ----------
    head : bytes
        As for `Spool`.
    config : Config
        Its ``spool``, ``max_dataset_length``, ``max_spool`` and ``max_memory``.
    room : Room, optional
        The disk space that it shares with the other spools of the app.
    place : Place, optional
        The place of the route.
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
