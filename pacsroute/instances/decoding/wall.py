"""The wall: decoders in child processes, as the process that answers peers sees them.

The data goes to a child as an open file, and what it decodes comes back as another one in
the spool. A child that dies or hangs takes with it what it was doing and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from pacsroute.child_processes import start_child
from pacsroute.config import Config
from pacsroute.dataset.limits import LIMITS, Limits
from pacsroute.errors import DataSetError
from pacsroute.instances.atomic_files import draft
from pacsroute.instances.decoding.channel import hear, tell
from pacsroute.instances.pixel_data import ImagePixel
from pacsroute.instances.spool import Room, check_room, reader

_PROGRAM = "pacsroute.instances.decoding"
_TICK = 0.25  # seconds after which somebody who waits looks whether the peer is still there
_SOON = 0.01
_DYING = 2.0  # seconds from when a process closes its files to when it has ended

Wanted = Callable[[], bool]
"""Tells whether anybody still waits for what is being decoded."""


class Frame(NamedTuple):
    """A frame that is not compressed.

    Parameters
    ----------
    image : ImagePixel
        What describes its pixels: colours are RGB by now, and their samples interleaved.
    file : binary file
        Its pixels in little endian, to be closed.
    """

    image: ImagePixel
    file: BinaryIO


class _Child:
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
        """Let it go on with its job; return its next answer. EOFError if it has died."""
        self._say({})
        return self._answer(wanted)

    def _say(self, message: dict[str, Any], files: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(OSError):  # that it has died shows when it has to answer
            tell(self.channel, message, files)

    def _answer(self, wanted: Wanted | None) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        while not poll.poll(None if wanted is None else _TICK * 1000):
            if wanted is not None and not wanted():
                raise DataSetError("nobody waits for it any longer")
        try:
            return hear(self.channel)[0]
        except OSError:
            raise EOFError from None

    def end(self, patience: float = 0) -> int:
        """End it, if it does not by itself; return the signal or status that it ended with."""
        self.channel.close()
        deadline = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(_SOON)
        self.process.kill()
        return self.process.wait()


def _end_all(children: set[_Child]) -> None:
    for child in children:
        child.end()


class Decoders:
    """The decoders of an app: a few child processes, which take turns.

    Parameters
    ----------
    config : Config, optional
        Its ``decoders``, ``decode_memory``, ``decode_seconds``, ``spool`` and ``max_spool``.
    room : Room, optional
        What decoded data takes in the spool.

    Examples
    --------
    >>> from pacsroute import Instance
    >>> from pydicom.data import get_testdata_file
    >>> with contextlib.closing(Decoders()) as decoders:
    ...     instance = Instance(get_testdata_file("MR_small_RLE.dcm"))
    ...     image, file = decoders.frame(instance.open(), instance.transfer_syntax, 1)
    ...     with file:
    ...         image.rows, image.columns, len(file.read())
    (64, 64, 8192)
    """

    def __init__(self, config: Config | None = None, room: Room | None = None) -> None:
        self._config = config or Config()
        self._room = room or Room()
        self._free = threading.Condition()
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._starting = 0
        self._process = os.getpid()
        weakref.finalize(self, _end_all, self._children)

    def close(self) -> None:
        """End the processes; the next job starts others."""
        with self._free:
            idle, self._idle = self._idle, []
            self._children.difference_update(idle)
            for child in self._children:
                child.process.kill()  # whoever waits for it sees that it has ended
        _end_all(set(idle))

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Be the decoders of this process, as `decoders` returns them, and end afterwards."""
        _serving.append(self)
        try:
            yield
        finally:
            _serving.remove(self)
            self.close()

    def convert(
        self,
        file: BinaryIO,
        source: str,
        target: str,
        *,
        limits: Limits = LIMITS,
        wanted: Wanted | None = None,
        bare: bool = False,
    ) -> BinaryIO:
        """Return a file with a data set in another transfer syntax.

        Parameters
        ----------
        file : binary file
            It stands at the data set; it is closed.
        source, target : str
            Transfer Syntax UIDs, between which `obstacle` finds nothing.
        limits : Limits
            What the data set may be made of.
        wanted : callable, optional
            Tells whether anybody still waits for it; it is asked a few times a second.
        bare : bool
            Whether bulk data is left out.

        Raises
        ------
        DataSetError
            If it cannot be decoded within the limits; the message says why.
        OSError
            If there is no room for it.
        """
        job = {"do": "convert", "target": target, "bare": bare}
        return self._done(job, file, source, limits, wanted)[1]

    def frame(
        self,
        file: BinaryIO,
        source: str,
        number: int,
        *,
        limits: Limits = LIMITS,
        wanted: Wanted | None = None,
    ) -> Frame:
        """Return one frame of a data set as raw pixels; the limits are those of this frame.

        Parameters
        ----------
        file, source, limits, wanted
            As for `convert`.
        number : int
            From 1.

        Raises
        ------
        DataSetError, OSError
            As for `convert`, and if there is no such frame.
        """
        job = {"do": "frame", "number": number}
        found, pixels = self._done(job, file, source, limits, wanted)
        return Frame(ImagePixel(**found), pixels)

    def _done(
        self,
        job: dict[str, Any],
        file: BinaryIO,
        source: str,
        limits: Limits,
        wanted: Wanted | None,
    ) -> tuple[dict[str, Any], BinaryIO]:
        """Have a job done by a child; return what it says, and the file that it has written."""
        config = self._config
        with file, _temporary(config.spool) as out, _descriptor(file, config.spool) as (fd, at):
            job |= {
                "source": source,
                "at": at,
                "limits": limits._asdict(),
                "memory": config.decode_memory,
                "seconds": config.decode_seconds,
                "folder": config.spool and os.path.abspath(config.spool),
            }
            result = _Result(out, self._room)
            try:
                done = None
                while done is None:
                    with self._child(wanted) as child:
                        done = self._watched(child, job, (fd, out), result, wanted)
            except BaseException:
                result.give_back()
                raise
            return done, result.open()

    def _watched(
        self,
        child: _Child,
        job: dict[str, Any],
        files: tuple[int, int],
        result: _Result,
        wanted: Wanted | None,
    ) -> dict[str, Any] | None:
        """Return what a child says of a job that it has done; None if it died in its sleep."""
        answer: dict[str, Any] = {}
        try:
            answer = child.begin(job, files, wanted)
            while "done" not in answer and "error" not in answer:
                result.take(answer["size"], self._config.max_spool)
                answer = child.go_on(wanted)
        except EOFError:
            if child.has_worked and not answer:
                return None
            raise DataSetError(_why(child.end(_DYING), self._config)) from None
        child.has_worked = True
        child.is_free = not answer["last"]
        if "error" in answer:
            raise DataSetError(answer["error"])
        done: dict[str, Any] | None = answer["done"]
        return done

    @contextlib.contextmanager
    def _child(self, wanted: Wanted | None) -> Iterator[_Child]:
        """Have a child to oneself; one that does not come to the end of its job is ended."""
        child = self._taken(wanted)
        child.is_free = False
        try:
            yield child
        finally:
            if not child.is_free:
                child.end()
            with self._free:
                if child.is_free and child in self._children:
                    self._idle.append(child)
                else:
                    self._children.discard(child)
                self._free.notify()

    def _taken(self, wanted: Wanted | None) -> _Child:
        """Return a child that has nothing to do, or a new one; wait while there are enough."""
        with self._free:
            if self._process != os.getpid():  # a fork; they are its parent's
                self._process, self._idle = os.getpid(), []
                self._children.clear()
            while True:
                while self._idle:
                    child = self._idle.pop()
                    if child.process.poll() is None:
                        return child
                    self._children.discard(child)  # it died in its sleep
                    child.end()
                if len(self._children) + self._starting < self._config.decoders:
                    self._starting += 1
                    break
                self._free.wait(_TICK)
                if wanted is not None and not wanted():
                    raise DataSetError("nobody waits for it any longer")
        try:
            child = _Child()
        except OSError as error:
            raise DataSetError(f"no decoder can be started: {error.strerror}") from None
        finally:
            with self._free:
                self._starting -= 1
        with self._free:
            self._children.add(child)
        return child


_serving: list[Decoders] = []
_without_app = Decoders()


def decoders() -> Decoders:
    """Return the decoders of the app that serves in this process; without one, some of its own."""
    return _serving[-1] if _serving else _without_app


class _Result:
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
        """Return a file to read it; when that is closed, the room is given back."""
        file = reader(os.dup(self._fd))
        size = os.fstat(self._fd).st_size
        self._room.take(size - self._taken)
        weakref.finalize(file, self._room.take, -size)
        return file


@contextlib.contextmanager
def _temporary(folder: str | None) -> Iterator[int]:
    """Have a file without a name, of which nothing stays behind when nobody has it open."""
    fd, path = draft(folder)
    try:
        if path:
            os.unlink(path)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _descriptor(file: BinaryIO, folder: str | None) -> Iterator[tuple[int, int]]:
    """Have an open file as a descriptor, and where it stands; what is in memory is written."""
    try:
        found = file.fileno(), file.tell()
    except (OSError, AttributeError):  # BytesIO
        with _temporary(folder) as fd:
            with open(fd, "wb", closefd=False) as copy:
                shutil.copyfileobj(file, copy)
            yield fd, 0
    else:
        yield found


def _why(status: int, config: Config) -> str:
    """Return why a decoder has died, by what its process ended with."""
    if -status in (signal.SIGXCPU, signal.SIGALRM):
        return f"a frame takes more than {config.decode_seconds:g} s of decode_seconds"
    try:
        return f"the decoder has died of {signal.Signals(-status).name}"
    except ValueError:
        return f"the decoder has ended with status {status}"
