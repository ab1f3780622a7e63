"""A Part 10 file that arrives in pieces, and is spooled."""

from __future__ import annotations

import io
from collections.abc import Callable

from pacsroute import uids
from pacsroute.errors import DataSetError
from pacsroute.instances import part10, peek
from pacsroute.instances.spool import Spool

_HEAD = 65_536  # maximum bytes before the data set


class Incoming:
    r"""Takes the pieces of a Part 10 file; its data set is spooled unchanged.

    Parameters
    ----------
    open_spool : callable
        Called with the head of the file to write; returns its spool.
    writer, sender, receiver : str
        AE titles for that head, as in `pacsroute.instances.part10.head`.

    Attributes
    ----------
    sop_class, sop_instance, transfer_syntax : str
        Its UIDs, once `end` was called: the data set takes precedence over the File Meta
        Information. Empty if unknown.
    spool : Spool or None
        The data set; None if it is not a Part 10 file.

    Examples
    --------
    >>> data_set = b"\x08\0\x18\0UI\x06\x001.2.3\0"
    >>> incoming = Incoming(Spool)
    >>> incoming.data(memoryview(part10.head("1.2", "1.2.4", "1.2.840.10008.1.2.1") + data_set))
    >>> incoming.end()
    >>> incoming.sop_instance, incoming.spool.open().read() == data_set
    ('1.2.3', True)
    """

    def __init__(
        self,
        open_spool: Callable[[bytes], Spool],
        *,
        writer: str = "",
        sender: str = "",
        receiver: str = "",
    ) -> None:
        self._open_spool = open_spool
        self._titles = {"writer": writer, "sender": sender, "receiver": receiver}
        self._first = bytearray()
        self.spool: Spool | None = None
        self.sop_class = self.sop_instance = self.transfer_syntax = ""
        self._is_broken = False

    def data(self, piece: memoryview) -> None:
        """Take a piece of the file."""
        if self.spool is not None:
            self.spool.write(piece)
        elif not self._is_broken:
            self._first += piece
            if len(self._first) > _HEAD + peek.LOOK:
                self._look()

    def end(self) -> None:
        """Take the end of the file."""
        if self.spool is None and not self._is_broken:
            self._look()
        if self.spool is not None and self.spool.size & 1:
            self.spool.write(b"\0")

    def _look(self) -> None:
        """Find the beginning of the data set, and its UIDs."""
        file = io.BytesIO(self._first)
        self._first = bytearray()
        try:
            head = part10.head_of(file)
            found = peek.sop_uids(file.read(peek.LOOK), head.transfer_syntax)
        except DataSetError:
            self._is_broken = True
            return
        self.transfer_syntax = head.transfer_syntax
        self.sop_class = uids.trim(found[0] or head.sop_class)
        self.sop_instance = uids.trim(found[1] or head.sop_instance)
        sop_class = self.sop_class if uids.is_uid(self.sop_class) else ""
        sop_instance = self.sop_instance if uids.is_uid(self.sop_instance) else ""
        ours = part10.head(sop_class, sop_instance, self.transfer_syntax, **self._titles)
        self.spool = self._open_spool(ours)
        self.spool.write(file.getbuffer()[head.end :])
