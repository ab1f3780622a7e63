"""Protocols: the parts of an association that services use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal, Protocol

from pacsroute.dimse.commands import Command
from pacsroute.dimse.messages import Message
from pacsroute.errors import AssociationAborted
from pacsroute.framework.requests import Peer
from pacsroute.upper_layer.negotiation import AcceptedContext
from pacsroute.upper_layer.pdu import AssociateRQ


class Sending(Protocol):
    """A connection for messages."""

    def send(
        self,
        context_id: int,
        command: Command,
        data: bytes | BinaryIO | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Send a message; with `more`, others follow at once and may be sent together with it."""


class Carrier(Sending, Protocol):
    """An association with a peer, over any transport, for requests of ours.

    Attributes
    ----------
    contexts : dict of int to AcceptedContext
        The presentation contexts that were accepted.
    numbers : iterator of int
        Message IDs for our requests: several threads may send them.
    """

    contexts: dict[int, AcceptedContext]
    numbers: Iterator[int]

    def receive(self, response_to: int | None = None) -> Message:
        """Return the next message, or the next response to a request of ours.

        It raises if the association has ended.
        """

    def release(self) -> None:
        """Release the association, and close it."""

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """Abort the association."""

    def stop(self) -> None:
        """Make the waiting thread abort the association; called from another thread."""

    def close(self) -> None:
        """Close the transport."""


class Exchange(Carrier, Protocol):
    """An association with a peer that sends requests, as the services see it."""

    id: int
    role: Literal["acceptor", "requestor"]
    calling_ae: str
    called_ae: str
    remote_address: str
    peer_certificate: dict[str, Any] | None
    user: Any
    proven_by: str
    state: SimpleNamespace
    window: int

    @property
    def keep_failure(self) -> Callable[[BaseException], object] | None:
        """The `keep_failure` of its requests."""

    @property
    def patience(self) -> float:
        """The seconds that the peer has to answer a request of ours."""

    def cancelled(self, message_id: int, max_age: float = 0.0) -> bool:
        """Return whether the peer has cancelled a request, or has disconnected.

        If the last read is less than `max_age` seconds ago, no other is needed.
        """

    def ended(self) -> AssociationAborted | None:
        """Return how the association has ended, if it has."""

    def answered(self, message_id: int) -> Message | None:
        """Return the response to a request of ours; None if the peer sends a request first."""

    def defer(self, function: Callable[[], object]) -> None:
        """Call a function once the message has been sent."""

    def pulse(self, make: Callable[[], tuple[int, Command]] | None) -> None:
        """Send a message after each second of silence; None stops it."""

    def connect(self, peer: Peer, request: AssociateRQ) -> Carrier:
        """Request an association with another peer."""
