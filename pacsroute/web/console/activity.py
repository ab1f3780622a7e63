"""The activity of an app, for the console: associations, failures, and rates."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pacsroute import uids
from pacsroute.dimse.commands import Command
from pacsroute.errors import AssociationAborted
from pacsroute.framework.observer import Observer
from pacsroute.framework.peer import PeerView
from pacsroute.status import Status
from pacsroute.tls import subject
from pacsroute.trace.layout import printable
from pacsroute.upper_layer.pdu import AssociateRJ
from pacsroute.upper_layer.rejections import reason_of
from pacsroute.web.console.rates import FAILURES, RECEIVED, SENT, Rates, kind_of

KEPT = 200
"""How many failures are kept; those that are alike are one, with a count."""

_COLLECTED = 1_000_000  # requests between two times that they are counted
_LONGEST = 300  # characters of a text
_RETRIEVALS = ("C-GET", "C-MOVE")


@dataclass(slots=True)
class Open:
    """An association that is open; times are in seconds since 1970.

    Attributes
    ----------
    overlaps : bool
        Whether several threads answer its requests.
    busy : int
        How many of its requests are being answered.
    asked : str
        The last one of these.
    """

    address: str
    calling_ae: str
    called_ae: str
    certificate: str
    since: float
    overlaps: bool = False
    busy: int = 0
    asked: str = ""
    asked_since: float = 0.0
    requests: int = 0
    received: int = 0
    sent: int = 0

    def begin(self, command: str, size: int | None, now: float) -> None:
        """Note a request that is about to be answered."""
        self.busy += 1
        self.requests += 1
        self.asked, self.asked_since = command, now
        if size:
            self.received += size


@dataclass
class Trouble:
    """A failure, refusal or rejection, and how often it has happened.

    Attributes
    ----------
    id : str
        Which one it is.
    what : str
        The operation, or ``association``.
    kind : str
        ``failed``, ``refused``, ``rejected`` or ``aborted``.
    reason : str
        Why, in words that hold no patient data.
    comment : str
        The handler's comment, which may.
    recording : str
        The file in which its association is recorded; empty without one.
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

    A request costs half a microsecond. Counts are only collected, which needs no lock, and `settle`
    counts it: that is called once a second, and before anybody looks.

    Parameters
    ----------
    now : callable
        Returns the time in seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        # Nothing of these is lost while they are settled in time, and they never grow further.
        self._answered: deque[str] = deque(maxlen=_COLLECTED)
        self._received: deque[int] = deque(maxlen=_COLLECTED)
        self._sent: deque[int] = deque(maxlen=_COLLECTED)
        self._open: dict[int, Open] = {}  # by the association's identity
        self._lock = threading.Lock()  # guards what follows, and an association that overlaps
        self._rates = Rates(now)
        self._troubles: OrderedDict[tuple[str, ...], Trouble] = OrderedDict()
        self._numbers = itertools.count(1)

    def accepted(self, association: PeerView) -> None:
        """Note who is there."""
        certificate = association.peer_certificate
        one = Open(
            association.remote_address,
            printable(association.calling_ae),
            printable(association.called_ae),
            printable(subject(certificate)) if certificate else "",
            self._now(),
            getattr(association, "window", 1) > 1,
        )
        self._open[id(association)] = one
        if not association.contexts:
            self._note(association, "rejected", "association", "nothing it proposes is served")

    def rejected(self, association: PeerView, answer: AssociateRJ) -> None:
        """Note why."""
        reason = reason_of(answer) or f"source {answer.source}, reason {answer.reason}"
        self._note(association, "rejected", "association", reason)

    def failed(self, association: PeerView, error: AssociationAborted) -> None:
        """Note why."""
        self._note(association, "failed", "association", str(error))

    def ended(self, association: PeerView, error: AssociationAborted | None) -> None:
        """Note that it is gone, and why, unless it was released."""
        self._open.pop(id(association), None)
        if error is not None:
            self._note(association, "aborted", "association", str(error))

    def began(self, peer: PeerView, command: str, sop_class: str, size: int | None) -> None:
        """Note what is asked, and its bytes."""
        if size:
            self._received.append(size)
        one = self._open.get(id(peer))
        if one is None:
            return
        if one.overlaps:
            with self._lock:
                one.begin(command, size, self._now())
        else:
            one.begin(command, size, self._now())

    def answered(
        self, peer: PeerView, command: str, sop_class: str, status: Status | None, seconds: float
    ) -> None:
        """Count it, and note a failure."""
        self._answered.append(command)
        one = self._open.get(id(peer))
        if one is not None and one.overlaps:
            with self._lock:
                one.busy -= 1
        elif one is not None:
            one.busy -= 1
        if status is not None and status[0]:
            self._look_at(peer, command, sop_class, status)

    def sent(self, peer: PeerView, command: Command, size: int) -> None:
        """Count the bytes."""
        self._sent.append(size)
        one = self._open.get(id(peer))
        if one is None:
            return
        if one.overlaps:
            with self._lock:
                one.sent += size
        else:
            one.sent += size

    def settle(self) -> None:
        """Count what was collected, for the minute that it is."""
        with self._lock:
            for command, count in Counter(_taken(self._answered)).items():
                self._rates.add(kind_of(command), count)
            self._rates.add(RECEIVED, sum(_taken(self._received)))
            self._rates.add(SENT, sum(_taken(self._sent)))

    def _look_at(self, peer: PeerView, command: str, sop_class: str, status: Status) -> None:
        """Note a request that has failed, or that has failed in part."""
        category = status.category
        if category == "Failure" or (category == "Warning" and command in _RETRIEVALS):
            kind = "refused" if status.name.startswith("Refused") else "failed"
            what = f"{command}, {uids.name(sop_class)}" if sop_class else command
            reason = f"0x{status.code:04X} {status.name}"
            self._note(peer, kind, what, reason, status.comment)

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
        """Return all of it as values that JSON has."""
        self.settle()
        with self._lock:
            return {
                "associations": [asdict(one) for one in list(self._open.values())],
                "troubles": [asdict(one) for one in self._troubles.values()],
                "rates": self._rates.all(),
            }


def _taken(collected: deque[Any]) -> list[Any]:
    """Return what was collected, and forget it; others go on collecting."""
    return [collected.popleft() for _ in range(len(collected))]
