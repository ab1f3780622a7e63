"""The peers of AE titles that no `@app.destination` knows."""

from __future__ import annotations

import ssl
from collections import UserDict
from collections.abc import Mapping
from typing import Self

from pacsroute.allow import ae_title
from pacsroute.errors import SetupError
from pacsroute.framework.requests import Peer
from pacsroute.tls import TLS


class Destinations(UserDict[str, Peer]):
    """Peers by AE title: the type of `App.destinations`. Entries are checked when they are set.

    Raises
    ------
    SetupError
        If a key is not an AE title, or a value is not a `Peer` with an address.

    Examples
    --------
    >>> destinations = Destinations({"PACS": Peer("10.0.0.7", 104)})
    >>> destinations["RIS"] = Peer("10.0.0.8", "104")
    Traceback (most recent call last):
    pacsroute.errors.SetupError: app.destinations['RIS']: the port must be 1 to 65,535, not '104'
    """

    def __setitem__(self, title: str, peer: Peer) -> None:
        title = ae_title(title)
        try:
            _check(peer)
        except SetupError as error:
            raise SetupError(f"app.destinations[{title!r}]: {error}") from None
        super().__setitem__(title, peer)

    def __ior__(self, others: Mapping[str, Peer]) -> Self:  # type: ignore[override,misc]
        self.update(others)  # UserDict's own would not check them
        return self


def _check(peer: object) -> None:
    """Raise a `SetupError` if no connection could be opened to a peer."""
    if not isinstance(peer, Peer):
        raise SetupError(f'expected a Peer, such as Peer("10.0.0.7", 104), not {peer!r:.40}')
    if peer.url:
        if not peer.url.startswith(("http://", "https://")):
            raise SetupError(f"the URL must begin with http:// or https://, not {peer.url!r:.40}")
        return
    if not isinstance(peer.host, str) or not peer.host:
        raise SetupError(f"the host must be a name or an address, not {peer.host!r:.40}")
    is_number = isinstance(peer.port, int) and not isinstance(peer.port, bool)
    if not is_number or not 1 <= peer.port <= 65535:
        raise SetupError(f"the port must be 1 to 65,535, not {peer.port!r:.40}")
    if peer.ae_title:
        ae_title(peer.ae_title)
    if not isinstance(peer.tls, TLS | ssl.SSLContext | None):
        raise SetupError(f"tls must be a TLS or an ssl.SSLContext, not {peer.tls!r:.40}")
