"""The files of a queue: forwarded instances are kept until they are delivered.

Each job has its own file, a hard link if the file system supports them. So two lanes may have the
same instance, and overwriting the original file does not change the instance that is sent. An
instance in a storage stays there, because keys are never reused.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Protocol

from pacsroute import storage
from pacsroute.errors import SetupError
from pacsroute.instances.atomic_files import make_folder, sync
from pacsroute.instances.instance import Instance
from pacsroute.instances.stored import Stored

_SUFFIX = ".dcm"

Place = str | list[str]
"""The place of an instance, as JSON: a file, or the URL of a storage and a key."""


class Keeper(Protocol):
    """One of the processes that keep files in the same folder."""

    id: str

    def has_ended(self, other: str) -> bool:
        """Return whether another process has ended, so that it queues nothing more."""

    def close(self) -> None:
        """Show other processes that this one keeps no more files."""


class Files:
    """A folder of waiting instances.

    Parameters
    ----------
    folder : Path
        The folder; created for the first instance.
    keeper : callable
        Returns this process as a `Keeper` when the folder is first used. Its name is part of each
        file name, and `sweep` removes its files only after it has ended.
    """

    def __init__(self, folder: Path, keeper: Callable[[], Keeper]) -> None:
        self.folder = folder
        self._make_keeper = keeper
        self._made: Keeper | None = None
        self._making = threading.Lock()
        self._numbers = itertools.count()

    @property
    def _keeper(self) -> Keeper:
        with self._making:
            if self._made is None:
                self._made = self._make_keeper()
            return self._made

    def close(self) -> None:
        """Stop keeping files: files without a job may be swept."""
        with self._making:
            if self._made is not None:
                self._made.close()
                self._made = None

    def keep(self, instance: Instance) -> Place:
        """Keep an instance durably, and return its place.

        Raises
        ------
        OSError
            If the disk is full, or the file cannot be read.
        """
        if (place := _in_storage(instance)) is not None:
            return place
        name = f"{self._keeper.id}-{next(self._numbers)}{_SUFFIX}"
        if not self.folder.is_dir():
            make_folder(str(self.folder))
        if instance.path is None or not _linked(instance.path, self.folder / name):
            instance.save(self.folder, name)
        else:
            sync(str(self.folder / name))  # it may have been saved with durable=False
            sync(str(self.folder))
        return name

    def source(self, place: Place) -> Path | Stored:
        """Return the source of an `Instance` that was kept.

        Raises
        ------
        OSError
            If its storage cannot be opened.
        """
        return self.path(place) if isinstance(place, str) else _stored(place)

    def path(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.folder / name

    def remove(self, place: Place | None) -> None:
        """Remove an instance that is no longer referenced, if it is kept here."""
        if isinstance(place, str):
            (self.folder / place).unlink(missing_ok=True)

    def sweep(self, known: Callable[[], Container[str]]) -> int:
        """Remove files without a job, left by calls that never returned.

        Parameters
        ----------
        known : callable
            Returns the names that jobs refer to; called only if there may be other files.

        Returns
        -------
        int
            The number of removed files.
        """
        left = list(self._of_ended_processes())
        names = known() if left else ()
        swept = [name for name in left if name not in names]
        for name in swept:
            self.remove(name)
        return len(swept)

    def _of_ended_processes(self) -> Iterable[str]:
        ended: dict[str, bool] = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                if not entry.name.endswith(_SUFFIX):
                    continue
                keeper = entry.name.partition("-")[0]
                if keeper not in ended:
                    ended[keeper] = self._keeper.has_ended(keeper)
                if ended[keeper]:
                    yield entry.name


# ------------------------------------------------------------- original files


def original_of(instance: Instance) -> Place | None:
    """Return the file that ``delete=True`` removes after delivery, or None.

    Raises
    ------
    SetupError
        If its storage cannot be found again after a restart.
    """
    if instance.path is not None:
        return os.path.abspath(instance.path)
    place = _in_storage(instance)
    if place is None and instance.stored is not None:
        raise SetupError(
            "forward(delete=True): only what is in a file, or in a storage of pacsroute.storage, "
            "can be removed later"
        )
    return place


def remove_original(place: Place) -> None:
    """Remove a file returned by `original_of`, if it still exists."""
    if isinstance(place, str):
        Path(place).unlink(missing_ok=True)
    else:
        stored = _stored(place)
        stored.storage.delete(stored.key)


def _in_storage(instance: Instance) -> Place | None:
    if (stored := instance.stored) is None or (url := storage.url_of(stored.storage)) is None:
        return None
    return [url, stored.key]


def _stored(place: list[str]) -> Stored:
    url, key = place
    try:
        return Stored(storage.at_url(url), key)
    except SetupError as error:
        raise OSError(str(error)) from None


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:  # a different file system, or one without hard links
        return False
    return True
