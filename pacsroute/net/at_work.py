"""Whether associations were active recently; background work yields to them."""

from __future__ import annotations


class AtWork:
    """A flag that associations set at each read.

    Attributes
    ----------
    seen : bool
        Whether an association has read anything since this was last set to False.
    """

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = False


ASSOCIATIONS = AtWork()
"""The flag of this process's associations."""
