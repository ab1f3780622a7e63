"""Corrections of a study: sent instances have the corrected values; the files do not change.

Each sent instance has its earlier values in the Original Attributes Sequence (0400,0561).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

from pydicom import Dataset
from pydicom.sequence import Sequence

from pacsroute import matching
from pacsroute.archive.database import Database, Transaction
from pacsroute.archive.entry import Row, patient_of
from pacsroute.archive.model import Model
from pacsroute.dataset.encoding import encode
from pacsroute.errors import DataSetError
from pacsroute.instances.instance import Instance

_UTF_8 = "ISO_IR 192"


class Correction(NamedTuple):
    """The corrected and the original value of an attribute of a study."""

    study: str
    keyword: str
    value: str
    original: str | None
    at: str
    by: str
    reason: str


def check_values(model: Model, values: Mapping[str, str]) -> None:
    """Raise a `ValueError` for a value that no study of the index can have."""
    known = {*model.keys["PATIENT"], *model.keys["STUDY"]} - {"StudyInstanceUID"}
    if not values:
        raise ValueError("correct() needs an attribute of patient or study, such as PatientID=")
    for keyword, value in values.items():
        if keyword not in known:
            raise ValueError(f"{keyword} is not an attribute of patient or study in the index")
        if not isinstance(value, str) or (value and not _is_of_its_vr(keyword, value)):
            raise ValueError(f"{keyword} cannot have this value")


def _is_of_its_vr(keyword: str, value: str) -> bool:
    return matching.stored(keyword, value) is not None


# ------------------------------------------------------------- in the index


def carry_out(db: Transaction, decision: dict[str, Any]) -> None:
    """Record a correction, and correct the row of its study, if it has one."""
    study = decision["study"]
    row = db.execute("SELECT * FROM study WHERE StudyInstanceUID = ?", [study]).fetchone()
    for keyword, value in decision["values"].items():
        there = db.execute(f"{_OF_STUDY} AND keyword = ?", [study, keyword]).fetchone()
        original = there["original"] if there else decision["originals"].get(keyword)
        db.execute(
            f"INSERT INTO correction VALUES (?, ?, ?, ?, ?, ?, ?) {_LATER}",
            [study, keyword, value, original, decision["at"], decision["by"], decision["reason"]],
        )
    if row is not None:
        corrected = apply(db, dict(row))
        corrected.pop("id")
        names = ", ".join(f"{column} = ?" for column in corrected)
        db.execute(f"UPDATE study SET {names} WHERE id = ?", [*corrected.values(), row["id"]])


def apply(db: Transaction, study: Row) -> Row:
    """Return the row of a study with its corrections."""
    corrected = dict(study)
    for one in of_study(db, study["StudyInstanceUID"]):
        value = matching.stored(one.keyword, one.value) if one.value else None
        if f"{one.keyword}_key" in corrected:
            corrected[f"{one.keyword}_key"] = value
            corrected[one.keyword] = one.value or None
        else:
            empty = "" if one.keyword in ("StudyDate", "StudyTime") else None
            corrected[one.keyword] = value if value is not None else empty
    corrected["patient"] = patient_of(corrected)
    return corrected


def undone(db: Transaction, study: Row) -> Row:
    """Return the row of a study before its corrections, as in its instances."""
    row = dict(study)
    for one in of_study(db, row["StudyInstanceUID"]):
        row[one.keyword] = one.original
        if f"{one.keyword}_key" in row:
            key = matching.stored(one.keyword, one.original) if one.original else None
            row[f"{one.keyword}_key"] = key
    return row


def of_study(db: Transaction, study: str) -> list[Correction]:
    """Return the corrections of a study."""
    return [Correction(*row) for row in db.execute(_OF_STUDY, [study])]


_LATER = (
    "ON CONFLICT (StudyInstanceUID, keyword) DO UPDATE SET value = excluded.value,"
    " at = excluded.at, by = excluded.by, reason = excluded.reason"
)
_OF_STUDY = "SELECT * FROM correction WHERE StudyInstanceUID = ?"


def of_studies(database: Database, studies: Iterable[str]) -> dict[str, list[Correction]]:
    """Return the corrections of studies by UID; studies without any are left out."""
    found: dict[str, list[Correction]] = {}
    for study in studies:
        for row in database.rows(_OF_STUDY, [study]):
            found.setdefault(study, []).append(Correction(*row))
    return found


# ------------------------------------------------------------- in sent instances


class Corrected(Instance):
    """An instance of a corrected study: the file as received, with the corrected values."""

    def __init__(self, original: Instance, corrections: list[Correction], system: str) -> None:
        super().__init__(
            b"",
            sop_class=original.sop_class,
            sop_instance=original.sop_instance,
            transfer_syntax=original.transfer_syntax,
        )
        self._original = original
        self._corrections = corrections
        self._system = system

    @property
    def dataset(self) -> Dataset:
        """The data set, corrected."""
        return correct(self._original.dataset, self._corrections, self._system)

    def open(self, *, whole: bool = True) -> BinaryIO:
        """Return a binary file with the bytes of the corrected data set."""
        return io.BytesIO(encode(self.dataset, self.transfer_syntax))


def correct(dataset: Dataset, corrections: list[Correction], system: str) -> Dataset:
    """Return a data set with its corrected and its original values (PS3.3 C.12.1).

    Parameters
    ----------
    dataset : pydicom.Dataset
        The data set; changed in place.
    corrections : list of Correction
        The corrections of its study.
    system : str
        The name of the modifying system in the item.
    """
    before = Dataset()
    for one in corrections:
        if one.keyword in dataset:
            there = dataset[one.keyword]
            before.add_new(there.tag, there.VR, there.value)
        else:
            setattr(before, one.keyword, None)
    values = {one.keyword: one.value for one in corrections}
    if not "".join(values.values()).isascii():
        _in_utf_8(dataset)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    last = max(corrections, key=lambda one: one.at)
    item = Dataset()
    item.ModifiedAttributesSequence = Sequence([before])
    item.AttributeModificationDateTime = _moment(last.at)
    item.ModifyingSystem = system[:64]
    item.SourceOfPreviousValues = None
    item.ReasonForTheAttributeModification = "CORRECT"
    items = dataset.get("OriginalAttributesSequence") or []
    dataset.OriginalAttributesSequence = Sequence([*items, item])
    return dataset


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y%m%d%H%M%S+0000")


def _in_utf_8(dataset: Dataset) -> None:
    """Decode all text of a data set, so that it can be written in UTF-8."""
    if dataset.get("SpecificCharacterSet") == _UTF_8:
        return
    try:
        for _ in dataset.iterall():
            pass
    except Exception as error:  # noqa: BLE001 - pydicom raises what it likes for broken values
        raise DataSetError(f"it cannot be corrected: {type(error).__name__}") from None
    dataset.SpecificCharacterSet = _UTF_8
