"""Recordings: a file with the bytes of one association.

The format is written as events happen, and is complete up to the moment of a crash. A file begins
with two lines of text, the second of them JSON::

    pacsroute recording 1
    {"version": "PACSROUTE_0_2", "role": "acceptor", "local": "10.0.0.1:104",
     "peer": "10.0.0.7:50312", "began": 1735689600.0}

(on one line in the file): the version that wrote it, our role in the association, the addresses,
and the time in seconds since 1970. Readers skip unknown keys. Then come records, each with a head
of 13 bytes, big endian:

=====  ==========  ================================================
bytes  type        meaning
=====  ==========  ================================================
1      character   ``<`` received, ``>`` sent, ``.`` closed
8      float64     seconds since the association began
4      unsigned    how many bytes follow
=====  ==========  ================================================

and then the bytes as sent over the wire; with TLS, before encryption. A file without ``.`` at its
end was truncated.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pacsroute import uids
from pacsroute.instances.atomic_files import write_all
from pacsroute.trace.conversation import Chunk, Conversation, UnreadableFile
from pacsroute.upper_layer.pdu import Buffer
from pacsroute.upper_layer.tap import Link, TapFactory

MAGIC = b"pacsroute recording 1\n"

_HEAD = struct.Struct(">cdI")
_HEADER_LIMIT = 65_536
_RECORD_LIMIT = 1 << 30  # more than any single read or write
_NUMBERS = itertools.count(1)


def recorder(folder: str | os.PathLike[str]) -> TapFactory:
    """Return a tap factory for `App.taps` that records each association in a file of a folder.

    Recordings contain patient data, so only their owner can read the folder and the files. File
    names consist of the time and a number, and contain nothing from a peer.

    Parameters
    ----------
    folder : path
        The folder, created if necessary.

    Raises
    ------
    OSError
        If the folder is not writable.

    Examples
    --------
    ::

        app.taps.append(recorder("recordings"))
    """
    path = Path(folder)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, "not writable", str(path))
    return lambda link: Recorder(path, link)


class Recorder:
    """A `Tap` that writes a recording; it raises OSError if the disk does.

    Attributes
    ----------
    path : Path
        The file.
    """

    def __init__(self, folder: Path, link: Link) -> None:
        began = time.time()
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began))
        name = f"{when}-{os.getpid()}-{next(_NUMBERS):06}.rec"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.path = folder / name
        self._fd = os.open(self.path, flags, 0o600)
        header = {"version": uids.IMPLEMENTATION_VERSION, **link._asdict(), "began": began}
        try:
            write_all(self._fd, MAGIC + json.dumps(header).encode() + b"\n")
        except OSError:
            os.close(self._fd)
            raise

    def received(self, data: Buffer) -> None:
        """Record bytes from the peer."""
        self._write(b"<", data)

    def sent(self, data: Buffer) -> None:
        """Record bytes to the peer."""
        self._write(b">", data)

    def closed(self) -> None:
        """Record the end, and close the file."""
        self._write(b".", b"", last=True)

    def _write(self, kind: bytes, data: Buffer, *, last: bool = False) -> None:
        with self._lock:
            if self._fd < 0:
                return
            record = _HEAD.pack(kind, time.monotonic() - self._began, len(data)) + data
            try:
                write_all(self._fd, record)
            except OSError:
                last = True
                raise
            finally:
                if last:
                    os.close(self._fd)
                    self._fd = -1


def read(file: BinaryIO) -> Iterator[tuple[Conversation, Chunk | None]]:
    """Return the chunks of a recording in order, and None at the end.

    A truncated recording is read as far as possible.

    Parameters
    ----------
    file : binary file
        The file, positioned after `MAGIC`.

    Raises
    ------
    UnreadableFile
        If the header is missing.
    """
    try:
        header = json.loads(file.readline(_HEADER_LIMIT))
        link = Link(header["role"], str(header["local"]), str(header["peer"]))
        began = float(header["began"])
        by_requestor = {b"<": link.role == "acceptor", b">": link.role == "requestor"}
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        raise UnreadableFile("a recording whose header is damaged") from None
    conversation = Conversation.of(link)
    while True:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            conversation.trouble = "the recording was cut here"
            break
        kind, seconds, length = _HEAD.unpack(head)
        if kind == b".":
            break
        if kind not in by_requestor or length > _RECORD_LIMIT:
            conversation.trouble = "the recording is damaged from here on"
            break
        data = file.read(length)
        if data:
            yield conversation, Chunk(began + seconds, by_requestor[kind], data)
        if len(data) < length:
            conversation.trouble = "the recording was cut here"
            break
    yield conversation, None
