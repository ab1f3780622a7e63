"""Clients of peers, over DIMSE or DICOMweb."""

from __future__ import annotations

from ssl import SSLContext

from pacsroute.config import RESPONSE_TIMEOUT
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Peer
from pacsroute.net.association import Association
from pacsroute.net.client import Client
from pacsroute.net.web_client import web_client_of
from pacsroute.tls import TLS
from pacsroute.upper_layer.pdu import AssociateRQ, UserIdentity


def connect(
    host: str,
    port: int = 11112,
    *,
    called_ae: str = "ANY-SCP",
    calling_ae: str = "PACSROUTE",
    tls: TLS | SSLContext | bool | None = None,
    user: str | tuple[str, str] | UserIdentity | None = None,
    timeout: float = RESPONSE_TIMEOUT,
    app: BaseApp | None = None,
) -> Client:
    """Return a client of a peer; it associates with the first request.

    Parameters
    ----------
    host, port : str and int
        The address of the peer; or the URL of its DICOMweb, without a port: then `find`, `get` and
        `store` use HTTP.
    called_ae, calling_ae : str
        Its AE title, and ours.
    tls : TLS or ssl.SSLContext or bool, optional
        The TLS settings; True trusts the system's CAs and checks the host name.
    user : str, (str, str) or UserIdentity, optional
        A user name, or one with a passcode, or another identity of PS3.7 §D.3.3.7.
    timeout : float
        Seconds without a response, or without the peer reading a byte, after which a request fails,
        even if the peer sends other messages.
    app : BaseApp, optional
        The app that answers requests of the peer.

    Raises
    ------
    SetupError
        If the TLS files cannot be used.

    Examples
    --------
    ::

        with pacsroute.connect("10.0.0.7", 11112, called_ae="PACS") as client:
            client.store("image.dcm")
    """
    if tls is True:
        tls = TLS()
    if isinstance(tls, TLS):
        tls.client()  # reports problems with the files now
    is_url = host.startswith(("http://", "https://"))
    peer = Peer("" if is_url else host, port, called_ae, tls or None, host if is_url else "")
    return client_of(peer, calling_ae, user=user, timeout=timeout, app=app)


def client_of(
    peer: Peer,
    calling_ae: str,
    *,
    user: str | tuple[str, str] | UserIdentity | None = None,
    timeout: float = RESPONSE_TIMEOUT,
    app: BaseApp | None = None,
) -> Client:
    """Return a client of a peer whose address is known."""
    if peer.url:
        return web_client_of(peer, calling_ae, user=user, timeout=timeout, app=app)

    def opener(request: AssociateRQ, app: BaseApp) -> Association:
        names = ("artim", "connect_timeout", "network_timeout")
        shorter = {name: min(getattr(app.config, name), timeout) for name in names}
        return Association.request(peer, request, app, idle_timeout=timeout, **shorter)

    return Client(opener, called_ae=peer.ae_title, calling_ae=calling_ae, user=user, app=app)
