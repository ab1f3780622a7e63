"""Reassemble TCP connections from the segments of a capture."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from pacsroute.trace.conversation import Chunk, Conversation
from pacsroute.trace.pcap.capture import DamagedCapture, Packet
from pacsroute.trace.pcap.packets import ACK, FIN, RST, SYN, Segment, segment

_End = tuple[str, int]
_WAITING = 16 * 1_048_576  # with more bytes after it, a gap is taken as permanent


def conversations(packets: Iterable[Packet]) -> Iterator[tuple[Conversation, Chunk | None]]:
    """Return the bytes of each connection in order, and None at the end of each.

    Retransmitted, overlapping and reordered segments are put in order. If segments are missing from
    the capture, their direction ends at the gap.
    """
    open_now: dict[frozenset[_End], _Connection] = {}
    done: set[frozenset[_End]] = set()
    trouble = "the capture ends here"
    try:
        for packet in packets:
            found = segment(packet)
            if found is None:
                continue
            key = frozenset((found.source, found.target))
            connection = open_now.get(key)
            begins = found.flags & (SYN | ACK) == SYN
            if connection is not None and begins and connection.is_another(found):
                yield from connection.end("")
                connection = None
            if connection is None:
                if not begins and (key in done or not (found.data or found.flags & SYN)):
                    continue  # the rest of a connection that has ended
                done.discard(key)
                connection = open_now[key] = _Connection(found)
            for chunk in connection.add(found):
                yield connection.conversation, chunk
            if connection.closed:
                del open_now[key]
                done.add(key)
                yield from connection.end("")
    except DamagedCapture as error:
        trouble = str(error)
    for connection in open_now.values():
        yield from connection.end(trouble)


class _Connection:
    """A connection, from its first captured segment on."""

    def __init__(self, first: Segment) -> None:
        ends = first.source, first.target
        if first.flags & SYN:
            requestor = first.target if first.flags & ACK else first.source
        elif first.data[:2] in (b"\1\0", b"\2\0"):  # the start of an A-ASSOCIATE-RQ or -AC
            requestor = first.source if first.data[0] == 1 else first.target
        else:
            requestor = max(ends, key=lambda end: end[1])  # servers have the lower ports
        acceptor = ends[0] if requestor == ends[1] else ends[1]
        self.conversation = Conversation(_text(requestor), _text(acceptor))
        self._requestor = requestor
        self._streams = {end: _Stream() for end in ends}
        self._reset = False

    def is_another(self, found: Segment) -> bool:
        """Return whether a SYN opens a new connection, rather than repeating this one's."""
        return self._streams[found.source].first not in (None, found.sequence + 1 & 0xFFFF_FFFF)

    def add(self, found: Segment) -> Iterator[Chunk]:
        """Add a segment; return the bytes that are now in order."""
        self._reset = self._reset or bool(found.flags & RST)
        data = self._streams[found.source].add(found)
        if data:
            yield Chunk(found.time, found.source == self._requestor, data)

    @property
    def closed(self) -> bool:
        """Whether both ends closed it, or one reset it."""
        return self._reset or all(stream.finished for stream in self._streams.values())

    def end(self, trouble: str) -> Iterator[tuple[Conversation, None]]:
        """End the conversation, and note whether anything is missing."""
        for stream in self._streams.values():
            if stream.gap:
                trouble = f"{stream.gap:,} bytes were not captured, so the rest is not shown"
        self.conversation.trouble = trouble
        yield self.conversation, None


class _Stream:
    """The bytes of one end."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.finished = False
        self._next = 0
        self._waiting: dict[int, bytes] = {}  # segments by offset from the first byte
        self._order: list[int] = []  # a heap of the offsets: a capture may have a million
        self._last: int | None = None  # the offset of the end
        self._size = 0
        self._lost = False

    @property
    def gap(self) -> int:
        """The number of missing bytes before the waiting segments."""
        return self._order[0] - self._next if self._order else 0

    def add(self, found: Segment) -> bytes:
        """Add a segment; return the bytes that are now in order."""
        begins = bool(found.flags & SYN)
        if self.first is None:
            self.first = found.sequence + begins & 0xFFFF_FFFF
        # Sequence numbers wrap around at 4 GiB: take the position nearest to the known one.
        ahead = found.sequence + begins - self.first - self._next & 0xFFFF_FFFF
        position = self._next + ahead - (0x1_0000_0000 if ahead & 0x8000_0000 else 0)
        if found.flags & FIN:
            self._last = position + len(found.data)
        if (
            found.data
            and not self._lost
            and len(found.data) > len(self._waiting.get(position, b""))
        ):
            self._size += len(found.data) - len(self._waiting.get(position, b""))
            if position not in self._waiting:
                heapq.heappush(self._order, position)
            self._waiting[position] = found.data
        ready = self._ready()
        self._lost = self._size > _WAITING
        self.finished = self.finished or self._next == self._last
        return ready

    def _ready(self) -> bytes:
        ready = bytearray()
        while self._order and self._order[0] <= self._next:
            position = heapq.heappop(self._order)
            data = self._waiting.pop(position)
            self._size -= len(data)
            fresh = data[self._next - position :]
            ready += fresh
            self._next += len(fresh)
        return bytes(ready)


def _text(end: _End) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
