"""The patients and studies that an audit event of the archive is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pacsroute.archive.database import Database
from pacsroute.archive.entry import Entry
from pacsroute.audit.event import Subject

_STUDY = (
    "SELECT PatientID, IssuerOfPatientID, PatientName, AccessionNumber FROM study"
    " WHERE StudyInstanceUID = ?"
)


def subjects_of(database: Database, rows: Iterable[Any]) -> tuple[Subject, ...]:
    """Return the subjects of instances, from rows with StudyInstanceUID and SOPClassUID."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row["StudyInstanceUID"], Counter())[row["SOPClassUID"]] += 1
    return tuple(subject_of(database, study, count) for study, count in counts.items())


def subject_of_entry(entry: Entry) -> Subject:
    """Return the subject of an instance that is being stored."""
    study = entry.study
    return Subject(
        patient_id=study["PatientID"] or "",
        issuer=study["IssuerOfPatientID"] or "",
        patient_name=study["PatientName"] or "",
        study=entry.study_instance,
        accession_number=study["AccessionNumber"] or "",
        sop_classes={str(entry.image["SOPClassUID"]): 1},
    )


def subject_of(database: Database, study: str, sop_classes: Mapping[str, int]) -> Subject:
    """Return the data of a study in the index."""
    for row in database.rows(_STUDY, [study]):
        return Subject(
            patient_id=row["PatientID"] or "",
            issuer=row["IssuerOfPatientID"] or "",
            patient_name=row["PatientName"] or "",
            study=study,
            accession_number=row["AccessionNumber"] or "",
            sop_classes=dict(sop_classes),
        )
    return Subject(study=study, sop_classes=dict(sop_classes))
