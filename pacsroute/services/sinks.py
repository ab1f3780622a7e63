"""Where the data sets of messages go while they come."""

from __future__ import annotations

from pacsroute import uids
from pacsroute.dimse.commands import Command, CStoreRQ, NSetRQ, RequestCommand
from pacsroute.dimse.messages import Sink
from pacsroute.framework.base import BaseApp
from pacsroute.instances import part10
from pacsroute.instances.spool import Spool
from pacsroute.services.exchange import Exchange
from pacsroute.upper_layer.negotiation import AcceptedContext


class Memory(bytearray):
    """A sink for data sets that are read at once: all but those to be stored.

    What goes beyond the limit is dropped, and `is_cut` tells of it.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.is_cut = False

    def write(self, data: memoryview, /) -> None:
        """Take a fragment."""
        room = self.limit - len(self)
        self.is_cut = self.is_cut or len(data) > room
        self += data[:room]


def limit_of(command: Command) -> str:
    """Return the setting that limits the data set of a command, if that is not to be stored."""
    return "max_set_length" if isinstance(command, NSetRQ) else "max_identifier_length"


def open_sink(app: BaseApp, association: Exchange, context_id: int, command: Command) -> Sink:
    """Return where the data set of a message goes."""
    if isinstance(command, CStoreRQ):
        return _open_spool(app, association, association.contexts[context_id], command)
    return Memory(getattr(app.config, limit_of(command)))


def _open_spool(
    app: BaseApp, association: Exchange, context: AcceptedContext, command: CStoreRQ
) -> Spool:
    uid = uids.trim(command.affected_sop_instance)
    head = part10.head(
        context.abstract_syntax,
        uid if uids.is_uid(uid) else "",  # one that is not is refused later
        context.transfer_syntax,
        writer=app.ae_title,
        sender=association.calling_ae,
        receiver=association.called_ae,
    )
    return Spool(
        head,
        app.config.spool,
        most=app.config.max_dataset_length,
        room=app.room,
        most_of_all=app.config.max_spool,
    )


def is_expected(app: BaseApp, association: Exchange, context_id: int, command: Command) -> bool:
    """Tell whether the data set of what a peer asks may reach a handler."""
    if not isinstance(command, RequestCommand):
        return True
    titles = association.calling_ae, association.called_ae
    if isinstance(command, CStoreRQ):
        context = association.contexts[context_id]
        served = context.general or context.abstract_syntax
        return app.route(command.route, served, *titles) is not None
    return any(route.command == command.route for route in app.routes_for(*titles))
