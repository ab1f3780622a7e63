"""Data sets of a few elements."""

from pydicom import Dataset
from support.names import CT


def dataset(**values):
    """Return a data set; a value of None leaves its element out."""
    ds = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def uid(number):
    return f"1.2.826.0.1.{number}"


def made(number, sop_class=CT):
    """Return a small instance, numbered."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = sop_class, uid(number), "P"
    return ds
