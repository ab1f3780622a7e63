"""Convert between the Native DICOM Model in XML (PS3.19 §A.1) and the DICOM JSON Model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import dictionary_VR, keyword_for_tag

from pacsroute.errors import DataSetError

XML = "application/dicom+xml"
_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    f'<NativeDicomModel xmlns="{_NAMESPACE}" xml:space="preserve">'
)
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # XML 1.0 §2.2
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_FIRST_BLOCK = 0x10  # of private elements (PS3.5 §7.8.1)
_PIECE, _LONGEST_TAG = 65_536, 1_048_576  # bytes
_MOST_MISSING = 65_536  # most values a model may skip: a high number costs no bytes

# ------------------------------------------------------------- to XML


def xml_of(model: Mapping[str, Any]) -> bytes:
    """Return the XML of a data set in the DICOM JSON Model.

    Examples
    --------
    >>> b'vr="IS"><Value number="1">1</Value>' in xml_of({"00200013": {"vr": "IS", "Value": [1]}})
    True
    """
    return f"{_HEAD}{_elements(model)}</NativeDicomModel>".encode()


def _elements(model: Mapping[str, Any]) -> str:
    return "".join(
        _element(tag, element, _creator(tag, model))
        for tag, element in sorted(model.items())
        if not _is_creator(tag)  # each private element names its creator
    )


def _is_creator(tag: str) -> bool:
    return int(tag[3], 16) % 2 == 1 and tag[4:6] == "00" and tag[6:] >= "10"


def _creator(tag: str, model: Mapping[str, Any]) -> str:
    """Return the private creator of a tag, or an empty text."""
    if int(tag[3], 16) % 2 == 0 or tag[4:6] == "00":
        return ""
    values = model.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value") or [""]
    return str(values[0] or "")


def _element(tag: str, element: Mapping[str, Any], creator: str) -> str:
    vr = element["vr"]
    keyword = keyword_for_tag(int(tag, 16))
    named = f" keyword={quoteattr(keyword)}" if keyword else ""
    if creator:
        tag, named = f"{tag[:4]}00{tag[6:]}", f" privateCreator={quoteattr(_clean(creator))}"
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
    return f'<Value number="{number}">{"" if value is None else _text(str(value))}</Value>'


def _name(value: Mapping[str, str]) -> str:
    found = ""
    for group in _GROUPS:
        text = value.get(group)
        if text:
            parts = zip(_COMPONENTS, text.split("^", 4), strict=False)
            inner = "".join(f"<{name}>{_text(part)}</{name}>" for name, part in parts if part)
            found += f"<{group}>{inner}</{group}>"
    return found


def _clean(value: str) -> str:
    return _NOT_IN_XML.sub("", value)


def _text(value: str) -> str:
    return escape(_clean(value), {"\r": "&#13;"})  # a parser would turn it into a line feed


# ------------------------------------------------------------- and back


def model_of(text: bytes | bytearray, depth: int) -> dict[str, Any]:
    """Parse the XML of a data set into the DICOM JSON Model.

    Parameters
    ----------
    text : bytes
        One NativeDicomModel. A document type is refused, so no entity is expanded or fetched.
    depth : int
        The maximum depth of nested sequences.

    Raises
    ------
    DataSetError
        If the text does not follow this model.

    Examples
    --------
    >>> model_of(xml_of({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^J"}]}}), 9)
    {'00100010': {'vr': 'PN', 'Value': [{'Alphabetic': 'Doe^J'}]}}
    """
    reader = _Reader(depth)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        _feed(parser, text)
    except expat.ExpatError:
        raise DataSetError("the metadata are not XML") from None
    except DataSetError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DataSetError("the metadata are not in the Native DICOM Model") from None
    return reader.model


def _feed(parser: expat.XMLParserType, text: bytes | bytearray) -> None:
    """Parse a text in pieces, so that other threads can run in between.

    The parser rescans an unfinished tag or comment with each piece: a long one would take hours.
    """
    for start in range(0, len(text), _PIECE):
        piece = bytes(text[start : start + _PIECE])
        parser.Parse(piece, False)
        if start + len(piece) - parser.CurrentByteIndex > _LONGEST_TAG:
            raise DataSetError(f"XML with a tag or comment of more than {_LONGEST_TAG} bytes")
    parser.Parse(b"", True)


class _Reader:
    """Builds a data set while its XML is parsed.

    Parameters
    ----------
    depth : int
        The maximum depth of nested sequences.

    Attributes
    ----------
    model : dict
        The elements read so far.
    """

    def __init__(self, depth: int) -> None:
        self.model: dict[str, Any] = {}
        self._depth = depth
        self._names: list[str] = []
        self._open: list[tuple[dict[str, Any], dict[str, Any]]] = []  # data sets, elements
        self._text: list[str] = []
        self._group = ""
        self._missing = 0

    def refuse(self, *_: object) -> None:
        """Refuse a document type, which could declare entities."""
        raise DataSetError("the metadata have a document type")

    def text(self, data: str) -> None:
        """Handle character data."""
        self._text.append(data)

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Handle a start tag."""
        name = name.rpartition(" ")[2]
        inside = self._names[-1] if self._names else ""
        self._names.append(name)
        self._text.clear()
        if not inside:
            if name != "NativeDicomModel":
                raise ValueError
        elif name == "DicomAttribute" and inside in ("NativeDicomModel", "Item"):
            dataset = self.model if inside != "Item" else self._element["Value"][-1]
            self._open.append((dataset, _begun(dataset, attributes)))
        elif inside == "DicomAttribute" and name == "BulkData":
            self._element["BulkDataURI"] = attributes.get("uri") or attributes["uuid"]
        elif inside == "DicomAttribute" and name in ("Value", "Item", "PersonName"):
            if name == "Item" and len(self._open) > self._depth:
                raise DataSetError(f"sequences more than {self._depth} deep: max_depth")
            self._values(int(attributes["number"])).append({} if name != "Value" else None)
        elif inside == "PersonName" and name in _GROUPS:
            self._element["Value"][-1][name] = ""
            self._group = name

    @property
    def _element(self) -> dict[str, Any]:
        return self._open[-1][1]

    def _values(self, number: int) -> list[Any]:
        values: list[Any] = self._element.setdefault("Value", [])
        missing = number - 1 - len(values)
        if missing < 0:
            raise DataSetError("the numbers of values must ascend from 1")
        self._missing += missing
        if self._missing > _MOST_MISSING:
            raise DataSetError(f"more than {_MOST_MISSING} values are left out")
        values += [None] * missing
        return values

    def end(self, name: str) -> None:
        """Handle an end tag."""
        name = self._names.pop()
        if name == "DicomAttribute":
            self._open.pop()
        elif name == "Value":
            self._element["Value"][-1] = "".join(self._text) or None
        elif name == "InlineBinary":
            self._element["InlineBinary"] = "".join("".join(self._text).split())
        elif name in _COMPONENTS:
            groups = self._element["Value"][-1]
            carets = _COMPONENTS.index(name) - groups[self._group].count("^")
            groups[self._group] += "^" * carets + "".join(self._text)


def _begun(dataset: dict[str, Any], attributes: Mapping[str, str]) -> dict[str, Any]:
    """Add an empty element to a data set, and return it."""
    tag = attributes["tag"].upper()
    number, creator = int(tag, 16), attributes.get("privateCreator")
    vr = attributes.get("vr")
    if creator and number >> 16 & 1:
        tag = f"{tag[:4]}{_block(dataset, tag[:4], creator):02X}{tag[6:]}"
    elif not vr:
        vr = dictionary_VR(number)[:2] if keyword_for_tag(number) else "UN"
    element: dict[str, Any] = {"vr": vr or "UN"}
    dataset[tag] = element
    return element


def _block(dataset: dict[str, Any], group: str, creator: str) -> int:
    """Return the block of a private creator in a data set, reserving one if necessary."""
    for block in range(_FIRST_BLOCK, 0x100):
        owner = dataset.setdefault(f"{group}00{block:02X}", {"vr": "LO", "Value": [creator]})
        if owner.get("Value") == [creator]:
            return block
    raise DataSetError("more private creators than a group has blocks")
