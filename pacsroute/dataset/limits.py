"""The limits for reading a peer's data set."""

from __future__ import annotations

from typing import NamedTuple

from pacsroute import memory


class Limits(NamedTuple):
    """The limits of a data set, and its default character set.

    Parameters
    ----------
    depth : int
        The maximum nesting depth of sequences; real ones stay below ten.
    inflated : int
        The maximum size of an inflated data set in bytes. The ratio is not limited: real
        segmentations are deflated to a thousandth.
    elements : int
        The maximum number of elements and items; those in a sequence count once it is opened. This
        bounds the time; `memory` bounds the memory.
    memory : int
        How many bytes the process may hold for all peers: the setting ``max_memory``.
    charset : str
        The Specific Character Set of a data set without one: the setting ``default_charset``.
    """

    depth: int = 64
    inflated: int = 1 << 30
    elements: int = 20_000_000
    memory: int = memory.DEFAULT
    charset: str = ""


LIMITS = Limits()
