"""What the services share: the association as they see it, and filling in a response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pacsroute.app import App, Outcome
from pacsroute.dimse import commands
from pacsroute.dimse.commands import Command, Response
from pacsroute.dimse.messages import Message
from pacsroute.errors import AssociationAborted
from pacsroute.upper_layer.negotiation import AcceptedContext


class Association(Protocol):
    """An association with a peer, over whatever carries it."""

    calling_ae: str
    called_ae: str
    remote_address: str
    user: Any
    contexts: dict[int, AcceptedContext]

    def receive(self) -> Message:
        """Return the next message; raise when the association has ended."""

    def send(
        self, context_id: int, command: Command, data: bytes | None = None, *, more: bool = False
    ) -> None:
        """Send a message; with `more`, others follow at once and may share its way."""

    def cancelled(self, message_id: int) -> bool:
        """Tell whether the peer has cancelled a request, or is gone."""

    def ended(self) -> AssociationAborted | None:
        """Return how the association has ended, if it has."""

    def defer(self, function: Callable[[], object]) -> None:
        """Have something done after what was sent."""


class Call(NamedTuple):
    """A message on its way to a handler, and what is needed to answer it."""

    app: App
    association: Association
    context: AcceptedContext
    message: Message

    def values(self) -> dict[str, Any]:
        """Return what a request of it has, whatever its service."""
        association, context, command = self.association, self.context, self.message.command
        return {
            "app": self.app,
            "association": association,
            "calling_ae": association.calling_ae,
            "called_ae": association.called_ae,
            "remote_address": association.remote_address,
            "user": association.user,
            "message_id": getattr(command, "message_id", 0),
            "transfer_syntax": context.transfer_syntax,
        }


def response(request: Command, outcome: Outcome) -> Response:
    """Return the response to a request, with the peer's own UIDs in it."""
    kind: Any = commands.TYPES.get(request.command_field | 0x8000, commands.UnknownRSP)
    status, elements = outcome
    values: dict[str, Any] = {
        "message_id_responded_to": getattr(request, "message_id", 0),
        "status": status.code,
        "error_comment": status.comment[:64] or None,
    }
    for name in ("sop_class", "sop_instance"):
        value = getattr(request, f"affected_{name}", None)
        value = value or getattr(request, f"requested_{name}", None)
        if value and hasattr(kind, f"affected_{name}"):
            values[f"affected_{name}"] = value
    if kind is commands.UnknownRSP:
        values["received_field"] = getattr(request, "received_field", 0) | 0x8000
    if "OffendingElement" in elements:
        tags = elements["OffendingElement"]
        values["offending_element"] = tuple(tags) if isinstance(tags, (list, tuple)) else (tags,)
    if "ErrorID" in elements:
        values["error_id"] = elements["ErrorID"]
    result: Response = kind(**values)
    return result
