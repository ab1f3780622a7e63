"""The row of one instance in the index."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pacsroute import matching
from pacsroute.archive.model import TABLES, UNIQUE, Model
from pacsroute.errors import DataSetError, Failure
from pacsroute.status import IDENTIFIER_MISMATCH

if TYPE_CHECKING:
    from pydicom import Dataset

Row = dict[str, Any]
_UNBINDABLE = re.compile("[\0\ud800-\udfff]")  # characters that databases refuse in text


@dataclass
class Entry:
    """The rows of an instance, with further data about it.

    Parameters
    ----------
    study, series, image : dict
        The attributes of each level, in the form for matching.
    transfer_syntax : str
        The UID of the transfer syntax it is stored in.
    calling_ae : str
        The calling AE title.
    received : int
        When it arrived, in nanoseconds since 1970.
    """

    study: Row
    series: Row
    image: Row
    transfer_syntax: str
    calling_ae: str
    received: int

    @property
    def values(self) -> Row:
        """The attributes of all levels."""
        return self.study | self.series | self.image

    @property
    def sop_instance(self) -> str:
        """The SOP Instance UID."""
        return str(self.image["SOPInstanceUID"])

    @property
    def study_instance(self) -> str:
        """The Study Instance UID."""
        return str(self.study["StudyInstanceUID"])


def describe(
    model: Model,
    dataset: Dataset,
    *,
    transfer_syntax: str,
    calling_ae: str,
    received: int,
    default_issuer: str,
) -> Entry:
    """Return the entry of a data set.

    Raises
    ------
    Failure
        With 0xA900 if it lacks a UID of its study, series or instance.
    """
    rows = {
        table: _row(model, [key for level in levels for key in model.keys[level]], dataset)
        for table, levels in TABLES.items()
    }
    for table, level in (("study", "STUDY"), ("series", "SERIES"), ("image", "IMAGE")):
        if not rows[table][UNIQUE[level]]:
            raise Failure(IDENTIFIER_MISMATCH, f"{UNIQUE[level]} is missing")
    study = rows["study"]
    study["IssuerOfPatientID"] = study["IssuerOfPatientID"] or default_issuer or None
    study["patient"] = patient_of(study)
    for key in ("StudyDate", "StudyTime"):  # studies are sorted by them, and NULL is not sorted
        study[key] = study[key] or ""
    return Entry(**rows, transfer_syntax=transfer_syntax, calling_ae=calling_ae, received=received)


def patient_of(study: Row) -> str:
    r"""Return the identity of a patient: the Patient ID and its issuer.

    A study without a Patient ID counts as a separate patient.

    Examples
    --------
    >>> patient_of({"PatientID": "777", "IssuerOfPatientID": "A", "StudyInstanceUID": "1.2"})
    '777\\A'
    >>> patient_of({"PatientID": None, "IssuerOfPatientID": "A", "StudyInstanceUID": "1.2"})
    '\\1.2'
    """
    if study["PatientID"]:
        return f"{study['PatientID']}\\{study['IssuerOfPatientID'] or ''}"
    return f"\\{study['StudyInstanceUID']}"


def _row(model: Model, keys: list[str], dataset: Dataset) -> Row:
    row: Row = {}
    there = dataset.keys()
    for key in keys:
        value = _known(model, key, dataset) if model.tags[key] in there else None
        row[key] = value
        if key in model.names:
            row[f"{key}_key"] = value
            row[key] = _text(dataset, key) if value else None
    return row


def _known(model: Model, key: str, dataset: Dataset) -> Any:
    try:
        value = matching.stored(key, dataset)
    except DataSetError:  # bytes that cannot be decoded count as empty
        return None
    if model.is_whole(key):
        return value if isinstance(value, int) and abs(value) < 2**31 else None
    return value


def _text(dataset: Dataset, key: str) -> str:
    return _UNBINDABLE.sub("", str(dataset.get(key)))
