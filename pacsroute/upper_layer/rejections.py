"""The meaning of an A-ASSOCIATE-RJ, and remedies (PS3.8 §9.3.4)."""

from __future__ import annotations

from typing import NamedTuple

from pacsroute.upper_layer.pdu import AssociateRJ, AssociateRQ


class _Reason(NamedTuple):
    name: str
    advice: str


# By source and reason (PS3.8 §9.3.4).
_REASONS = {
    (1, 1): _Reason("no reason given", "it gives no reason"),
    (1, 2): _Reason(
        "application context name not supported", "it does not know the application context"
    ),
    (1, 3): _Reason(
        "calling AE title not recognized",
        "it does not know the calling AE title {calling!r}: register it there",
    ),
    (1, 7): _Reason(
        "called AE title not recognized",
        "the called AE title {called!r} is not the peer's: ask for its AE title",
    ),
    (2, 1): _Reason("no reason given by ACSE", "it gives no reason, and may not accept this user"),
    (2, 2): _Reason("protocol version not supported", "it knows no common protocol version"),
    (3, 1): _Reason("temporary congestion", "it is congested: try again later"),
    (3, 2): _Reason(
        "local limit exceeded", "it has as many associations as it takes: try again later"
    ),
}


def reason_of(reject: AssociateRJ) -> str:
    """Return the standard's name of the reason, or an empty text.

    Examples
    --------
    >>> reason_of(AssociateRJ(result=1, source=1, reason=7))
    'called AE title not recognized'
    """
    reason = _REASONS.get((reject.source, reject.reason))
    return "" if reason is None else reason.name


def why(reject: AssociateRJ, request: AssociateRQ) -> str:
    """Explain an A-ASSOCIATE-RJ, and suggest a remedy."""
    reason = _REASONS.get((reject.source, reject.reason))
    text = "for a reason of its own" if reason is None else reason.advice
    how = "transient" if reject.result == 2 else "permanent"
    text = text.format(calling=request.calling_ae, called=request.called_ae)
    return f"{text} ({how}; source {reject.source}, reason {reject.reason})"
