"""Limits for associations and connections, in total and for each peer."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict

from pacsroute.config import Config
from pacsroute.upper_layer.pdu import AssociateRJ

logger = logging.getLogger("pacsroute")

REFUSALS = 50  # maximum number of rejections under way because of the limit
_TELL = 10.0  # seconds without excess connections before the next is logged
_ALL = ""  # counts them all
_LIMITS = ("max_associations", "max_associations_per_host", "max_associations_per_ae")


class Places:
    """Counts the associations of a server, and rejects those beyond the limit.

    A connection counts as soon as it is accepted. It takes a thread even if it sends no request, or
    if it was refused and the peer does not close it.

    All threads of the server share it, and its lock guards the counts.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        # By all, by each host, and by each AE title; those without any are not in it.
        self._taken: defaultdict[str, int] = defaultdict(int)
        self._told = -_TELL
        self._lock = threading.Lock()

    @property
    def associations(self) -> int:
        """The number of associations."""
        return self._taken.get(_ALL, 0)

    def has_one(self) -> bool:
        """Return whether there is at most one association."""
        return self._taken.get(_ALL, 0) <= 1

    def connect(self, host: str) -> bool:
        """Take a place for a connection; return False if the host has too many."""
        config, place = self._config, _connections(host)
        most = min(config.max_associations_per_host, config.max_associations) + REFUSALS // 2
        with self._lock:
            self._taken[place] += 1
            if self._taken[place] <= most:
                return True
            self._free([place])
            now = time.monotonic()
            again, self._told = now - self._told > _TELL, now
        if again:
            logger.warning("%s: connections beyond %d at once are closed", host, most)
        return False

    def disconnect(self, host: str) -> None:
        """Give the place of a connection back."""
        self.leave([_connections(host)])

    def associate(self, host: str, calling_ae: str) -> tuple[list[str], AssociateRJ | None]:
        """Take places for an association; return them, or none and the rejection.

        An association beyond the limit does not count while it is being rejected.
        """
        places = [_ALL, f"host {host}", f"AE {calling_ae}"]
        with self._lock:
            for place, limit in zip(places, _LIMITS, strict=True):
                most = getattr(self._config, limit)
                if self._taken.get(place, 0) >= most:
                    break
            else:
                for place in places:
                    self._taken[place] += 1
                return places, None
        who = ascii(place)[1:-1] or "the server"
        logger.warning("%s: %s reached, %d associations", who, limit, most)
        return [], AssociateRJ(2, 3, 2)  # transient: local limit exceeded

    def leave(self, places: list[str]) -> None:
        """Give places back; a second call does nothing."""
        with self._lock:
            self._free(places)
            places.clear()

    def _free(self, places: list[str]) -> None:
        for place in places:
            self._taken[place] -= 1
            if not self._taken[place]:
                del self._taken[place]


class Stay:
    """The places of one peer's association; only its own thread uses it.

    Parameters
    ----------
    places : Places
        The places in use.
    host : str
        The peer's.
    refusal : AssociateRJ, optional
        The answer to the peer, whether there is a place or not.
    """

    def __init__(self, places: Places, host: str, refusal: AssociateRJ | None = None) -> None:
        self._places = places
        self._host = host
        self._refusal = refusal
        self._taken: list[str] = []

    def begin(self, calling_ae: str) -> AssociateRJ | None:
        """Take the places of an association; return the rejection if there are none."""
        self._taken, full = self._places.associate(self._host, calling_ae)
        return self._refusal or full

    def end(self) -> None:
        """Give the places back; a second call does nothing."""
        if self._taken:
            self._places.leave(self._taken)


def _connections(host: str) -> str:
    return f"connections of {host}"
