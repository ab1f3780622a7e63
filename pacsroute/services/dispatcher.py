"""One dispatcher for each association: it routes messages to services."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from importlib import import_module

from pacsroute.dataset import late
from pacsroute.dataset.limits import Limits
from pacsroute.dimse import commands
from pacsroute.dimse.commands import RequestCommand
from pacsroute.dimse.messages import Message
from pacsroute.errors import AssociationReleased
from pacsroute.framework.answering import Answering
from pacsroute.framework.base import BaseApp
from pacsroute.framework.results import Outcome
from pacsroute.services.call import Call, limits_for
from pacsroute.services.exchange import Exchange
from pacsroute.status import SOP_CLASS_NOT_SUPPORTED, UNRECOGNIZED_OPERATION, Status

logger = logging.getLogger("pacsroute")

_Service = Callable[[Call], Outcome]
_loaded: dict[str, _Service] = {}


def _service(route: str) -> _Service:
    """Return the service of an operation; the first call imports it: see `dataset.late`."""
    if not route:
        return _unrecognized
    if route not in _loaded:
        late.load()
        module = "normalized" if route.startswith("n_") else route
        _loaded[route] = import_module(f"pacsroute.services.{module}").answer
    return _loaded[route]


def get_ready() -> None:
    """Import the services, so that the first request does not wait for them."""
    for route in commands.NAMES:
        _service(route)


def _may_ask(call: Call) -> bool:
    """Return whether the peer may send us this request at all.

    A requestor was admitted and may use every route open to it. A peer that we called was never
    admitted: it may send C-ECHO and N-EVENT-REPORT, and requests for which it negotiated the
    SCU role.
    """
    if call.association.role == "acceptor" or call.context.scp:
        return True
    return isinstance(call.command, commands.CEchoRQ | commands.NEventReportRQ)


class Dispatcher:
    """Routes the messages of one association to the handlers of an app.

    Parameters
    ----------
    app : App
        The app whose handlers answer.
    association : Association
        The association of the messages, such as `pacsroute.Association.accept(…)`.

    Examples
    --------
    ::

        with Association.accept(socket, app) as association:
            dispatcher = Dispatcher(app, association)
            try:
                while True:
                    dispatcher.receive_and_dispatch()
            except AssociationReleased:
                print("done")
    """

    def __init__(self, app: BaseApp, association: Exchange) -> None:
        self.app = app
        self.association = association

    @cached_property
    def _limits(self) -> Limits:
        return limits_for(self.app, self.association)

    def run(self) -> None:
        """Receive and dispatch messages one by one until the association is released.

        Raises
        ------
        AssociationAborted
            If it is aborted or lost.
        """
        try:
            while True:
                self.dispatch(self.association.receive())
        except AssociationReleased:
            pass

    def receive_and_dispatch(self) -> None:
        """Wait for the next message and answer it."""
        self.dispatch(self.association.receive())

    def dispatch(self, message: Message) -> None:
        """Answer one message.

        An unexpected response, or a C-CANCEL that arrives too late, is ignored.
        """
        app, association, command = self.app, self.association, message.command
        if not isinstance(command, RequestCommand):
            title = ascii(association.calling_ae)[1:-1]
            logger.debug("%s ignored: %s", title, type(command).__name__)
            return
        context = association.contexts[message.context_id]
        with Answering(
            app,
            association,
            command.name,
            context.abstract_syntax,
            size=message.size,
            defer=association.defer,
        ) as answering:
            call = Call(app, association, context, command, message, answering, self._limits)
            service = _service(command.route) if _may_ask(call) else _not_for_the_peer
            answering.outcome = service(call)


def _unrecognized(call: Call) -> Outcome:
    return call.respond(Outcome(Status(UNRECOGNIZED_OPERATION)))


def _not_for_the_peer(call: Call) -> Outcome:
    status = Status(SOP_CLASS_NOT_SUPPORTED, "no role for it was negotiated")
    return call.respond(Outcome(status))
