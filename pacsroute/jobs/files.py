"""The files of a queue: what is forwarded is kept until it is delivered, whatever else happens.

Each job has a file of its own, a hard link where the file system has them. So two lanes may
have the same instance, and what is saved under its name later does not change what is sent.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Collection
from pathlib import Path

from pacsroute.instances.atomic_files import make_folder, sync
from pacsroute.instances.instance import Instance

_SUFFIX = ".dcm"


class Files:
    """A folder of instances that wait.

    Parameters
    ----------
    folder : Path
        It is made when the first instance comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, instance: Instance, path: Path | None) -> str:
        """Keep an instance, durably, and return the name it has here.

        Parameters
        ----------
        instance : Instance
            What is kept.
        path : Path or None
            Its Part 10 file, where it is one: that is linked.

        Raises
        ------
        OSError
            If there is no room for it, or its file cannot be read.
        """
        name = uuid.uuid4().hex + _SUFFIX
        if not self.folder.is_dir():
            make_folder(str(self.folder))
        if path is None or not _linked(path, self.folder / name):
            instance.save(self.folder, name)
        else:
            sync(str(self.folder / name))  # it may have been saved with durable=False
            sync(str(self.folder))
        return name

    def path(self, name: str) -> Path:
        """Return where an instance is."""
        return self.folder / name

    def remove(self, name: str) -> None:
        """Remove an instance that nothing refers to any more."""
        (self.folder / name).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> int:
        """Remove what no job refers to; only while no other process uses the queue.

        Returns
        -------
        int
            How many files that were: each was kept by a call that did not return.
        """
        count = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                if entry.name.endswith(_SUFFIX) and entry.name not in known:
                    os.unlink(entry.path)
                    count += 1
        return count


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        return False
    return True
