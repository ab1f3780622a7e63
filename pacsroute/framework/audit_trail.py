"""Report events to the functions of `@app.audit` only, never to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from pacsroute.audit.event import Event, Kind
from pacsroute.tls import subject

logger = logging.getLogger("pacsroute")


def tell(
    functions: Iterable[Callable[[Event], object]],
    ae_title: str,
    kind: Kind,
    peer: Any = None,
    **values: Any,
) -> None:
    """Report an action; exceptions of the functions are not passed on.

    Parameters
    ----------
    functions : iterable of callable
        Those of `App.audit`.
    ae_title : str
        The app's.
    kind : str
        As for `Event`.
    peer : PeerView, optional
        The association, or the sender of the HTTP request, that requested it.
    **values
        The other parameters of `Event`, which override those of the peer.
    """
    if peer is not None:
        values = _of_peer(peer) | values
    event = Event(kind=kind, ae_title=ae_title, **values)
    for function in functions:
        try:
            function(event)
        except BaseException as error:  # noqa: BLE001
            # Its traceback may quote the event, which must not reach the log.
            name = getattr(function, "__qualname__", repr(function))
            logger.error("@app.audit: %s failed: %s", name, type(error).__name__)


def _of_peer(peer: Any) -> dict[str, Any]:
    user, proven_by = peer.user, getattr(peer, "proven_by", "")
    certificate = getattr(peer, "peer_certificate", None)
    if user is None and certificate is not None:
        user, proven_by = subject(certificate), "certificate"
    return {
        "user": user,
        "proven_by": proven_by,
        "calling_ae": peer.calling_ae,
        "called_ae": peer.called_ae,
        "address": peer.remote_address,
        "transport": getattr(peer, "transport", "dimse"),
    }
