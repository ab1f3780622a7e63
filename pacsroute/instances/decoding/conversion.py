"""A data set in another transfer syntax, written piece by piece (PS3.5 §8, §10, Annex A).

Pixels are decoded frame by frame and other large values are copied in pieces, so that the
memory that it takes is that of one frame.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames

from pacsroute import uids
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.parsing import parse
from pacsroute.dataset.value_writer import swapped
from pacsroute.dataset.vr import PIXEL_DATA, WORD_SIZES, syntax
from pacsroute.errors import DataSetError
from pacsroute.instances.decoding.decoders import (
    Packer,
    check_all,
    check_decoder,
    check_frame,
    decode_frame,
)
from pacsroute.instances.decoding.streams import UNDEFINED, Stream, write
from pacsroute.instances.frames import Frames
from pacsroute.instances.pixel_data import ImagePixel
from pacsroute.instances.reading import reader
from pacsroute.instances.without_bulk_data import strip

_LARGE = 1_048_576  # bytes of a value that is copied in pieces
_PIECE = 1 << 20
_COPIED = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_PIXELS = b"\xe0\x7f\x10\0"  # the tag of Pixel Data, as it is where it is compressed
_KEYWORDS = {
    "rows": "Rows",
    "columns": "Columns",
    "bits_allocated": "BitsAllocated",
    "bits_stored": "BitsStored",
    "samples_per_pixel": "SamplesPerPixel",
    "pixel_representation": "PixelRepresentation",
    "planar_configuration": "PlanarConfiguration",
    "photometric_interpretation": "PhotometricInterpretation",
}


class Time(Protocol):
    """Ends this process when something takes too long."""

    def allow(self, size: int, times: int = 1) -> None:
        """Give time for a frame of this many bytes, from now on."""


class Bounds(NamedTuple):
    """The limits of a conversion.

    Parameters
    ----------
    limits : Limits
        The limits of a data set.
    frame : int
        How many bytes a decoded frame may have.
    time : Time
        The deadline of each frame.
    announce : callable
        Is told how many bytes come at most, before any is written.
    folder : str or None
        The folder for temporary files.
    """

    limits: Limits
    frame: int
    time: Time
    announce: Callable[[int], object]
    folder: str | None = None


def inflated(file: BinaryIO, bounds: Bounds) -> BinaryIO:
    """Return a temporary file with a deflated data set inflated, at its beginning.

    Raises
    ------
    DataSetError
        If it is cut off or broken, or longer than its limit.
    """
    target = tempfile.TemporaryFile(dir=bounds.folder)  # noqa: SIM115 - it is returned
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while not inflater.eof and (piece := inflater.unconsumed_tail or file.read(_PIECE)):
            bounds.time.allow(_PIECE)
            data = inflater.decompress(piece, _PIECE)
            size += len(data)
            if size > bounds.limits.inflated:
                raise DataSetError(
                    f"a deflated data set of more than {bounds.limits.inflated} bytes: max_inflated"
                )
            target.write(data)
    except zlib.error:
        raise DataSetError("a data set that cannot be inflated") from None
    if not inflater.eof:
        raise DataSetError("a deflated data set that is cut off")
    target.seek(0)
    return target


def convert(
    file: BinaryIO, source: str, target: str, out: BinaryIO, bounds: Bounds, *, bare: bool = False
) -> None:
    """Write a data set in another transfer syntax.

    Parameters
    ----------
    file : binary file
        Positioned at the data set.
    source, target : str
        Transfer Syntax UIDs; the second one is native.
    out : binary file
        The file for the result.
    bounds : Bounds
        The limits.
    bare : bool
        Whether bulk data is left out, as in a retrieval without it.

    Raises
    ------
    DataSetError
        If it cannot be done; the message says why, without quoting the data.
    """
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    if source in uids.DEFLATED:
        with inflated(file, bounds) as flat:
            convert(flat, uids.EXPLICIT_VR_LITTLE_ENDIAN, target, out, bounds, bare=bare)
        return
    bounds.time.allow(size, times=10)  # for parsing, which is not what hangs
    dataset = parse(file, source, defer_size=_LARGE, limits=bounds.limits)
    if bare:
        strip(dataset)
    streams = dict(_copied(dataset, file, target, bounds))
    if source not in uids.NATIVE:
        for icon in _compressed_within(dataset, file):
            _decompress_icon(icon, source, bounds)
        if PIXEL_DATA in dataset:
            # At a position of its own: other values are copied between its first and second frame.
            frames = Frames(reader(os.dup(file.fileno()), start), source)
            streams[PIXEL_DATA] = _decompressed(dataset, frames, source, target, bounds)
    bounds.announce(size + sum(stream.length for stream in streams.values()))
    write(dataset, streams, target, out)


def _copied(
    dataset: Dataset, file: BinaryIO, target: str, bounds: Bounds
) -> Iterator[tuple[int, Stream]]:
    """Yield the large values at the top that are copied as they are, or with bytes swapped."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag, keep_deferred=True)
        if not isinstance(element, RawDataElement) or element.length == 0:
            continue
        if element.VR == "SQ":
            if _may_copy_sequence(dataset, element, file, target, bounds):
                yield int(tag), _copied_sequence(element, file, bounds)
            continue
        if element.value is not None or element.length == UNDEFINED:
            continue
        # Where the VR is implicit, only pixels are known to be words and not text.
        vr = element.VR or ("OW" if tag == PIXEL_DATA else "")
        if vr not in _COPIED:
            continue
        word = 1
        if element.is_little_endian is not syntax(target).little:
            word = WORD_SIZES[vr]
        pieces = _pieces(file, element.value_tell, element.length, word, bounds)
        yield int(tag), Stream(vr, element.length, pieces)


def _may_copy_sequence(
    dataset: Dataset, element: RawDataElement, file: BinaryIO, target: str, bounds: Bounds
) -> bool:
    """Return whether a sequence is large, and would be written as it was read."""
    size = element.length if element.value is None else len(element.value)
    how = syntax(target)
    return (
        size > _LARGE
        and element.is_implicit_VR is how.implicit
        and element.is_little_endian is how.little
        # Else its text may be written in another character set.
        and (not bounds.limits.charset or "SpecificCharacterSet" in dataset)
        and not _holds_pixels(element, file)
    )


def _copied_sequence(element: RawDataElement, file: BinaryIO, bounds: Bounds) -> Stream:
    if element.value is None:
        pieces = _pieces(file, element.value_tell, element.length, 1, bounds)
        return Stream("SQ", element.length, pieces)
    is_undefined = element.length == UNDEFINED
    return Stream("SQ", len(element.value), [element.value], is_undefined)


def _holds_pixels(element: RawDataElement, file: BinaryIO) -> bool:
    """Return whether an unread sequence may have pixels in it."""
    if element.value is not None:
        return _PIXELS in element.value
    end, before = element.value_tell + element.length, b""
    for at in range(element.value_tell, end, _PIECE):
        file.seek(at)
        piece = before + file.read(min(_PIECE, end - at))
        if _PIXELS in piece:
            return True
        before = piece[-3:]
    return False


def _pieces(file: BinaryIO, offset: int, length: int, word: int, bounds: Bounds) -> Iterator[bytes]:
    for at in range(offset, offset + length, _PIECE):
        bounds.time.allow(_PIECE)
        file.seek(at)
        piece = file.read(min(_PIECE, offset + length - at))
        if not piece:
            raise DataSetError("a value is cut off")
        yield swapped(piece, word)


def _decompressed(
    dataset: Dataset, frames: Frames, source: str, target: str, bounds: Bounds
) -> Stream:
    """Return the pixels of a data set as they are decoded; note in it what describes them."""
    image = frames.image
    check_all(image, source, frames.stored_length, bounds.frame)
    check_decoder(source)
    frames.check_count()
    decoded = _decoded(frames, source, bounds)
    first, found = next(decoded)
    dataset.PhotometricInterpretation = found.photometric_interpretation
    dataset.BitsAllocated = found.bits_allocated
    if found.samples_per_pixel > 1:
        dataset.PlanarConfiguration = found.planar_configuration
    dataset[PIXEL_DATA] = DataElement(PIXEL_DATA, "OB", b"")
    for tag in (0x7FE00001, 0x7FE00002, 0x7FE00003):
        dataset.pop(tag, None)  # tables of what is compressed
    vr = "OB" if image.bits_allocated <= 8 else "OW"
    word = 1 if syntax(target).little else WORD_SIZES[vr]
    return Stream(vr, image.length, _packed(first, decoded, image, word))


def _decoded(frames: Frames, source: str, bounds: Bounds) -> Iterator[tuple[Any, ImagePixel]]:
    for frame in frames:
        check_frame(frames.image, source, len(frame), bounds.frame)
        bounds.time.allow(frames.image.frame_length)
        yield decode_frame(frame, frames.image, source)


def _packed(
    first: Any, others: Iterator[tuple[Any, ImagePixel]], image: ImagePixel, word: int
) -> Iterator[Any]:
    packer = Packer(image.bits_allocated)
    for pixels in itertools.chain([first], (pixels for pixels, _ in others)):
        packed = packer.pack(pixels)
        yield packed if word == 1 else swapped(bytes(packed), word)
    yield packer.rest()


def _compressed_within(dataset: Dataset, file: BinaryIO) -> Iterator[Dataset]:
    """The items with compressed pixels: of native ones the length is defined (PS3.5 §A.4)."""
    for tag, element in list(dataset.items()):
        if element.VR != "SQ":
            continue
        if isinstance(element, RawDataElement) and not _holds_pixels(element, file):
            continue  # a sequence without them is not even opened
        for item in dataset[tag].value:
            yield from _compressed_within(item, file)
            if "PixelData" in item and item["PixelData"].is_undefined_length:
                yield item


def _decompress_icon(item: Dataset, source: str, bounds: Bounds) -> None:
    """Take the pixels of an icon out of their compression; it has one frame."""
    try:
        values = {name: item.get(keyword) for name, keyword in _KEYWORDS.items()}
        image = ImagePixel(**{name: value for name, value in values.items() if value is not None})
        frame = next(iter(generate_frames(item.PixelData, number_of_frames=1)))
    except Exception as error:  # noqa: BLE001 - pydicom raises many kinds for broken values
        raise DataSetError(f"an icon cannot be read: {type(error).__name__}") from None
    check_frame(image, source, len(frame), bounds.frame)
    check_decoder(source)
    bounds.time.allow(image.frame_length)
    pixels, found = decode_frame(frame, image, source)
    packer = Packer(image.bits_allocated)
    item.PixelData = bytes(packer.pack(pixels)) + packer.rest()
    item["PixelData"].is_undefined_length = False
    item["PixelData"].VR = "OB" if image.bits_allocated <= 8 else "OW"
    item.PhotometricInterpretation = found.photometric_interpretation
    if found.samples_per_pixel > 1:
        item.PlanarConfiguration = found.planar_configuration
