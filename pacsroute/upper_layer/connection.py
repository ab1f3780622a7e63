"""An upper-layer connection without a socket: bytes in, events out (PS3.8 §7 and §9).

The events are the PDUs themselves, instead of the standard's indications, and `TransportClosed`.
The caller reads into `get_buffer`, reports the number of bytes with `buffer_updated`, takes events
with `next_event` until there are none, and writes the result of `data_to_send`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pacsroute.errors import AssociationError, ProtocolError, let_go
from pacsroute.upper_layer import pdu as pdus
from pacsroute.upper_layer.buffers import buffers
from pacsroute.upper_layer.pdu import Abort, AssociateAC, AssociateRJ, AssociateRQ, Buffer, Pdu
from pacsroute.upper_layer.state_machine import ACTIONS, EVENTS, NEXT, RELEASE_COLLISION

DEFAULT_MAXIMUM_LENGTH = 1_048_576
"""The maximum length of the P-DATA-TF variable field that we offer, in bytes."""

_FIRST_BUFFER = 16_384
_SLACK = 65_536  # room after a large PDU, so that one read can bring the next one's head

# The actions of table 9-10 that pass the PDU to the user.
_INDICATIONS = frozenset({"AE-3", "AE-4", "DT-2", "AR-2", "AR-3", "AR-6", "AR-8", "AR-10", "AA-3"})

_PARTS = 4  # a fragment is handed over if it fills at least 1/_PARTS of its buffer

_TLS = (0x15, 0x16)  # the first byte of a TLS record at the start of a connection
_TEXT = 40  # bytes of text that an error shows instead of a PDU

_RECEIVED = {1: "Evt6", 2: "Evt3", 3: "Evt4", 4: "Evt10", 5: "Evt12", 6: "Evt13", 7: "Evt16"}


class TransportClosed(NamedTuple):
    """The transport connection was lost without an A-ABORT."""


Event = Pdu | TransportClosed


class Connection:
    """One association's upper layer, for the acceptor or the requestor.

    Parameters
    ----------
    role : {"acceptor", "requestor"}
        The role of this side. An acceptor begins in Sta2, because it has its transport connection;
        a requestor in Sta1.
    maximum_length : int
        The length of P-DATA-TF that was offered to the peer, in bytes. A peer that
        sends longer ones is tolerated up to twice that length, then aborted.
    maximum_associate_length : int
        The longest PDU of any other type that is read, in bytes.

    Attributes
    ----------
    state : str
        ``Sta1`` to ``Sta13`` (PS3.8 §9.2.1).
    error : ProtocolError or None
        The violation by the peer for which this side ended the association.

    Examples
    --------
    >>> connection = Connection("acceptor")
    >>> connection.receive_data(pdus.encode(AssociateRQ("ARCHIVE", "CT")))
    >>> connection.next_event().calling_ae, connection.state
    ('CT', 'Sta3')
    """

    def __init__(
        self,
        role: Literal["acceptor", "requestor"],
        *,
        maximum_length: int = DEFAULT_MAXIMUM_LENGTH,
        maximum_associate_length: int = 1_048_576,
    ) -> None:
        if maximum_length < 1:
            raise ValueError("maximum_length bounds a buffer: 0, no limit, is not possible here")
        self.role = role
        self.state = "Sta1"
        self.error: ProtocolError | None = None
        self._data_limit = 2 * maximum_length
        self._associate_limit = maximum_associate_length
        self._view = memoryview(bytearray(_FIRST_BUFFER))
        self._start = self._end = 0
        self._needed = 6
        self._usual = 0  # size of the buffer that replaces a handed-over one
        self._data_length = -1  # length of the P-DATA-TF in the last event
        self._lost_framing = False
        self._out: list[Buffer] = []
        self._request: bytes | None = None
        if role == "acceptor":
            self._apply("Evt5")

    # ------------------------------------------------------------- bytes in

    def get_buffer(self) -> memoryview:
        """Return the buffer for the peer's next bytes, with room for at least one.

        Fragments of earlier events are no longer valid after this.
        """
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = start = end = 0
        if len(self._view) - start < self._needed or end == len(self._view):
            held = self._view[start:end]
            if len(self._view) < max(self._needed, self._usual):
                self._view = buffers.take(max(self._needed + _SLACK, self._usual))
            self._view[: len(held)] = held
            self._start, self._end = 0, end - start
        return self._view[self._end :]

    def buffer_updated(self, count: int) -> None:
        """Report that many bytes were read into the buffer of `get_buffer`."""
        self._end += count

    def hand_over(self, fragment: memoryview) -> memoryview | None:
        """Give up the buffer of a fragment to the caller.

        The caller gives it to `pacsroute.upper_layer.buffers` when none of it is needed.

        Parameters
        ----------
        fragment : memoryview
            A fragment of the last event.

        Returns
        -------
        memoryview or None
            All of the buffer; None if there is more in that event, or if the fragment is a small
            part of the buffer.
        """
        if len(fragment) + 6 != self._data_length or _PARTS * len(fragment) < len(self._view):
            return None
        view, behind = self._view, self._view[self._start : self._end]
        self._view = memoryview(bytearray(behind))
        self._start, self._end, self._usual = 0, len(behind), len(view)
        return view

    def receive_data(self, data: Buffer) -> None:
        """Copy bytes that the caller has already read."""
        data = memoryview(data)
        while data:
            room = self.get_buffer()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self._end += count
            data = data[count:]
            if self._end - self._start >= self._needed and len(data):
                # A whole PDU waits to be taken: make room for the next one.
                self._needed = self._end - self._start + len(data)

    @property
    def partial(self) -> int:
        """How many bytes of an incomplete PDU have arrived."""
        return self._end - self._start

    def next_event(self) -> Event | None:
        """Return the next event in the bytes received, or None until more of them come."""
        while (start := self._start) != self._end:
            available = self._end - start
            if self._lost_framing or self.state == "Sta1":
                self._start = self._end
                break
            if available < 6 and not self._is_foreign():
                break
            number, length = pdus.HEADER.unpack_from(self._view, start)
            # DT-2 changes no state, so the hot path skips the table.
            is_data = number == 4 and self.state == "Sta6" and length <= self._data_limit
            try:
                if not is_data:
                    self._check_header(number, length)
                if available < 6 + length:
                    self._needed = 6 + length
                    return None
                self._start = stop = start + 6 + length
                if is_data:
                    self._data_length = length
                    return pdus.decode_data(self._view[start + 6 : stop])
                received = pdus.decode(self._view[start:stop])
            except ProtocolError as error:
                event = self._receive("Evt19", None, error)
            else:
                event = self._receive(_RECEIVED[number], received, None)
            if event is not None:
                return event
        self._needed = 6
        return None

    def _check_header(self, number: int, length: int) -> None:
        """Refuse bytes that cannot be framed before memory is used for them."""
        if number not in _RECEIVED:
            self._lost_framing = True
            hint = ", but TLS begins like that" if number in _TLS else self._as_text()
            raise ProtocolError(f"no PDU has the type {number:02X}H{hint}", pdus.UNRECOGNIZED_PDU)
        if number == 4 and self.state in ("Sta2", "Sta3", "Sta5"):
            # Answered like a complete PDU, but without allocating a buffer for it.
            self._lost_framing = True
            raise ProtocolError("a P-DATA-TF before the association", pdus.UNEXPECTED_PDU)
        if length > (self._data_limit if number == 4 else self._associate_limit):
            self._lost_framing = True
            raise ProtocolError(
                f"a PDU of type {number:02X}H with {length} bytes is too long",
                pdus.INVALID_PARAMETER,
            )

    def _is_foreign(self) -> bool:
        """Return whether the first byte is not that of a PDU: the peer may send no more."""
        return self.state in ("Sta2", "Sta5") and self._view[self._start] not in _RECEIVED

    def _as_text(self) -> str:
        """Describe text that was received instead of the first PDU; empty if it is not text.

        Later bytes could be part of a data set, which an error must not quote.
        """
        if self.state not in ("Sta2", "Sta5"):
            return ""
        came = bytes(self._view[self._start : self._end][:_TEXT]).partition(b"\n")[0].rstrip()
        text = came.decode("latin-1")
        is_text = came.isascii() and text.isprintable() and text
        return f": the received bytes begin with {text!r}" if is_text else ""

    def _receive(
        self, event: str, received: Pdu | None, error: ProtocolError | None
    ) -> Event | None:
        action = self._apply(event)
        if action in _INDICATIONS:
            return received
        if action == "AE-6":
            assert isinstance(received, AssociateRQ)
            if received.protocol_version & 1:
                return received
            self.error = ProtocolError("the peer offers no protocol version that we support")
            self._out.append(pdus.encode(AssociateRJ(1, 2, 2)))
            self.state = "Sta13"
        elif action in ("AA-1", "AA-7", "AA-8"):
            error = error or ProtocolError(f"unexpected: {EVENTS[event]}", pdus.UNEXPECTED_PDU)
            let_go(error)
            self.error = self.error or error
            # In Sta2 there is no association yet for which the provider could abort.
            abort = Abort(0) if action == "AA-1" else Abort(2, error.reason)
            self._out.append(pdus.encode(abort))
            if action == "AA-8":
                return abort
        return None

    # ---------------------------------------------------- what the user asks

    def associate(self, request: AssociateRQ) -> None:
        """Ask for an association (Evt1); the shell then opens the transport connection."""
        data = pdus.encode(request)
        self._apply("Evt1")
        self._request = data

    def transport_connected(self) -> None:
        """Report the transport connection (Evt2); the request is sent."""
        self._apply("Evt2")
        assert self._request is not None
        self._out.append(self._request)

    def accept(self, accept: AssociateAC) -> None:
        """Accept the association that was requested (Evt7)."""
        data = pdus.encode(accept)  # first, so that an encoding error changes no state
        self._apply("Evt7")
        self._out.append(data)

    def reject(self, reject: AssociateRJ) -> None:
        """Reject the association that was requested (Evt8)."""
        data = pdus.encode(reject)
        self._apply("Evt8")
        self._out.append(data)

    def send_data(self, buffers: list[Buffer]) -> None:
        """Send whole P-DATA-TF PDUs, already in their encoded form (Evt9)."""
        if self.state not in ("Sta6", "Sta8"):
            self._apply("Evt9")
        self._out += buffers

    def release(self) -> None:
        """Ask for the release of the association (Evt11)."""
        self._apply("Evt11")
        self._out.append(pdus.encode(pdus.ReleaseRQ()))

    def respond_release(self) -> None:
        """Answer the peer's request to release (Evt14)."""
        self._apply("Evt14")
        self._out.append(pdus.encode(pdus.ReleaseRP()))

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """End the association at once (Evt15)."""
        if self._apply("Evt15") == "AA-1":
            self._out.append(pdus.encode(Abort(source, reason)))

    def transport_closed(self) -> TransportClosed | None:
        """Report the loss of the transport connection (Evt17)."""
        if self.state == "Sta1":
            return None
        return TransportClosed() if self._apply("Evt17") == "AA-4" else None

    # --------------------------------------------------------- what the shell asks

    @property
    def artim_running(self) -> bool:
        """Whether ARTIM runs: it restarts with each change into Sta2 or Sta13."""
        return self.state in ("Sta2", "Sta13")

    def artim_expired(self) -> None:
        """Report that ARTIM has expired (Evt18); the state is then Sta1, and the caller closes."""
        self._apply("Evt18")

    def data_to_send(self) -> list[Buffer]:
        """Return the bytes for the peer, and forget them."""
        out, self._out = self._out, []
        return out

    def _apply(self, event: str) -> str:
        action = ACTIONS.get((event, self.state))
        if action is None:
            raise AssociationError(f"{EVENTS[event]}: not possible in {self.state}")
        self.state = RELEASE_COLLISION[self.role] if action == "AR-8" else NEXT[action]
        return action
