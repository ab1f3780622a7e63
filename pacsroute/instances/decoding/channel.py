"""The channel between a server and its decoders: lines of JSON, with open files."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

_MOST = 65_536
_FILES = 2


def tell(channel: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send a message, and open files with it."""
    line = json.dumps(message).encode() + b"\n"
    if files:
        sent = socket.send_fds(channel, [line], list(files))
        line = line[sent:]
    channel.sendall(line)


def hear(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message, and the open files that came with it.

    Raises
    ------
    EOFError
        If the other side has ended.
    """
    line, files = b"", []
    while not line.endswith(b"\n"):
        data, more, _, _ = socket.recv_fds(channel, _MOST, _FILES)
        files += more
        line += data
        if not data or len(line) > _MOST:
            raise EOFError
    message: dict[str, Any] = json.loads(line)
    return message, files
