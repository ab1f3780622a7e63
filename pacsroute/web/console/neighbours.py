"""The processes of a server with several workers show each other's activity on the console.

Each listens at a socket in a folder that only they can enter, and answers with its activity. So
nothing is written while nobody looks, and each process can make the page for all of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pacsroute.tls import explain

logger = logging.getLogger("pacsroute")

Snapshot = dict[str, Any]

_PATIENCE = 1.0  # seconds that a neighbour has to begin its answer, and for each part of it
_LONGEST = 16 << 20  # bytes of an answer
_PIECE = 65_536


class Neighbours:
    """The processes that share a folder, of which this is one.

    Parameters
    ----------
    folder : path
        The folder of their sockets; only they can enter it.
    snapshot : callable
        Returns the activity of this process.
    """

    def __init__(self, folder: str | os.PathLike[str], snapshot: Callable[[], Snapshot]) -> None:
        self._folder = Path(folder)
        self._own = self._folder / f"{os.getpid()}.socket"
        self._snapshot = snapshot
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Begin to answer the others."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            # Under its name it listens: what refuses is taken for left behind, and removed.
            new = self._own.with_suffix(".new")
            new.unlink(missing_ok=True)
            listener.bind(os.fspath(new))
            listener.listen()
            new.rename(self._own)
        except OSError as error:
            listener.close()
            logger.warning("the console shows one worker at a time: %s", explain(error))
            return
        self._listener = listener
        threading.Thread(
            target=self._answer, args=(listener,), name="pacsroute-console", daemon=True
        ).start()

    def stop(self) -> None:
        """Answer no more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._own.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _answer(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                sock.settimeout(_PATIENCE)
                sock.sendall(json.dumps(self._snapshot()).encode())

    def others(self) -> tuple[list[Snapshot], int]:
        """Return the activity of the others, and how many did not answer."""
        found: list[Snapshot] = []
        silent = 0
        for path in sorted(self._folder.glob("*.socket")):
            if path == self._own:
                continue
            try:
                found.append(_ask(path))
            except (ConnectionRefusedError, FileNotFoundError):  # it has ended
                path.unlink(missing_ok=True)
            except (OSError, ValueError):
                silent += 1
        return found, silent


def _ask(path: Path) -> Snapshot:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(os.fspath(path))
        data = b""
        while (piece := sock.recv(_PIECE)) and len(data) < _LONGEST:
            data += piece
    found: Snapshot = json.loads(data)
    return found
