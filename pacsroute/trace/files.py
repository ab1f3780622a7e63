"""Read associations from files, in any supported format."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pacsroute.trace import recording
from pacsroute.trace.conversation import Chunk, Conversation
from pacsroute.trace.pcap.capture import packets
from pacsroute.trace.pcap.tcp import conversations


def read(path: str | os.PathLike[str]) -> Iterator[tuple[Conversation, Chunk | None]]:
    """Return the bytes of each conversation in order, and None at the end of each.

    Parameters
    ----------
    path : path
        A recording of `pacsroute run --record`, or a pcap or pcapng capture.

    Raises
    ------
    OSError
        If the file cannot be read.
    UnreadableFile
        If it is neither a recording nor a capture.
    """
    with open(path, "rb") as file:
        if file.read(len(recording.MAGIC)) == recording.MAGIC:
            yield from recording.read(file)
        else:
            file.seek(0)
            yield from conversations(packets(file))
