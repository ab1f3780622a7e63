"""Search parameters converted to an identifier (PS3.18 §8.3.4, §10.6)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest

from pacsroute import uids
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.parsing import identifier as parsed
from pacsroute.dataset.vr import LONG_VRS, NUMBER_FORMATS, WORD_SIZES
from pacsroute.errors import DataSetError
from pacsroute.framework.requests import LEVELS

if TYPE_CHECKING:
    from pydicom import Dataset

_STUDY = (
    "StudyDate StudyTime AccessionNumber InstanceAvailability ModalitiesInStudy "
    "ReferringPhysicianName TimezoneOffsetFromUTC RetrieveURL PatientName PatientID "
    "PatientBirthDate PatientSex StudyInstanceUID StudyID NumberOfStudyRelatedSeries "
    "NumberOfStudyRelatedInstances"
)
_SERIES = (
    "Modality TimezoneOffsetFromUTC SeriesDescription RetrieveURL SeriesInstanceUID "
    "SeriesNumber NumberOfSeriesRelatedInstances PerformedProcedureStepStartDate "
    "PerformedProcedureStepStartTime RequestAttributesSequence"
)
_IMAGE = (
    "SOPClassUID SOPInstanceUID InstanceAvailability TimezoneOffsetFromUTC RetrieveURL "
    "InstanceNumber Rows Columns BitsAllocated NumberOfFrames"
)
_STEP = (
    "SOPClassUID SOPInstanceUID ProcedureStepState ScheduledProcedureStepPriority "
    "ScheduledProcedureStepModificationDateTime ProcedureStepLabel WorklistLabel "
    "ScheduledProcedureStepStartDateTime ExpectedCompletionDateTime InputReadinessState "
    "ScheduledStationNameCodeSequence ScheduledWorkitemCodeSequence PatientName PatientID "
    "PatientBirthDate PatientSex StudyInstanceUID"
)
RETURNED = {
    "UPS": _STEP.split(),
    "STUDY": _STUDY.split(),
    "SERIES": _SERIES.split(),
    "IMAGE": _IMAGE.split(),
}
"""The attributes of a response by level (PS3.18 Tables 10.6.3-3, 10.6.3-4 and 10.6.3-5), and of
unified procedure steps (PS3.4 Table CC.2.5-3)."""

_MORE = {
    "STUDY": "StudyDescription PatientAge IssuerOfPatientID SOPClassesInStudy",
    "SERIES": "SeriesDate SeriesTime BodyPartExamined ProtocolName InstitutionName StationName "
    "Manufacturer",
    "IMAGE": "ContentDate ContentTime AcquisitionDate AcquisitionTime",
}
"""Further attributes that ``includefield=all`` requests."""

_UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_CONTROL = (
    "limit",
    "offset",
    "fuzzymatching",
    "includefield",
    "accept",
    "charset",
    "emptyvaluematching",
    "multiplevaluematching",
)
_PARAMETER = re.compile(r"(?![0-9a-f]{8}(\W|$))[a-z_]\w{0,63}", re.ASCII)
_REQUEST_ATTRIBUTES = {"RequestedProcedureID": None, "ScheduledProcedureStepID": None}


class Search(NamedTuple):
    """The keys of a search.

    Parameters
    ----------
    identifier : pydicom.Dataset
        The matching and return keys, as in a C-FIND.
    limit, offset : int or None, int
        The maximum number of matches, and how many to skip before them.
    fuzzy : bool
        Whether fuzzy matching is requested.
    everything : bool
        Whether all known attributes are requested.
    ignored : list of str
        Parameters that have no effect.
    matched : dict of str to str
        The tags of the matching keys, by their names in the parameters.
    returned : list of str
        The attributes of a response, sent empty if unknown.
    """

    identifier: Dataset
    limit: int | None
    offset: int
    fuzzy: bool
    everything: bool
    ignored: list[str]
    matched: dict[str, str]
    returned: list[str]


def search(
    arguments: MultiDict[str, str], level: str, above: Mapping[str, str], limits: Limits, most: int
) -> Search:
    """Return the search that parameters describe.

    Parameters
    ----------
    arguments : MultiDict
        The query parameters.
    level : str
        ``STUDY``, ``SERIES`` or ``IMAGE``; or ``UPS``, for procedure steps.
    above : mapping of str to str
        The unique keys in the path.
    limits : Limits
        How the keys are read.
    most : int
        The maximum number of parameters.

    Raises
    ------
    werkzeug.exceptions.BadRequest
        If a parameter is invalid.
    """
    pairs = list(arguments.items(multi=True))
    if len(pairs) > most:
        raise BadRequest(f"more than {most} parameters: max_web_parameters")
    keys = _keys_of(level, above)
    everything, ignored, matched = False, [], {}
    for name, value in pairs:
        if name == "includefield":
            for field in value.split(","):
                if field.strip() == "all":
                    everything = True
                elif field.strip():
                    _add(keys, _path(field.strip(), limits.depth))
        elif _PARAMETER.fullmatch(name):  # not an attribute: keywords are capitalized
            ignored += [name] if name not in _CONTROL else []
        else:
            path = _path(name, limits.depth)
            _add(keys, path, value)
            if value.strip("*"):
                matched[name] = f"{_tag(path[0])[0]:08X}"
    if everything:
        for one in _levels(level, above):
            for keyword in _MORE.get(one, "").split():
                _add(keys, (keyword,))
    for keyword, uid in above.items():
        keys[keyword] = uid
    if level != "UPS":
        keys["QueryRetrieveLevel"] = level
    keys.pop("RetrieveURL", None)
    return Search(
        _parsed(keys, limits),
        _number(arguments, "limit", None),
        _number(arguments, "offset", 0) or 0,
        arguments.get("fuzzymatching", "").lower() == "true",
        everything,
        ignored,
        matched,
        [keyword for one in _levels(level, above) for keyword in RETURNED[one]],
    )


def _parsed(keys: Mapping[str, Any], limits: Limits) -> Dataset:
    try:
        return parsed(_written(keys), uids.EXPLICIT_VR_LITTLE_ENDIAN, limits)
    except (DataSetError, struct.error, ValueError):
        raise BadRequest("a key has no value that can be matched") from None


def filter_of(text: str, limits: Limits) -> Dataset:
    """Return the matching keys of a filtered subscription (PS3.18 §11.10.1.2).

    Parameters
    ----------
    text : str
        Pairs of an attribute and its value, ``name=value``, separated by commas.
    limits : Limits
        How the keys are read.

    Raises
    ------
    werkzeug.exceptions.BadRequest
        If the text is not such a list.
    """
    keys: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadRequest("a filter needs attributes with values")
        _add(keys, _path(name.strip(), limits.depth), value)
    return _parsed(keys, limits)


def _keys_of(level: str, above: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes of a response, without values (PS3.18 §10.6.3.3)."""
    keys: dict[str, Any] = {}
    for one in _levels(level, above):
        keys |= dict.fromkeys(RETURNED[one])
    keys |= dict.fromkeys(_UNIQUE[one] for one in _down_to(level))
    if "RequestAttributesSequence" in keys:
        keys["RequestAttributesSequence"] = dict(_REQUEST_ATTRIBUTES)
    return keys


def _levels(level: str, above: Mapping[str, str]) -> Iterator[str]:
    """Yield the levels whose attributes a response has: its own and higher ones not in the path."""
    if level == "UPS":
        yield level
    for one in _down_to(level):
        if _UNIQUE[one] not in above or one == level:
            yield one


def _down_to(level: str) -> tuple[str, ...]:
    return LEVELS[1 : LEVELS.index(level) + 1] if level in LEVELS else ()


def _number(arguments: MultiDict[str, str], name: str, default: int | None) -> int | None:
    text = arguments.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise BadRequest(f"{name} must be a whole number, 0 or more")
    return int(text)


def _path(name: str, depth: int) -> tuple[str, ...]:
    """Return the keywords in a name: keywords or tags separated by dots, sequences first."""
    found: list[str] = []
    parts = name.split(".")
    if len(parts) > depth:
        raise BadRequest(f"sequences more than {depth} deep: max_depth")
    for part in parts:
        is_tag = len(part) == 8 and all(digit in "0123456789abcdefABCDEF" for digit in part)
        keyword = keyword_for_tag(int(part, 16)) if is_tag else part
        if is_tag and not keyword:
            found.append(part.upper())  # a private tag
        elif keyword and tag_for_keyword(keyword) is not None:
            found.append(keyword)
        else:
            raise BadRequest(f"there is no attribute {ascii(part)[1:-1]:.40}")
    return tuple(found)


def _add(keys: dict[str, Any], path: tuple[str, ...], value: str | None = None) -> None:
    """Add a key, inside the sequences of its path."""
    for part in path[:-1]:
        inner = keys.get(part)
        if not isinstance(inner, dict):
            inner = keys[part] = {}
        keys = inner
    name = path[-1]
    if value is None:
        keys.setdefault(name, None)
    elif _is_list(name) and keys.get(name):
        keys[name] += "\\" + value.replace(",", "\\")
    else:
        keys[name] = value.replace(",", "\\") if _is_list(name) else value


def _is_list(name: str) -> bool:
    """Return whether a key may have a list of values: UIDs (§8.3.4.1)."""
    return name == "ModalitiesInStudy" or (_tag(name)[1] == "UI")


def _tag(name: str) -> tuple[int, str]:
    tag = tag_for_keyword(name)
    if tag is None:
        return int(name, 16), "UN"
    return tag, dictionary_VR(tag)[:2]


def _written(keys: Mapping[str, Any], nested: bool = False) -> bytes:
    """Encode keys as a data set, in explicit VR little endian and UTF-8."""
    elements: list[tuple[int, str, bytes]] = []
    for name, value in keys.items():
        tag, vr = _tag(name)
        elements.append((tag, vr, _value(vr, value)))
    if not nested:
        elements.append((0x00080005, "CS", b"ISO_IR 192"))
    return b"".join(_framed(*element) for element in sorted(elements))


def _value(vr: str, value: Any) -> bytes:
    if value is None:
        return b""
    if vr == "SQ":
        item = _written(value if isinstance(value, dict) else {}, nested=True)
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    if vr in NUMBER_FORMATS:
        kind = float if vr in ("FD", "FL") else int
        numbers: Iterable[Any] = [kind(part) for part in value.split("\\") if part]
        return b"".join(struct.pack("<" + NUMBER_FORMATS[vr], number) for number in numbers)
    if vr == "AT":
        numbers = [int(part, 16) for part in value.split("\\")]
        return b"".join(struct.pack("<HH", number >> 16, number & 0xFFFF) for number in numbers)
    if vr in WORD_SIZES:
        raise ValueError
    return str(value).encode("utf-8")


def _framed(tag: int, vr: str, data: bytes) -> bytes:
    if len(data) & 1:
        data += b"\0" if vr == "UI" else b" "
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode("ascii")
    if vr in LONG_VRS:
        return head + b"\0\0" + struct.pack("<I", len(data)) + data
    return head + struct.pack("<H", len(data)) + data
