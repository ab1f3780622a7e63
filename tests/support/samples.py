"""Pydicom's test files, and what a peer would say of each."""

import warnings
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from pacsroute import uids

FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def composite(path):
    """Return what a peer would say of a file, or None if it is no composite instance."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            meta = ds.file_meta
            found = ds.SOPClassUID, ds.SOPInstanceUID, meta.TransferSyntaxUID
    except (InvalidDicomError, AttributeError, KeyError):
        return None
    if "FileMetaInformationGroupLength" not in meta or not all(map(uids.is_uid, found)):
        return None
    return tuple(map(str, found)) if uids.is_storage(found[0]) else None


SAMPLES = {path.name: found for path in sorted(FILES.glob("*.dcm")) if (found := composite(path))}


def body(path):
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]
