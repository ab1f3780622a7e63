"""The observers of an app's work, such as its metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pacsroute.dimse.commands import Command
    from pacsroute.errors import AssociationAborted
    from pacsroute.framework.peer import PeerView
    from pacsroute.status import Status
    from pacsroute.upper_layer.pdu import AssociateRJ


class Gauge(NamedTuple):
    """A number that rises and falls, measured on demand.

    Parameters
    ----------
    name, purpose : str
        Its name in the metrics, without a prefix, and its meaning.
    label, of : str
        The label that distinguishes gauges of the same name, and its value.
    value : float
        The number, in the unit at the end of the name.
    """

    name: str
    purpose: str
    label: str
    of: str
    value: float


@dataclass(slots=True, eq=False)
class Traffic:
    """The requests received on an association, counted by the reading thread.

    Polling this counter costs less per request than calling an observer.

    Attributes
    ----------
    asked : str
        The standard's name of the last request.
    requests : dict of str to int
        The number of requests by name.
    received : int
        The total bytes of their data sets.
    """

    asked: str = ""
    requests: dict[str, int] = field(default_factory=dict)
    received: int = 0

    def take(self, command: str, size: int) -> None:
        """Count a request whose data set has this many bytes."""
        self.asked = command
        self.requests[command] = self.requests.get(command, 0) + 1
        self.received += size


class Observer:
    """An observer that does nothing; the default of `App.observer`.

    The threads of the associations call it, several at the same time; its methods are quick
    and raise nothing. A command is the standard's name of an operation, such as ``C-STORE``. A
    peer is an association, or the sender of an HTTP request.
    """

    def accepted(self, association: PeerView) -> Traffic | None:
        """An association has been accepted; return the counter of its requests."""
        return None

    def rejected(self, association: PeerView, answer: AssociateRJ) -> None:
        """An association has been rejected."""

    def failed(self, association: PeerView, error: AssociationAborted) -> None:
        """A connection ended before an association was accepted or rejected."""

    def ended(self, association: PeerView, error: AssociationAborted | None) -> None:
        """An accepted association has ended; `error` is None if it was released."""

    def began(self, peer: PeerView, command: str, sop_class: str, size: int | None) -> None:
        """A request with a data set of this many bytes has arrived, and will be answered."""

    def answered(
        self, peer: PeerView, command: str, sop_class: str, status: Status | None, seconds: float
    ) -> None:
        """A request has been answered; the status is None if no final response could be sent."""

    def unsuccessful(self, peer: PeerView, command: str, sop_class: str, status: Status) -> None:
        """A request has been answered with a final status other than Success."""

    def sub_operation(self, command: str, status: Status) -> None:
        """A sub-operation of a C-GET or C-MOVE has ended."""

    def quarantined(self, reason: str) -> None:
        """An archive has set an instance aside: ``conflict`` or ``mismatch``."""

    def delivered(self, lane: str, category: str) -> None:
        """A destination has accepted a queued instance, with Success or a Warning."""

    def sent(self, peer: PeerView, command: Command, size: int) -> None:
        """A data set of this many bytes has been sent."""


class Observers(Observer):
    """Several observers of one app; each call is passed on to all of them.

    Parameters
    ----------
    *each : Observer
        The observers.
    """

    def __init__(self, *each: Observer) -> None:
        self._each = each

    def accepted(self, association: PeerView) -> Traffic | None:
        """Notify each; at most one of them counts requests."""
        traffic = None
        for one in self._each:
            traffic = one.accepted(association) or traffic
        return traffic

    def rejected(self, association: PeerView, answer: AssociateRJ) -> None:
        """Notify each."""
        for one in self._each:
            one.rejected(association, answer)

    def failed(self, association: PeerView, error: AssociationAborted) -> None:
        """Notify each."""
        for one in self._each:
            one.failed(association, error)

    def ended(self, association: PeerView, error: AssociationAborted | None) -> None:
        """Notify each."""
        for one in self._each:
            one.ended(association, error)

    def began(self, peer: PeerView, command: str, sop_class: str, size: int | None) -> None:
        """Notify each."""
        for one in self._each:
            one.began(peer, command, sop_class, size)

    def answered(
        self, peer: PeerView, command: str, sop_class: str, status: Status | None, seconds: float
    ) -> None:
        """Notify each."""
        for one in self._each:
            one.answered(peer, command, sop_class, status, seconds)

    def unsuccessful(self, peer: PeerView, command: str, sop_class: str, status: Status) -> None:
        """Notify each."""
        for one in self._each:
            one.unsuccessful(peer, command, sop_class, status)

    def sub_operation(self, command: str, status: Status) -> None:
        """Notify each."""
        for one in self._each:
            one.sub_operation(command, status)

    def quarantined(self, reason: str) -> None:
        """Notify each."""
        for one in self._each:
            one.quarantined(reason)

    def delivered(self, lane: str, category: str) -> None:
        """Notify each."""
        for one in self._each:
            one.delivered(lane, category)

    def sent(self, peer: PeerView, command: Command, size: int) -> None:
        """Notify each."""
        for one in self._each:
            one.sent(peer, command, size)
