"""How a data set that a peer has sent is read, and how much it may be made of."""

from __future__ import annotations

from typing import NamedTuple

from pacsroute import memory


class Limits(NamedTuple):
    """The limits of a data set, and its default character set.

    Parameters
    ----------
    depth : int
        How deep sequences may be nested; real ones stay below ten.
    inflated : int
        How many bytes a deflated data set may become. There is no limit of the ratio: real
        segmentations are deflated to a thousandth.
    elements : int
        How many elements and items are read of it, those within sequences too, but only once
        these are opened. It bounds the time; `memory` bounds what is held.
    memory : int
        How many bytes the process may hold for all peers: the setting ``max_memory``.
    charset : str
        The Specific Character Set of one that names none: the setting ``default_charset``.
    """

    depth: int = 64
    inflated: int = 1 << 30
    elements: int = 20_000_000
    memory: int = memory.DEFAULT
    charset: str = ""


LIMITS = Limits()
