"""The bytes of a data set to a pydicom Dataset (PS3.5 §7, Annex A).

Lenient, since what a peer has sent is what there is: a value that is cut off ends where
the bytes end, numbers lose the odd bytes behind the last whole one, an unknown VR is UN, a
data set or item in the other VR encoding than announced is read as it is. Sequences are
parsed at once and other values when they are accessed, so that a broken structure shows
here, as DataSetError, and not later as whatever pydicom would raise.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

from pydicom.dataset import Dataset, FileDataset

from pacsroute.dataset import charsets, late
from pacsroute.dataset.decoded import converted
from pacsroute.dataset.limits import LIMITS, Limits
from pacsroute.dataset.reader import File, Reader
from pacsroute.dataset.vr import syntax
from pacsroute.errors import DataSetError

late.settle()

Source: TypeAlias = "bytes | bytearray | memoryview | BinaryIO"

_RATIO_FROM = 16 * 1_048_576

MAX_KEYS = 50_000
"""How many elements and items an identifier may have, those in sequences too."""


def parse(
    data: Source,
    transfer_syntax: str,
    *,
    defer_size: int | None = None,
    limits: Limits = LIMITS,
) -> Dataset:
    r"""The Dataset that some bytes are.

    Parameters
    ----------
    data : bytes-like or binary file
        A file has to be seekable and is read from where it stands.
    transfer_syntax : str
        A private one that nobody registered with pydicom is taken for explicit VR little
        endian, unless the first element shows that its VR is implicit.
    defer_size : int, optional
        Values of a file that are longer stay there until they are accessed, for which
        the file has to be open still or to be found by its name. Deflated data sets
        and values inside sequences are never deferred.
    limits : Limits
        How deep and how large it may be, and in which characters without saying so.

    Raises
    ------
    DataSetError
        Not a data set, nested too deeply, or inflated beyond the limit.

    Examples
    --------
    >>> parse(b"\x10\x00 \x00LO\x02\x001 ", "1.2.840.10008.1.2.1").PatientID
    '1'
    """
    return _parse(data, transfer_syntax, defer_size, limits, strict=False)


def identifier(data: Source, transfer_syntax: str, limits: Limits = LIMITS) -> Dataset:
    r"""The Dataset of a C-FIND, C-GET or C-MOVE identifier.

    All of its values are converted, so that no access raises: IS and DS that are not
    numbers stay str, dates and times are str always. Group lengths and groups 0000 and
    0002 are left out, in items too (PS3.4 §C.2.2.1.3).

    Parameters
    ----------
    data : bytes-like or binary file
        What the request holds.
    transfer_syntax : str
        That of the presentation context.
    limits : Limits
        How deep it may be.

    Raises
    ------
    DataSetError
        Not a data set, or one that is cut off.

    Examples
    --------
    >>> identifier(b"\x10\x00 \x00LO\x02\x001*", "1.2.840.10008.1.2.1").PatientID
    '1*'
    """
    limits = limits._replace(elements=min(limits.elements, MAX_KEYS))
    dataset = _parse(data, transfer_syntax, None, limits, strict=True)
    return converted(dataset, charsets.terms(limits.charset))


def readable(data: Source, transfer_syntax: str, limits: Limits = LIMITS) -> Dataset:
    r"""The Dataset that some bytes are, as far as they go, for somebody to look at.

    As lenient as `parse`; all of its values are converted as those of an `identifier` are,
    so that no access raises or warns of them.

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
    dataset = _parse(data, transfer_syntax, None, limits, strict=False)
    return converted(dataset, charsets.terms(limits.charset))


def _parse(
    data: Source,
    transfer_syntax: str,
    defer_size: int | None,
    limits: Limits,
    *,
    strict: bool,
) -> Dataset:
    how = syntax(transfer_syntax)
    try:
        source: Any = data
        file = None
        if not isinstance(data, (bytes, bytearray, memoryview)):
            file, source = data, File(data)
        elif isinstance(data, memoryview):
            source = data.cast("B") if data.format != "B" else data
        base = source.base if file is not None else 0
        if how.deflated:
            source, file, base = _inflated(bytes(source[0:]), limits, strict), None, 0
        defer = defer_size if file is not None else None
        reader = Reader(source, how.little, base, defer, strict, limits)
        implicit = reader.implicit_at(0, len(source), how.implicit, top=True)
        names = charsets.terms(limits.charset)
        dataset, at = reader.data_set(0, len(source), implicit, names, None, 0)
        rest = bytes(source[at : at + 8])
        if rest.strip(b"\0") and (strict or not len(dataset)):
            raise DataSetError("not a data set: less than a data element")
        if reader.deferred:
            dataset = _with_file(dataset, file)
        return dataset
    except DataSetError:
        raise
    except RecursionError:
        raise DataSetError("sequences are nested too deeply") from None
    except (struct.error, ValueError, TypeError, LookupError, ArithmeticError, OSError) as error:
        # the exceptions of pydicom and of struct quote the bytes they are about
        raise DataSetError(f"not a data set ({type(error).__name__})") from None


def _inflated(data: bytes, limits: Limits, strict: bool) -> bytes:
    most = min(limits.inflated, max(_RATIO_FROM, limits.ratio * len(data)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, most)
        if inflater.unconsumed_tail and inflater.decompress(inflater.unconsumed_tail, 1):
            limit = "max_inflated" if most == limits.inflated else "max_deflate_ratio"
            raise DataSetError(f"a deflated data set of more than {most} bytes: {limit}")
    except zlib.error:
        raise DataSetError("a data set that cannot be inflated") from None
    if strict and not inflater.eof:
        raise DataSetError("a deflated data set that is cut off")
    return inflated


def _with_file(dataset: Dataset, file: Any) -> Dataset:
    """A Dataset that can read its deferred values."""
    whole = FileDataset(BytesIO(), dataset)
    implicit, little = dataset.original_encoding
    whole.set_original_encoding(implicit, little, dataset.original_character_set)
    whole.buffer = file
    whole.fileobj_type = open
    name = getattr(file, "name", None)
    whole.filename = name if isinstance(name, str) else None
    return whole
