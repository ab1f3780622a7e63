"""The operations on a Unified Procedure Step (PS3.4 §CC.1, §CC.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from datetime import datetime

from pydicom import Dataset

from pacsroute import uids
from pacsroute.dataset import attribute_types
from pacsroute.dataset.storable import check_storable
from pacsroute.errors import Failure
from pacsroute.status import INVALID_ARGUMENT_VALUE

SCHEDULED, IN_PROGRESS = "SCHEDULED", "IN PROGRESS"
COMPLETED, CANCELED = "COMPLETED", "CANCELED"
CHANGE_STATE, REQUEST_CANCEL = 1, 2

# The attributes that decide what to do.
STATE, TRANSACTION, READINESS = "ProcedureStepState", "TransactionUID", "InputReadinessState"
PROGRESS = "ProcedureStepProgressInformationSequence"
REASONS = ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence")

# PS3.4 Table CC.1.1-2: what a request meets in each state, "" being no such step. "with" is with
# the correct Transaction UID; "final" is ok where the requirements of the final state are met.
_STATES = ("", SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED)
_TRANSITIONS = """
N-CREATE              ok    0111  0111   0111  0111
IN PROGRESS with      C307  ok    C302   C300  C300
IN PROGRESS without   C307  C301  C301   C301  C301
SCHEDULED with        C307  C303  C303   C303  C303
SCHEDULED without     C307  C303  C303   C303  C303
COMPLETED with        C307  C310  final  B306  C300
COMPLETED without     C307  C301  C301   C301  C301
Request Cancel        C307  ok    ok     C311  B304
CANCELED with         C307  C310  final  C300  B304
CANCELED without      C307  C301  C301   C301  C301
"""
_ANSWERS = {
    row.strip(): dict(zip(_STATES, cells, strict=True))
    for row, *cells in (line.rsplit(None, 5) for line in _TRANSITIONS.strip().split("\n"))
}

# PS3.4 Table CC.2.5-3 without its optional rows: the type that an attribute has for the SCU in an
# N-CREATE and in an N-SET ("-" is not allowed there), and its final state code. Conditions nobody
# can check make a 3 of a 1C or 2C, and an O of an RC; so is an R of what the performer cannot
# set. Codes and content items are left to their reader.
_CREATE, _SET, _FINAL = 0, 1, 2
_TABLE = """
SOPClassUID                                     3 - O
SOPInstanceUID                                  3 - O
ScheduledProcedureStepPriority                  1 3 R
ScheduledProcedureStepModificationDateTime      3 3 O
ProcedureStepLabel                              1 3 O
WorklistLabel                                   2 3 O
ScheduledProcessingParametersSequence           2 3 O
ScheduledStationNameCodeSequence                2 3 O
ScheduledStationClassCodeSequence               2 3 O
ScheduledStationGeographicLocationCodeSequence  2 3 O
ScheduledHumanPerformersSequence                3 3 O
>HumanPerformerCodeSequence                     1 1 O
>HumanPerformerName                             1 1 O
>HumanPerformerOrganization                     1 1 O
ScheduledProcedureStepStartDateTime             1 3 R
ScheduledWorkitemCodeSequence                   2 3 O
CommentsOnTheScheduledProcedureStep             2 3 O
InputReadinessState                             1 3 R
InputInformationSequence                        2 3 O
>TypeOfInstances                                1 1 O
>ReferencedSOPSequence                          1 1 O
>>ReferencedSOPClassUID                         1 1 O
>>ReferencedSOPInstanceUID                      1 1 O
PatientName                                     2 - O
PatientID                                       3 - O
IssuerOfPatientID                               2 - O
IssuerOfPatientIDQualifiersSequence             2 - O
>UniversalEntityID                              2 - O
>IdentifierTypeCode                             2 - O
>AssigningFacilitySequence                      2 - O
>AssigningJurisdictionCodeSequence              2 - O
>AssigningAgencyOrDepartmentCodeSequence        2 - O
OtherPatientIDsSequence                         2 3 O
>PatientID                                      1 1 O
PatientBirthDate                                2 - O
PatientSex                                      2 - O
AdmissionID                                     2 - O
IssuerOfAdmissionIDSequence                     2 - O
AdmittingDiagnosesDescription                   2 - O
AdmittingDiagnosesCodeSequence                  2 - O
ReferencedRequestSequence                       2 - O
>StudyInstanceUID                               1 - O
>AccessionNumber                                2 - O
>IssuerOfAccessionNumberSequence                2 - O
>OrderPlacerIdentifierSequence                  2 - O
>OrderFillerIdentifierSequence                  2 - O
>RequestedProcedureID                           2 - O
>RequestedProcedureDescription                  2 - O
>RequestedProcedureCodeSequence                 2 - O
ReplacedProcedureStepSequence                   3 - O
>ReferencedSOPClassUID                          1 - O
>ReferencedSOPInstanceUID                       1 - O
ProcedureStepState                              1 - R
ProcedureStepProgressInformationSequence        2 3 X
>ProcedureStepCommunicationsURISequence         3 3 O
>>ContactURI                                    1 1 O
>ProcedureStepCancellationDateTime              3 3 X
>ProcedureStepDiscontinuationReasonCodeSequence 3 3 X
UnifiedProcedureStepPerformedProcedureSequence  2 3 P
>PerformedStationNameCodeSequence               3 3 P
>PerformedProcedureStepStartDateTime            3 3 P
>PerformedWorkitemCodeSequence                  3 3 P
>PerformedProcedureStepEndDateTime              3 3 P
>OutputInformationSequence                      3 2 P
>>TypeOfInstances                               1 1 O
>>ReferencedSOPSequence                         1 1 O
>>>ReferencedSOPClassUID                        1 1 O
>>>ReferencedSOPInstanceUID                     1 1 O
"""
_RULES = attribute_types.rules(_TABLE)
_NEEDED = {COMPLETED: "RP", CANCELED: "RX"}  # the codes of PS3.4 Table CC.2.5-1
_NOT_TOLD = frozenset({TRANSACTION, "SOPClassUID", "SOPInstanceUID"})
_CREATED_EMPTY = (TRANSACTION, PROGRESS, "UnifiedProcedureStepPerformedProcedureSequence")


def check_create(stored: Dataset | None, attribute_list: Dataset, *, strict: bool = True) -> None:
    """Raise a `Failure` if an N-CREATE must be refused (PS3.4 §CC.2.5).

    A missing Transaction UID is accepted like the empty one that the standard demands.

    Parameters
    ----------
    stored : pydicom.Dataset or None
        The step of that SOP Instance UID, if there is one. This applies to all functions here.
    attribute_list : pydicom.Dataset
        The attributes of the new step.
    strict : bool
        Whether every attribute that Table CC.2.5-3 requires must be present, or only the state.

    Raises
    ------
    Failure
        0x0111 if there is such a step; 0xC309 for a state other than SCHEDULED; 0x0106 for a value
        that only its performer gives, or that could not be returned later; 0x0120 or
        0x0121 for a required attribute, or the value of one, that is missing (§5.4.2.1).

    Examples
    --------
    >>> step = Dataset()
    >>> step.ProcedureStepState = "COMPLETED"
    >>> check_create(None, step)
    Traceback (most recent call last):
    pacsroute.errors.Failure: 0xC309
    """
    _answer("N-CREATE", stored)
    check_storable(attribute_list)
    if text(attribute_list, STATE) != SCHEDULED:
        raise Failure(0xC309)
    given = [keyword for keyword in _CREATED_EMPTY if attribute_list.get(keyword)]
    if given:
        raise attribute_types.failure(0x0106, given, f"must be created empty: {', '.join(given)}")
    if strict:
        attribute_types.check(attribute_list, _CREATE, _RULES)


def check_set(stored: Dataset | None, modification_list: Dataset, *, strict: bool = True) -> None:
    """Raise a `Failure` if an N-SET must be refused (PS3.4 §CC.2.6).

    An attribute that may not be set is accepted if its value does not change.

    Parameters
    ----------
    stored : pydicom.Dataset or None
        The stored step, with its Transaction UID. It is not changed.
    modification_list : pydicom.Dataset
        The attributes to change.
    strict : bool
        Whether Table CC.2.5-3 is enforced, or only the state and the Transaction UID.

    Raises
    ------
    Failure
        0xC307 without a step; 0xC300 for one that is COMPLETED or CANCELED; 0xC301 without the
        Transaction UID of one that is IN PROGRESS; 0xC310 with a Transaction UID for one that is
        SCHEDULED; 0xC303 for SCHEDULED, and 0x0106 for another state, an attribute that may not
        be set, or a value that could not be returned later; 0x0120 or 0x0121 for what
        is missing.

    Examples
    --------
    >>> step, progress = Dataset(), Dataset()
    >>> step.ProcedureStepState, step.TransactionUID = "IN PROGRESS", "1.2.3"
    >>> check_set(step, progress)
    Traceback (most recent call last):
    pacsroute.errors.Failure: 0xC301
    """
    if stored is None:
        raise Failure(0xC307)
    check_storable(modification_list)
    state, transaction = text(stored, STATE), text(modification_list, TRANSACTION)
    if state in (COMPLETED, CANCELED):
        raise Failure(0xC300)
    if state == IN_PROGRESS and transaction != text(stored, TRANSACTION):
        raise Failure(0xC301)
    if state == SCHEDULED and transaction:
        raise Failure(0xC310)
    wanted = text(modification_list, STATE) if STATE in modification_list else state
    if wanted != state:
        if wanted == SCHEDULED:
            raise Failure(0xC303)
        raise attribute_types.failure(0x0106, [STATE], "the state can be changed by N-ACTION only")
    if strict:
        attribute_types.check_settable(stored, modification_list, _SET, _RULES)
        attribute_types.check(modification_list, _SET, _RULES)
        for keyword, (types, _) in _RULES.items():
            if types[_CREATE] == "1" and keyword in modification_list:
                attribute_types.require(keyword, "1", modification_list)


def check_state(
    stored: Dataset | None, action_information: Dataset, *, strict: bool = True
) -> None:
    """Raise a `Failure` if an N-ACTION may not change the state (PS3.4 §CC.2.1).

    Parameters
    ----------
    stored : pydicom.Dataset or None
        The step as it is, with its Transaction UID.
    action_information : pydicom.Dataset
        The requested state, and the Transaction UID.
    strict : bool
        Whether a step must meet the requirements of its final state (Table CC.2.5-3).

    Raises
    ------
    Failure
        As in Table CC.1.1-2: 0xC300 to 0xC304, 0xC307, 0xC310; the warnings 0xB304 and 0xB306 if
        the step is in the requested final state already. 0x0115 for a state that does not exist, or
        a value that could not be returned later.

    Examples
    --------
    >>> step, asked = Dataset(), Dataset()
    >>> step.ProcedureStepState = "SCHEDULED"
    >>> asked.ProcedureStepState, asked.TransactionUID = "COMPLETED", "1.2.3"
    >>> check_state(step, asked)
    Traceback (most recent call last):
    pacsroute.errors.Failure: 0xC310
    """
    check_storable(action_information, INVALID_ARGUMENT_VALUE)
    wanted, transaction = (text(action_information, name) for name in (STATE, TRANSACTION))
    if wanted not in _STATES[1:]:
        raise Failure(INVALID_ARGUMENT_VALUE, f"{STATE} is not a state of a UPS")
    if transaction and not uids.is_uid(transaction):
        raise Failure(INVALID_ARGUMENT_VALUE, f"{TRANSACTION} is not a UID")
    locked_by = "" if stored is None else text(stored, TRANSACTION)
    claims = stored is not None and text(stored, STATE) == SCHEDULED
    correct = bool(transaction) and (claims or transaction == locked_by)
    answer = _answer(f"{wanted} {'with' if correct else 'without'}", stored)
    if answer == "final" and strict:
        assert stored is not None
        missing = list(_missing(stored, _NEEDED[wanted], _RULES))
        if missing:
            raise Failure(0xC304, f"it takes {', '.join(missing)}")


def check_cancel(stored: Dataset | None, action_information: Dataset | None = None) -> None:
    """Raise a `Failure` if a cancellation may not be requested by N-ACTION (PS3.4 §CC.2.2).

    If it may, a step that is SCHEDULED must become IN PROGRESS and then CANCELED (see
    `discontinue`); for one that is IN PROGRESS, report `cancel_requested`. The handler may refuse
    with 0xC312 if no subscriber can be notified, and with 0xC313 if it is itself the performer
    and does not want to cancel.

    Parameters
    ----------
    stored : pydicom.Dataset or None
        The step as it is.
    action_information : pydicom.Dataset, optional
        The reasons, which are kept with the step or reported.

    Raises
    ------
    Failure
        0xC307 without a step; 0xC311 for one that is COMPLETED; the warning 0xB304 for one that
        is CANCELED already; 0x0115 for a reason that could not be returned later.
    """
    _answer("Request Cancel", stored)
    if action_information is not None:
        check_storable(action_information, INVALID_ARGUMENT_VALUE)


def discontinue(step: Dataset, why: Dataset | None = None) -> None:
    """Add the attributes that a step needs before it is CANCELED (§CC.2.5.1.1).

    Parameters
    ----------
    step : pydicom.Dataset
        The step. It is changed.
    why : pydicom.Dataset, optional
        The action information of the N-ACTION that asked for it, with its reasons.

    Examples
    --------
    >>> step = Dataset()
    >>> discontinue(step)
    >>> (progress,) = step.ProcedureStepProgressInformationSequence
    >>> progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeMeaning
    'Discontinued for unspecified reason'
    """
    progress = deepcopy(step[PROGRESS].value[0]) if step.get(PROGRESS) else Dataset()
    for keyword in REASONS:
        if why is not None and why.get(keyword):
            progress.add(deepcopy(why[keyword]))
    if not progress.get(REASONS[1]):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = "110513", "DCM"
        code.CodeMeaning = "Discontinued for unspecified reason"
        setattr(progress, REASONS[1], [code])
    if not progress.get("ProcedureStepCancellationDateTime"):
        progress.ProcedureStepCancellationDateTime = now()
    setattr(step, PROGRESS, [progress])


def read(step: Dataset | None, attribute_identifiers: Iterable[int] = ()) -> tuple[int, Dataset]:
    """Return the N-GET response: its status, and the step without its lock (PS3.4 §CC.2.7).

    Parameters
    ----------
    step : pydicom.Dataset or None
        The step as it is.
    attribute_identifiers : iterable of int
        The requested tags; if empty, all attributes that may be returned.

    Returns
    -------
    tuple of int and pydicom.Dataset
        0x0000, or the warning 0x0001 if an attribute does not exist or may not be returned.

    Raises
    ------
    Failure
        0xC307 if the step does not exist.

    Examples
    --------
    >>> step = Dataset()
    >>> step.ProcedureStepState, step.TransactionUID = "IN PROGRESS", "1.2.3"
    >>> status, answer = read(step)
    >>> status, "TransactionUID" in answer
    (0, False)
    """
    if step is None:
        raise Failure(0xC307)
    answer = Dataset()
    answer.update({element.tag: element for element in step if element.keyword not in _NOT_TOLD})
    asked = list(attribute_identifiers)
    missing = any(tag not in answer for tag in asked)
    return (0x0001 if missing else 0x0000), answer


def now() -> str:
    """Return the time as a DT with its offset, for the modification of a step and the like."""
    return datetime.now().astimezone().strftime("%Y%m%d%H%M%S.%f%z")


def _answer(row: str, stored: Dataset | None) -> str:
    """Return ``ok`` or ``final``, or raise the `Failure` of Table CC.1.1-2."""
    answer = _ANSWERS[row]["" if stored is None else text(stored, STATE)]
    if answer not in ("ok", "final"):
        raise Failure(int(answer, 16))
    return answer


def _missing(step: Dataset, codes: str, rules: attribute_types.Rules) -> Iterator[str]:
    """Yield the attributes that need a value for a final state and have none."""
    for keyword, (types, inner) in rules.items():
        if types[_FINAL] in codes and (keyword not in step or step[keyword].is_empty):
            yield keyword
        elif inner:
            for item in step.get(keyword) or ():
                yield from _missing(item, codes, inner)


def text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()
