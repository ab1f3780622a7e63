"""The interface between an association and its observers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from pacsroute.upper_layer.pdu import Buffer


class Link(NamedTuple):
    """The ends of a connection: our role in the association, and both addresses.

    An address is ``HOST:PORT`` as the system returns it; empty if unknown.
    """

    role: Literal["acceptor", "requestor"]
    local: str
    peer: str


class Tap(Protocol):
    """Sees the bytes of one association, decrypted, in the order in which things happened.

    Several threads may call it. An exception ends the tap, never the association.
    """

    def received(self, data: Buffer, /) -> object:
        """Take bytes of the peer; the buffer is not valid afterwards."""

    def sent(self, data: Buffer, /) -> object:
        """Take bytes for the peer."""

    def closed(self) -> object:
        """Note that the connection is closed."""


TapFactory = Callable[[Link], Tap]
"""Makes the tap of a new association."""
