"""How an app reaches other AE titles."""

from __future__ import annotations

from typing import Any

from pacsroute.framework.requests import Peer


class Reach:
    """How an app reaches other AE titles: over the network, or as a test client decides."""

    def settle(self, ae_title: str, peer: Peer) -> Peer:
        """Return the address of a title, for which `@app.destination` has found a peer."""
        return peer

    def opener(self, ae_title: str) -> Any:
        """Return the opener of associations with a title; None for the network."""
        return None
