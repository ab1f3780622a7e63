"""The keywords of rows, and the error for unknown ones."""

from __future__ import annotations

from functools import lru_cache

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacsroute.errors import DataSetError, nearest

_DELIMITERS = 0xFFFE  # the group of items and delimiters, which rows never contain


@lru_cache(4096)
def tag_and_vr(keyword: str) -> tuple[int, str]:
    """The tag and VR of a keyword.

    Raises
    ------
    DataSetError
        As for `keyword_tag`.

    Examples
    --------
    >>> tag_and_vr("PatientName")
    (1048592, 'PN')
    """
    tag = tag_for_keyword(keyword) if isinstance(keyword, str) else None
    if not keyword or tag is None or tag >> 16 == _DELIMITERS:
        raise DataSetError(_unknown(keyword))
    return tag, dictionary_VR(tag)


def keyword_tag(keyword: str) -> int:
    """Return the tag of a keyword.

    Raises
    ------
    DataSetError
        If there is no such keyword; the message names the nearest.
    """
    return tag_and_vr(keyword)[0]


def _unknown(keyword: object) -> str:
    if not isinstance(keyword, str):
        return f"the keys of a row must be keywords, not {type(keyword).__name__}"
    plain = keyword.replace("_", "").replace(" ", "")
    keywords = (
        entry[4] for tag, entry in DicomDictionary.items() if entry[4] and tag >> 16 != _DELIMITERS
    )
    return f"no such keyword: {keyword!r}{nearest(plain, keywords, 0.6, any_case=True)}"
