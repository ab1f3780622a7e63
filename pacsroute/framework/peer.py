"""The association with a peer, as handlers and hooks see it."""

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
        The peer's certificate, as returned by `ssl.SSLSocket.getpeercert`; None without TLS or a
        certificate.
    user : object
        The result of `@app.authenticate`; None without an identity.
    proven_by : str
        The proof of the identity: ``passcode``, ``kerberos``, ``saml``, ``jwt`` or ``certificate``;
        ``username`` for a name without a proof; empty without an identity.
    contexts : dict of int to AcceptedContext
        The presentation contexts that were accepted, by their IDs.
    state : types.SimpleNamespace
        A place for objects that hooks and handlers of this association share.
    """

    calling_ae: str
    called_ae: str
    remote_address: str
    peer_certificate: dict[str, Any] | None
    user: Any
    proven_by: str
    contexts: dict[int, AcceptedContext]
    state: SimpleNamespace
