"""The activity of an app, for the console: associations, failures, and rates."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import OrderedDict
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

_LONGEST = 300  # characters of a text
_RETRIEVALS = ("C-GET", "C-MOVE")


@dataclass
class Open:
    """An association that is open; times are in seconds since 1970.

    Attributes
    ----------
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
    busy: int = 0
    asked: str = ""
    asked_since: float = 0.0
    requests: int = 0
    received: int = 0
    sent: int = 0


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
    """Observes an app for the console: a lock and a few additions for each request.

    Parameters
    ----------
    now : callable
        Returns the time in seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()  # guards all that follows
        self._open: dict[int, Open] = {}  # by the association's identity
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
        )
        with self._lock:
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
        with self._lock:
            self._open.pop(id(association), None)
        if error is not None:
            self._note(association, "aborted", "association", str(error))

    def began(self, peer: PeerView, command: str, sop_class: str, size: int | None) -> None:
        """Note what is asked, and its bytes."""
        one = self._open.get(id(peer))
        if one is None and not size:
            return
        with self._lock:
            if one is not None:
                one.busy += 1
                one.requests += 1
                one.asked, one.asked_since = command, self._now()
                one.received += size or 0
            if size:
                self._rates.add(RECEIVED, size)

    def answered(
        self, peer: PeerView, command: str, sop_class: str, status: Status | None, seconds: float
    ) -> None:
        """Count it, and note a failure."""
        one = self._open.get(id(peer))
        with self._lock:
            self._rates.add(kind_of(command))
            if one is not None:
                one.busy -= 1
        if status is not None and status.code:
            category = status.category
            if category == "Failure" or (category == "Warning" and command in _RETRIEVALS):
                kind = "refused" if status.name.startswith("Refused") else "failed"
                what = f"{command}, {uids.name(sop_class)}" if sop_class else command
                reason = f"0x{status.code:04X} {status.name}"
                self._note(peer, kind, what, reason, status.comment)

    def sent(self, peer: PeerView, command: Command, size: int) -> None:
        """Count the bytes."""
        one = self._open.get(id(peer))
        with self._lock:
            self._rates.add(SENT, size)
            if one is not None:
                one.sent += size

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
        with self._lock:
            return {
                "associations": [asdict(one) for one in self._open.values()],
                "troubles": [asdict(one) for one in self._troubles.values()],
                "rates": self._rates.all(),
            }
