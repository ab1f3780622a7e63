"""The folder for spool files: that of the last saved instance of the route."""

from __future__ import annotations

from pacsroute.instances.atomic_files import nameless


class Place:
    """Remembers where the last instance was saved, so that the next one is spooled there.

    Saving an instance then only renames its file, because it is on the same file system. Such a
    file has no name until it is saved, so a process that dies leaves nothing in the user's folder.
    If the file system requires names, nothing is remembered.

    All threads share it.

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
        """Note that an instance was saved in a folder, and whether it was flushed to the disk.

        Parameters
        ----------
        folder : str
            The folder, on a file system that supports files without names.
        durable : bool
            Whether it was flushed before `save` returned.
        """
        self._folder, self.is_durable = folder, durable

    def open(self) -> int | None:
        """Return a descriptor of a new file there; None if no folder is known, or it was removed.

        The folder is not made again: the user may have removed it.
        """
        if self._folder:
            try:
                return nameless(self._folder)
            except OSError:
                self.forget()
        return None

    def forget(self) -> None:
        """Make no more files there until another instance is saved."""
        self._folder = ""
