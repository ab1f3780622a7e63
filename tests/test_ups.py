"""The rules of unified procedure steps, cell by cell of the standard's tables."""

from copy import deepcopy

import pytest
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from support.datasets import dataset
from support.unified_steps import OTHER, OURS, PERFORMED, PROGRESS, code, performed, pushed

from pacsroute import Failure, ups
from pacsroute.status import Status

STATES = (None, "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")


def step(state, **changes):
    """Return a step as a manager has it, with what both final states require."""
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.34.6.1",
        "SOPInstanceUID": "1.2.9",
        "TransactionUID": "" if state == "SCHEDULED" else OURS,
        "WorklistLabel": "A",
        "ScheduledProcedureStepModificationDateTime": "20240131100000",
        "ProcedureStepState": state,
        "UnifiedProcedureStepPerformedProcedureSequence": performed(),
    }
    ds = pushed(**{**values, **changes})
    if "ProcedureStepProgressInformationSequence" not in changes:
        ups.discontinue(ds)
    return ds


def answered(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except Failure as failure:
        return failure.status
    return 0


# PS3.4 Table CC.1.1-2, and a row for N-SET (§CC.2.6.3); the columns are STATES.
CREATE = [0, 0x0111, 0x0111, 0x0111, 0x0111]
CHANGES = {
    ("IN PROGRESS", OURS): [0xC307, 0, 0xC302, 0xC300, 0xC300],
    ("IN PROGRESS", OTHER): [0xC307, 0, 0xC301, 0xC301, 0xC301],
    ("IN PROGRESS", None): [0xC307, 0xC301, 0xC301, 0xC301, 0xC301],
    ("SCHEDULED", OURS): [0xC307, 0xC303, 0xC303, 0xC303, 0xC303],
    ("SCHEDULED", None): [0xC307, 0xC303, 0xC303, 0xC303, 0xC303],
    ("COMPLETED", OURS): [0xC307, 0xC310, 0, 0xB306, 0xC300],
    ("COMPLETED", OTHER): [0xC307, 0xC310, 0xC301, 0xC301, 0xC301],
    ("COMPLETED", None): [0xC307, 0xC301, 0xC301, 0xC301, 0xC301],
    ("CANCELED", OURS): [0xC307, 0xC310, 0, 0xC300, 0xB304],
    ("CANCELED", OTHER): [0xC307, 0xC310, 0xC301, 0xC301, 0xC301],
    ("CANCELED", None): [0xC307, 0xC301, 0xC301, 0xC301, 0xC301],
}
CANCEL = [0xC307, 0, 0, 0xC311, 0xB304]
SET = {
    OURS: [0xC307, 0xC310, 0, 0xC300, 0xC300],
    OTHER: [0xC307, 0xC310, 0xC301, 0xC300, 0xC300],
    None: [0xC307, 0, 0xC301, 0xC300, 0xC300],
}


def cells(rows):
    return [
        (*(row if isinstance(row, tuple) else (row,)), state, expected)
        for row, columns in rows.items()
        for state, expected in zip(STATES, columns, strict=True)
    ]


@pytest.mark.parametrize(("state", "expected"), list(zip(STATES, CREATE, strict=True)))
def test_create_in_each_state(state, expected):
    assert answered(ups.check_create, state and step(state), pushed()) == expected


@pytest.mark.parametrize(("wanted", "transaction", "state", "expected"), cells(CHANGES))
def test_change_of_state_in_each_state(wanted, transaction, state, expected):
    asked = dataset(ProcedureStepState=wanted, TransactionUID=transaction)
    assert answered(ups.check_state, state and step(state), asked) == expected


@pytest.mark.parametrize(("state", "expected"), list(zip(STATES, CANCEL, strict=True)))
def test_request_to_cancel_in_each_state(state, expected):
    assert answered(ups.check_cancel, state and step(state)) == expected


@pytest.mark.parametrize(("transaction", "state", "expected"), cells(SET))
def test_set_in_each_state(transaction, state, expected):
    change = dataset(ProcedureStepLabel="more", TransactionUID=transaction)
    assert answered(ups.check_set, state and step(state), change) == expected


def test_every_status_has_a_name():
    warnings = [0xB300, 0xB301, 0xB304, 0xB305, 0xB306]
    failures = [
        0xC300,
        0xC301,
        0xC302,
        0xC303,
        0xC304,
        0xC307,
        0xC308,
        0xC309,
        *range(0xC310, 0xC316),
    ]
    names = {Status(number).name for number in warnings + failures}
    assert len(names) == len(warnings + failures)
    assert {Status(number).category for number in warnings} == {"Warning"}
    assert {Status(number).category for number in failures} == {"Failure"}
    assert all(len(name) <= 64 for name in names), "it would not fit an Error Comment"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"TransactionUID": None}, 0),
        ({"PatientID": None}, 0),
        ({"TransactionUID": OURS}, 0x0106),
        ({"ProcedureStepState": "IN PROGRESS"}, 0xC309),
        ({"ProcedureStepState": None}, 0xC309),
        ({"ProcedureStepProgressInformationSequence": [Dataset()]}, 0x0106),
        ({"UnifiedProcedureStepPerformedProcedureSequence": performed()}, 0x0106),
        ({"InputReadinessState": ""}, 0x0121),
        ({"ProcedureStepLabel": None}, 0x0120),
        ({"WorklistLabel": None}, 0x0120),
        ({"InputInformationSequence": [Dataset()]}, 0x0120),
        ({"ReferencedRequestSequence": [dataset(StudyInstanceUID="1.2")]}, 0x0120),
    ],
)
def test_n_create(changes, expected):
    assert answered(ups.check_create, None, pushed(**changes)) == expected


def test_only_the_state_is_looked_at_where_that_is_asked_for():
    only = dataset(ProcedureStepState="SCHEDULED")
    assert answered(ups.check_create, None, only) == 0x0120
    assert answered(ups.check_create, None, only, strict=False) == 0
    running = dataset(ProcedureStepState="IN PROGRESS", TransactionUID=OURS)
    change = dataset(TransactionUID=OURS, PatientID="2")
    assert answered(ups.check_set, running, change) == 0x0106
    assert answered(ups.check_set, running, change, strict=False) == 0
    asked = dataset(ProcedureStepState="COMPLETED", TransactionUID=OURS)
    assert answered(ups.check_state, running, asked) == 0xC304
    assert answered(ups.check_state, running, asked, strict=False) == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"UnifiedProcedureStepPerformedProcedureSequence": performed()}, 0),
        ({"CommentsOnTheScheduledProcedureStep": ""}, 0),
        ({"PatientID": "1", "ProcedureStepState": "IN PROGRESS"}, 0),
        ({"PatientID": "2"}, 0x0106),
        ({"ProcedureStepState": "COMPLETED"}, 0x0106),
        ({"ProcedureStepState": "SCHEDULED"}, 0xC303),
        ({"InputReadinessState": ""}, 0x0121),
        ({"InputInformationSequence": [Dataset()]}, 0x0120),
        ({"UnifiedProcedureStepPerformedProcedureSequence": [Dataset()]}, 0x0120),
    ],
)
def test_n_set(changes, expected):
    before = step("IN PROGRESS")
    untouched = deepcopy(before)
    assert answered(ups.check_set, before, dataset(TransactionUID=OURS, **changes)) == expected
    assert before == untouched


def test_refused_attributes_are_named():
    with pytest.raises(Failure, match="PatientSex") as caught:
        ups.check_set(step("IN PROGRESS"), dataset(TransactionUID=OURS, PatientSex="O"))
    listed = {"AttributeIdentifierList": (tag_for_keyword("PatientSex"),)}
    assert caught.value.elements == listed


@pytest.mark.parametrize(
    ("changes", "completed", "canceled"),
    [
        ({}, 0, 0),
        ({"InputReadinessState": ""}, 0xC304, 0xC304),
        ({"SOPInstanceUID": None}, 0, 0),  # not the performer's to give
        ({PERFORMED: []}, 0xC304, 0),
        ({PERFORMED: performed(PerformedProcedureStepEndDateTime="")}, 0xC304, 0),
        ({PERFORMED: performed(OutputInformationSequence=[])}, 0xC304, 0),
        ({PROGRESS: []}, 0, 0xC304),
        ({PROGRESS: [Dataset()]}, 0, 0xC304),
        ({"WorklistLabel": ""}, 0, 0),
    ],
)
def test_requirements_of_the_final_state(changes, completed, canceled):
    for wanted, expected in (("COMPLETED", completed), ("CANCELED", canceled)):
        asked = dataset(ProcedureStepState=wanted, TransactionUID=OURS)
        assert answered(ups.check_state, step("IN PROGRESS", **changes), asked) == expected


@pytest.mark.parametrize("wanted", ["DISCONTINUED", "", None])
def test_unknown_state_is_refused(wanted):
    asked = dataset(ProcedureStepState=wanted, TransactionUID=OURS)
    assert answered(ups.check_state, step("IN PROGRESS"), asked) == 0x0115


def test_discontinue_keeps_known_values():
    progress = dataset(ProcedureStepProgress="50", ReasonForCancellation="ours")
    progress.ProcedureStepCancellationDateTime = "20240131"
    ds = dataset(ProcedureStepProgressInformationSequence=[progress])
    why = dataset(ReasonForCancellation="theirs", ContactURI="tel:1")
    why.ProcedureStepDiscontinuationReasonCodeSequence = [code("110501")]
    ups.discontinue(ds, why)
    (found,) = ds.ProcedureStepProgressInformationSequence
    assert found.ProcedureStepProgress == 50
    assert found.ReasonForCancellation == "theirs"
    assert found.ProcedureStepCancellationDateTime == "20240131"
    assert found.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110501"
    assert "ContactURI" not in found


def test_n_get_hides_the_transaction_uid():
    ds = step("IN PROGRESS")
    status, found = ups.read(ds)
    assert status == 0
    assert {element.keyword for element in ds} - {element.keyword for element in found} == {
        "TransactionUID",
        "SOPClassUID",
        "SOPInstanceUID",
    }
    tags = [tag_for_keyword(name) for name in ("PatientID", "ProcedureStepState")]
    assert ups.read(ds, tags)[0] == 0
    assert ups.read(ds, [*tags, tag_for_keyword("TransactionUID")])[0] == 0x0001
    assert answered(ups.read, None) == 0xC307


# PS3.4 Table CC.2.3-2: not subscribed, subscribed with lock, subscribed without lock.
N, L, U = "none", "locked", "unlocked"
SUBSCRIPTIONS = [
    (ups.GLOBAL, ups.SUBSCRIBE, "TRUE", L, [(L, True), (L, False), (U, False)]),
    (ups.GLOBAL, ups.SUBSCRIBE, "FALSE", U, [(U, False), (L, False), (U, False)]),
    ("1.2.9", ups.SUBSCRIBE, "TRUE", None, [(L, True), (L, True), (L, True)]),
    ("1.2.9", ups.SUBSCRIBE, "FALSE", None, [(U, True), (U, True), (U, True)]),
    ("1.2.9", ups.UNSUBSCRIBE, None, None, [(N, False), (N, False), (N, False)]),
    (ups.GLOBAL, ups.UNSUBSCRIBE, None, N, [(N, False), (N, False), (N, False)]),
    (ups.GLOBAL, ups.SUSPEND, None, N, [(N, False), (L, False), (U, False)]),
]


@pytest.mark.parametrize(("instance", "action", "lock", "globally", "columns"), SUBSCRIPTIONS)
def test_subscriptions(instance, action, lock, globally, columns):
    asked = dataset(ReceivingAE="WATCHER", DeletionLock=lock)
    found = ups.check_subscription(step("SCHEDULED"), instance, action, asked)
    assert found.receiving_ae == "WATCHER"
    assert found.everything is (globally is not None)
    assert globally is None or found.globally == globally
    assert [found.becomes[state] for state in (N, L, U)] == columns
    assert not found.keys


def test_subscriptions_to_new_steps():
    assert ups.INITIAL == {N: (N, False), L: (L, True), U: (U, True)}


def test_filtered_global_subscription():
    asked = dataset(ReceivingAE="WATCHER", DeletionLock="TRUE", PatientID="1")
    found = ups.check_subscription(None, ups.FILTERED_GLOBAL, ups.SUBSCRIBE, asked)
    assert (found.everything, found.globally) == (True, L)
    assert found.keys == dataset(PatientID="1")
    assert "DeletionLock" in asked, "the request is not to be changed"


@pytest.mark.parametrize(
    ("instance", "action", "changes", "expected"),
    [
        (ups.GLOBAL, ups.SUBSCRIBE, {"ReceivingAE": None}, 0x0115),
        (ups.FILTERED_GLOBAL, ups.SUBSCRIBE, {"SpecificCharacterSet": "ISO_IR 100"}, 0x0115),
        (ups.GLOBAL, ups.UNSUBSCRIBE, {"ReceivingAE": ""}, 0x0115),
        (ups.GLOBAL, ups.SUBSCRIBE, {"DeletionLock": None}, 0x0115),
        (ups.FILTERED_GLOBAL, ups.SUBSCRIBE, {}, 0x0115),
        ("1.2.9", ups.SUBSCRIBE, {}, 0xC307),
        ("1.2.9", ups.UNSUBSCRIBE, {}, 0xC307),
        ("1.2.9", ups.SUSPEND, {}, 0xC314),
    ],
)
def test_subscriptions_that_are_refused(instance, action, changes, expected):
    asked = dataset(**{"ReceivingAE": "WATCHER", "DeletionLock": "TRUE", **changes})
    assert answered(ups.check_subscription, None, instance, action, asked) == expected


def kinds(before, after):
    return [event.event_type for event in ups.events(before, after)]


PERFORMER = dataset(
    HumanPerformerCodeSequence=[code("P1")],
    HumanPerformerName="Doe^Jane",
    HumanPerformerOrganization="Clinic",
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"ProcedureStepLabel": "other"}, []),
        ({"ProcedureStepState": "IN PROGRESS"}, [1]),
        ({"InputReadinessState": "INCOMPLETE"}, [1]),
        ({PROGRESS: [dataset(ProcedureStepProgress="10")]}, [3]),
        ({PROGRESS: [dataset(ProcedureStepProgressDescription="half")]}, [3]),
        ({PROGRESS: [dataset(ReasonForCancellation="none")]}, []),
        ({"ScheduledStationNameCodeSequence": [code()]}, [5]),
        ({"ScheduledHumanPerformersSequence": [PERFORMER]}, [5]),
    ],
)
def test_events_of_a_change(changes, expected):
    before = pushed()
    assert kinds(before, pushed(**changes)) == expected
    assert kinds(None, before) == [1]


def test_events_of_a_new_step_with_a_performer():
    station = [code("S1")]
    new = pushed(
        ScheduledStationNameCodeSequence=station, ScheduledHumanPerformersSequence=[PERFORMER]
    )
    state, assigned = ups.events(None, new)
    assert state == (1, dataset(ProcedureStepState="SCHEDULED", InputReadinessState="READY"))
    assert assigned.event_type == 5
    assert assigned.information == dataset(
        ScheduledStationNameCodeSequence=station,
        HumanPerformerCodeSequence=[code("P1")],
        HumanPerformerOrganization="Clinic",
    )


def test_the_state_report_of_what_was_canceled_says_why():
    event = ups.state_report(step("CANCELED"))
    (why,) = event.information.ProcedureStepDiscontinuationReasonCodeSequence
    assert (event.event_type, why.CodeValue) == (1, "110513")


def test_the_other_events():
    asked = dataset(ReasonForCancellation="moved", ContactURI="tel:1", ContactDisplayName="Doe")
    kind, information = ups.cancel_requested("CT1", asked)
    assert (kind, information.RequestingAE, information.ContactURI) == (2, "CT1", "tel:1")
    kind, information = ups.scp_status("RESTARTED", subscriptions="WARM START", steps="COLD START")
    assert (kind, information.SCPStatus) == (4, "RESTARTED")
    assert information.UnifiedProcedureStepListStatus == "COLD START"
