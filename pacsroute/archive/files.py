"""The folder of an archive: drafts and final files.

An instance is first written and flushed under ``.incoming``, in a folder that its process keeps
locked. Then it gets its final name, a second hard link, and a row in the index. Once both are on
the disk, the first name is removed, for many instances at once. So after a crash, the folders
under ``.incoming`` list every instance that the index may lack, however large the archive is.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pacsroute.archive.database import Transaction, UnavailableError
from pacsroute.archive.layout import Layout
from pacsroute.errors import DataSetError
from pacsroute.instances import part10
from pacsroute.instances.atomic_files import make_folder, sync
from pacsroute.instances.instance import Instance

try:
    import fcntl
except ImportError:  # on Windows, an archive has one process
    fcntl = None  # type: ignore[assignment]

INCOMING, QUARANTINE = ".incoming", ".quarantine"
_MANY = 256  # first names that are removed together
# On these, flushing a new file also flushes its name: one journal records both.
_NAMES_WITH_FILES = frozenset({"ext4", "xfs", "f2fs"})
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES, errno.ENOSYS)


class Files:
    """The files of an archive in a folder; see `Keeper`.

    Parameters
    ----------
    root : Path
        The folder.
    layout : Layout
        The layout of its subfolders.
    flush_index : callable
        Flushes the index to the disk.
    """

    flushes_rows = False  # after a crash, the drafts show which rows may be missing

    def __init__(self, root: Path, layout: Layout, flush_index: Callable[[], object]) -> None:
        # Absolute, so that a draft, which is a path, stays one below it.
        self.root = os.fspath(root.absolute())
        self._layout = layout
        self._flush_index = flush_index
        self._incoming = ""
        self._is_one_flush = False
        self._has_links = True
        self._held = -1
        self._numbers = itertools.count()
        self._settled: list[str] = []
        self._touched: set[str] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the folder for instances that this process receives."""
        token = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._incoming = os.path.abspath(os.path.join(self.root, INCOMING, token))
        make_folder(self._incoming)
        self._is_one_flush = _file_system_of(self._incoming) in _NAMES_WITH_FILES
        if fcntl is not None:
            self._held = os.open(self._incoming, os.O_RDONLY)
            fcntl.flock(self._held, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove that folder, unless it still contains drafts for the next start.

        Drafts remain if the index cannot be reached.
        """
        with contextlib.suppress(OSError, UnavailableError):
            self.flush()
            os.rmdir(self._incoming)
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock that all processes of the archive share."""
        return locked(os.path.join(self.root, f".{name}"))

    def path(self, name: str) -> str:
        """Return the path of a file by its name in the index; a draft is a path already."""
        return os.path.join(self.root, name)

    def instance(
        self,
        name: str,
        *,
        sop_class: str | None = None,
        sop_instance: str | None = None,
        transfer_syntax: str | None = None,
    ) -> Instance:
        """Return the instance of a file, without reading UIDs that are known."""
        return Instance(
            self.path(name),
            sop_class=sop_class,
            sop_instance=sop_instance,
            transfer_syntax=transfer_syntax,
        )

    def received(self, name: str) -> int:
        """Return when a file was written, in nanoseconds since 1970."""
        return os.stat(self.path(name)).st_mtime_ns

    def sender(self, name: str) -> str:
        """Return the AE title of the sender of an instance, from its file meta information."""
        with open(self.path(name), "rb") as file:
            return part10.head_of(file).sender

    def ahead(self, instances: list[Instance]) -> list[Instance]:
        """Return the instances unchanged: files open quickly."""
        return instances

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return os.path.exists(self.path(name))

    def remove(self, names: list[str]) -> list[str]:
        """Remove files durably; return the removed names."""
        paths = [self.path(name) for name in names]
        for path in paths:
            remove(path)
        for folder in {os.path.dirname(path) for path in paths}:
            with contextlib.suppress(FileNotFoundError):
                sync(folder)
        return names

    def receive(self, instance: Instance) -> tuple[str, int]:
        """Write an instance to the disk; return its temporary path, and when it was written.

        Raises
        ------
        OSError
            If it cannot be written; no partial file is left.
        """
        name = f"{instance.sop_instance}~{next(self._numbers)}"
        if self._is_one_flush:
            with instance.open() as file:
                if isinstance(file, io.BytesIO):  # reading a file would cost more than a flush
                    checksum = zlib.crc32(file.read())  # not the head, which it may have, too
                    return self._write(instance, f"{name}~{checksum:08x}")
        draft = os.fspath(instance.save(self._incoming, name))
        return draft, self.received(draft)

    def _write(self, instance: Instance, name: str) -> tuple[str, int]:
        """Write an instance with one flush: its name may reach the disk before the bytes."""
        instance.check_name()
        draft = os.path.join(self._incoming, name)
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            instance.write_to(fd)
            os.fsync(fd)
            return draft, os.fstat(fd).st_mtime_ns
        except BaseException:
            remove(draft)
            raise
        finally:
            os.close(fd)

    def place(self, draft: str, sop_instance: str, values: Mapping[str, object]) -> str:
        """Give a draft its final name; return that name, relative to the folder."""
        folder = self._layout.folder_of(values)
        return self._link(draft, folder, sop_instance)

    def keep(self, db: Transaction, name: str) -> None:
        """Do nothing: a draft stays a file until it is settled."""

    def withdraw(self, name: str, draft: str) -> None:
        """Remove the final name of a draft, which keeps its first name, or gets it back."""
        if self._has_links or os.path.lexists(draft):
            remove(self.path(name))
        else:
            os.rename(self.path(name), draft)

    def discard(self, draft: str) -> None:
        """Remove a draft."""
        remove(draft)

    def may_have(self, sop_instance: str, values: Mapping[str, object]) -> bool:
        """Return whether a file already has the name that an instance would get."""
        name = os.path.join(self.root, self._layout.folder_of(values), f"{sop_instance}.dcm")
        return os.path.lexists(name)

    def quarantine(self, draft: str, sop_instance: str) -> str:
        """Give a draft a name in the quarantine; return that name."""
        return self._link(draft, QUARANTINE, sop_instance)

    def _link(self, draft: str, folder: str, sop_instance: str) -> str:
        names = itertools.chain(
            [f"{sop_instance}.dcm"], (f"{sop_instance}~{n}.dcm" for n in itertools.count(2))
        )
        for name in names:
            target = os.path.join(self.root, folder, name)
            try:
                if not _link_or_move(draft, target):
                    self._has_links = False
            except FileExistsError:
                if not _is_same_file(draft, target):
                    continue
            with self._lock:
                self._touched.add(os.path.dirname(target))
            return f"{folder}/{name}" if folder else name
        raise AssertionError

    def settle(self, draft: str) -> None:
        """Record that a draft has its name and its row; its first name is removed later.

        If it could not keep its first name, name and row are flushed now.
        """
        with self._lock:
            self._settled.append(draft)
            is_time = len(self._settled) >= _MANY or not self._has_links
        if is_time:
            self.flush()

    def flush(self) -> None:
        """Flush index and names to the disk, and remove the first names of settled drafts."""
        with self._lock:
            settled, self._settled = self._settled, []
            touched, self._touched = self._touched, set()
        if not settled and not touched:
            return
        try:
            self._flush_index()
            for folder in touched:
                with contextlib.suppress(FileNotFoundError):
                    sync(folder)
        except BaseException:
            with self._lock:
                self._settled += settled
                self._touched |= touched
            raise
        for draft in settled:
            remove(draft)

    def leftovers(self) -> Iterator[str]:
        """Yield the drafts of dead processes, then remove their folders."""
        parent = os.path.join(self.root, INCOMING)
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(parent)):
                folder = os.path.join(parent, name)
                with _unheld(folder) as is_left:
                    if not is_left:
                        continue
                    for draft in sorted(os.listdir(folder)):
                        yield os.path.join(folder, draft)
                    self.flush()  # which removes the settled ones
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)

    def is_whole(self, draft: str) -> bool:
        """Return whether a draft is complete; a power cut may leave a name without bytes.

        An incomplete draft was never acknowledged, because its flush did not finish.
        """
        told = os.path.basename(draft).split("~")[2:]
        if not told:
            return True  # it got its name after all of it was on the disk
        try:
            with Instance(draft).open() as file:
                return f"{zlib.crc32(file.read()):08x}" == told[0]
        except (DataSetError, OSError):
            return False

    def bring_back(self, draft: str, name: str) -> None:
        """Restore the name of a draft if a power cut has lost it."""
        path = self.path(name)
        if not os.path.exists(path):
            make_folder(os.path.dirname(path))
            os.link(draft, path)
        with self._lock:
            self._touched.add(os.path.dirname(path))

    def why_unswept(self) -> str:
        """Return an empty string: a folder has its index beside it."""
        return ""

    def adopt(self) -> None:
        """Do nothing."""

    def found(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each finished file, and when it was written."""
        folders = [""]
        while folders:
            folder = folders.pop()
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif entry.name.endswith(".dcm"):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            yield name, entry.stat(follow_symlinks=False).st_mtime_ns


def _file_system_of(folder: str) -> str:
    """Return the type of a folder's file system; empty if unknown."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}" if hasattr(os, "major") else ""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            if number in before.split(" ", 3)[2:3]:
                return after.split(" ", 1)[0]
    return ""


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock that all processes of an archive share."""
    with open(path, "ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield


@contextlib.contextmanager
def _unheld(folder: str) -> Iterator[bool]:
    """Lock a folder of drafts; yield whether no living process holds it."""
    if fcntl is None:
        yield True
        return
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_left = True
    except OSError:
        is_left = False
    try:
        yield is_left
    finally:
        os.close(held)


def remove(path: str) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _link_or_move(draft: str, target: str) -> bool:
    """Give a draft another name; return False if the file system has no hard links."""
    try:
        return _linked(draft, target)
    except FileNotFoundError:  # the first in its folder
        make_folder(os.path.dirname(target))
        return _linked(draft, target)


def _linked(draft: str, target: str) -> bool:
    try:
        os.link(draft, target)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(target):
            raise
        os.rename(draft, target)
        return False
    return True


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
