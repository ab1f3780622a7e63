"""Negotiation over a channel: wait for a peer's request, or for its answer to ours (PS3.8 §7.1)."""

from __future__ import annotations

import contextlib
import ssl
import time

from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    ProtocolError,
)
from pacsroute.net.channel import Channel, NothingCame
from pacsroute.tls import explain
from pacsroute.upper_layer.negotiation import SMALLEST_MAXIMUM_LENGTH
from pacsroute.upper_layer.pdu import (
    INVALID_PARAMETER,
    UNRECOGNIZED_PDU,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
)
from pacsroute.upper_layer.rejections import why


def wait_for_request(channel: Channel, deadline: float) -> AssociateRQ:
    """Return a peer's request for an association.

    Parameters
    ----------
    channel : Channel
        The channel to read from.
    deadline : float
        Of `time.monotonic`.

    Raises
    ------
    NothingCame, AssociationAborted
        If none comes.
    """
    connection = channel.connection
    while True:
        event = connection.next_event()
        if isinstance(event, AssociateRQ):
            return event
        if connection.state != "Sta2":
            _say_goodbye(channel)
            raise AssociationAborted(2, message=str(connection.error or "the peer gave up"))
        if not channel.read_before(deadline):
            is_closed = time.monotonic() < deadline
            connection.artim_expired()
            if not is_closed:
                raise AssociationAborted(None, message="no association request received")
            if connection.partial:
                raise AssociationAborted(
                    None, message="the peer closed the connection within its request"
                )
            raise NothingCame(None, message="the peer closed the connection without a request")


def ask(channel: Channel, request: AssociateRQ, who: str, deadline: float) -> AssociateAC:
    """Ask for an association, and return how the peer accepts it.

    Parameters
    ----------
    channel : Channel
        The channel to use.
    request : AssociateRQ
        The association request.
    who : str
        The peer, as errors name it.
    deadline : float
        Of `time.monotonic`.

    Raises
    ------
    AssociationRejected, AssociationAborted
        If the peer does not accept.
    """
    connection = channel.connection
    connection.associate(request)
    connection.transport_connected()
    channel.write_out()
    while (answer := connection.next_event()) is None:
        if connection.state != "Sta5":
            _say_goodbye(channel)
            raise AssociationAborted(2, message=f"{who}: {connection.error}")
        if not channel.read_before(deadline):
            raise AssociationAborted(None, message=f"{who} {_no_answer(channel, deadline)}")
    if isinstance(answer, AssociateRJ):
        raise AssociationRejected(*answer, f"{who} rejected: {why(answer, request)}")
    if not isinstance(answer, AssociateAC):
        refused = _refused(connection.error, who, getattr(answer, "source", None))
        _say_goodbye(channel)
        channel.end(refused)
        raise refused
    length = answer.user_information.maximum_length
    if length and length < SMALLEST_MAXIMUM_LENGTH:
        channel.abort_for(ProtocolError(f"{who}: a maximum length of {length}", INVALID_PARAMETER))
    return answer


def _say_goodbye(channel: Channel) -> None:
    """Send an A-ABORT if the peer still reads; an error here is ignored."""
    with contextlib.suppress(AssociationError):
        channel.write_out()


def _refused(error: ProtocolError | None, who: str, source: int | None) -> AssociationAborted:
    """Return the error for a peer that did not answer as an acceptor: either side has aborted."""
    if error is None:
        return AssociationAborted(source, message=f"{who} aborted the request")
    if error.reason == UNRECOGNIZED_PDU:
        return AssociationAborted(2, error.reason, f"{who} does not speak DICOM: {error}")
    return AssociationAborted(2, error.reason, f"{who} sent an invalid answer: {error}")


def _no_answer(channel: Channel, deadline: float) -> str:
    """Describe the bytes that the peer sent instead of an answer."""
    lost = channel.connection.transport_closed() is not None and time.monotonic() < deadline
    if not lost:
        how = "did not answer in time"
    elif channel.connection.partial:
        how = "closed the connection within its answer"
    elif channel.secured:
        how = "closed the connection"
    else:
        how = "closed the connection: does it want TLS?"
    if isinstance(channel.lost, ssl.SSLError):  # TLS 1.3 refuses certificates late
        how += f": {explain(channel.lost)}"
    return how
