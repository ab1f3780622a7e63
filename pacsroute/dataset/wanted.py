"""The keys that an identifier requests (PS3.4 §C.2.2.1.3)."""

from __future__ import annotations

from typing import NamedTuple

from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import Tag

CHARACTER_SET = 0x00080005
TIME_ZONE = 0x00080201


class Wanted(NamedTuple):
    """The keys of an identifier, nested for sequences; None requests all keys."""

    keys: dict[int, Wanted | None]
    private: list[tuple[int, str, int, Wanted | None]]


def wanted_by(identifier: Dataset) -> Wanted:
    """The keys of an identifier."""
    wanted = Wanted({}, [])
    for tag in identifier.keys():  # noqa: SIM118 - iterating a Dataset converts its elements
        if tag in (CHARACTER_SET, TIME_ZONE) or never_written(tag):
            continue
        nested = None
        if _vr_of(identifier, tag) == "SQ":
            for item in identifier[tag].value or ():
                inner = wanted_by(item)
                if inner.keys or inner.private:
                    nested = _merged(nested, inner)
        if not tag.is_private:
            wanted.keys[tag] = nested
        elif not tag.is_private_creator:
            creator = identifier.get(Tag(tag.group, tag.element >> 8))
            name = str(creator.value) if creator is not None else ""
            wanted.private.append((tag.group, name, tag.element & 0xFF, nested))
    return wanted


def _merged(one: Wanted | None, other: Wanted) -> Wanted:
    if one is None:
        return other
    return Wanted(one.keys | other.keys, one.private + other.private)


def never_written(tag: int) -> bool:
    """Return whether a tag has no place in a data set.

    Group lengths, groups 0000 and 0002, and the items and delimiters of group FFFE have none.
    """
    return tag & 0xFFFF == 0 or tag >> 16 in (0x0000, 0x0002, 0xFFFE)


def _vr_of(dataset: Dataset, tag: int) -> str:
    element = dataset.get_item(tag, keep_deferred=True)
    vr = element.VR if element is not None else None
    return vr or implicit_vr(dataset, tag)


def implicit_vr(dataset: Dataset, tag: int) -> str:
    """The VR of an element in the dictionaries."""
    try:
        if not Tag(tag).is_private:
            return dictionary_VR(tag)
        if Tag(tag).is_private_creator:
            return "LO"
        creator = dataset.get((tag >> 16, tag >> 8 & 0xFF))
        return private_dictionary_VR(tag, str(creator.value)) if creator is not None else "UN"
    except KeyError:
        return "UN"
