"""How much a data set that a peer has sent may be made of."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """How much a data set may be made of.

    Parameters
    ----------
    depth : int
        How deep sequences may be nested; real ones stay below ten.
    inflated : int
        How many bytes a deflated data set may become.
    ratio : int
        How many times its bytes that may be, beyond 16 MiB: an empty mask is deflated to a
        thousandth, but it is not large.
    elements : int
        How many elements and items it may have, those within sequences too: an empty item is
        8 bytes, and a hundred times that when it is parsed.
    """

    depth: int = 64
    inflated: int = 1 << 30
    ratio: int = 200
    elements: int = 2_000_000


LIMITS = Limits()
