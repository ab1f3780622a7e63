"""Drafts of files: until a file is complete, it has a temporary name, or none.

A draft gets its final name atomically, so readers never find a partial file. If a process dies, the
next process to use the folder removes its drafts.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".pacsroute-", ".part"
_TOKEN = os.urandom(6).hex()
_COUNT = itertools.count()
_NAMELESS = hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
_swept: set[str] = set()

_IOV_MAX = 512
# Windows has no such call.
_writev = getattr(os, "writev", lambda fd, pieces: os.write(fd, b"".join(pieces)))

# Read once: os.umask can only read it by changing it, for all threads.
_UMASK = os.umask(0o022)
os.umask(_UMASK)


def draft(folder: str | None) -> tuple[int, str]:
    """Open a new draft.

    Parameters
    ----------
    folder : str or None
        The folder, created if needed; None means the system's temporary folder.

    Returns
    -------
    descriptor, path : int and str
        On Linux, the file may have no name, and an empty path: the system then removes it if the
        process dies.
    """
    if folder is None:
        folder = _temporary()
    try:
        return _open_draft(folder)
    except FileNotFoundError:
        make_folder(folder)
        return _open_draft(folder)


def nameless(folder: str) -> int:
    """Open a new file without a name in an existing folder; the system removes it if unused.

    Raises
    ------
    OSError
        If the folder does not exist, or its file system does not support such files.
    """
    if not _NAMELESS:
        raise OSError(errno.EOPNOTSUPP, "files need a name here")
    # It is invisible before it has its name, so it may have the usual mode.
    return os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o666)


def try_out(folder: str) -> None:
    """Check that drafts can be made in a folder, which is created if needed.

    Raises
    ------
    OSError
        If that is not possible.
    """
    fd, path = draft(folder)
    os.close(fd)
    if path:
        os.unlink(path)


def _open_draft(folder: str) -> tuple[int, str]:
    if _NAMELESS:
        try:
            return nameless(folder), ""
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    path = _named_in(folder)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if not _ours_alone(fd):  # another process is sweeping it
        os.close(fd)
        return _open_draft(folder)
    return fd, path


def _named_in(folder: str) -> str:
    """Return a name for a draft; the first call in a folder removes drafts of dead processes."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)
    return os.path.join(folder, _partial_name())


def _partial_name() -> str:
    """Return a unique name for a draft.

    `tempfile` asks the system for random bytes each time, which costs as much as opening
    the file.
    """
    return f"{_PREFIX}{_TOKEN}-{os.getpid()}-{next(_COUNT)}{_SUFFIX}"


def publish(fd: int, path: str, target: str, *, replace: bool) -> None:
    """Give a draft its final name atomically.

    Raises
    ------
    FileExistsError
        If a file of that name exists, and `replace` is false.
    OSError
        If it cannot get that name, such as one on another file system; the draft is unchanged.
    """
    if path:
        # Drafts are private; a complete file gets the mode of the umask.
        os.fchmod(fd, 0o666 & ~_UMASK)
        _rename(path, target, replace=replace)
        return
    try:
        _link(fd, target)
    except FileExistsError:
        if not replace:
            raise
        _replace(fd, target)


def _rename(path: str, target: str, *, replace: bool) -> None:
    if replace:
        os.rename(path, target)
    else:
        os.link(path, target)
        os.unlink(path)


def _link(fd: int, target: str) -> None:
    # Python follows the link of /proc only if a folder is named, which an absolute path ignores.
    os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd, follow_symlinks=True)


def _replace(fd: int, target: str) -> None:
    """Replace the file that has the name by a draft without a name."""
    while True:
        path = _named_in(os.path.dirname(target))
        _link(fd, path)
        try:
            os.rename(path, target)
        except FileNotFoundError:  # another process found it unlocked and swept it
            if not os.path.isdir(os.path.dirname(target)):
                raise
        except BaseException:
            os.unlink(path)
            raise
        else:
            return


def sweep(folder: str) -> int:
    """Remove the drafts of dead processes; return how many files were removed."""
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
    """Hold a file or folder as a draft; return False if another process holds it."""
    fd = _quickly(path, os.O_RDONLY)
    try:
        yield _ours_alone(fd)
    finally:
        os.close(fd)


def _ours_alone(fd: int) -> bool:
    """Lock a draft for as long as it is open; return whether that was possible."""
    if fcntl is None:
        return True  # Windows does not remove open files
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _quickly(path: str, flags: int) -> int:
    """Open a file without following links or waiting for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


@contextlib.contextmanager
def scratch(folder: str | None) -> Iterator[str]:
    """Make a temporary folder that is removed on exit; `sweep` removes what a crash leaves.

    Parameters
    ----------
    folder : str or None
        The parent folder; None means the system's temporary folder.
    """
    parent = _temporary() if folder is None else folder
    if not os.path.isdir(parent):
        make_folder(parent)
    fd, path = _open_scratch(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _open_scratch(parent: str) -> tuple[int, str]:
    """Make and hold a folder; retry if another process sweeps it first."""
    while True:
        path = _named_in(parent)
        os.mkdir(path, 0o700)
        with contextlib.suppress(FileNotFoundError):
            fd = _quickly(path, os.O_RDONLY)
            if _ours_alone(fd) and os.path.isdir(path):
                return fd, path
            os.close(fd)


def write_all(fd: int, *pieces: bytes | memoryview) -> None:
    """Write all data, in one system call if possible; a disk that fills up may take only a part."""
    written = _writev(fd, pieces[:_IOV_MAX])
    if written < sum(map(len, pieces)):
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def copy(source: int, target: int, size: int) -> None:
    """Write the first bytes of one open file to another one.

    Raises
    ------
    OSError
        If copying fails, or the source has fewer bytes.
    """
    position = 0
    while position < size:
        data = os.pread(source, min(1 << 20, size - position), position)
        if not data:
            raise OSError(errno.EIO, "the file was truncated while it was copied")
        write_all(target, data)
        position += len(data)


def start_write_back(fd: int, start: int, size: int) -> None:
    """Start writing part of a file to the disk without waiting, to speed up a later flush.

    It guarantees nothing, so the flush is still needed.
    """
    if (call := _sync_file_range()) is not None:
        call(fd, start, size, _WRITE)


_WRITE = 2  # SYNC_FILE_RANGE_WRITE of Linux


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's system call, which Python does not wrap; None on other systems."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - seldom needed

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


def sync(path: str) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: str) -> None:
    """Make a folder and its parents, and flush them to survive a power cut."""
    above = os.path.dirname(os.path.abspath(folder))
    if not os.path.isdir(above):
        make_folder(above)
    os.makedirs(folder, exist_ok=True)
    sync(above)


def _temporary() -> str:
    from tempfile import gettempdir  # noqa: PLC0415 - with OpenSSL behind it, and seldom asked

    return gettempdir()
