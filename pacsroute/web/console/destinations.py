"""The destinations of an app, and the result of the last C-ECHO to each."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

from werkzeug.exceptions import NotFound

from pacsroute.allow import ae_title
from pacsroute.errors import PacsrouteError, SetupError
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Peer
from pacsroute.trace.layout import printable

_PATIENCE = 10.0  # seconds to wait for a destination
_KEPT = 100
_NOWHERE = "2.25.0"  # a study UID that no archive contains


class Destination(NamedTuple):
    """A destination, and the result of the last C-ECHO.

    Parameters
    ----------
    title : str
        Its AE title.
    address : str
        Its address, or where the address comes from.
    tls : bool
        Whether TLS is used.
    echo : dict or None
        Its result in `Echoes`.
    """

    title: str
    address: str
    tls: bool
    echo: dict[str, Any] | None


class Echoes:
    """The result of the console's last C-ECHO to each destination."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, dict[str, Any]] = {}
        self._asked: set[str] = set()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Return the results by AE title, as JSON values."""
        with self._lock:
            return dict(self._found)

    def ask(self, app: Any, title: str) -> bool:
        """Send a C-ECHO to a destination and keep the result; return whether it answered.

        Only one C-ECHO is sent at a time. DICOMweb has no C-ECHO, so a destination with a URL is
        asked for a study that does not exist.

        Raises
        ------
        werkzeug.exceptions.NotFound
            If the app knows no such destination.
        """
        try:
            peer = app.resolve(ae_title(title))
        except SetupError:
            peer = None
        if peer is None:
            raise NotFound(f"the address of {printable(title)} is unknown")
        with self._lock:
            if title in self._asked:
                return True
            self._asked.add(title)
        began = time.monotonic()
        good, said = False, ""
        try:
            good, said = True, _echo(app, title, peer)
        except PacsrouteError as error:
            said = printable(str(error))
        except OSError as error:
            said = error.strerror or type(error).__name__
        finally:
            with self._lock:
                self._asked.discard(title)
                self._found.pop(title, None)
                self._found[title] = {
                    "at": time.time(),
                    "good": good,
                    "said": said,
                    "seconds": time.monotonic() - began,
                }
                if len(self._found) > _KEPT:
                    del self._found[next(iter(self._found))]
        return good


def _echo(app: Any, title: str, peer: Peer) -> str:
    with app.connect(title, timeout=_PATIENCE) as client:
        if not peer.url:
            return str(client.echo())
        for _ in client.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": _NOWHERE}):
            pass
        return "it answers queries"


def destinations(app: BaseApp, echoes: dict[str, dict[str, Any]]) -> list[Destination]:
    """Return the destinations of an app, and any others that were sent a C-ECHO."""
    found = [
        Destination(title, _address(peer), bool(peer.tls), echoes.get(title))
        for title, peer in app.destinations.items()
    ]
    known = {one.title for one in found}
    others = [title for title in echoes if title not in known]
    found += [Destination(one, "@app.destination", False, echoes[one]) for one in others]
    return sorted(found, key=lambda one: one.title)


def knows_others(app: BaseApp) -> bool:
    """Return whether the app has an `@app.destination`, which may know more destinations."""
    scopes = {scope for family, _ in app.families for scope in family} | {app}
    return any(scope.destinator is not None for scope in scopes)


def _address(peer: Peer) -> str:
    host = f"[{peer.host}]" if ":" in peer.host else peer.host
    return peer.url or f"{host}:{peer.port}"
