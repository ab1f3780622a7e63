"""The files that a decoder reads and writes, in the spool."""

from __future__ import annotations

import contextlib
import os
import shutil
import weakref
from collections.abc import Iterator
from typing import BinaryIO

from pacsroute.instances.atomic_files import draft
from pacsroute.instances.reading import reader
from pacsroute.instances.room import Room, check_room


class Result:
    """The file that a child writes, and the room that it takes in the spool."""

    def __init__(self, fd: int, room: Room) -> None:
        self._fd = fd
        self._room = room
        self._taken = 0

    def take(self, size: int, most: int) -> None:
        """Take the room that is asked for, or raise an `OSError`."""
        self._taken += size
        check_room(self._room.take(size), most)

    def give_back(self) -> None:
        """Give the room back."""
        taken, self._taken = self._taken, 0
        self._room.take(-taken)

    def open(self) -> BinaryIO:
        """Open the file for reading; closing it gives its room back."""
        file = reader(os.dup(self._fd))
        size = os.fstat(self._fd).st_size
        self._room.take(size - self._taken)
        weakref.finalize(file, self._room.take, -size)
        return file


@contextlib.contextmanager
def temporary(folder: str | None) -> Iterator[int]:
    """Yield a new file without a name: no part of it stays behind once it is closed."""
    fd, path = draft(folder)
    try:
        if path:
            os.unlink(path)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def descriptor(file: BinaryIO, folder: str | None) -> Iterator[tuple[int, int]]:
    """Yield the descriptor of an open file, and its position; a file in memory is written."""
    try:
        found = file.fileno(), file.tell()
    except (OSError, AttributeError):  # BytesIO
        with temporary(folder) as fd:
            with open(fd, "wb", closefd=False) as copy:
                shutil.copyfileobj(file, copy)
            yield fd, 0
    else:
        yield found
