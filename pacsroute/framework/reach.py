"""The way an app reaches other AE titles."""

from __future__ import annotations

from typing import Any

from pacsroute.framework.requests import Peer


class Reach:
    """The way an app reaches other AE titles: by network, unless a test client replaces it."""

    def settle(self, ae_title: str, peer: Peer) -> Peer:
        """Return the address of a title that `@app.destination` resolved to a peer."""
        return peer

    def opener(self, ae_title: str) -> Any:
        """Return the opener of associations with a title; None for the network."""
        return None
