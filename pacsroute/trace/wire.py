"""Observe both directions of an association: bytes in, PDUs and messages out.

Unlike `upper_layer.connection`, it is neither end and sends nothing. Violations of the standard are
reported as they occur; a direction is read until its bytes no longer make sense.
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
"""How many bytes of a data set are kept to be shown: enough for most, without pixels."""

_LONGEST = 1 << 29  # limit for a P-DATA-TF, in bytes
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
    """A description, without values, of bytes that are unreadable or violate the standard."""

    __slots__ = ()


class DataSet:
    """A sink for a data set; keeps its size and its first bytes."""

    def __init__(self, limit: int) -> None:
        self.bytes = bytearray()
        self.size = 0
        self._limit = limit

    def write(self, data: memoryview, /) -> None:
        """Add a fragment."""
        self.size += len(data)
        self.bytes += data[: max(0, self._limit - len(self.bytes))]


Seen = Pdu | Message | Trouble
"""What an observer reports; P-DATA-TF PDUs appear as the messages that they carry."""


class WireReader:
    """Observes one association.

    Parameters
    ----------
    kept : int
        How many bytes of each data set are kept.

    Attributes
    ----------
    request : AssociateRQ or None
        The association request.
    contexts : dict of int to AcceptedContext
        The accepted presentation contexts.

    Examples
    --------
    >>> reader = WireReader()
    >>> reader.add(True, pdus.encode(pdus.ReleaseRQ()))
    [ReleaseRQ()]
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.request: AssociateRQ | None = None
        self.contexts: dict[int, AcceptedContext] = {}
        self._directions = {True: _Direction(kept), False: _Direction(kept)}

    def add(self, by_requestor: bool, data: Buffer) -> list[Seen]:
        """Add bytes of one end; return the PDUs and messages that they complete."""
        seen = list(self._directions[by_requestor].add(data))
        for what in seen:
            if isinstance(what, AssociateRQ):
                self.request = what
            elif isinstance(what, AssociateAC) and self.request is not None:
                self.contexts = agreed(self.request, what)
        if self._directions[by_requestor].frames.foreign:
            self._directions[not by_requestor].frames.lost = True  # report it only once
        return seen

    def end(self) -> list[tuple[bool, Seen]]:
        """End the stream; return the incomplete parts, each with its end."""
        return [
            (by_requestor, what)
            for by_requestor, direction in self._directions.items()
            for what in direction.end()
        ]


class Frames:
    """Cuts the bytes of one end into PDUs.

    Attributes
    ----------
    lost : bool
        Whether its bytes no longer make sense.
    rest : bytearray
        The received part of the next PDU.
    """

    def __init__(self) -> None:
        self.lost = False
        self.rest = bytearray()
        self._position = 0

    @property
    def foreign(self) -> bool:
        """Whether no PDU was ever found."""
        return self.lost and self._position == 0

    def add(self, data: Buffer) -> Iterator[bytes]:
        """Add bytes; return the completed PDUs."""
        self.rest += data
        while len(self.rest) >= 6 and not self.lost:
            number, length = pdus.HEADER.unpack_from(self.rest)
            limit = _LONGEST if number == 4 else _LONGEST_ASSOCIATE
            if number not in _NAMES or length > limit:
                self.lost = True
                return
            size = 6 + length
            if len(self.rest) < size:
                return
            frame = bytes(self.rest[:size])
            del self.rest[:size]
            self._position += size
            yield frame

    def trouble(self) -> Trouble:
        """Return why the stream is `lost`, or its incomplete part."""
        if self.lost and self._position:
            return Trouble(f"no PDU begins where one should, after {self._position:,} bytes")
        if self.lost and self.rest.startswith(_TLS):
            return Trouble("TLS: its content cannot be read here")
        if self.lost:
            return Trouble("no PDU at the beginning: not DICOM, or begun before it was captured")
        if len(self.rest) < 6:
            return Trouble(f"a PDU ends after {len(self.rest)} bytes")
        number, length = pdus.HEADER.unpack_from(self.rest)
        return Trouble(f"{_NAMES[number]} ends after {len(self.rest):,} of {6 + length:,} bytes")


class _Direction:
    """The bytes of one end."""

    def __init__(self, kept: int) -> None:
        self.frames = Frames()
        self._kept = kept
        self._assembler = Assembler(self._open)

    def _open(self, context_id: int, command: Command) -> DataSet:
        return DataSet(self._kept)

    def add(self, data: Buffer) -> Iterator[Seen]:
        if self.frames.lost:
            return
        for frame in self.frames.add(data):
            yield from self._read(frame)
        if self.frames.lost:
            yield self.frames.trouble()

    def _read(self, frame: bytes) -> Iterator[Seen]:
        try:
            pdu = pdus.decode(frame)
        except ProtocolError as error:
            yield Trouble(f"a damaged {_NAMES[frame[0]]}: {error}")
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
        if self.frames.lost:
            return
        message = self._assembler.incomplete
        if message is not None:
            yield message
        if self.frames.rest:
            yield self.frames.trouble()
        elif message is None and self._assembler.partial:
            yield Trouble("a message ends before its last fragment")
