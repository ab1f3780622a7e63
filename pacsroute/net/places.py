"""How many associations and connections there may be, of everybody and of each peer."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from pacsroute.config import Config
from pacsroute.upper_layer.pdu import AssociateRJ

logger = logging.getLogger("pacsroute")

REFUSALS = 50  # peers that are being rejected for the limit at the same time
_TELL = 10.0  # seconds without connections that are too many, before the next is logged
_ALL = ""  # counts them all
_LIMITS = ("max_associations", "max_associations_per_host", "max_associations_per_ae")


class Places:
    """Counts the associations of a server, and rejects those beyond the limit.

    A connection counts from when it is accepted. One that sends no request takes a thread as
    well, and so does one that was refused and that the peer does not close.

    All threads of the server share it, and its lock guards the counts.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._taken: Counter[str] = Counter()  # by all, by each host, and by each AE title
        self._told = -_TELL
        self._lock = threading.Lock()

    @property
    def associations(self) -> int:
        """How many associations there are."""
        return self._taken[_ALL]

    def has_one(self) -> bool:
        """Return whether there is one association at the most."""
        return self._taken[_ALL] <= 1

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
            logger.warning("%s: more than %d connections at once are closed", host, most)
        return False

    def disconnect(self, host: str) -> None:
        """Give the place of a connection back."""
        self.leave([_connections(host)])

    def associate(self, host: str, calling_ae: str) -> tuple[list[str], AssociateRJ | None]:
        """Take places for an association; return them, or none and what rejects it.

        One beyond the limit does not count for others while it is being rejected.
        """
        places = [_ALL, f"host {host}", f"AE {calling_ae}"]
        with self._lock:
            for place, limit in zip(places, _LIMITS, strict=True):
                most = getattr(self._config, limit)
                if self._taken[place] >= most:
                    break
            else:
                self._taken.update(places)
                return places, None
        who = ascii(place)[1:-1] or "the server"
        logger.warning("%s: %s reached, %d associations", who, limit, most)
        return [], AssociateRJ(2, 3, 2)  # transient: local limit exceeded

    def leave(self, places: list[str]) -> None:
        """Give places back, and forget them: it may be said twice."""
        with self._lock:
            self._free(places)
            places.clear()

    def _free(self, places: list[str]) -> None:
        for place in places:
            self._taken[place] -= 1
            if not self._taken[place]:
                del self._taken[place]


class Stay:
    """The places that one peer's association takes; its own thread uses it.

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
        """Take the places of an association; return what rejects it if there are none."""
        self._taken, full = self._places.associate(self._host, calling_ae)
        return self._refusal or full

    def end(self) -> None:
        """Give the places back; it may be said twice."""
        self._places.leave(self._taken)


def _connections(host: str) -> str:
    return f"connections of {host}"
