"""The bytes of a data set to a pydicom Dataset (PS3.5 §7, Annex A).

Parsing is lenient, but never loses a part silently: a data set that cannot be read to its end is an
error. Values are converted when they are accessed, and sequences are read when they are opened,
which may raise DataSetError too.
"""

from __future__ import annotations

import contextlib
import zlib
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from pacsroute.dataset import charsets
from pacsroute.dataset.limits import LIMITS, Limits
from pacsroute.dataset.reader import TURNS, Reader, Reading
from pacsroute.dataset.received import Frame, Received, ReceivedFile, made, open_all
from pacsroute.dataset.source import File, Pages
from pacsroute.dataset.value_reader import read_value
from pacsroute.dataset.vr import resolve_vr, syntax
from pacsroute.dataset.wanted import never_written
from pacsroute.errors import DataSetTooLarge, UnreadableDataSet

Source: TypeAlias = "bytes | bytearray | memoryview | BinaryIO"

_SMALL = 1 << 20  # files up to this many bytes are read at once
_PIECE = 1 << 16  # bytes to inflate at a time
_LARGE = 16 << 20  # data sets beyond this many bytes are inflated a few at a time

MAX_KEYS = 50_000
"""The maximum number of elements and items of an identifier, including those in sequences."""


def parse(
    data: Source,
    transfer_syntax: str,
    *,
    defer_size: int | None = None,
    limits: Limits = LIMITS,
) -> Dataset:
    r"""Return the Dataset encoded in some bytes.

    Parameters
    ----------
    data : bytes-like or binary file
        The data set; a file must be seekable, and is read from its current position.
    transfer_syntax : str
        Its UID; a private one that is not registered with pydicom is read as explicit VR little
        endian, unless the first element shows that its VR is implicit.
    defer_size : int, optional
        Longer values in a file are read only when they are accessed: the file must then still be
        open, or exist under its name. Those of a deflated data set stay in its inflated copy.
        Values inside sequences are never deferred.
    limits : Limits
        The allowed depth and size, and the default character set.

    Raises
    ------
    UnreadableDataSet
        If it is not a data set, or a part would be lost: it is cut off, or a length is wrong.
    DataSetTooLarge
        Beyond a limit.

    Examples
    --------
    >>> parse(b"\x10\x00 \x00LO\x02\x001 ", "1.2.840.10008.1.2.1").PatientID
    '1'
    """
    return _parse(data, transfer_syntax, defer_size, limits)


def name_syntax(dataset: Dataset, transfer_syntax: str) -> None:
    """Set the transfer syntax of a Dataset where pydicom looks for it to decode pixels.

    Parameters
    ----------
    dataset : Dataset
        The Dataset, which gets its own File Meta Information.
    transfer_syntax : str
        The UID.

    Examples
    --------
    >>> dataset = Dataset()
    >>> name_syntax(dataset, "1.2.840.10008.1.2")
    >>> dataset.file_meta.TransferSyntaxUID.name
    'Implicit VR Little Endian'
    """
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)


def parse_all(data: Source, transfer_syntax: str, limits: Limits = LIMITS) -> Dataset:
    r"""Return the Dataset encoded in some bytes, as `parse` does, with all sequences read.

    Errors inside them are raised here, not when they are opened.

    Parameters
    ----------
    data, transfer_syntax, limits
        As for `parse`.

    Raises
    ------
    UnreadableDataSet, DataSetTooLarge
        As for `parse`.

    Examples
    --------
    >>> parse_all(b"\x10\x00 \x00LO\x02\x001 ", "1.2.840.10008.1.2.1").PatientID
    '1'
    """
    dataset = _parse(data, transfer_syntax, None, limits)
    open_all(dataset)
    return dataset


def identifier(data: Source, transfer_syntax: str, limits: Limits = LIMITS) -> Dataset:
    r"""Return the Dataset of a C-FIND, C-GET or C-MOVE identifier.

    All of its values are converted, so that no access raises: IS and DS that are not
    numbers stay str, dates and times are str always. Group lengths and groups 0000 and
    0002 are left out, in items too (PS3.4 §C.2.2.1.3).

    Parameters
    ----------
    data : bytes-like or binary file
        The identifier of the request.
    transfer_syntax : str
        That of the presentation context.
    limits : Limits
        The allowed depth.

    Raises
    ------
    DataSetError
        If it is not a data set, or is cut off.

    Examples
    --------
    >>> identifier(b"\x10\x00 \x00LO\x02\x001*", "1.2.840.10008.1.2.1").PatientID
    '1*'
    """
    limits = limits._replace(elements=min(limits.elements, MAX_KEYS))
    return _converted(_parse(data, transfer_syntax, None, limits, strict=True))


def readable(data: Source, transfer_syntax: str, limits: Limits = LIMITS) -> Dataset:
    r"""Return the Dataset of some bytes for display, as far as it can be read.

    A truncated data set ends where its bytes end. All values are converted as for an `identifier`,
    so that no access raises or warns.

    Parameters
    ----------
    data : bytes-like
        A data set, or its beginning.
    transfer_syntax, limits
        As for `parse`.

    Raises
    ------
    DataSetError
        As for `parse`.

    Examples
    --------
    >>> readable(b"\x10\x00 \x00LO\x08\x0012", "1.2.840.10008.1.2.1").PatientID
    '12'
    """
    return _converted(_parse(data, transfer_syntax, None, limits, lossless=False))


def _parse(
    data: Source,
    transfer_syntax: str,
    defer_size: int | None,
    limits: Limits,
    *,
    lossless: bool = True,
    strict: bool = False,
) -> Received:
    how = syntax(transfer_syntax)
    reading = Reading(how.little, limits, lossless=lossless, strict=strict)
    source, file, base = _source(data)
    if how.deflated:
        file = _inflated(source, reading)
        source, base = memoryview(file)[: file.tell()], 0
    size = len(source)
    with Reader(source, reading, base, None if file is None else defer_size) as reader:
        implicit = reader.implicit_at(0, size, how.implicit, top=True)
        dataset, _ = reader.data_set(0, size, Frame(implicit, charsets.terms(limits.charset)))
        if not len(dataset) and bytes(source[:8]).strip(b"\0"):
            raise UnreadableDataSet("not a data set: too short for a data element")
    if reader.deferred:
        return _with_file(dataset, file)
    if how.deflated:
        reading.holding.shrink(size)  # the values are copies
    return dataset


def _source(data: Source) -> tuple[Any, Any, int]:
    """Return the source to read, its file if any, and the offset in that file."""
    if isinstance(data, (bytes, bytearray)):
        return data, None, 0
    if isinstance(data, memoryview):
        return (data.cast("B") if data.format != "B" else data), None, 0
    try:
        source = File(data)
        # Slicing bytes is quicker than reading chunks.
        small = len(source) <= _SMALL
        return source[0:] if small else source, data, source.base
    except (OSError, ValueError) as error:
        raise UnreadableDataSet(f"not a data set ({type(error).__name__})") from None


def _inflated(data: Any, reading: Reading) -> Pages:
    """Inflate a data set piece by piece, within the limit (PS3.5 §A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    most = reading.limits.inflated
    inflated = Pages()
    has_turn = False
    with contextlib.ExitStack() as turn:
        for start in range(0, len(data), _PIECE):
            piece = _inflate(inflater, data[start : start + _PIECE])
            while piece:
                reading.hold(len(piece))
                inflated = inflated.with_room(len(piece))
                inflated.write(piece)
                if inflated.tell() > most:
                    raise DataSetTooLarge(f"more than {most} bytes when inflated: max_inflated")
                if inflated.tell() > _LARGE and not has_turn:
                    has_turn = True
                    turn.enter_context(TURNS)
                piece = _inflate(inflater, inflater.unconsumed_tail)
    if not inflater.eof:
        reading.lost("a deflated data set that is cut off")
    return inflated


def _inflate(inflater: Any, data: bytes) -> bytes:
    try:
        inflated: bytes = inflater.decompress(data, _PIECE)
    except zlib.error:
        raise UnreadableDataSet("a data set that cannot be inflated") from None
    return inflated


def _with_file(dataset: Received, file: Any) -> ReceivedFile:
    """Return a Dataset that can read its deferred values."""
    whole = ReceivedFile(BytesIO(), dataset)
    implicit, little = dataset.original_encoding
    whole.set_original_encoding(implicit, little, dataset.original_character_set)
    whole.take_over(dataset)
    whole.buffer = file
    whole.fileobj_type = open
    name = getattr(file, "name", None)
    whole.filename = name if isinstance(name, str) else None
    return whole


def _converted(dataset: Dataset) -> Dataset:
    """Return a Dataset with all of its values converted, so that no access raises.

    Group lengths and groups 0000 and 0002 are left out, in items too.
    """
    assert isinstance(dataset, Received)
    elements: dict[Any, Any] = {}
    for tag, raw in list(dataset.items()):
        if never_written(tag):
            continue
        vr = raw.VR or "UN"
        if isinstance(raw, RawDataElement) and vr != "SQ":
            data = raw.value or b""
            if vr == "UN" and not tag.is_private and tag in DicomDictionary:
                vr = dictionary_VR(tag)
            if len(vr) > 2:
                vr = resolve_vr(vr, tag, data, (dataset,), True)
            value = read_value(vr, data, raw.is_little_endian, dataset.names, strip=True)
            element = DataElement(tag, vr, value, raw.value_tell, already_converted=True)
        else:
            element = dataset[tag]
        if element.VR == "SQ":
            element.value = Sequence(map(_converted, element.value))
        elements[tag] = element
    implicit, little = dataset.original_encoding
    return made(Dataset, elements, implicit, little, dataset.names, dataset.names)
