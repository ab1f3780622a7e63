"""How an app reaches other AE titles."""

from __future__ import annotations

from typing import Any

from pacsroute.framework.requests import Peer


class Reach:
    """How an app reaches other AE titles: over the network. A test client puts its own in place."""

    def settle(self, ae_title: str, peer: Peer) -> Peer:
        """Return the address of a title, for which `@app.destination` has found a peer."""
        return peer

    def opener(self, ae_title: str) -> Any:
        """Return what opens associations with a title; None for connections over the network."""
        return None
