"""A Part 10 file that comes over HTTP, on its way into the spool."""

from __future__ import annotations

import io

from pacsroute import uids
from pacsroute.errors import DataSetError
from pacsroute.instances import part10, peek
from pacsroute.instances.spool import Spool
from pacsroute.web.exchange import Exchange

_HEAD = 65_536  # bytes of what is before a data set, at most


class Incoming:
    """Takes the pieces of a Part 10 file; its data set goes to the spool as it came.

    Parameters
    ----------
    exchange : Exchange
        The request that brings it.

    Attributes
    ----------
    sop_class, sop_instance, transfer_syntax : str
        What it says of itself, once `end` was called: the data set wins over the File Meta
        Information. Empty where it does not say so.
    spool : Spool or None
        The data set; None where it is no Part 10 file.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
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
        """Take its end."""
        if self.spool is None and not self._is_broken:
            self._look()
        if self.spool is not None and self.spool.size & 1:
            self.spool.write(b"\0")

    def _look(self) -> None:
        """Find where the data set begins, and what it is of."""
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
        self._open_spool().write(file.getbuffer()[head.end :])

    def _open_spool(self) -> Spool:
        app, caller = self._exchange.app, self._exchange.caller
        head = part10.head(
            self.sop_class if uids.is_uid(self.sop_class) else "",
            self.sop_instance if uids.is_uid(self.sop_instance) else "",
            self.transfer_syntax,
            writer=app.ae_title,
            sender=caller.calling_ae,
            receiver=caller.called_ae,
        )
        self.spool = Spool(
            head,
            app.config.spool,
            most=app.config.max_dataset_length,
            room=app.room,
            most_of_all=app.config.max_spool,
        )
        return self.spool
