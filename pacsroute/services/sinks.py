"""Sinks: they receive the data sets of incoming messages."""

from __future__ import annotations

from pacsroute import memory, uids
from pacsroute.dimse.commands import Command, CStoreRQ, NSetRQ, RequestCommand
from pacsroute.dimse.messages import Sink
from pacsroute.framework.base import BaseApp
from pacsroute.instances import part10
from pacsroute.instances.spool import Claim, spool_for
from pacsroute.services.exchange import Exchange
from pacsroute.upper_layer.negotiation import AcceptedContext


class Memory(bytearray):
    """A sink in memory, for data sets of all requests except C-STORE.

    A data set that exceeds a limit is dropped, including the fragments before.

    Parameters
    ----------
    limit : int
        The maximum number of bytes.
    setting : str
        The name of the setting with that limit.
    most : int
        The maximum number of bytes for all peers of the process: the setting ``max_memory``.

    Attributes
    ----------
    cut : str
        The limit that was exceeded, for the log; empty if the data set is complete.
    """

    def __init__(self, limit: int, setting: str = "the limit", most: int = memory.DEFAULT) -> None:
        super().__init__()
        self.limit = limit
        self.setting = setting
        self.cut = ""
        self._holding = memory.Holding(most)

    def write(self, data: memoryview, /) -> None:
        """Take a fragment."""
        if self.cut:
            return
        if len(self) + len(data) > self.limit:
            self._drop(f"longer than {self.setting}, {self.limit} bytes")
        elif not self._holding.grow(len(data)):
            self._drop(f"max_memory reached, {self._holding.most} bytes of all peers")
        else:
            self += data

    def _drop(self, why: str) -> None:
        self.cut = why
        self.clear()
        self._holding.close()

    def __bool__(self) -> bool:
        """Return whether any data arrived."""
        return bool(self.cut) or len(self) > 0

    @property
    def in_memory(self) -> int:
        """The number of bytes that it occupies in memory."""
        return len(self)


def limit_of(command: Command) -> str:
    """Return the setting that limits the data set of a command other than a C-STORE."""
    return "max_set_length" if isinstance(command, NSetRQ) else "max_identifier_length"


def open_sink(
    app: BaseApp,
    association: Exchange,
    context_id: int,
    command: Command,
    claim: Claim | None = None,
) -> Sink:
    """Return the sink for the data set of a message; it keeps nothing if no handler may get it.

    Parameters
    ----------
    claim : callable, optional
        Requests the buffer of a fragment from the transport; see `pacsroute.instances.spool.Claim`.
    """
    is_acceptor = association.role == "acceptor"
    titles = association.calling_ae, association.called_ae
    if isinstance(command, CStoreRQ):
        context, place = association.contexts[context_id], app.fetched_place
        if is_acceptor:
            route = app.route("store", context.general or context.abstract_syntax, *titles)
            if route is None:
                return Memory(0)
            place = route.place
        if app.declared.quiet:
            app.work.receiving(association)
        return spool_for(_head(app, command, context, titles), app.config, app.room, place, claim)
    is_request = isinstance(command, RequestCommand)
    if is_acceptor and is_request and not _has_route(app, command, titles):
        return Memory(0)
    setting = limit_of(command)
    return Memory(getattr(app.config, setting), setting, app.config.max_memory)


def _has_route(app: BaseApp, command: Command, titles: tuple[str, str]) -> bool:
    return any(route.command == command.route for route in app.routes_for(*titles))


def _head(
    app: BaseApp, command: CStoreRQ, context: AcceptedContext, titles: tuple[str, str]
) -> bytes:
    """Return the head of the instance's file; one whose UID is not valid is refused later."""
    return part10.head(
        context.abstract_syntax,
        uids.trim(command.affected_sop_instance)[: uids.LONGEST],
        context.transfer_syntax,
        writer=app.config.ae_title,
        sender=titles[0],
        receiver=titles[1],
    )
