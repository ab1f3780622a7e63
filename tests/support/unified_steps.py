"""Unified procedure steps, as somebody creates and performs them."""

from support.datasets import dataset

OURS, OTHER = "1.2.3", "1.2.4"  # Transaction UIDs
PERFORMED = "UnifiedProcedureStepPerformedProcedureSequence"
PROGRESS = "ProcedureStepProgressInformationSequence"


def code(value="C1"):
    return dataset(CodeValue=value, CodingSchemeDesignator="99T", CodeMeaning="a code")


def references():
    reference = dataset(ReferencedSOPClassUID="1.2", ReferencedSOPInstanceUID="1.2.5")
    return dataset(TypeOfInstances="DICOM", ReferencedSOPSequence=[reference])


def pushed(**changes):
    """Return what somebody creates: all that Table CC.2.5-3 requires of it."""
    values = {
        "TransactionUID": "",
        "ScheduledProcedureStepPriority": "MEDIUM",
        "ProcedureStepLabel": "Segment",
        "WorklistLabel": "",
        "ScheduledProcessingParametersSequence": [],
        "ScheduledStationNameCodeSequence": [],
        "ScheduledStationClassCodeSequence": [],
        "ScheduledStationGeographicLocationCodeSequence": [],
        "ScheduledProcedureStepStartDateTime": "20240131100000",
        "ScheduledWorkitemCodeSequence": [code()],
        "CommentsOnTheScheduledProcedureStep": "",
        "InputReadinessState": "READY",
        "InputInformationSequence": [references()],
        "PatientName": "Müller^Ute",
        "PatientID": "1",
        "IssuerOfPatientID": "",
        "IssuerOfPatientIDQualifiersSequence": [],
        "OtherPatientIDsSequence": [],
        "PatientBirthDate": "",
        "PatientSex": "",
        "AdmissionID": "",
        "IssuerOfAdmissionIDSequence": [],
        "AdmittingDiagnosesDescription": "",
        "AdmittingDiagnosesCodeSequence": [],
        "ReferencedRequestSequence": [],
        "ProcedureStepState": "SCHEDULED",
        "ProcedureStepProgressInformationSequence": [],
        "UnifiedProcedureStepPerformedProcedureSequence": [],
    }
    return dataset(**{**values, **changes})


def performed(**changes):
    values = {
        "PerformedStationNameCodeSequence": [code()],
        "PerformedProcedureStepStartDateTime": "20240131100000",
        "PerformedWorkitemCodeSequence": [code()],
        "PerformedProcedureStepEndDateTime": "20240131103000",
        "OutputInformationSequence": [references()],
    }
    return [dataset(**{**values, **changes})]
