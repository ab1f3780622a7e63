"""Wildcards: all patterns of a key in one pass over a value (PS3.4 §C.2.2.2.4)."""

from __future__ import annotations

from collections.abc import Iterable


class Patterns:
    """Patterns in which ``*`` matches any characters, and ``?`` matches one.

    They are kept as sets of positions, a bit for each, so that a character of a value moves all
    positions of all patterns at once. There is no backtracking: a value takes as long as it has
    characters, whatever the patterns.

    Parameters
    ----------
    texts : iterable of str
        The patterns.

    Examples
    --------
    >>> patterns = Patterns(["d?e^*", "roe^*"])
    >>> patterns.match("doe^john"), patterns.match("dorian^john")
    (True, False)
    """

    __slots__ = ("_any", "_ends", "_moves", "_starts", "_stays")

    def __init__(self, texts: Iterable[str]) -> None:
        self._starts = self._ends = self._stays = self._any = 0
        exact: dict[str, int] = {}
        position = 1
        for text in texts:
            self._starts |= position
            for character in text:
                if character == "*":
                    self._stays |= position
                    continue
                if character == "?":
                    self._any |= position
                else:
                    exact[character] = exact.get(character, 0) | position
                position <<= 1
            self._ends |= position
            position <<= 1
        self._moves = {character: moves | self._any for character, moves in exact.items()}

    def match(self, value: str) -> bool:
        """Return whether a whole value matches any of the patterns."""
        moves, otherwise, stays = self._moves, self._any, self._stays
        reached, rest = self._starts, stays & self._ends
        for character in value:
            reached = (reached & moves.get(character, otherwise)) << 1 | reached & stays
            if not reached or reached & rest:
                break
        return bool(reached & self._ends)
