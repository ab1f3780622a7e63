"""What a disk has after a power cut at any moment: what was flushed, and some of the rest."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from pacsroute import group_commit

CALLS = ("open", "fsync", "link", "unlink", "rename")


class Moment(NamedTuple):
    """What was on the disk for sure, and what would have been there without the power cut."""

    durable: dict  # the flushed names, with the inode of each
    current: dict
    flushed: dict  # the bytes of each inode when it was flushed last
    written: dict
    old_index: dict  # the files of the index as it was flushed last
    new_index: dict
    done: tuple  # what had been acknowledged by then


class Recorder:
    """Takes down a moment after each call that changes a folder, or flushes something of it.

    Parameters
    ----------
    root : Path
        The folder, with an index in ``index.db``.
    names_with_files : bool
        Whether the flush of a file flushes its names, too, as with ext4. The flush of a folder
        flushes its names in any case.
    """

    def __init__(self, monkeypatch, root, names_with_files):
        self._root = root
        self._names_with_files = names_with_files
        self._durable, self._flushed, self._old_index = {}, {}, {}
        self.done, self.moments = [], []
        for name in CALLS:
            self._watch(monkeypatch, os, name)
        self._watch(monkeypatch, group_commit, "_do")

    def _watch(self, monkeypatch, owner, name):
        real = getattr(owner, name)

        def call(*given, **options):
            result = real(*given, **options)
            if name == "open" and not given[1] & os.O_CREAT:
                return result
            if name == "fsync":
                self._flush(given[0])
            elif name == "_do" and given[0].execute("PRAGMA synchronous").fetchone()[0] == 2:
                self._old_index = self._index()
            self._note()
            return result

        monkeypatch.setattr(owner, name, call)

    def _flush(self, fd):
        there = os.fstat(fd)
        names = self._names()
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.is_dir():
            folder = path.relative_to(self._root) if path.is_relative_to(self._root) else None
            self._durable = {
                name: inode for name, inode in self._durable.items() if name.parent != folder
            } | {name: inode for name, inode in names.items() if name.parent == folder}
            return
        self._flushed[there.st_ino] = os.pread(fd, there.st_size, 0) if there.st_size else b""
        if self._names_with_files:
            self._durable |= {n: inode for n, inode in names.items() if inode == there.st_ino}

    def _names(self):
        return {
            path.relative_to(self._root): path.stat().st_ino
            for path in self._root.rglob("*")
            if path.is_file() and not path.name.startswith("index.db")
        }

    def _index(self):
        return {path.name: path.read_bytes() for path in self._root.glob("index.db*")}

    def _note(self):
        current = self._names()
        written = {inode: (self._root / name).read_bytes() for name, inode in current.items()}
        self.moments.append(
            Moment(
                dict(self._durable),
                current,
                dict(self._flushed),
                written,
                self._old_index,
                self._index(),
                tuple(self.done),
            )
        )


def disks(moment):
    """Yield what the disk may have afterwards: a name for it, its files, and its index."""
    durable, current = moment.durable, moment.current
    flushed = {inode: moment.flushed.get(inode, b"") for inode in {*durable.values()}}
    lost = {inode: moment.flushed.get(inode, b"") for inode in {*current.values()}}
    left = {name: inode for name, inode in durable.items() if current.get(name) == inode}
    yield "what was flushed", durable, flushed, moment.old_index
    yield "and what was removed is gone", left, flushed, moment.old_index
    yield "names without their bytes", current, lost, moment.old_index
    yield "names without their bytes, and the index", current, lost, moment.new_index
    yield "all of it", current, moment.written, moment.new_index


def lay_out(folder, names, contents, index):
    """Write a disk into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    places = {}
    for name, inode in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if inode in places:
            os.link(places[inode], path)
        else:
            path.write_bytes(contents[inode])
            places[inode] = path
    for name, data in index.items():
        (folder / name).write_bytes(data)
