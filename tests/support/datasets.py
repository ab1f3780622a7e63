"""Data sets of a few elements."""

from pydicom import Dataset


def dataset(**values):
    """Return a data set; a value of None leaves its element out."""
    ds = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds
