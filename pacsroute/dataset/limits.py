"""How a data set that a peer has sent is read, and how much it may be made of."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """How much a data set may be made of, and in which characters it is.

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
    charset : str
        The Specific Character Set of one that names none: the setting ``default_charset``.
    """

    depth: int = 64
    inflated: int = 1 << 30
    ratio: int = 200
    elements: int = 2_000_000
    charset: str = ""


LIMITS = Limits()
