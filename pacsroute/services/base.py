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


def _names(kind: type[Command]) -> tuple[type[Response], list[tuple[str, str]]]:
    """Return the response to a type of request, and which of its UIDs that repeats."""
    answer: Any = commands.TYPES.get(kind.command_field | 0x8000, commands.UnknownRSP)
    pairs = [
        (f"affected_{name}", f"{role}_{name}")
        for name in ("sop_class", "sop_instance")
        for role in ("affected", "requested")
        if hasattr(answer, f"affected_{name}") and hasattr(kind, f"{role}_{name}")
    ]
    return answer, pairs


_RESPONSES = {kind: _names(kind) for kind in (*commands.TYPES.values(), commands.UnknownRQ)}


def response(request: commands.Request, outcome: Outcome) -> Response:
    """Return the response to a request, with the peer's own UIDs in it."""
    kind, pairs = _RESPONSES[type(request)]
    (code, comment), elements = outcome
    answer = kind(message_id_responded_to=request.message_id, status=code)
    for ours, theirs in pairs:
        setattr(answer, ours, getattr(request, theirs) or None)
    if comment:
        answer.error_comment = comment[:64]
    if elements:
        tags = elements.get("OffendingElement")
        if tags is not None:
            answer.offending_element = tuple(tags) if isinstance(tags, (list, tuple)) else (tags,)
        answer.error_id = elements.get("ErrorID")
    if isinstance(request, commands.UnknownRQ):
        answer.received_field = request.received_field | 0x8000  # type: ignore[attr-defined]
    return answer
