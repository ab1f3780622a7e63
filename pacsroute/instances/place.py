"""Where the files of spools are made: where the last instance of their route was saved."""

from __future__ import annotations

from pacsroute.instances.atomic_files import nameless


class Place:
    """Remembers where instances were saved last, so that the next ones are spooled there.

    To save one is to rename it then, on whatever file system that is. A file in such a place has
    no name until it is saved: however a process ends, no part of it stays behind in a folder of
    the user's. Where files need a name, nothing is remembered.

    All threads share it: what one has saved, another one's spool is made for.

    Examples
    --------
    >>> place = Place()
    >>> place.open() is None
    True
    """

    def __init__(self) -> None:
        self._folder = ""
        self.is_durable = False

    def learn(self, folder: str, *, durable: bool) -> None:
        """Take it that an instance was saved in a folder, and whether it was flushed to the disk.

        Parameters
        ----------
        folder : str
            On a file system that has files without names.
        durable : bool
            Whether it was on the disk before the handler went on.
        """
        self._folder, self.is_durable = folder, durable

    def open(self) -> int | None:
        """Return a descriptor of a new file there; None if there is no such place, or it is gone.

        The folder is not made again: the user may have removed it.
        """
        if self._folder:
            try:
                return nameless(self._folder)
            except OSError:
                self.forget()
        return None

    def forget(self) -> None:
        """Make no more files there, until something is saved again."""
        self._folder = ""
