"""The row of one instance in the index."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pacsroute.archive.model import TABLES, UNIQUE, Model
from pacsroute.archive.values import Value, Values
from pacsroute.errors import Failure
from pacsroute.status import IDENTIFIER_MISMATCH

Row = dict[str, Any]
_ABSENT = Value()


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
    def values(self) -> Mapping[str, Any]:
        """The attributes of all levels."""
        return ChainMap(self.study, self.series, self.image)

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
    values: Values,
    *,
    transfer_syntax: str,
    calling_ae: str,
    received: int,
    default_issuer: str,
) -> Entry:
    """Return the entry of an instance with these values.

    Raises
    ------
    Failure
        With 0xA900 if it lacks a UID of its study, series or instance.
    """
    rows = {table: _row(model, table, values) for table in TABLES}
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


def _row(model: Model, table: str, values: Values) -> Row:
    row: Row = {}
    for key in model.of_table[table]:
        value = values.get(key, _ABSENT)
        if key in model.names:
            row[key], row[f"{key}_key"] = value.name, value.matched
        else:
            row[key] = value.matched
    return row
