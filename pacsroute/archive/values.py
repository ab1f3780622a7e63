"""The attributes of an instance in the form that the index holds."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pacsroute import matching
from pacsroute.archive.model import WHOLE, Model
from pacsroute.dataset import charsets
from pacsroute.dataset.reduced import SPECIFIC_CHARACTER_SET, raw_values
from pacsroute.dataset.value_reader import character_set, read_value
from pacsroute.dataset.vr import NUMBER_FORMATS, STRING_VRS
from pacsroute.errors import DataSetError
from pacsroute.instances.instance import Instance
from pacsroute.matching.values import ASCII, read, vr_of

if TYPE_CHECKING:
    from pydicom import Dataset

_UNBINDABLE = re.compile("[\0\ud800-\udfff]")  # characters that databases refuse in text
_LONGEST = 1024  # bytes of a value that is read without parsing the data set
_READ_HERE = STRING_VRS | frozenset(NUMBER_FORMATS)


class Value(NamedTuple):
    """A value in the form for matching, and as received if it is a person name."""

    matched: Any = None
    name: str | None = None


Values = Mapping[str, Value]
"""The values of the attributes that are present, by keyword."""


def of_instance(model: Model, instance: Instance) -> Values:
    """Return the values of an instance; if possible, without parsing all of it."""
    with instance.open() as file:
        if isinstance(file, io.BytesIO):
            around = charsets.terms(instance.limits.charset)
            found = _of_bytes(model, file.read(), instance.transfer_syntax, around)
            if found is not None:
                return found
    return of_dataset(model, instance.dataset)


def of_dataset(model: Model, dataset: Dataset) -> Values:
    """Return the values of a data set; bytes that cannot be decoded count as absent."""
    found = {}
    there = dataset.keys()
    for keyword, tag in model.tags.items():
        if tag in there:
            try:
                found[keyword] = _value(keyword, read(dataset, keyword))
            except DataSetError:
                continue
    return found


def _of_bytes(
    model: Model, data: bytes, transfer_syntax: str, around: tuple[str, ...] = charsets.DEFAULT
) -> Values | None:
    """Return the values in the bytes of a data set; None if it must be parsed.

    `around` are the terms of a data set without a Specific Character Set.
    """
    raw = raw_values(data, transfer_syntax, model.wanted)
    if raw is None or any(len(value) > _LONGEST for _, value in raw.values()):
        return None
    told, terms = raw.get(SPECIFIC_CHARACTER_SET, ("CS", b""))
    if told not in ("CS", ""):
        return None
    names = character_set(terms, around)
    found = {}
    for tag, (told, value) in raw.items():
        if (keyword := model.keywords.get(tag)) is not None:
            vr = told or model.vrs[keyword]
            if vr not in _READ_HERE or vr not in model.vrs[keyword]:
                return None
            found[keyword] = _of_raw(keyword, vr, value, names)
    return found


# The instances of a series have most values in common.
@lru_cache(maxsize=2048)
def _of_raw(keyword: str, vr: str, raw: bytes, names: tuple[str, ...]) -> Value:
    return _value(keyword, raw if vr_of(keyword) in ASCII else read_value(vr, raw, True, names))


def _value(keyword: str, value: object) -> Value:
    matched = matching.stored(keyword, value)
    vr = vr_of(keyword)
    if vr in WHOLE and not (isinstance(matched, int) and abs(matched) < 2**31):
        return Value()
    if vr == "PN" and matched:
        return Value(matched, _UNBINDABLE.sub("", str(value)))
    return Value(matched)
