"""``pacsroute store``: send many files."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import click
from click.exceptions import Exit

from pacsroute import uids
from pacsroute.cli.clients import (
    SOME_FAILED,
    CtrlC,
    PeerCommand,
    asks_a_peer,
    reason,
)
from pacsroute.cli.numbers import WholeNumber
from pacsroute.cli.progress import on_a_terminal, say, volume
from pacsroute.errors import (
    AssociationError,
    AssociationRejected,
    DataSetError,
    NotAccepted,
    RequestFailed,
)
from pacsroute.instances.instance import Instance
from pacsroute.net.client import Client
from pacsroute.status import Status

# A peer at its limit may still count an aborted association for a while.
_TRANSIENT = 2
_PAUSES = (0.01, 0.1, 1.0)  # seconds
_SHOWN = 10  # failures of a kind to show on a terminal; a file or pipe gets all


class File(NamedTuple):
    """A file as found; a different size or time makes it a different file."""

    path: str
    size: int
    mtime: int


@dataclass
class Counts:
    """Counts of the files by result; `size` is the total of the sent files in bytes."""

    not_sent: int = 0  # neither sent nor failed, so far
    sent: int = 0
    failed: int = 0
    not_dicom: int = 0
    sent_before: int = 0
    size: int = 0


class Journal:
    """The files that a peer has acknowledged, in a text file, so that a later run skips them.

    Each line is a JSON array of the absolute path, the size in bytes, and the time of the
    last change in nanoseconds.

    Parameters
    ----------
    path : str
        The file; made if it is not there.

    Raises
    ------
    DataSetError
        If the file holds something else.
    OSError
        If it cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "a+", encoding="utf-8", newline="")  # noqa: SIM115 - see close
        try:
            self._known = self._read(path)
        except BaseException:
            self._file.close()
            raise

    def _read(self, path: str) -> set[File]:
        self._file.seek(0)
        try:
            *whole, last = self._file.read().split("\n")
            known = {File(*json.loads(line)) for line in whole}
            if last[:1] not in ("", "["):
                raise ValueError
        except (ValueError, TypeError):
            raise DataSetError(f"{path} is not a list of sent files") from None
        if last:  # a run was killed while writing: ignore the incomplete line
            self._file.truncate(len("\n".join([*whole, ""]).encode()))
        return known

    def __contains__(self, file: File) -> bool:
        return file in self._known

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, file: File) -> None:
        """Add a file, and write it immediately."""
        self._file.write(json.dumps(file) + "\n")
        self._file.flush()


def collect(
    paths: Iterable[str], counts: Counts, journal: Journal | None, say: Callable[[str], None]
) -> Iterator[File]:
    """Find the files to send, and count the others.

    Parameters
    ----------
    paths : iterable of str
        Files, and folders with their contents.
    counts : Counts
        The counts of the run.
    journal : Journal, optional
        Its files are left out.
    say : callable
        Called with a line for each unreadable file.
    """

    def fails(path: str, error: Exception) -> None:
        counts.failed += 1
        say(f"{path}: {reason(error)}")

    for path, named in _walk(paths, fails):
        try:
            status = os.stat(path)
            file = File(os.path.abspath(path), status.st_size, status.st_mtime_ns)
            if journal is not None and file in journal:
                counts.sent_before += 1
            elif _is_part_10(path):
                yield file
            elif named:
                fails(path, DataSetError("not a DICOM file: it has no DICM prefix (PS3.10 §7.1)"))
            else:
                counts.not_dicom += 1
        except OSError as error:
            fails(path, error)


def _walk(
    paths: Iterable[str], fails: Callable[[str, Exception], None]
) -> Iterator[tuple[str, bool]]:
    """Yield files in order, and whether they were named rather than found in a folder."""
    for path in paths:
        if not os.path.isdir(path):
            yield path, True
            continue
        for folder, folders, files in os.walk(
            path, onerror=lambda error: fails(str(error.filename), error)
        ):
            folders.sort()
            for name in sorted(files):
                inside = os.path.join(folder, name)
                # Opening a pipe would wait for its other end.
                if os.path.isfile(inside) or not os.path.exists(inside):
                    yield inside, False


def _is_part_10(path: str) -> bool:
    if os.path.basename(path) == "DICOMDIR":
        return False  # it lists instances, but is not one itself
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


class FileSender:
    """Sends files over several associations at once.

    A failing file is reported, and the others continue. If a peer accepts no more associations, the
    existing ones do the rest.

    Parameters
    ----------
    client : Client
        A client of the peer. All threads share it, and what it has learnt to propose.
    files : iterable of File
        The files to send.
    counts : Counts
        Kept up to date.
    journal : Journal, optional
        The journal of acknowledged files.
    say : callable
        Called with a line for each failure.
    moved : callable
        Called with the size of each finished file, sent or not.
    stopping : callable
        Returns whether to stop after the current files.
    """

    def __init__(
        self,
        client: Client,
        files: Iterable[File],
        counts: Counts,
        journal: Journal | None,
        *,
        say: Callable[[str], None],
        moved: Callable[[int], None],
        stopping: Callable[[], bool],
    ) -> None:
        self.counts = counts
        self._client = client
        self._waiting = deque(files)
        self._journal = journal
        self._say = say
        self._moved = moved
        self._stopping = stopping
        self._failures: Counter[str] = Counter()
        self._lost: Exception | None = None
        self._lock = threading.Lock()

    def run(self, jobs: int) -> None:
        """Send the files over this many associations.

        Raises
        ------
        AssociationError
            If the peer is unreachable, or accepts no association.
        OSError
            If the journal cannot be written.
        """
        while self._waiting and not self._stopping():
            done = self.counts.sent + self.counts.failed
            self._lost = None
            # Daemon threads, so that a second Ctrl-C does not wait for them.
            threads = [
                threading.Thread(target=self._work, daemon=True)
                for _ in range(min(jobs, len(self._waiting)))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self._lost and done == self.counts.sent + self.counts.failed:
                raise self._lost

    def _work(self) -> None:
        while not self._stopping():
            try:
                file = self._waiting.popleft()
            except IndexError:
                return
            try:
                self._send(file)
            except (AssociationError, OSError) as error:
                self._waiting.appendleft(file)  # for threads that still have an association
                self._lost = error
                return

    def _send(self, file: File) -> None:
        try:
            instance = Instance(file.path)
            if not (uids.is_uid(instance.sop_class) and uids.is_uid(instance.transfer_syntax)):
                raise DataSetError("its SOP class or transfer syntax is not a UID")
            status = self._client.store(instance)
        except AssociationRejected:
            raise
        except AssociationError as error:
            self._probe()
            self._fail(file, error)
        except Exception as error:  # noqa: BLE001 - pydicom raises many kinds for broken files
            self._fail(file, error)
        else:
            self._acknowledge(file, status)

    def _probe(self) -> None:
        """Raise if the peer is unreachable; otherwise, the instance ended the association."""
        for pause in (*_PAUSES, None):
            try:
                with contextlib.suppress(NotAccepted, RequestFailed):
                    self._client.echo()
                return
            except AssociationRejected as error:
                if error.result != _TRANSIENT or pause is None:
                    raise
            time.sleep(pause)

    def _fail(self, file: File, error: Exception) -> None:
        with self._lock:
            self.counts.failed += 1
            self.counts.not_sent -= 1
            kind = str(error.status) if isinstance(error, RequestFailed) else reason(error)
            self._failures[kind] += 1
            if self._failures[kind] <= _SHOWN or not on_a_terminal():
                self._say(f"{file.path}: {reason(error)}")
            self._moved(file.size)

    def tell_others(self) -> None:
        """Report how many failures of each kind were not shown."""
        for kind, count in self._failures.items():
            if count > _SHOWN and on_a_terminal():
                self._say(f"and {count - _SHOWN} more: {kind}")

    def _acknowledge(self, file: File, status: Status) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.add(file)
            self.counts.sent += 1
            self.counts.not_sent -= 1
            self.counts.size += file.size
            if status.category == "Warning":
                self._say(f"{file.path}: sent, {status}")
            self._moved(file.size)


# ------------------------------------------------------------- the command


@click.command(cls=PeerCommand)
@asks_a_peer
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-j",
    "--jobs",
    type=WholeNumber(1),
    metavar="NUMBER",
    default=1,
    show_default=True,
    help="Send over this many associations at once.",
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="List the sent files in FILE, and skip those that it lists already.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bar.")
def store(
    client: Client, paths: tuple[str, ...], jobs: int, resume: str | None, quiet: bool
) -> None:
    """Send DICOM files, and those in folders (C-STORE).

    \b
    Examples:
      pacsroute store 10.0.0.7 11112 -c PACS -j 4 --resume sent.txt images/
      pacsroute store https://pacs.example/dicom-web images/
    """  # noqa: D301 - click's mark is a backspace
    counts = Counts()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(contextlib.closing(_journal(resume))) if resume else None
        files = list(collect(paths, counts, journal, say))
        counts.not_sent = len(files)
        if not (files or counts.failed or counts.sent_before):
            say("nothing to send: there is no DICOM file")
        ctrl_c = stack.enter_context(CtrlC(polite=True))
        stack.callback(lambda: click.echo(_summary(counts, time.monotonic() - began)))
        moved = stack.enter_context(_bar(files, counts, shown=on_a_terminal() and not quiet))
        sender = FileSender(
            client,
            files,
            counts,
            journal,
            say=say,
            moved=moved,
            stopping=lambda: ctrl_c.stopping,
        )
        stack.callback(sender.tell_others)
        try:
            sender.run(jobs)
        except OSError as error:
            raise click.ClickException(f"--resume {resume}: {reason(error)}") from None
    if counts.failed:
        raise Exit(SOME_FAILED)


def _journal(path: str) -> Journal:
    try:
        return Journal(path)
    except (DataSetError, OSError) as error:
        raise click.UsageError(f"--resume {path}: {reason(error)}") from None


@contextlib.contextmanager
def _bar(files: list[File], counts: Counts, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yield the function that takes the size of each finished file."""
    if not (shown and files):
        yield lambda size: None
        return
    began = time.monotonic()

    def state(_: object) -> str:
        speed = counts.size / 1e6 / max(time.monotonic() - began, 0.001)
        return f"{counts.sent + counts.failed}/{len(files)} files, {speed:.1f} MB/s"

    length = sum(file.size for file in files)
    # A line wider than the terminal would be repeated at each step: width 0 fits it in.
    with click.progressbar(length=length, file=sys.stderr, item_show_func=state, width=0) as bar:
        yield bar.update


def _summary(counts: Counts, seconds: float) -> str:
    skipped = counts.not_dicom + counts.sent_before
    why = f" ({counts.not_dicom} not DICOM, {counts.sent_before} sent before)" if skipped else ""
    left = f", {counts.not_sent} not sent" if counts.not_sent else ""
    return (
        f"sent {counts.sent}, failed {counts.failed}, skipped {skipped}{why}{left}: "
        f"{volume(counts.size)} in {seconds:.1f} s"
    )
