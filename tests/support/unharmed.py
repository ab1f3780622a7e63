"""A server that has to be as it was before, whatever is done to it."""

import contextlib
import gc
import logging
import os
import threading
import time
from collections import Counter
from pathlib import Path

from support.names import WAIT
from support.raw_peer import RawPeer

# How long the servers of these tests have patience.
SHORT = {"artim": 0.4, "idle_timeout": 0.6, "network_timeout": 0.3, "grace": 0.5}

# What an association leaves behind if it leaves anything.
OURS = {"Association", "Connection", "Assembler", "Spool", "Dispatcher", "Memory", "StoreRequest"}
# One for a process, a few for a server.
LASTING = ("pacsroute-flusher", "pacsroute-children", "pacsroute-after")


def until(condition, *, seconds=WAIT):
    """Wait for a condition; tell whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def threads():
    return sum(not thread.name.startswith(LASTING) for thread in threading.enumerate())


def descriptors():
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0


def objects(*, collect=True):
    """Count what associations are made of; what the collector would find counts without it."""
    if collect:
        gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(
        kind.__name__
        for kind in kinds
        if kind.__name__ in OURS and kind.__module__.startswith("pacsroute")
    )


def footprint():
    return threads(), descriptors(), objects().total()


def back_at(before):
    """Tell whether nothing is more than before; what costs time is looked at last."""
    return threads() <= before[0] and descriptors() <= before[1] and objects().total() <= before[2]


class _Lines(logging.Handler):
    """Takes the log, and notes the records that a peer could have forged others with.

    It keeps no record: the traceback in one would hold on to an association.
    """

    def __init__(self):
        super().__init__()
        self.count = 0
        self.forged = []

    def emit(self, record):
        self.count += 1
        text = record.getMessage()
        if not (text.isascii() and text.isprintable()):
            self.forged.append(text)


@contextlib.contextmanager
def one_line_each():
    """Have every record of the log be one line of printable ASCII."""
    logger, lines = logging.getLogger("pacsroute"), _Lines()
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.level, logger.propagate = before
    assert not lines.forged


@contextlib.contextmanager
def unharmed(app, **options):
    """Serve an app; in the end threads, descriptors and objects are back, and it still serves."""
    began = threads()
    gc.collect()
    gc.freeze()  # what was there before is not looked at again
    try:
        yield from _unharmed(app, options)
    finally:
        gc.unfreeze()
    assert until(lambda: threads() <= began), "threads are left"
    if app.config.spool is not None:
        assert not [*Path(app.config.spool).glob(".pacsroute-*")], "partial files are left"


def _unharmed(app, options):
    with one_line_each(), app.serve(port=0, **{**SHORT, **options}) as server:
        with RawPeer(server.port) as peer:
            assert peer.echo(message_id=2) == 0
            peer.release()
        until(lambda: not objects())
        before = footprint()
        yield server
        assert until(lambda: back_at(before)), (
            f"(threads, descriptors, objects): {footprint()}, not {before}; {objects()}"
        )
        with RawPeer(server.port) as peer:
            assert peer.echo(message_id=2) == 0
            peer.release()
