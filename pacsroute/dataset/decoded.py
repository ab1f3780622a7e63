"""The raw values of elements to what pydicom has for them (PS3.5 §6.2).

pydicom's own conversion warns, and its warnings quote values, which are patient data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pydicom import config
from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from pydicom.valuerep import DS, IS, PersonName

from pacsroute.dataset import charsets
from pacsroute.dataset.vr import (
    NUMBER_FORMATS,
    SINGLE_VRS,
    STRING_VRS,
    TEXT_VRS,
    WORD_SIZES,
    resolve_vr,
)
from pacsroute.dataset.wanted import CHARACTER_SET, never_written


@lru_cache(256)
def encodings(names: tuple[str, ...]) -> tuple[str, ...]:
    """Pydicom's names of the encodings, including of the one that it has not.

    Parameters
    ----------
    names : tuple of str
        The Specific Character Set, as `charsets.terms` gives it.

    Examples
    --------
    >>> encodings(("ISO_IR 100", "ISO 2022 IR 203"))
    ('latin_1', 'iso8859_15')
    """
    known = python_encoding | {"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}
    return tuple(known.get(name, "iso8859") for name in names or ("",))


def character_set(data: bytes, around: tuple[str, ...] = charsets.DEFAULT) -> tuple[str, ...]:
    r"""The terms that the bytes of (0008,0005) are; those that hold around it if it is empty.

    Examples
    --------
    >>> character_set(b"\\ISO 2022 IR 87 "), character_set(b"", ("GB18030",))
    (('', 'ISO 2022 IR 87'), ('GB18030',))
    """
    text = data.decode("latin_1").rstrip("\0 ")
    return charsets.terms(text) if text else around


def mend_text(elements: dict[BaseTag, Any], names: tuple[str, ...]) -> None:
    """Decode what pydicom would get wrong, or complain about, when it is accessed.

    Parameters
    ----------
    elements : dict of BaseTag
        Those of one data set; what is decoded is replaced.
    names : tuple of str
        The Specific Character Set that they are in.
    """
    for tag, raw in elements.items():
        if (
            isinstance(raw, RawDataElement)
            and raw.VR in TEXT_VRS
            and raw.value
            and not (raw.value.isascii() and b"\x1b" not in raw.value)
        ):
            value = _value(raw.VR, raw.value, raw.is_little_endian, names)
            elements[tag] = DataElement(tag, raw.VR, value, raw.value_tell, already_converted=True)


def converted(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """A Dataset with all of its values converted, so that no access raises.

    Group lengths and groups 0000 and 0002 are left out, in items too.

    Parameters
    ----------
    dataset : Dataset
        As it was parsed; its sequences are changed.
    names : tuple of str
        The Specific Character Set where it names none itself.
    """
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    raw_names = dataset.get_item(CHARACTER_SET)
    if isinstance(raw_names, RawDataElement):
        names = character_set(raw_names.value or b"", names)
    for tag, element in dataset.items():
        if never_written(tag):
            continue
        if isinstance(element, RawDataElement):
            vr, data = element.VR or "UN", element.value or b""
            if vr == "UN" and not tag.is_private and tag in DicomDictionary:
                vr = dictionary_VR(tag)
            if len(vr) > 2:
                vr = resolve_vr(vr, tag, data, (dataset,), True)
            value = _value(vr, data, element.is_little_endian, names)
            elements[tag] = DataElement(tag, vr, value, element.value_tell, already_converted=True)
        else:
            if element.VR == "SQ":
                items = [converted(item, names) for item in element.value]
                element.value = Sequence(items)
            elements[tag] = element
    whole = Dataset(elements, parent_encoding=list(encodings(names)))
    implicit, little = dataset.original_encoding
    whole.set_original_encoding(implicit, little, list(encodings(names)))
    return whole


def _value(vr: str, data: bytes, little: bool, names: Iterable[str]) -> Any:
    """A value as pydicom has it, without its warnings, which quote values."""
    if vr in STRING_VRS:
        return _strings(vr, data, tuple(names))
    if not data:
        return empty_value_for_VR(vr)
    order = "<" if little else ">"
    if vr in NUMBER_FORMATS:
        count = len(data) // WORD_SIZES[vr]
        size = count * WORD_SIZES[vr]
        return _one_or_more(struct.unpack(f"{order}{count}{NUMBER_FORMATS[vr]}", data[:size]))
    if vr == "AT":
        words = struct.unpack(f"{order}{len(data) // 4 * 2}H", data[: len(data) // 4 * 4])
        return _one_or_more([Tag(g, e) for g, e in zip(words[::2], words[1::2], strict=True)])
    return data


def _strings(vr: str, data: bytes, names: tuple[str, ...]) -> Any:
    text = charsets.decode(data, names, vr) if vr in TEXT_VRS else data.decode("latin_1")
    text = text.rstrip("\0 ")
    if not text:
        return empty_value_for_VR(vr)
    values = [text] if vr in SINGLE_VRS else [v.rstrip("\0 ") for v in text.split("\\")]
    return _one_or_more([_string(vr, v, names) for v in values])


def _string(vr: str, text: str, names: tuple[str, ...]) -> Any:
    if vr == "PN":
        return PersonName(text, list(encodings(names)), validation_mode=config.IGNORE)
    if vr == "UI":
        return UID(text, config.IGNORE)
    if vr == "AE":
        return text.strip()
    if vr in ("DS", "IS"):
        try:
            number = IS if vr == "IS" else DS
            return number(text, validation_mode=config.IGNORE)
        except (ValueError, TypeError, ArithmeticError):
            return text
    return text


def _same(value: Any) -> Any:
    return value


def _one_or_more(values: Any) -> Any:
    if not values:
        return None
    return values[0] if len(values) == 1 else MultiValue(_same, values)
