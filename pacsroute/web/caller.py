"""Admit HTTP requests by the same rules as associations."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from werkzeug.exceptions import Forbidden, Unauthorized

from pacsroute.errors import AssociationRejected, SetupError
from pacsroute.framework.admission import let_in, tell_of_rejected
from pacsroute.framework.base import BaseApp
from pacsroute.upper_layer.negotiation import AcceptedContext
from pacsroute.upper_layer.pdu import AssociateRJ, UserIdentity
from pacsroute.upper_layer.rejections import reason_of

_PASSCODE, _JWT = 2, 5  # types of a user identity (PS3.7 §D.3.3.7)
_FORWARDED = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_REAL_IP")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(eq=False)
class Caller:
    """The sender of an HTTP request, as hooks and `@app.authenticate` see a peer.

    It has the attributes of `pacsroute.PeerView`; nothing is negotiated, so `contexts` is empty.
    """

    calling_ae: str
    called_ae: str
    remote_address: str
    peer_certificate: dict[str, Any] | None = None
    user: Any = None
    proven_by: str = ""
    transport = "web"
    contexts: dict[int, AcceptedContext] = field(default_factory=dict)
    state: SimpleNamespace = field(default_factory=SimpleNamespace)

    def ended(self) -> None:
        """Return None, like an open association: the end of a request is known from the request."""


def admitted(app: BaseApp, environ: Mapping[str, Any], called_ae: str) -> Caller:
    """Return the sender of a request, or raise an error if it is not admitted.

    Parameters
    ----------
    app : App
        The app whose settings, hooks and `@app.authenticate` decide.
    environ : mapping
        The WSGI environment.
    called_ae : str
        The AE title in the path, or the app's own.

    Raises
    ------
    werkzeug.exceptions.Unauthorized
        If credentials might help.
    werkzeug.exceptions.Forbidden
        Otherwise.
    """
    caller = Caller(
        app.config.web_ae_title,
        called_ae,
        str(environ.get("REMOTE_ADDR") or ""),
        environ.get("pacsroute.certificate"),
    )
    authenticates = any(scope.authenticator for scope in app.scopes_of(called_ae))
    known = authenticates or caller.peer_certificate is not None or app.config.web_open
    user = environ.get("pacsroute.user")
    if not known and user is None and not is_local(app, environ):
        tell_of_rejected(app, caller, "not from this machine")
        raise Forbidden(
            "without @app.authenticate or client certificates, only this machine has access"
        )
    claimed = _claimed(environ)
    try:
        let_in(app, caller, claimed, user=user)
    except AssociationRejected as rejected:
        if authenticates and claimed is None:
            header = ("WWW-Authenticate", 'Basic realm="DICOMweb", charset="UTF-8"')
            raise _challenge(header) from None
        tell_of_rejected(app, caller, str(rejected))
        raise Forbidden(f"rejected: {_words(rejected)}") from None
    return caller


def _words(rejected: AssociationRejected) -> str:
    """Return why a request is not admitted, in the standard's terms for rejected associations."""
    answer = AssociateRJ(rejected.result, rejected.source, rejected.reason)
    name = reason_of(answer)
    return (
        "not authenticated" if (answer.source, answer.reason) == (2, 1) else name or str(rejected)
    )


def _challenge(header: tuple[str, str]) -> Unauthorized:
    from werkzeug.wrappers import Response  # noqa: PLC0415 - only for a refusal

    return Unauthorized(response=Response("who are you?\n", 401, [header]))


def _claimed(environ: Mapping[str, Any]) -> UserIdentity | None:
    """Return the identity in the credentials of a request (RFC 7617, RFC 6750)."""
    scheme, _, value = str(environ.get("HTTP_AUTHORIZATION") or "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return UserIdentity(_JWT, False, value.encode("latin-1", "replace"))
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, passcode = base64.b64decode(value, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return UserIdentity(_PASSCODE, False, name, passcode) if colon else None


def is_local(app: BaseApp, environ: Mapping[str, Any]) -> bool:
    """Return whether a request was sent, deliberately, by a program on this machine.

    Behind a proxy on this machine, every client would look local, and a page whose host name
    resolves to this machine can make a browser send requests: the headers show both. A client of
    a remote proxy is not local even if it runs on the proxy's machine, and if a trusted proxy
    names no client, the client is unknown.
    """
    config = app.config
    if not all(map(_is_loopback, _way_of(environ))):
        return False
    if config.web_trust_proxy:
        named = str(environ.get("HTTP_X_FORWARDED_FOR") or "").split(",")
        if len([one for one in named if one.strip()]) < config.web_trust_proxy:
            return False
    else:
        names = (*_FORWARDED, *(name for name in environ if name.startswith("HTTP_X_FORWARDED")))
        if any(environ.get(name) for name in names):
            return False
    host = str(environ.get("HTTP_HOST") or "").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if not name.startswith("[") and name.count(":"):
        return False
    return name in (*_LOCAL_NAMES, *(one.lower() for one in config.web_hosts))


def _way_of(environ: Mapping[str, Any]) -> list[str]:
    """Return the addresses of a request's sender and of the proxies that forwarded it."""
    way = [environ.get("REMOTE_ADDR"), environ.get("pacsroute.balancer")]
    if (before := environ.get("werkzeug.proxy_fix.orig")) is not None:
        way.append(before["REMOTE_ADDR"] or "")
    return [str(way[0] or ""), *(str(one) for one in way[1:] if one is not None)]


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_start(app: BaseApp, address: str) -> None:
    """Raise a `SetupError` if a port has no access control or takes passwords unencrypted.

    Parameters
    ----------
    app : App
        The app with the settings.
    address : str
        The address of the listener.
    """
    config = app.config
    if config.web_open or ipaddress.ip_address(address).is_loopback:
        return
    titles = ["", *app.titles]
    authenticates = any(scope.authenticator for one in titles for scope in app.scopes_of(one))
    if not authenticates and not config.web_ca:
        raise SetupError(
            "web_host accepts other machines, and none of them would be authenticated: use "
            "@app.authenticate or web_ca, or set web_open=True"
        )
    if not config.web_certificate and not config.web_trust_proxy:
        raise SetupError(
            "web_host accepts other machines, and passwords would go unencrypted: set "
            "web_certificate, or web_trust_proxy behind a proxy that speaks HTTPS"
        )
