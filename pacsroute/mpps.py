"""The rules of the Modality Performed Procedure Step (PS3.4 §F.7.2).

`check_create` and `check_set` check an N-CREATE or N-SET, and raise the `Failure` that the standard
demands. The handler keeps the steps:

>>> from pacsroute import App, Failure, mpps
>>> app, steps = App("RIS"), {}
>>> @app.n_create("MPPS")
... def create(request):
...     mpps.check_create(request.attribute_list)
...     steps[request.sop_instance] = request.attribute_list
>>> @app.n_set("MPPS")
... def update(request):
...     step = steps.get(request.sop_instance)
...     if step is None:
...         raise Failure(0x0112)
...     mpps.check_set(step, request.modification_list)
...     step.update(request.modification_list)
"""

from __future__ import annotations

from pydicom import Dataset

from pacsroute.dataset import attribute_types
from pacsroute.dataset.storable import check_storable
from pacsroute.errors import Failure
from pacsroute.status import INVALID_ATTRIBUTE_VALUE, PROCESSING_FAILURE

__all__ = ["FINAL", "IN_PROGRESS", "check_create", "check_set"]

IN_PROGRESS = "IN PROGRESS"
FINAL = frozenset({"COMPLETED", "DISCONTINUED"})

_STATUS = "PerformedProcedureStepStatus"
_CREATE, _SET, _FINAL = 0, 1, 2

# PS3.4 Table F.7.2-1 without its optional rows: the type of an attribute in an N-CREATE, in an
# N-SET ("-" is not allowed there) and in the final state. Attributes inside code sequences are not
# checked.
_TABLE = """
ScheduledStepAttributesSequence         1 - 3
>StudyInstanceUID                       1 - 3
>ReferencedStudySequence                2 - 3
>>ReferencedSOPClassUID                 1 - 3
>>ReferencedSOPInstanceUID              1 - 3
>AccessionNumber                        2 - 3
>RequestedProcedureID                   2 - 3
>RequestedProcedureDescription          2 - 3
>ScheduledProcedureStepID               2 - 3
>ScheduledProcedureStepDescription      2 - 3
>ScheduledProtocolCodeSequence          2 - 3
PatientName                             2 - 3
PatientID                               2 - 3
IssuerOfPatientID                       3 - 3
IssuerOfPatientIDQualifiersSequence     3 - 3
OtherPatientIDsSequence                 3 - 3
PatientBirthDate                        2 - 3
PatientSex                              2 - 3
ReferencedPatientSequence               2 - 3
>ReferencedSOPClassUID                  1 - 3
>ReferencedSOPInstanceUID               1 - 3
AdmissionID                             3 - 3
IssuerOfAdmissionIDSequence             3 - 3
ServiceEpisodeID                        3 - 3
IssuerOfServiceEpisodeIDSequence        3 - 3
ServiceEpisodeDescription               3 - 3
PerformedProcedureStepID                1 - 3
PerformedStationAETitle                 1 - 3
PerformedStationName                    2 - 3
PerformedLocation                       2 - 3
PerformedProcedureStepStartDate         1 - 3
PerformedProcedureStepStartTime         1 - 3
PerformedProcedureStepStatus            1 3 1
PerformedProcedureStepDescription       2 3 3
PerformedProcedureTypeDescription       2 3 3
ProcedureCodeSequence                   2 3 3
PerformedProcedureStepEndDate           2 3 1
PerformedProcedureStepEndTime           2 3 1
Modality                                1 - 3
StudyID                                 2 - 3
PerformedProtocolCodeSequence           2 3 3
PerformedSeriesSequence                 2 3 1
>PerformingPhysicianName                2 2 2
>ProtocolName                           1 1 1
>OperatorsName                          2 2 2
>SeriesInstanceUID                      1 1 1
>SeriesDescription                      2 2 2
>RetrieveAETitle                        2 2 2
>ReferencedImageSequence                2 2 3
>>ReferencedSOPClassUID                 1 1 3
>>ReferencedSOPInstanceUID              1 1 3
>ReferencedNonImageCompositeSOPInstanceSequence 2 2 3
>>ReferencedSOPClassUID                 1 1 3
>>ReferencedSOPInstanceUID              1 1 3
"""
_RULES = attribute_types.rules(_TABLE)


def check_create(attribute_list: Dataset, *, strict: bool = True) -> None:
    """Raise a `Failure` if an N-CREATE must be refused (PS3.4 §F.7.2.1).

    Parameters
    ----------
    attribute_list : pydicom.Dataset
        The attributes of the new step.
    strict : bool
        Whether every attribute that Table F.7.2-1 requires must be present, or only the status.

    Raises
    ------
    Failure
        0x0120 for a missing required attribute, 0x0121 for its missing value (§5.4.2.1);
        0x0106 for a status other than IN PROGRESS (§F.7.2.1.3), or a value that could not be given
        back once it is kept.

    Examples
    --------
    >>> step = Dataset()
    >>> step.PerformedProcedureStepStatus = "COMPLETED"
    >>> check_create(step)
    Traceback (most recent call last):
    pacsroute.errors.Failure: 0x0106 a step must be created IN PROGRESS
    """
    check_storable(attribute_list)
    attribute_types.require(_STATUS, "1", attribute_list)
    if _status(attribute_list) != IN_PROGRESS:
        raise attribute_types.failure(
            INVALID_ATTRIBUTE_VALUE, [_STATUS], "a step must be created IN PROGRESS"
        )
    if strict:
        attribute_types.check(attribute_list, _CREATE, _RULES)


def check_set(stored: Dataset, modification_list: Dataset, *, strict: bool = True) -> None:
    """Raise a `Failure` if an N-SET must be refused (PS3.4 §F.7.2.2).

    An attribute that may not be set is accepted if its value does not change, because some
    modalities send everything again. So is an attribute that the N-CREATE did not create.

    Parameters
    ----------
    stored : pydicom.Dataset
        The stored step. It is not changed.
    modification_list : pydicom.Dataset
        The attributes to change.
    strict : bool
        Whether Table F.7.2-1 is enforced, its final state included, or only the status.

    Raises
    ------
    Failure
        0x0110 with the Error ID 0xA710 if the step is COMPLETED or DISCONTINUED already
        (§F.7.2.2.4); 0x0106 for an unknown status, an attribute that may not be set, or a value
        that could not be returned later; 0x0120 or 0x0121 for what is missing in an
        item of a sequence, or for the final state.

    Examples
    --------
    >>> step, end = Dataset(), Dataset()
    >>> step.PerformedProcedureStepStatus = "IN PROGRESS"
    >>> end.PerformedProcedureStepStatus = "COMPLETED"
    >>> check_set(step, end)
    Traceback (most recent call last):
    pacsroute.errors.Failure: 0x0120 PerformedProcedureStepEndDate is missing
    """
    if _status(stored) != IN_PROGRESS:
        comment = "Performed Procedure Step Object may no longer be updated"
        raise Failure(PROCESSING_FAILURE, comment, ErrorID=0xA710)
    check_storable(modification_list)
    status = IN_PROGRESS
    if _STATUS in modification_list:
        attribute_types.require(_STATUS, "1", modification_list)
        status = _status(modification_list)
    if status != IN_PROGRESS and status not in FINAL:
        raise attribute_types.failure(
            INVALID_ATTRIBUTE_VALUE, [_STATUS], "no such status of a step"
        )
    if not strict:
        return
    attribute_types.check_settable(stored, modification_list, _SET, _RULES)
    attribute_types.check(modification_list, _SET, _RULES)
    if status in FINAL:
        attribute_types.check(modification_list, _FINAL, _RULES, stored)


def _status(step: Dataset) -> str:
    return str(step.get(_STATUS) or "").strip()
