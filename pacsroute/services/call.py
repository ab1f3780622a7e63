"""A message on its way to a handler, and what is needed to answer it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pacsroute import uids
from pacsroute.dataset.limits import Limits
from pacsroute.dimse import commands
from pacsroute.dimse.commands import Command
from pacsroute.dimse.messages import Message
from pacsroute.errors import DataSetError
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Request
from pacsroute.framework.results import Outcome
from pacsroute.framework.routes import Route
from pacsroute.services.exchange import Exchange
from pacsroute.status import IDENTIFIER_MISMATCH, SOP_CLASS_NOT_SUPPORTED, Status
from pacsroute.upper_layer import extended
from pacsroute.upper_layer.negotiation import AcceptedContext

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger("pacsroute")


_COMMANDS = {
    commands.CStoreRQ: "store",
    commands.CFindRQ: "find",
    commands.CGetRQ: "get",
    commands.CMoveRQ: "move",
}


def limit_of(command: Command) -> str:
    """Return the setting that limits the data set of a command, if that is not to be stored."""
    is_set = isinstance(command, commands.NSetRQ)
    return "max_set_length" if is_set else "max_identifier_length"


@dataclass(slots=True)
class Call:
    """A message on its way to a handler, and what is needed to answer it.

    `request` is what has become of it; None before, and where it is refused without one.
    """

    app: BaseApp
    association: Exchange
    context: AcceptedContext
    message: Message
    request: Request | None = None

    def values(self) -> dict[str, Any]:
        """Return what a request of it has, whatever its service."""
        association, context, command = self.association, self.context, self.message.command
        values: dict[str, Any] = {
            "app": self.app,
            "association": association,
            "calling_ae": association.calling_ae,
            "called_ae": association.called_ae,
            "remote_address": association.remote_address,
            "user": association.user,
            "message_id": getattr(command, "message_id", 0),
            "transfer_syntax": context.transfer_syntax,
            "abstract_syntax": context.abstract_syntax,
            "general": context.general,
        }
        if context.information:
            name = _COMMANDS.get(type(command), "")
            values["extended"] = extended.agreed(name, context.information)
        return values

    @property
    def limits(self) -> Limits:
        """How deep and how large a data set to be stored may be when it is parsed."""
        config = self.app.config
        return Limits(
            config.max_depth, config.max_inflated, config.max_deflate_ratio, config.max_elements
        )

    def read(self, how: Callable[[bytes, str, Limits], Dataset]) -> Dataset:
        """Return the data set of the message, which is not one to be stored.

        Raises
        ------
        DataSetError
            If it is none, or is longer than the limit.
        """
        limit = limit_of(self.message.command)
        most = getattr(self.app.config, limit)
        data: Any = self.message.data
        if getattr(data, "is_cut", False):
            raise DataSetError(f"longer than {limit}, {most} bytes")
        limits = self.limits._replace(inflated=most)
        return how(bytes(data), self.context.transfer_syntax, limits)

    def route(self, command: str) -> Route | None:
        """Return the route of a command for the context's class, or for what that is served as."""
        association, context = self.association, self.context
        served_class = context.general or context.abstract_syntax
        return self.app.route(command, served_class, association.calling_ae, association.called_ae)


def misplaced(call: Call, sop_class: str) -> Outcome | None:
    """Refuse a command whose SOP class is another than its presentation context's.

    The context has fixed the class (PS3.4 §C.4.1.1.1), and with it who may be asked.
    """
    abstract = call.context.abstract_syntax
    if sop_class in ("", abstract) or sop_class in uids.carried(abstract):
        return None
    return Outcome(Status(SOP_CLASS_NOT_SUPPORTED, "not the SOP class of its context"))


def read_identifier(call: Call, command: str, sop_class: str) -> Dataset | Outcome:
    """Return the identifier of a request, or the outcome that refuses it."""
    from pacsroute.dataset.parse import identifier  # noqa: PLC0415 - pydicom, late

    sop_class = uids.trim(sop_class)
    calling_ae = call.association.calling_ae
    if call.route(command) is None:
        return Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
    refused = misplaced(call, sop_class)
    if refused is not None:
        return refused
    if not call.message.data:
        return Outcome(Status(IDENTIFIER_MISMATCH, "there is no identifier"))
    try:
        return call.read(identifier)
    except DataSetError as error:
        logger.warning("C-%s from %s: %s", command.upper(), ascii(calling_ae)[1:-1], error)
        return Outcome(Status(IDENTIFIER_MISMATCH, "the identifier cannot be read"))
