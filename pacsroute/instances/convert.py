"""Data sets from one transfer syntax to another (PS3.5 §8, §10, Annex A)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import DataElement, Dataset, FileMetaDataset
from pydicom.uid import UID

from pacsroute import uids
from pacsroute.dataset.encode import encode
from pacsroute.errors import DataSetError


def can_convert(source: str, target: str) -> bool:
    """Tell whether a conversion may be tried: out of any standard syntax, into native ones.

    Parameters
    ----------
    source, target : str
        Transfer Syntax UIDs. What is in a private one, of which nobody knows how it
        encodes, can only be passed on as it is.

    Examples
    --------
    >>> can_convert("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1")
    True
    """
    return source == target or (source in uids.TRANSFER_SYNTAXES and target in uids.NATIVE)


def convert(dataset: Dataset, source: str, target: str) -> bytes:
    """Return the bytes of a data set in another transfer syntax.

    Compressed pixel data needs a decoder that pydicom finds: NumPy, and pylibjpeg, GDCM
    or Pillow for most syntaxes. The instance stays the same one, with its own UID.

    Parameters
    ----------
    dataset : pydicom.Dataset
        As it was parsed; it is changed.
    source, target : str
        Transfer Syntax UIDs of which `can_convert` says yes.

    Raises
    ------
    DataSetError
        If it cannot be done; the message says why.
    """
    if source not in uids.NATIVE and "PixelDataProviderURL" in dataset:
        # It would be an image without pixels: only JPIP's syntaxes have the URL (PS3.5 §A.6).
        raise DataSetError(f"{uids.name(source)}: its pixels are elsewhere")
    if source not in uids.NATIVE:
        decompress(dataset, source)
    return encode(dataset, target)


def decompress(dataset: Dataset, source: str) -> None:
    """Take the pixels of a data set, and of the icons in it, out of their compression.

    Parameters
    ----------
    dataset : pydicom.Dataset
        It is changed.
    source : str
        The Transfer Syntax UID of what is compressed.

    Raises
    ------
    DataSetError
        If it cannot be done; the message says why.
    """
    for image in (*_compressed_within(dataset), *([dataset] if "PixelData" in dataset else ())):
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = UID(source)
        try:
            image.decompress(generate_instance_uid=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a decoder raises what it likes; one in Rust panics
            raise DataSetError(
                f"{uids.name(source)} cannot be decompressed: {type(error).__name__}; pydicom "
                "needs NumPy and a decoder for it, such as pylibjpeg"
            ) from error


def _compressed_within(dataset: Dataset) -> Iterator[Dataset]:
    """The items with compressed pixels: of native ones the length is defined (PS3.5 §A.4)."""
    for element in dataset.values():
        if isinstance(element, DataElement) and element.VR == "SQ":
            for item in element.value:
                yield from _compressed_within(item)
                if "PixelData" in item and item["PixelData"].is_undefined_length:
                    yield item
