"""Data sets from one transfer syntax to another (PS3.5 §8, §10, Annex A)."""

from __future__ import annotations

from pydicom import Dataset, FileMetaDataset
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
        Transfer Syntax UIDs, as for `can_convert`.

    Raises
    ------
    DataSetError
        If it cannot be done; the message says why.
    """
    if not can_convert(source, target):
        raise DataSetError(f"no conversion from {uids.name(source)} to {uids.name(target)}")
    if source not in uids.NATIVE and "PixelDataProviderURL" in dataset:
        # It would be an image without pixels: only JPIP's syntaxes have the URL (PS3.5 §A.6).
        raise DataSetError(f"{uids.name(source)}: its pixels are elsewhere")
    if source not in uids.NATIVE and "PixelData" in dataset:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(source)
        try:
            dataset.decompress(generate_instance_uid=False)
        except Exception as error:  # a decoder raises what it likes
            raise DataSetError(
                f"{uids.name(source)} cannot be decompressed: {type(error).__name__}; pydicom "
                "needs NumPy and a decoder for it, such as pylibjpeg"
            ) from error
    return encode(dataset, target)
