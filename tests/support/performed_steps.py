"""Modality performed procedure steps, as a modality creates and ends them."""

from support.datasets import dataset


def created(**changes):
    """Return what a modality creates: all that Table F.7.2-1 requires of it."""
    scheduled = dataset(
        StudyInstanceUID="1.2.3",
        ReferencedStudySequence=[],
        AccessionNumber="",
        RequestedProcedureID="",
        RequestedProcedureDescription="",
        ScheduledProcedureStepID="",
        ScheduledProcedureStepDescription="",
        ScheduledProtocolCodeSequence=[],
    )
    values = {
        "ScheduledStepAttributesSequence": [scheduled],
        "PatientName": "Doe^John",
        "PatientID": "1",
        "PatientBirthDate": "",
        "PatientSex": "",
        "ReferencedPatientSequence": [],
        "PerformedProcedureStepID": "P1",
        "PerformedStationAETitle": "CT1",
        "PerformedStationName": "",
        "PerformedLocation": "",
        "PerformedProcedureStepStartDate": "20240131",
        "PerformedProcedureStepStartTime": "1000",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "PerformedProcedureStepDescription": "",
        "PerformedProcedureTypeDescription": "",
        "ProcedureCodeSequence": [],
        "PerformedProcedureStepEndDate": "",
        "PerformedProcedureStepEndTime": "",
        "Modality": "CT",
        "StudyID": "",
        "PerformedProtocolCodeSequence": [],
        "PerformedSeriesSequence": [],
    }
    return dataset(**{**values, **changes})


def ended(status="COMPLETED", **changes):
    series = dataset(
        PerformingPhysicianName="",
        ProtocolName="Thorax",
        OperatorsName="",
        SeriesInstanceUID="1.2.3.4",
        SeriesDescription="",
        RetrieveAETitle="",
        ReferencedImageSequence=[],
        ReferencedNonImageCompositeSOPInstanceSequence=[],
    )
    values = {
        "PerformedProcedureStepStatus": status,
        "PerformedProcedureStepEndDate": "20240131",
        "PerformedProcedureStepEndTime": "1030",
        "PerformedSeriesSequence": [series],
    }
    return dataset(**{**values, **changes})
