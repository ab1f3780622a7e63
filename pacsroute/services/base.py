"""What the services share: the association as they see it, and filling in a response."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from pacsroute import extended, uids
from pacsroute.app import App
from pacsroute.dataset.limits import Limits
from pacsroute.dimse import commands
from pacsroute.dimse.commands import Command, Response
from pacsroute.dimse.messages import Message
from pacsroute.errors import AssociationAborted, DataSetError, ProtocolError
from pacsroute.outcome import Outcome
from pacsroute.requests import Peer, Request
from pacsroute.routing import Route
from pacsroute.status import IDENTIFIER_MISMATCH, SOP_CLASS_NOT_SUPPORTED, Status
from pacsroute.upper_layer.negotiation import AcceptedContext
from pacsroute.upper_layer.pdu import AssociateRQ

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger("pacsroute")


class Sending(Protocol):
    """What messages can be sent over."""

    def send(
        self,
        context_id: int,
        command: Command,
        data: bytes | BinaryIO | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Send a message; with `more`, others follow at once and may share its way."""


class Carrier(Sending, Protocol):
    """An association with a peer, over whatever carries it, for requests of ours.

    Attributes
    ----------
    contexts : dict of int to AcceptedContext
        The presentation contexts that were accepted.
    numbers : iterator of int
        Message IDs for our requests: several threads may be under way.
    """

    contexts: dict[int, AcceptedContext]
    numbers: Iterator[int]

    def receive(self, response_to: int | None = None) -> Message:
        """Return the next message, or the next response to a request of ours.

        It raises when the association has ended.
        """

    def release(self) -> None:
        """Release the association, and close it."""

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """End the association at once."""

    def stop(self) -> None:
        """Have it aborted by the thread that waits for it; called from another one."""

    def close(self) -> None:
        """Close what carries it."""


class Association(Carrier, Protocol):
    """An association with a peer that asks for something."""

    id: int
    role: Literal["acceptor", "requestor"]
    calling_ae: str
    called_ae: str
    remote_address: str
    peer_certificate: dict[str, Any] | None
    user: Any
    failure: BaseException | None
    window: int

    @property
    def patience(self) -> float:
        """Seconds in which the peer has to answer a request of ours."""

    def cancelled(self, message_id: int) -> bool:
        """Tell whether the peer has cancelled a request, or is gone."""

    def ended(self) -> AssociationAborted | None:
        """Return how the association has ended, if it has."""

    def answered(self, message_id: int) -> Message | None:
        """Return the response to a request of ours; None if the peer asks for something first."""

    def defer(self, function: Callable[[], object]) -> None:
        """Have something done after what was sent."""

    def pulse(self, make: Callable[[], tuple[int, Command]] | None) -> None:
        """Have a message sent whenever nothing else has been for a second."""

    def connect(self, peer: Peer, request: AssociateRQ) -> Carrier:
        """Ask another peer for an association."""


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

    app: App
    association: Association
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


_NOT_IN_A_COMMENT = re.compile(r"[^ -\[\]-~]")
_RESPONSES = {kind: _names(kind) for kind in (*commands.TYPES.values(), commands.UnknownRQ)}


def check_response(answer: Command, request: commands.Request) -> None:
    """Raise a `ProtocolError` if a response is to another command than the request's."""
    if not isinstance(answer, _RESPONSES[type(request)][0]):
        raise ProtocolError(f"a {type(request).__name__} was answered with {type(answer).__name__}")


def response(request: commands.Request, outcome: Outcome) -> Response:
    """Return the response to a request, with the peer's own UIDs in it."""
    kind, pairs = _RESPONSES[type(request)]
    (code, comment), elements, *_ = outcome
    answer = kind(message_id_responded_to=request.message_id, status=code)
    for ours, theirs in pairs:
        setattr(answer, ours, getattr(request, theirs) or None)
    if comment:
        # An LO of the default repertoire: there is no character set in a command.
        answer.error_comment = _NOT_IN_A_COMMENT.sub("?", comment)[:64]
    if elements:
        tags = elements.get("OffendingElement")
        if tags is not None:
            answer.offending_element = tuple(tags) if isinstance(tags, (list, tuple)) else (tags,)
        answer.error_id = elements.get("ErrorID")
        if "AttributeIdentifierList" in elements and hasattr(answer, "attribute_identifiers"):
            answer.attribute_identifiers = tuple(elements["AttributeIdentifierList"])
    if isinstance(request, commands.UnknownRQ):
        answer.received_field = request.received_field | 0x8000  # type: ignore[attr-defined]
    return answer
