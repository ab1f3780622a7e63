"""Reads both directions of an association from the outside: bytes in, PDUs and messages out.

Unlike `upper_layer.connection` it takes no side and answers nothing. What the standard does
not allow is told as it comes; a direction is read until its bytes make no sense any more.
"""

from __future__ import annotations

from collections.abc import Iterator

from pacsroute.dimse.commands import Command
from pacsroute.dimse.messages import Assembler, Message
from pacsroute.errors import ProtocolError
from pacsroute.upper_layer import pdu as pdus
from pacsroute.upper_layer.negotiation import AcceptedContext, agreed
from pacsroute.upper_layer.pdu import AssociateAC, AssociateRQ, Buffer, PDataTF, Pdu

KEPT = 1_048_576
"""How many bytes of a data set are kept to be told: those of most without their pixels."""

_LONGEST = 1 << 29  # bytes of a P-DATA-TF
_LONGEST_ASSOCIATE = 1 << 20
_TLS = b"\x16\x03"  # a handshake record

_NAMES = {
    1: "A-ASSOCIATE-RQ",
    2: "A-ASSOCIATE-AC",
    3: "A-ASSOCIATE-RJ",
    4: "P-DATA-TF",
    5: "A-RELEASE-RQ",
    6: "A-RELEASE-RP",
    7: "A-ABORT",
}


class Trouble(str):
    """What cannot be read, or is not as the standard has it; a text without values."""

    __slots__ = ()


class DataSet:
    """The sink of a data set: its size, and its first bytes."""

    def __init__(self, limit: int) -> None:
        self.bytes = bytearray()
        self.size = 0
        self._limit = limit

    def write(self, data: memoryview, /) -> None:
        """Take a fragment."""
        self.size += len(data)
        self.bytes += data[: max(0, self._limit - len(self.bytes))]


Seen = Pdu | Message | Trouble
"""What an observer tells: P-DATA-TF in the shape of the messages that they carry."""


class Observer:
    """Observes one association.

    Parameters
    ----------
    kept : int
        How many bytes of each data set are kept.

    Attributes
    ----------
    request : AssociateRQ or None
        What was proposed.
    contexts : dict of int to AcceptedContext
        What was accepted.

    Examples
    --------
    >>> observer = Observer()
    >>> observer.add(True, pdus.encode(pdus.ReleaseRQ()))
    [ReleaseRQ()]
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.request: AssociateRQ | None = None
        self.contexts: dict[int, AcceptedContext] = {}
        self._directions = {True: _Direction(kept), False: _Direction(kept)}

    def add(self, by_requestor: bool, data: Buffer) -> list[Seen]:
        """Take bytes of one end; return what they complete."""
        seen = list(self._directions[by_requestor].add(data))
        for what in seen:
            if isinstance(what, AssociateRQ):
                self.request = what
            elif isinstance(what, AssociateAC) and self.request is not None:
                self.contexts = agreed(self.request, what)
        if self._directions[by_requestor].foreign:
            self._directions[not by_requestor].lost = True
        return seen

    def end(self) -> list[tuple[bool, Seen]]:
        """Say that nothing more comes; return what is not complete, and of which end."""
        return [
            (by_requestor, what)
            for by_requestor, direction in self._directions.items()
            for what in direction.end()
        ]


class _Direction:
    """What one end sends."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._buffer = bytearray()
        self._assembler = Assembler(self._open)
        self._position = 0
        self.lost = False

    def _open(self, context_id: int, command: Command) -> DataSet:
        return DataSet(self._kept)

    @property
    def foreign(self) -> bool:
        """Whether there never was a PDU: no need to say so of the other direction, too."""
        return self.lost and self._position == 0

    def add(self, data: Buffer) -> Iterator[Seen]:
        if self.lost:
            return
        self._buffer += data
        while len(self._buffer) >= 6:
            number, length = pdus.HEADER.unpack_from(self._buffer)
            reason = self._not_a_pdu(number, length)
            if reason:
                self.lost = True
                self._buffer.clear()
                yield Trouble(reason)
                return
            size = 6 + length
            if len(self._buffer) < size:
                return
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._position += size
            yield from self._read(number, frame)

    def _not_a_pdu(self, number: int, length: int) -> str:
        """Say why bytes cannot be the head of a PDU, if they cannot."""
        known = number in _NAMES
        if known and length <= (_LONGEST if number == 4 else _LONGEST_ASSOCIATE):
            return ""
        if self._position:
            return f"no PDU begins where one should, after {self._position:,} bytes"
        if self._buffer.startswith(_TLS):
            return "TLS: what is inside cannot be read here"
        return "no PDU at the beginning: not DICOM, or begun before it was captured"

    def _read(self, number: int, frame: bytes) -> Iterator[Seen]:
        try:
            pdu = pdus.decode(frame)
        except ProtocolError as error:
            yield Trouble(f"a damaged {_NAMES[number]}: {error}")
            return
        if not isinstance(pdu, PDataTF):
            yield pdu
            return
        for pdv in pdu.pdvs:
            try:
                yield from self._assembler.add(pdv)
            except ProtocolError as error:
                yield Trouble(str(error))
                self._assembler = Assembler(self._open)

    def end(self) -> Iterator[Seen]:
        if self.lost:
            return
        message = self._assembler.incomplete
        if message is not None:
            yield message
        if self._buffer:
            what, whole = "a PDU", ""
            if len(self._buffer) >= 6:
                number, length = pdus.HEADER.unpack_from(self._buffer)
                what, whole = f"a {_NAMES[number]}", f" of {6 + length:,}"
            yield Trouble(f"{what} ends after {len(self._buffer):,}{whole} bytes")
        elif self._assembler.partial:
            yield Trouble("a message ends before its last fragment")
