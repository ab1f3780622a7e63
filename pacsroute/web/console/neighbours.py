"""Share the console's activity between the worker processes of a server.

Each listens on a socket in a folder that only the workers can enter, and answers with its
activity. So nothing is written while no one is looking, and any process can render the page for
all of them.
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

_PATIENCE = 1.0  # seconds to wait for the start of an answer, and for each part
_LONGEST = 16 << 20  # limit for an answer, in bytes
_PIECE = 65_536


class Neighbours:
    """The processes that share a folder, including this one.

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
        """Start answering the other processes."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            # Rename only once listening: sockets that refuse connections are removed as stale.
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
        """Stop answering."""
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
        """Return the activity of the other processes, and how many did not answer."""
        found: list[Snapshot] = []
        silent = 0
        for path in sorted(self._folder.glob("*.socket")):
            if path == self._own:
                continue
            try:
                found.append(_ask(path))
            except (ConnectionRefusedError, FileNotFoundError):  # its process has ended
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
