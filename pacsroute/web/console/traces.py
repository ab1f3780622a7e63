"""The trace of a recorded association, as text."""

from __future__ import annotations

import click

from pacsroute.dataset import late
from pacsroute.trace.conversation import UnreadableFile
from pacsroute.trace.files import read
from pacsroute.trace.text import Trace

_WIDTH = 100
_MOST = 500  # most blocks of lines on the page
_READ = 64 << 20  # most bytes read from a recording
_CUT = "… the rest is left out: pacsroute explain shows all of it"


def explained(path: str, *, values: bool) -> str:
    """Return the trace of an association, as ``pacsroute explain`` shows it.

    Parameters
    ----------
    path : str
        The file of the recording.
    values : bool
        Whether to show values that may contain patient data.
    """
    late.load()
    blocks: list[str] = []
    trace: Trace | None = None
    size = 0
    try:
        for conversation, chunk in read(path):
            if trace is None:
                trace = Trace(conversation, blocks.append, values=values, width=lambda: _WIDTH)
            if chunk is None:
                trace.end()
                break
            trace.add(*chunk)
            size += len(chunk.data)
            if len(blocks) > _MOST or size > _READ:
                blocks[_MOST:] = [_CUT]
                break
    except (OSError, UnreadableFile) as error:
        return f"the recording cannot be read: {getattr(error, 'strerror', None) or error}"
    return click.unstyle("\n".join(blocks))
