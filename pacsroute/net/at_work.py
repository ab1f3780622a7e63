"""Whether associations have been at work of late, for what gives way to them."""

from __future__ import annotations


class AtWork:
    """A mark that associations set with each of their reads.

    Attributes
    ----------
    seen : bool
        Whether one has read something since this was last set to False.
    """

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = False


ASSOCIATIONS = AtWork()
"""That of the associations of this process."""
