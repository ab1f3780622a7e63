"""Where the bytes of a data set wait: in memory while few, in a temporary file beyond."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from pacsroute.dataset.peek import LOOK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

THRESHOLD = 131_072
"""How many bytes of one data set are held in memory, before they go to a file."""

_MANY = 1024  # fragments that are held apart

_IOV_MAX = 512
# Windows has no such call.
_writev = getattr(os, "writev", lambda fd, pieces: os.write(fd, b"".join(pieces)))


def write_all(fd: int, *pieces: bytes | memoryview) -> None:
    """Write all of the data, in one call; a disk that fills up may take a part of it."""
    written = _writev(fd, pieces[:_IOV_MAX])
    if written < sum(map(len, pieces)):
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


_PREFIX, _SUFFIX = ".pacsroute-", ".part"
_TOKEN = os.urandom(6).hex()
_COUNT = itertools.count()
_NAMELESS = hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
_swept: set[str] = set()


def _partial_name() -> str:
    """Return a name for a file that is not whole yet: nobody else's, and soon made.

    `tempfile` asks the system for random bytes each time, which costs as much as opening
    the file.
    """
    return f"{_PREFIX}{_TOKEN}-{os.getpid()}-{next(_COUNT)}{_SUFFIX}"


def _ours_alone(fd: int) -> bool:
    """Lock a file that is not whole yet, for as long as it is open; tell whether we could."""
    if fcntl is None:
        return True  # such a system does not remove open files
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def sweep(folder: str) -> int:
    """Remove what processes that have died left unfinished; return how many files that was."""
    count = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError), _held(entry.path) as is_left:
                    if is_left and entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    elif is_left:
                        os.unlink(entry.path)
                    count += is_left
    return count


@contextlib.contextmanager
def _held(path: str) -> Iterator[bool]:
    """Hold a file or folder as one that is not whole; tell whether nobody else does."""
    fd = _quickly(path, os.O_RDONLY)
    try:
        yield _ours_alone(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def scratch(folder: str | None) -> Iterator[str]:
    """Have a folder for a while, of which nothing stays behind: what is left, `sweep` removes.

    Parameters
    ----------
    folder : str or None
        Where it is made; None is the system's folder for such things.
    """
    parent = _temporary() if folder is None else folder
    if not os.path.isdir(parent):
        _make(parent)
    fd, path = _open_scratch(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _open_scratch(parent: str) -> tuple[int, str]:
    """Make a folder and hold it, which another process may sweep before."""
    while True:
        path = _named_in(parent)
        os.mkdir(path, 0o700)
        with contextlib.suppress(FileNotFoundError):
            fd = _quickly(path, os.O_RDONLY)
            if _ours_alone(fd) and os.path.isdir(path):
                return fd, path
            os.close(fd)


def _quickly(path: str, flags: int) -> int:
    """Open a file, but not what a link leads to, and no pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def draft(folder: str) -> tuple[int, str]:
    """Open a new file for what is not whole yet, in a folder that is made if need be.

    Returns
    -------
    descriptor, path : int and str
        Linux has files without a name, whose path is empty: whatever happens to the process,
        nothing of them stays behind.
    """
    try:
        return _open_draft(folder)
    except FileNotFoundError:
        _make(folder)
        return _open_draft(folder)


def try_out(folder: str) -> None:
    """Make a folder for drafts if need be, and one draft in it, of which nothing stays behind.

    Raises
    ------
    OSError
        If that is not possible.
    """
    fd, path = draft(folder)
    os.close(fd)
    if path:
        os.unlink(path)


def _make(folder: str) -> None:
    """Make a folder and those above it, so that they are there after a power cut, too."""
    above = os.path.dirname(os.path.abspath(folder))
    if not os.path.isdir(above):
        _make(above)
    os.makedirs(folder, exist_ok=True)
    sync(above)


def sync(path: str) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_draft(folder: str) -> tuple[int, str]:
    if _NAMELESS:
        try:
            # Nobody finds it before it has its name, and then it may have the usual mode.
            return os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o666), ""
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    path = _named_in(folder)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if not _ours_alone(fd):  # it is being swept
        os.close(fd)
        return _open_draft(folder)
    return fd, path


def _named_in(folder: str) -> str:
    """Return a name for a draft; the first time in a folder, what others left there goes."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)
    return os.path.join(folder, _partial_name())


def publish(fd: int, path: str, target: str, *, replace: bool) -> None:
    """Give a draft its final name, all at once.

    Raises
    ------
    FileExistsError
        If there is a file of that name, and it is not to be replaced.
    OSError
        If it cannot have that name, as on another file system; it is as it was then.
    """
    if path:
        # The mode was for secrets; a file that is whole has the one that the umask gives.
        os.fchmod(fd, 0o666 & ~_UMASK)
        _rename(path, target, replace=replace)
        return
    try:
        _link(fd, target)
    except FileExistsError:
        if not replace:
            raise
        _replace(fd, target)


def _replace(fd: int, target: str) -> None:
    """Put a draft without a name in the place of what has the name already."""
    while True:
        path = _named_in(os.path.dirname(target))
        _link(fd, path)
        try:
            os.rename(path, target)
        except FileNotFoundError:  # swept by another process, which found it unlocked
            if not os.path.isdir(os.path.dirname(target)):
                raise
        except BaseException:
            os.unlink(path)
            raise
        else:
            return


def _rename(path: str, target: str, *, replace: bool) -> None:
    if replace:
        os.rename(path, target)
    else:
        os.link(path, target)
        os.unlink(path)


def _link(fd: int, target: str) -> None:
    # Python follows the link of /proc only if a folder is named, which an absolute path ignores.
    os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd, follow_symlinks=True)


def _temporary() -> str:
    from tempfile import gettempdir  # noqa: PLC0415 - with OpenSSL behind it, and seldom asked

    return gettempdir()


class Room:
    """How many bytes all spools of an app have in files."""

    def __init__(self) -> None:
        self.used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        """Take so many bytes, or give them back if they are negative; return what is in use."""
        with self._lock:
            self.used += count
            return self.used


class _Reader(io.RawIOBase):
    """Reads an open file at a position of its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._fd, [buffer], self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = (0, self._position, os.fstat(self._fd).st_size)[whence]
        self._position = start + offset
        return self._position

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)


class Spool:
    """Takes the fragments of one data set as they come.

    Parameters
    ----------
    head : bytes
        What stands before the data set in a Part 10 file, so that the temporary file is
        one already.
    folder : str or None
        Where a temporary file goes; None is the system's folder for them.
    threshold : int
        How many bytes are held in memory before that.
    most : int, optional
        How many bytes there may be.
    room : Room, optional
        What it shares with others.
    most_of_all : int, optional
        How many bytes they may have in files together.

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
        most: int | None = None,
        room: Room | None = None,
        most_of_all: int | None = None,
    ) -> None:
        self.head = head
        self.size = 0
        self.error: OSError | None = None
        self._folder = folder
        self._threshold = threshold
        self._chunks: list[bytes] = []
        self._first = b""
        self._fd = -1
        self._path = ""
        self._temporary = False
        self._most = most
        self._room = room
        self._most_of_all = most_of_all
        self._taken = 0

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
                return
            self._to_file(data)
        elif self.error is None:
            try:
                self._take(len(data))
                write_all(self._fd, data)
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Make room at once: what came so far is of no use."""
        self.error = error.with_traceback(None)  # whose frames would keep this spool
        self.close()

    def _take(self, count: int) -> None:
        if self._most is not None and self.size > self._most:
            raise OSError(errno.EFBIG, f"longer than max_dataset_length, {self._most} bytes")
        if self._room is not None:
            self._taken += count
            used = self._room.take(count)
            if self._most_of_all is not None and used > self._most_of_all:
                raise OSError(errno.ENOSPC, f"max_spool reached, {self._most_of_all} bytes")

    def _give_back(self) -> None:
        if self._room is not None and self._taken:
            self._room.take(-self._taken)
            self._taken = 0

    def close(self) -> None:
        """Drop what came, but for a file that has its final name."""
        self._chunks.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            if self._temporary and self._path:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
        self._give_back()

    __del__ = close

    def _to_file(self, data: bytes | memoryview) -> None:
        """Write what came so far, and the next fragment."""
        try:
            self._fd, self._path = draft(_temporary() if self._folder is None else self._folder)
            self._temporary = True
            self._take(self.size)
            write_all(self._fd, self.head, *self._chunks, data)
            self._first = b"".join((*self._chunks, data[:LOOK]))[:LOOK]
            self._chunks.clear()
        except OSError as error:
            self._fail(error)

    def first(self) -> bytes:
        """Return the beginning of the data set, for a look at its first elements."""
        if self._fd >= 0:
            if len(self._first) < min(LOOK, self.size):
                return os.pread(self._fd, LOOK, len(self.head))
            return self._first
        if self._chunks and len(self._chunks[0]) >= LOOK:
            return self._chunks[0]
        return b"".join(self._chunks)[:LOOK]

    def open(self) -> BinaryIO:
        """Return a file to read, at the beginning of the data set."""
        if self._fd < 0:
            return io.BytesIO(b"".join(self._chunks))
        # Not by its path: under that there may be another instance by now.
        file = io.BufferedReader(_Reader(os.dup(self._fd)))
        file.seek(len(self.head))
        return file

    def copy_to(self, fd: int) -> None:
        """Write the Part 10 file to an open one."""
        if self._fd < 0:
            write_all(fd, self.head, *self._chunks)
            return
        position, end = 0, len(self.head) + self.size
        while position < end:
            data = os.pread(self._fd, min(1 << 20, end - position), position)
            if not data:
                raise OSError(errno.EIO, "the file was made shorter under its name")
            write_all(fd, data)
            position += len(data)

    def move_to(self, target: str, *, replace: bool, durable: bool) -> bool:
        """Give the temporary file its final name; return False where it has to be copied.

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
                _make(os.path.dirname(target))
                publish(self._fd, self._path, target, replace=replace)
        except FileExistsError:
            raise
        except OSError:
            return False  # another file system: copied instead, which tells what is wrong
        self._temporary = False
        self._give_back()
        return True


# Read once: os.umask changes it for all threads while it tells.
_UMASK = os.umask(0o022)
os.umask(_UMASK)
