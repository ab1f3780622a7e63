"""A message for a handler, with the means to answer it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pacsroute import dataset as data_sets
from pacsroute import uids
from pacsroute.dataset.limits import Limits
from pacsroute.dimse.commands import RequestCommand
from pacsroute.dimse.messages import Message
from pacsroute.errors import DataSetError, DataSetTooLarge
from pacsroute.framework.answering import Answering
from pacsroute.framework.base import BaseApp
from pacsroute.framework.character_sets import default_charset
from pacsroute.framework.handling import refused
from pacsroute.framework.requests import QueryRequest, Request
from pacsroute.framework.results import Outcome
from pacsroute.framework.routes import Route
from pacsroute.services.exchange import Exchange
from pacsroute.services.responses import response
from pacsroute.services.sinks import limit_of
from pacsroute.status import IDENTIFIER_MISMATCH, OUT_OF_RESOURCES, SOP_CLASS_NOT_SUPPORTED, Status
from pacsroute.upper_layer import extended
from pacsroute.upper_layer.negotiation import AcceptedContext

if TYPE_CHECKING:
    from pydicom import Dataset


_LARGE = 65_536  # bytes: longer data sets are not copied to be read

_Made = TypeVar("_Made", bound=Request)
_Query = TypeVar("_Query", bound=QueryRequest)


@dataclass(slots=True)
class Call:
    """A message for a handler, with the means to answer it.

    `limits` are those on data sets from the peer, and `route` is the route that answers it, once
    found.
    """

    app: BaseApp
    association: Exchange
    context: AcceptedContext
    command: RequestCommand
    message: Message
    answering: Answering
    limits: Limits
    route: Route | None = None

    def find_route(self, sop_class: str = "", kind: int | None = None) -> Route | None:
        """Find the route: by default for the context's class, or the general class it is served as.

        `kind` is an action or event type.
        """
        served_class = sop_class or self.context.general or self.context.abstract_syntax
        self.route = self.app.route(
            self.command.route,
            served_class,
            self.association.calling_ae,
            self.association.called_ae,
            kind,
        )
        return self.route

    def make(self, kind: type[_Made], **values: Any) -> _Made:
        """Return the request that reaches the handler."""
        association, context, message_id = self.association, self.context, self.command.message_id
        if context.information:
            values["extended"] = extended.agreed(self.command.route, context.information)
        request = kind(
            app=self.app,
            association=association,
            calling_ae=association.calling_ae,
            called_ae=association.called_ae,
            remote_address=association.remote_address,
            user=association.user,
            message_id=message_id,
            transfer_syntax=context.transfer_syntax,
            abstract_syntax=context.abstract_syntax,
            general=context.general,
            is_cancelled=functools.partial(association.cancelled, message_id),
            **values,
        )
        request.route = self.route
        request.keep_failure = association.keep_failure
        self.answering.request = request
        return request

    def respond(self, outcome: Outcome, data: bytes | None = None) -> Outcome:
        """Send the final response, and return its outcome."""
        self.association.send(self.context.id, response(self.command, outcome), data)
        return outcome

    def charset(self, said: Any) -> Any:
        """Return the Specific Character Set of responses: the setting, or the peer's.

        Parameters
        ----------
        said : str, list of str or None
            The Specific Character Set of the request's identifier.
        """
        config = self.app.config
        return (self.route and self.route.charset) or config.charset or said or self.limits.charset

    def read(self, how: Callable[[Any, str, Limits], Dataset]) -> Dataset:
        """Return the data set of a message other than a C-STORE.

        Raises
        ------
        UnreadableDataSet
            If it cannot be read as a data set.
        DataSetTooLarge
            If it exceeds a limit.
        """
        data: Any = self.message.data
        if getattr(data, "cut", ""):
            raise DataSetTooLarge(data.cut)
        limits = self.limits._replace(inflated=getattr(self.app.config, limit_of(self.command)))
        held = memoryview(data) if len(data) > _LARGE else bytes(data)
        return how(held, self.context.transfer_syntax, limits)


def limits_for(app: BaseApp, association: Exchange) -> Limits:
    """Return the limits on the data sets of an association's peer, with its character set."""
    config, is_caller = app.config, association.role == "acceptor"
    return Limits(
        config.max_depth,
        config.max_inflated,
        config.max_elements,
        config.max_memory,
        default_charset(config, association.calling_ae if is_caller else association.called_ae),
    )


def unreadable(call: Call, status: Status, error: DataSetError) -> Outcome:
    """Refuse a message whose data set cannot be read, and log why."""
    why = f"{status.comment}: {error}"
    return refused(call.command.route, call.association.calling_ae, Outcome(status), why)


def misplaced(call: Call, sop_class: str) -> Outcome | None:
    """Refuse a command whose SOP class differs from its presentation context's.

    The context fixes the class (PS3.4 §C.4.1.1.1), and so the handlers that may be reached.
    """
    abstract = call.context.abstract_syntax
    if sop_class in ("", abstract) or sop_class in uids.carried(abstract):
        return None
    return Outcome(Status(SOP_CLASS_NOT_SUPPORTED, "not the SOP class of its context"))


def read_query(call: Call, kind: type[_Query], **values: Any) -> _Query | Outcome:
    """Return the request with its identifier, or the outcome of a refusal."""
    command: Any = call.command
    if call.find_route() is None:
        return Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
    if wrong := misplaced(call, uids.trim(command.affected_sop_class)):
        return wrong
    if not call.message.data:
        return Outcome(Status(IDENTIFIER_MISMATCH, "there is no identifier"))
    try:
        values["identifier"] = call.read(data_sets.identifier)
    except DataSetTooLarge as error:
        status = Status(OUT_OF_RESOURCES, "the identifier is too large")
        return unreadable(call, status, error)
    except DataSetError as error:
        status = Status(IDENTIFIER_MISMATCH, "the identifier cannot be read")
        return unreadable(call, status, error)
    return call.make(kind, sop_class=call.context.abstract_syntax, **values)
