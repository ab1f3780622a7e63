"""A data set from the DICOM JSON Model (PS3.18 Annex F)."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from pacsroute.dataset import charsets
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import parse
from pacsroute.dataset.value_writer import pad, to_bytes
from pacsroute.dataset.vr import LONG_VRS, NUMBER_FORMATS, STRING_VRS, WORD_SIZES
from pacsroute.dataset.wanted import CHARACTER_SET, never_written
from pacsroute.errors import DataSetError
from pacsroute.uids import EXPLICIT_VR_LITTLE_ENDIAN

_CHARSET = f"{CHARACTER_SET:08X}"
_UTF8 = {"vr": "CS", "Value": list(charsets.UTF8)}
_ENCAPSULATED = b"OB\0\0\xff\xff\xff\xff"
_TAG = re.compile("[0-9A-Fa-f]{8}")  # int() takes signs, blanks and other digits as well
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def from_dicom_json(
    model: Mapping[str, Any],
    transfer_syntax: str = EXPLICIT_VR_LITTLE_ENDIAN,
    *,
    bulk_data: Callable[[str], bytes] | None = None,
) -> bytes:
    """Return the bytes of a data set from its DICOM JSON Model.

    JSON is always in UTF-8. The data set is encoded in its Specific Character Set if that has all
    characters; otherwise the set becomes ``ISO_IR 192``.

    Parameters
    ----------
    model : mapping
        As `dicom_json` and `json.loads` return it. Its group lengths, File Meta Information and
        delimiters are left out.
    transfer_syntax : str
        The transfer syntax to write, which must be uncompressed.
    bulk_data : callable, optional
        Returns the bytes at a ``BulkDataURI``; without it, such a value is an error.

    Raises
    ------
    DataSetError
        If it is not a valid model, or a value does not fit its VR; the message quotes no value.

    Examples
    --------
    >>> from_dicom_json({"00200013": {"vr": "IS", "Value": [1]}}).hex()
    '20001300495302003120'
    """
    written: bytes = b"".join(pieces(model, bulk_data))  # type: ignore[arg-type] # it has bytes only
    if transfer_syntax == EXPLICIT_VR_LITTLE_ENDIAN:
        return written
    return encode(parse(written, EXPLICIT_VR_LITTLE_ENDIAN), transfer_syntax)


class Elsewhere(Protocol):
    """A value whose bytes are not in memory."""

    is_encapsulated: bool
    """Whether they are the items of compressed pixel data (PS3.5 §A.4)."""

    def __len__(self) -> int:
        """Return how many bytes there are."""


def pieces(
    model: Mapping[str, Any], bulk_data: Callable[[str], bytes | Elsewhere] | None = None
) -> list[bytes | Elsewhere]:
    """Return a data set like `from_dicom_json`, in pieces; some may not be in memory.

    Parameters
    ----------
    model : mapping
        A data set in the DICOM JSON Model.
    bulk_data : callable, optional
        Returns the bytes at a ``BulkDataURI``, or their location.

    Raises
    ------
    DataSetError
        If it is not a valid model, or a value does not fit its VR.
    """
    try:
        try:
            return _data_set(model, charsets.DEFAULT, bulk_data)
        except UnicodeEncodeError:
            return _data_set({**model, _CHARSET: _UTF8}, charsets.UTF8, bulk_data)
    except RecursionError:
        raise DataSetError("sequences are nested too deeply") from None


_BulkData = Callable[[str], "bytes | Elsewhere"] | None


def _data_set(
    model: Mapping[str, Any], names: tuple[str, ...], bulk_data: _BulkData
) -> list[bytes | Elsewhere]:
    if not isinstance(model, Mapping):
        raise DataSetError("a data set in JSON must be an object")
    own = model.get(_CHARSET)
    if isinstance(own, Mapping) and names == charsets.UTF8:
        model = {**model, _CHARSET: _UTF8}
    elif isinstance(own, Mapping) and isinstance(own.get("Value"), list):
        names = charsets.terms([str(term or "") for term in own["Value"]])
    found: list[bytes | Elsewhere] = []
    for tag, key, element in sorted(_tagged(model)):
        if not never_written(tag):
            try:
                found += _element(tag, element, names, bulk_data)
            except (DataSetError, UnicodeEncodeError):
                raise
            except (TypeError, ValueError, ArithmeticError, LookupError, struct.error):
                raise DataSetError(f"({key[:4]},{key[4:]}): invalid for the VR") from None
    return found


def _tagged(model: Mapping[str, Any]) -> Iterable[tuple[int, str, dict[str, Any]]]:
    found: set[int] = set()
    for key, element in model.items():
        if not (isinstance(key, str) and _TAG.fullmatch(key) and isinstance(element, dict)):
            raise DataSetError("an attribute in JSON must be an object with a tag of eight digits")
        tag = int(key, 16)
        if tag in found:  # the same tag in upper and lower case
            raise DataSetError(f"({key[:4]},{key[4:]}) occurs twice")
        found.add(tag)
        yield tag, key, element


def _element(
    tag: int, element: dict[str, Any], names: tuple[str, ...], bulk_data: _BulkData
) -> list[bytes | Elsewhere]:
    """Return the head and the value of an element, in explicit VR little endian."""
    vr = element.get("vr")
    if vr not in STRING_VRS and vr not in WORD_SIZES and vr != "SQ":
        raise DataSetError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has no known VR")
    values = element.get("Value") or []
    if not isinstance(values, list):
        raise TypeError
    data: list[bytes | Elsewhere]
    if vr == "SQ":
        data = []
        for value in values:
            item = _data_set(value or {}, names, bulk_data)
            data += [b"\xfe\xff\x00\xe0" + sum(map(len, item)).to_bytes(4, "little"), *item]
    elif "InlineBinary" in element:
        data = [_decoded(element["InlineBinary"])]
    elif "BulkDataURI" in element:
        if bulk_data is None:
            raise DataSetError("bulk data by a BulkDataURI, which is not fetched")
        data = [bulk_data(element["BulkDataURI"])]
        if getattr(data[0], "is_encapsulated", False):
            return [struct.pack("<HH", tag >> 16, tag & 0xFFFF) + _ENCAPSULATED, *data, _END]
    else:
        data = [to_bytes(vr, _values(vr, values), names, "<") if values else b""]
    size = sum(map(len, data))
    if size & 1:
        size += 1
        data.append(pad(vr))
    return [_head(tag, vr, size), *data]


def _head(tag: int, vr: str, size: int) -> bytes:
    code, tags = vr.encode("ascii"), struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr in LONG_VRS:
        return tags + code + b"\0\0" + struct.pack("<I", size)
    if size > 0xFFFF:  # too long for its VR (PS3.5 §6.2.2)
        return tags + b"UN\0\0" + struct.pack("<I", size)
    return tags + code + struct.pack("<H", size)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError from None


def _values(vr: str, values: list[Any]) -> Any:
    if vr == "PN":
        return [_name(value) for value in values]
    if vr in ("FD", "FL"):
        return [float(value) for value in values]
    if vr == "AT":
        return [int(value, 16) for value in values]
    if vr in NUMBER_FORMATS:
        return [int(value) if isinstance(value, str) else value for value in values]
    if vr in ("DS", "IS") or None in values:
        return [value if value is None or not isinstance(value, bool) else None for value in values]
    return values


def _name(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, Mapping):
        raise TypeError
    groups = [value.get(name) or "" for name in ("Alphabetic", "Ideographic", "Phonetic")]
    return "=".join(groups).rstrip("=")
