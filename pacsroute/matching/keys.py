"""The keys of an identifier, compiled once into conditions (PS3.4 §C.2.2.2)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from pacsroute.errors import IdentifierError
from pacsroute.matching.patterns import Patterns
from pacsroute.matching.values import (
    LONGEST,
    MATCHED,
    MISFITS,
    MOMENT,
    RANGE,
    WILDCARDS,
    canonical,
    moment,
    moment_text,
    read,
    split,
    vr_of,
)

START = ("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime")
_IGNORED = {
    "",  # private, group length or unknown
    "QueryRetrieveLevel",
    "RetrieveAETitle",
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
}
_COMPONENTS = 5  # of a name
# Of a whole identifier. SQL binds each value, and ranges and patterns are tried one by one. Items
# are tried on each item of a row: the standard has one (PS3.4 §C.2.2.2.6).
_MOST = {
    "values": 10_000,
    "ranges and patterns": 2_500,
    "characters of patterns": 10_000,
    "items": 16,
}


class Key:
    """The condition of one key: a value that is one of these, in a range, or like a pattern.

    Attributes
    ----------
    equal, patterns : dict of object to None
        Values in canonical form, and texts with wildcards; each once, in order.
    ranges : dict of tuple to None
        The first and the last value of each range.
    """

    def __init__(self) -> None:
        self.equal: dict[Any, None] = {}
        self.ranges: dict[tuple[str, str], None] = {}
        self.patterns: dict[str, None] = {}

    @cached_property
    def _patterns(self) -> Patterns:
        return Patterns(self.patterns)

    def matches(self, values: list[Any]) -> bool:
        """Return whether any of an attribute's canonical values matches."""
        return any(
            value in self.equal
            or any(low <= value <= high for low, high in self.ranges)
            or (self.patterns and self._patterns.match(value))
            for value in values
        )


class Room:
    """The remaining number of conditions that an identifier may have."""

    def __init__(self) -> None:
        self._left = dict(_MOST)

    def take(self, keyword: str, count: int, what: str) -> None:
        """Use some of it for a key, or raise an `IdentifierError`."""
        self._left[what] -= count
        if self._left[what] < 0:
            raise IdentifierError(f"{keyword}: more than {_MOST[what]} {what} in an identifier")


class Keys:
    """The keys of an identifier, each compiled on first use.

    Parameters
    ----------
    identifier : pydicom.Dataset
        An identifier, or an item in one.
    room : Room, optional
        The shared limits of the enclosing identifier.
    """

    def __init__(self, identifier: Dataset, room: Room | None = None) -> None:
        self._identifier = identifier
        self._room = room or Room()
        names = (keyword_for_tag(tag) for tag in sorted(identifier.keys()))
        self._keywords = [keyword for keyword in names if keyword not in _IGNORED]
        self._compiled: dict[str, Key | list[Keys] | None] = {}

    def conditions(
        self, supported: Mapping[str, Any] | Dataset, without: Collection[str] = ()
    ) -> list[tuple[str, Key | list[Keys]]]:
        """Return the keys that are conditions, in order, without those that match everything.

        All keys are compiled first, so that an invalid key is an error for every row.
        """
        names = (name for name in self._keywords if name in supported and name not in without)
        return [(name, key) for name in names if (key := self._key(name)) is not None]

    @cached_property
    def start(self) -> tuple[str, str] | None:
        """The range of date and time as text, if both keys of a step's start are ranges."""
        limits = []
        for keyword, vr in zip(START, ("DA", "TM"), strict=True):
            parts = split(vr, read(self._identifier, keyword))
            found = RANGE[vr].fullmatch(moment_text(vr, parts[0])) if len(parts) == 1 else None
            if found is None or not any(found.groups()):
                return None
            limits.append(found.groups(""))
        (first, last), (begin, end) = limits
        low = high = ""
        if first:
            low = moment("DA", first) + (moment("TM", begin) if begin else "0")
        if last:
            high = moment("DA", last) + (moment("TM", end, latest=True) if end else "~")
        return low or "0", high or "~"

    def _key(self, keyword: str) -> Key | list[Keys] | None:
        """Return the condition of a key, or None for universal matching."""
        if keyword not in self._compiled:
            vr = vr_of(keyword)
            compile_ = self._items if vr == "SQ" else self._values
            self._compiled[keyword] = compile_(keyword, vr)
        return self._compiled[keyword]

    def _items(self, keyword: str, vr: str) -> list[Keys] | None:
        items = list(read(self._identifier, keyword) or ())
        self._room.take(keyword, len(items), "items")
        compiled = [Keys(item, self._room) for item in items]
        asked = all(any(map(item._key, item._keywords)) for item in compiled)
        return compiled if compiled and asked else None

    def _values(self, keyword: str, vr: str) -> Key | None:
        key = Key()
        if vr not in MATCHED:
            return None
        parts = split(vr, read(self._identifier, keyword))
        self._room.take(keyword, len(parts), "values")
        for part in parts:
            if isinstance(part, str) and not part.strip("*"):
                return None
            try:
                asks = _add(key, vr, part)
            except MISFITS:
                # Without the cause, which quotes the value.
                raise IdentifierError(f"{keyword}: the key cannot be a value of VR {vr}") from None
            if not asks:
                return None
        self._room.take(keyword, len(key.ranges) + len(key.patterns), "ranges and patterns")
        self._room.take(keyword, sum(map(len, key.patterns)), "characters of patterns")
        return key if parts else None


def _add(key: Key, vr: str, part: Any) -> bool:
    """Add the condition of a single value of a key; return False if it has none."""
    if vr in MOMENT:
        _add_moments(key, vr, part)
        return True
    value = canonical(vr, part)
    if vr not in WILDCARDS:
        key.equal[value] = None
        return True
    texts = [re.sub(r"\*+", "*", value)]
    if vr == "PN":
        texts = ["=".join(group or "*" for group in texts[0].split("="))]
        while len(texts) < _COMPONENTS and texts[-1].endswith("^*"):
            texts.append(texts[-1][:-2])
        texts += [f"{text}=*" for text in texts if not text.endswith("*")]
    if "*" in texts:
        return False
    for text in texts:
        if not {"*", "?"} & {*text}:
            key.equal[text] = None
        elif len(text) <= LONGEST:
            key.patterns[text] = None
        else:
            raise ValueError
    return True


def _add_moments(key: Key, vr: str, part: Any) -> None:
    first = last = moment_text(vr, part)
    if not MOMENT[vr].fullmatch(first):
        limits = RANGE[vr].fullmatch(first)
        first, last = limits.groups("") if limits else ("", "")
        if not (first or last):
            raise ValueError
    # Every moment sorts between "0" and "~", which stand for the open ends of a range.
    low = moment(vr, first) if first else "0"
    high = moment(vr, last, latest=True) if last else "~"
    if low == high:
        key.equal[low] = None
    else:
        key.ranges[low, high] = None
