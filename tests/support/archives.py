"""Instances for an archive, and what is in it."""

from pydicom import Dataset
from support.names import CT

_UNIQUE = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")


def image(number=1, *, study="1.1", series="1.2", sop_class=CT, **values):
    """Return a small instance; a value of None leaves its element out."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"1.3.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    known = {"PatientID": "777", "PatientName": "Doe^John", "StudyDate": "20240105"}
    for keyword, value in (known | {"Modality": "CT"} | values).items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def found(client, level="IMAGE", root="PatientRoot", **keys):
    """Return the answers to a query at a level."""
    asked = dict.fromkeys(_UNIQUE[: _LEVELS.index(level) + 1], "")
    return list(client.find({"QueryRetrieveLevel": level, **asked, **keys}, root))


def uids_in(client, **keys):
    """Return the SOP Instance UIDs in the index."""
    return {str(row.SOPInstanceUID) for row in found(client, **keys)}


def fetched(client, level, root="PatientRoot", **keys):
    """Return the SOP Instance UIDs that a C-GET brings."""
    asked = {"QueryRetrieveLevel": level, **keys}
    return {one.sop_instance for one in client.get(asked, root, storage=[CT])}


def only_folder(test):
    """Mark a test that looks into the folder of the files."""
    test.only_folder = True
    return test


def only_bucket(test):
    """Mark a test of an archive in a bucket."""
    test.only_bucket = True
    return test


def only_postgresql(test):
    """Mark a test of an index in PostgreSQL."""
    test.only_postgresql = True
    return test


def only_sqlite(test):
    """Mark a test that looks into SQLite's file, and has nothing to ask of another engine."""
    test.only_sqlite = True
    return test
