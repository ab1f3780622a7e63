"""The activity of an app, for the console: associations, failures, and rates."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from pacsroute import uids
from pacsroute.dimse.commands import Command
from pacsroute.errors import AssociationAborted
from pacsroute.framework.observer import Observer, Traffic
from pacsroute.framework.peer import PeerView
from pacsroute.status import Status
from pacsroute.tls import subject
from pacsroute.trace.layout import printable
from pacsroute.upper_layer.pdu import AssociateRJ
from pacsroute.upper_layer.rejections import reason_of
from pacsroute.web.console.rates import DICOMWEB, FAILURES, RECEIVED, SENT, Rates, kind_of

KEPT = 200
"""How many failures are kept; identical ones are merged, with a count."""

_LONGEST = 300  # limit for a text, in characters
_RETRIEVALS = ("C-GET", "C-MOVE")


@dataclass
class Open:
    """An open association; times are in seconds since 1970.

    Attributes
    ----------
    busy : bool
        Whether one of its requests is being answered.
    asked : str
        The last request.
    asked_since : float
        When it arrived, to the second.
    """

    address: str
    calling_ae: str
    called_ae: str
    certificate: str
    since: float
    busy: bool = False
    asked: str = ""
    asked_since: float = 0.0
    requests: int = 0
    received: int = 0
    sent: int = 0


@dataclass
class _Watched:
    """An open association with the counts of its traffic."""

    association: PeerView
    shown: Open
    traffic: Traffic = field(default_factory=Traffic)
    counted: Traffic = field(default_factory=Traffic)


@dataclass
class Trouble:
    """A failure, refusal or rejection, and how often it has happened.

    Attributes
    ----------
    id : str
        Its number.
    what : str
        The operation, or ``association``.
    kind : str
        ``failed``, ``refused``, ``rejected`` or ``aborted``.
    reason : str
        The reason, without patient data.
    comment : str
        The handler's comment, which may contain patient data.
    recording : str
        The file with the recording of its association; empty if it was not recorded.
    """

    kind: str
    address: str
    calling_ae: str
    called_ae: str
    what: str
    reason: str
    comment: str
    id: str = ""
    first: float = 0.0
    last: float = 0.0
    count: int = 0
    recording: str = ""


class Activity(Observer):
    """Observes an app for the console.

    Successful requests are counted per association; `settle` collects these counts once a second
    and before the numbers are shown.

    Parameters
    ----------
    now : callable
        Returns the time in seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()  # guards the attributes below
        self._open: dict[int, _Watched] = {}  # by the association's identity
        self._rates = Rates(now)
        self._troubles: OrderedDict[tuple[str, ...], Trouble] = OrderedDict()
        self._numbers = itertools.count(1)

    def accepted(self, association: PeerView) -> Traffic:
        """Record an association, and return the counter of its requests."""
        certificate = association.peer_certificate
        one = Open(
            association.remote_address,
            printable(association.calling_ae),
            printable(association.called_ae),
            printable(subject(certificate)) if certificate else "",
            self._now(),
        )
        watched = _Watched(association, one)
        with self._lock:
            self._open[id(association)] = watched
        if not association.contexts:
            self._note(association, "rejected", "association", "nothing it proposes is served")
        return watched.traffic

    def rejected(self, association: PeerView, answer: AssociateRJ) -> None:
        """Note why."""
        reason = reason_of(answer) or f"source {answer.source}, reason {answer.reason}"
        self._note(association, "rejected", "association", reason)

    def failed(self, association: PeerView, error: AssociationAborted) -> None:
        """Note why."""
        self._note(association, "failed", "association", str(error))

    def ended(self, association: PeerView, error: AssociationAborted | None) -> None:
        """Remove an association, and record why it ended unless it was released."""
        with self._lock:
            watched = self._open.pop(id(association), None)
            if watched is not None:
                self._settle(watched)
        if error is not None:
            self._note(association, "aborted", "association", str(error))

    def unsuccessful(self, peer: PeerView, command: str, sop_class: str, status: Status) -> None:
        """Record a request that failed, wholly or in part."""
        category = status.category
        if category == "Failure" or (category == "Warning" and command in _RETRIEVALS):
            kind = "refused" if status.name.startswith("Refused") else "failed"
            what = f"{command}, {uids.name(sop_class)}" if sop_class else command
            reason = f"0x{status.code:04X} {status.name}"
            self._note(peer, kind, what, reason, status.comment)

    def sent(self, peer: PeerView, command: Command, size: int) -> None:
        """Count the bytes sent."""
        with self._lock:
            self._rates.add(SENT, size)
            watched = self._open.get(id(peer))
            if watched is not None:
                watched.shown.sent += size

    def over_http(self, size: int) -> None:
        """Count a DICOMweb request and the bytes of its body."""
        with self._lock:
            self._rates.add(DICOMWEB)
            self._rates.add(RECEIVED, size)

    def refused(self, caller: PeerView, why: str) -> None:
        """Record an HTTP request that was not admitted."""
        self._note(caller, "rejected", "HTTP request", why)

    def settle(self) -> None:
        """Add the counts since the last call to the current minute."""
        with self._lock:
            for watched in self._open.values():
                self._settle(watched)

    def _settle(self, watched: _Watched) -> None:
        """Count an association's traffic since the last call; the caller must hold the lock."""
        traffic, counted, shown = watched.traffic, watched.counted, watched.shown
        for command, count in tuple(traffic.requests.items()):
            new = count - counted.requests.get(command, 0)
            if new:
                counted.requests[command] = count
                shown.requests += new
                shown.asked, shown.asked_since = traffic.asked, self._now()
                self._rates.add(kind_of(command), new)
        received = traffic.received
        self._rates.add(RECEIVED, received - counted.received)
        shown.received = counted.received = received
        is_answering = getattr(watched.association, "is_answering", False)
        shown.busy = bool(is_answering and shown.asked)

    def _note(self, peer: PeerView, kind: str, what: str, reason: str, comment: str = "") -> None:
        calling, called = map(printable, (peer.calling_ae, peer.called_ae))
        reason, comment = printable(reason)[:_LONGEST], printable(comment)[:_LONGEST]
        key, now = (kind, peer.remote_address, calling, called, what, reason, comment), self._now()
        recording = getattr(peer, "recording", "")
        with self._lock:
            self._rates.add(FAILURES)
            trouble = self._troubles.pop(key, None)
            if trouble is None:
                trouble = Trouble(*key)
                trouble.id, trouble.first = f"{os.getpid()}-{next(self._numbers)}", now
            trouble.last, trouble.count = now, trouble.count + 1
            trouble.recording = recording or trouble.recording
            self._troubles[key] = trouble
            if len(self._troubles) > KEPT:
                self._troubles.popitem(last=False)

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as JSON values."""
        self.settle()
        with self._lock:
            return {
                "associations": [asdict(one.shown) for one in self._open.values()],
                "troubles": [asdict(one) for one in self._troubles.values()],
                "rates": self._rates.all(),
            }
