"""The VRs of elements in the standard's dictionary and pydicom's private ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.tag import BaseTag

_UNDEFINED = 0xFFFFFFFF


class _Tags(dict[int, BaseTag]):
    """The dictionary's tags as pydicom objects, each made once."""

    def __missing__(self, number: int) -> BaseTag:
        tag = BaseTag(number)
        if number in DicomDictionary:  # peers can invent any number of others
            self[number] = tag
        return tag


TAGS: Mapping[int, BaseTag] = _Tags()
"""pydicom's tag of a number."""


def meant_vr(tag: int, elements: Mapping[BaseTag, Any]) -> str | None:
    """Return the VR of an element in the dictionaries; UN if it is in none of them.

    Parameters
    ----------
    tag : int
        Its tag.
    elements : mapping of tags to elements
        The elements before it, including private creators.

    Examples
    --------
    >>> meant_vr(0x00100010, {}), meant_vr(0x00091001, {})
    ('PN', 'UN')
    """
    entry = DicomDictionary.get(tag)
    if entry is not None:
        return entry[0] if entry[0] != "NONE" else None
    if not tag >> 16 & 1:
        try:
            return dictionary_VR(tag) if tag & 0xFFFF else "UL"
        except KeyError:
            return "UN"
    if not tag & 0xFF00:
        return "LO" if tag & 0xFFFF >= 0x10 else "UN"
    creator = getattr(elements.get(BaseTag(tag & 0xFFFF0000 | tag >> 8 & 0xFF)), "value", None)
    if isinstance(creator, bytes):
        creator = creator.decode("latin_1").strip("\0 ")
    try:
        return private_dictionary_VR(tag, creator) if isinstance(creator, str) else "UN"
    except KeyError:
        return "UN"


def implicit_vr_of(
    tag: int, elements: Mapping[BaseTag, Any], length: int, signed: bool | None
) -> str | None:
    """Return the VR of an element that came without one (PS3.5 §A.1).

    Parameters
    ----------
    tag, elements
        As for `meant_vr`.
    length : int
        Its received length; FFFFFFFFH is undefined.
    signed : bool or None
        Whether the pixels are signed; None if unknown.

    Examples
    --------
    >>> implicit_vr_of(0x7FE00010, {}, 100, None), implicit_vr_of(0x00280106, {}, 2, True)
    ('OW', 'SS')
    """
    vr = meant_vr(tag, elements)
    if vr == "US or SS" and signed is not None:
        return "SS" if signed else "US"
    if vr == "OB or OW":
        return "OB" if length == _UNDEFINED else "OW"
    return vr
