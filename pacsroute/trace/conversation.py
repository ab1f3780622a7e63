"""The common form of recordings and captures: two ends and the bytes between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pacsroute.errors import PacsrouteError
from pacsroute.trace.layout import printable
from pacsroute.upper_layer.tap import Link


class UnreadableFile(PacsrouteError):
    """A file that is neither a recording nor a capture of a network."""


class Chunk(NamedTuple):
    """Bytes that one end sent, at a time in seconds since 1970."""

    time: float
    by_requestor: bool
    data: bytes


@dataclass(eq=False)
class Conversation:
    """A connection between a requestor and an acceptor, each by its ``HOST:PORT``.

    After the last chunk, `trouble` contains the reason why the bytes end, unless the connection
    was closed.
    """

    requestor: str
    acceptor: str
    trouble: str = ""

    @classmethod
    def of(cls, link: Link) -> Conversation:
        """Return the conversation for one of our own connections."""
        ends = printable(link.peer), printable(link.local)
        return cls(*(ends if link.role == "acceptor" else reversed(ends)))
