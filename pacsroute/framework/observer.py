"""The observer of an app at work, such as its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacsroute.dimse.commands import Command
    from pacsroute.errors import AssociationAborted
    from pacsroute.framework.peer import PeerView
    from pacsroute.status import Status
    from pacsroute.upper_layer.pdu import AssociateRJ


class Observer:
    """An observer that does nothing; the default of `App.observer`.

    The threads of the associations call it, several at the same time; its methods are quick
    and raise nothing. A command is the standard's name of an operation, as ``C-STORE``.
    """

    def accepted(self, association: PeerView) -> None:
        """An association has been accepted."""

    def rejected(self, association: PeerView, answer: AssociateRJ) -> None:
        """An association has been rejected."""

    def ended(self, association: PeerView, error: AssociationAborted | None) -> None:
        """An association that was accepted has ended; None where it was released."""

    def began(self, command: str, size: int | None) -> None:
        """A request has come, with a data set of so many bytes, and is about to be answered."""

    def answered(self, command: str, sop_class: str, status: Status | None, seconds: float) -> None:
        """A request that began has been answered; None where no final response could be sent."""

    def sub_operation(self, command: str, status: Status) -> None:
        """A sub-operation of a C-GET or C-MOVE has ended."""

    def quarantined(self, reason: str) -> None:
        """An archive has set an instance aside: ``conflict`` or ``mismatch``."""

    def sent(self, command: Command, size: int) -> None:
        """A data set of so many bytes has been sent."""
