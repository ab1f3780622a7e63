"""The Native DICOM Model: a data set in XML (PS3.19 §A.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

XML = "application/dicom+xml"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xml:space="preserve">'
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # XML has not (XML 1.0 §2.2)
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")


def xml_of(model: Mapping[str, Any]) -> bytes:
    """Return the XML of a data set in the DICOM JSON Model.

    Examples
    --------
    >>> b'vr="IS"><Value number="1">1</Value>' in xml_of({"00200013": {"vr": "IS", "Value": [1]}})
    True
    """
    return f"{_HEAD}{_elements(model)}</NativeDicomModel>".encode("utf-8", "replace")


def _elements(model: Mapping[str, Any]) -> str:
    return "".join(_element(tag, element) for tag, element in sorted(model.items()))


def _element(tag: str, element: Mapping[str, Any]) -> str:
    vr = element["vr"]
    keyword = keyword_for_tag(int(tag, 16))
    named = f" keyword={quoteattr(keyword)}" if keyword else ""
    head = f"<DicomAttribute tag={quoteattr(tag)}{named} vr={quoteattr(vr)}>"
    if "BulkDataURI" in element:
        inner = f"<BulkData uri={quoteattr(element['BulkDataURI'])}/>"
    elif "InlineBinary" in element:
        inner = f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    else:
        values = enumerate(element.get("Value") or (), 1)
        inner = "".join(_value(vr, number, value) for number, value in values)
    return f"{head}{inner}</DicomAttribute>"


def _value(vr: str, number: int, value: Any) -> str:
    if vr == "SQ":
        return f'<Item number="{number}">{_elements(value or {})}</Item>'
    if vr == "PN":
        return f'<PersonName number="{number}">{_name(value or {})}</PersonName>'
    if value is None:
        return ""
    return f'<Value number="{number}">{_text(str(value))}</Value>'


def _name(value: Mapping[str, str]) -> str:
    found = ""
    for group in _GROUPS:
        text = value.get(group)
        if text:
            parts = zip(_COMPONENTS, text.split("^"), strict=False)
            inner = "".join(
                f"<{name}>{escape(_CONTROL.sub('', part))}</{name}>" for name, part in parts if part
            )
            found += f"<{group}>{inner}</{group}>"
    return found


def _text(value: str) -> str:
    return escape(_CONTROL.sub("", value))
