"""The wall: decoders in child processes, as the process that answers peers sees them.

The data goes to a child as an open file, and the decoded data comes back as another file in
the spool. A child that dies or hangs takes with it what it was doing and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from pacsroute.config import Config
from pacsroute.dataset.limits import LIMITS, Limits
from pacsroute.errors import DataSetError
from pacsroute.instances.decoding.child import TICK, Child, Wanted, check_wanted
from pacsroute.instances.decoding.files import Result, descriptor, temporary
from pacsroute.instances.pictures import Options
from pacsroute.instances.pixel_data import ImagePixel
from pacsroute.instances.room import Room


class Frame(NamedTuple):
    """A frame that is not compressed.

    Parameters
    ----------
    image : ImagePixel
        The description of its pixels: colours are RGB by now, and their samples interleaved.
    file : binary file
        Its pixels in little endian, to be closed.
    """

    image: ImagePixel
    file: BinaryIO


def _end_all(children: set[Child]) -> None:
    for child in children:
        child.end()


class Decoders:
    """The decoders of an app: a few child processes, which take turns.

    Parameters
    ----------
    config : Config, optional
        Its ``decoders``, ``decode_memory``, ``decode_seconds``, ``spool`` and ``max_spool``.
    room : Room, optional
        The account of decoded data in the spool.

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
        self._children: set[Child] = set()
        self._idle: list[Child] = []
        self._starting = 0
        self._process = os.getpid()
        weakref.finalize(self, _end_all, self._children)

    def close(self) -> None:
        """End the processes; the next job starts others."""
        with self._free:
            idle, self._idle = self._idle, []
            self._children.difference_update(idle)
            for child in self._children:
                child.process.kill()  # the thread that waits for it sees that it has ended
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
            Positioned at the data set; it is closed.
        source, target : str
            Transfer Syntax UIDs, between which `obstacle` finds nothing.
        limits : Limits
            The limits of the data set.
        wanted : callable, optional
            Tells whether the result is still wanted; it is asked a few times a second.
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

    def picture(
        self,
        file: BinaryIO,
        source: str,
        number: int,
        options: Options,
        *,
        limits: Limits = LIMITS,
        wanted: Wanted | None = None,
    ) -> BinaryIO:
        """Return a file with one frame of a data set as a picture.

        Parameters
        ----------
        file, source, limits, wanted
            As for `convert`.
        number : int
            From 1.
        options : Options
            How it is shown.

        Raises
        ------
        DataSetError, OSError
            As for `frame`, and if it cannot be shown.
        """
        job = {"do": "picture", "number": number, "options": options._asdict()}
        return self._done(job, file, source, limits, wanted)[1]

    def _done(
        self,
        job: dict[str, Any],
        file: BinaryIO,
        source: str,
        limits: Limits,
        wanted: Wanted | None,
    ) -> tuple[dict[str, Any], BinaryIO]:
        """Give a job to a child; return its answer, and the file that it has written."""
        config = self._config
        with file, temporary(config.spool) as out, descriptor(file, config.spool) as (fd, at):
            job |= {
                "source": source,
                "at": at,
                "limits": limits._asdict(),
                "memory": config.decode_memory,
                "seconds": config.decode_seconds,
                "folder": config.spool and os.path.abspath(config.spool),
            }
            result = Result(out, self._room)
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
        child: Child,
        job: dict[str, Any],
        files: tuple[int, int],
        result: Result,
        wanted: Wanted | None,
    ) -> dict[str, Any] | None:
        """Return the answer of a child to a job; None if it died while idle."""
        answer: dict[str, Any] = {}
        try:
            answer = child.begin(job, files, wanted)
            while "done" not in answer and "error" not in answer:
                result.take(answer["size"], self._config.max_spool)
                answer = child.go_on(wanted)
        except EOFError:
            if child.has_worked and not answer:
                return None
            raise DataSetError(child.last_words(self._config.decode_seconds)) from None
        child.has_worked = True
        child.is_free = not answer["last"]
        if "error" in answer:
            raise DataSetError(answer["error"])
        done: dict[str, Any] | None = answer["done"]
        return done

    @contextlib.contextmanager
    def _child(self, wanted: Wanted | None) -> Iterator[Child]:
        """Yield a child for one job, and end one that does not finish it."""
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

    def _taken(self, wanted: Wanted | None) -> Child:
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
                self._free.wait(TICK)
                check_wanted(wanted)
        try:
            child = Child()
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
    """Return the decoders of the app that serves in this process; without one, separate ones."""
    return _serving[-1] if _serving else _without_app
