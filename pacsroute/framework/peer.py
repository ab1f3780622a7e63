"""What handlers and hooks see of the association with a peer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol

from pacsroute.upper_layer.negotiation import AcceptedContext


class PeerView(Protocol):
    """An association as hooks, `@app.authenticate` and requests see it.

    Attributes
    ----------
    calling_ae, called_ae : str
        Its AE titles.
    remote_address : str
        The peer's host.
    peer_certificate : dict or None
        The peer's certificate, as `ssl.SSLSocket.getpeercert` has it; None without TLS, and
        where the peer has shown none.
    user : object
        What the authentication made of the peer's identity; None without one.
    proven_by : str
        What has proven that: ``passcode``, ``kerberos``, ``saml``, ``jwt`` or ``certificate``;
        ``username`` for a name without a proof; empty without an identity.
    contexts : dict of int to AcceptedContext
        The presentation contexts that were accepted, by their IDs.
    state : types.SimpleNamespace
        A place for what hooks and handlers of this association share.
    """

    calling_ae: str
    called_ae: str
    remote_address: str
    peer_certificate: dict[str, Any] | None
    user: Any
    proven_by: str
    contexts: dict[int, AcceptedContext]
    state: SimpleNamespace
