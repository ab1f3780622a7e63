"""What an A-ASSOCIATE-RJ means, and what to try."""

from __future__ import annotations

from pacsroute.upper_layer.pdu import AssociateRJ, AssociateRQ

# By source and reason (PS3.8 §9.3.4).
_REASONS = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know the calling AE title {calling!r}: have it registered there",
    (1, 7): "the called AE title {called!r} is not its own: ask what it is called",
    (2, 1): "it gives no reason, and may not accept this user",
    (2, 2): "it knows no common protocol version",
    (3, 1): "it is congested: try again later",
    (3, 2): "it has as many associations as it takes: try again later",
}


def why(reject: AssociateRJ, request: AssociateRQ) -> str:
    """Say what an A-ASSOCIATE-RJ means, and what to try (PS3.8 §9.3.4)."""
    text = _REASONS.get((reject.source, reject.reason), "for a reason of its own")
    how = "for now" if reject.result == 2 else "for good"
    text = text.format(calling=request.calling_ae, called=request.called_ae)
    return f"{text} ({how}; source {reject.source}, reason {reject.reason})"
