"""The worklist of unified procedure steps, as those who push, pull and watch use it."""

import queue
import runpy
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import Dataset, config
from pydicom.datadict import tag_for_keyword
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
    UPSFilteredGlobalSubscriptionInstance,
    UPSGlobalSubscriptionInstance,
)
from support.another_worker import beside_another_worker
from support.datasets import dataset
from support.names import WAIT
from support.unified_steps import OURS, PERFORMED, PROGRESS, code, performed, pushed

from pacsroute import App, Failure, Peer, RequestFailed, ups

EXAMPLE = Path(__file__).parents[2] / "examples" / "ups.py"
STATE, CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "ups.db"
    monkeypatch.setenv("STEPS", str(path))
    return path


@pytest.fixture
def example(path):
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture
def watcher():
    """The app of somebody who watches; its events come in order."""
    app = App("WATCHER")
    app.state.events = queue.Queue()

    @app.n_event_report("UPS")
    def event(request):
        app.state.events.put((request.sop_instance, request.event_type, request.event_information))

    return app


def told(watcher, count):
    """Return the next events: of which step, which type, and the state that is told."""
    found = [watcher.state.events.get(timeout=WAIT) for _ in range(count)]
    return [(uid, kind, event.get("ProcedureStepState")) for uid, kind, event in found]


@pytest.fixture
def client(example, watcher):
    peers = {"WATCHER": watcher}
    with example["app"].test_client(calling_ae="CT1", peers=peers) as client:
        yield client
    assert watcher.state.events.empty(), "somebody was told what he should not have been"


def watching(lock="FALSE", **keys):
    return dataset(ReceivingAE="WATCHER", DeletionLock=lock, **keys)


def act(client, uid, kind, **information):
    return client.n_action("UPS", uid, kind, dataset(**information))


def claim(client, uid):
    return act(client, uid, STATE, ProcedureStepState="IN PROGRESS", TransactionUID=OURS)


def refused(status):
    return pytest.raises(RequestFailed, match=f"0x{status:04X}")


def test_pushed_step_can_be_pulled(client):
    created = client.n_create("UPS", pushed(), "1.2.9")
    assert (created.status.code, created.sop_instance) == (0, "1.2.9")
    with refused(0x0111):
        client.n_create("UPS", pushed(), "1.2.9")
    with refused(0xC309):
        client.n_create("UPS", pushed(ProcedureStepState="COMPLETED"), "1.2.8")
    (found,) = client.find({"ProcedureStepState": "SCHEDULED", "PatientName": ""}, "UPS")
    assert found.PatientName == "Müller^Ute"
    assert claim(client, "1.2.9").status.code == 0
    with refused(0xC302):
        claim(client, "1.2.9")
    done = dataset(**{PERFORMED: performed(), "TransactionUID": OURS})
    with refused(0xC301):
        client.n_set("UPS", "1.2.9", dataset(**{PERFORMED: performed()}))
    with refused(0xC304):
        act(client, "1.2.9", STATE, ProcedureStepState="COMPLETED", TransactionUID=OURS)
    assert client.n_set("UPS", "1.2.9", done).status.code == 0
    for expected in (0, 0xB306):
        asked = {"ProcedureStepState": "COMPLETED", "TransactionUID": OURS}
        assert act(client, "1.2.9", STATE, **asked).status.code == expected
    step = client.n_get("UPS", "1.2.9").dataset
    assert step.ProcedureStepState == "COMPLETED"
    assert step.WorklistLabel == "WORKLIST"
    assert step[PERFORMED][0].OutputInformationSequence[0].TypeOfInstances == "DICOM"
    assert "TransactionUID" not in step
    with refused(0xC307):
        client.n_get("UPS", "1.2.8")


def test_n_get_of_missing_attributes_is_a_warning(client):
    client.n_create("UPS", pushed(), "1.2.9")
    reply = client.n_get("UPS", "1.2.9", ["ProcedureStepState", "TransactionUID"])
    assert reply.status.code == 0x0001
    assert [element.keyword for element in reply.dataset] == ["ProcedureStepState"]
    (found,) = client.find({"TransactionUID": "", "PatientID": "1"}, "UPS")
    assert not found.TransactionUID


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"ProcedureStepState": "IN PROGRESS"}, ["1.2.9"]),
        ({"ScheduledStationNameCodeSequence": [{"CodeValue": "S1"}]}, ["1.2.8"]),
        ({"ScheduledProcedureStepStartDateTime": "20240201-"}, ["1.2.8"]),
        ({"PatientName": "müller*"}, ["1.2.8", "1.2.9"]),
        ({"ExpectedCompletionDateTime": "2024"}, []),
        ({}, ["1.2.8", "1.2.9"]),
    ],
)
def test_query(client, keys, expected):
    later = {"ScheduledProcedureStepStartDateTime": "20240201100000"}
    client.n_create("UPS", pushed(ScheduledStationNameCodeSequence=[code("S1")], **later), "1.2.8")
    client.n_create("UPS", pushed(), "1.2.9")
    claim(client, "1.2.9")
    rows = client.find({"SOPInstanceUID": "", **keys}, "UPS")
    assert sorted(row.SOPInstanceUID for row in rows) == expected


def test_subscriber_gets_an_event_for_each_change_of_state(client, watcher):
    client.n_create("UPS", pushed(), "1.2.9")
    client.n_create("UPS", pushed(), "1.2.8")
    client.n_action("UPS", "1.2.9", SUBSCRIBE, watching())
    assert told(watcher, 1) == [("1.2.9", 1, "SCHEDULED")]
    claim(client, "1.2.9")
    claim(client, "1.2.8")
    progress = [dataset(ProcedureStepProgress="50")]
    station = [code("S1")]
    changes = {PROGRESS: progress, "ScheduledStationNameCodeSequence": station}
    client.n_set("UPS", "1.2.9", dataset(TransactionUID=OURS, **changes))
    act(client, "1.2.9", CANCEL, ReasonForCancellation="moved")
    act(client, "1.2.9", STATE, ProcedureStepState="CANCELED", TransactionUID=OURS)
    found = [watcher.state.events.get(timeout=WAIT) for _ in range(5)]
    assert [(uid, kind) for uid, kind, _ in found] == [("1.2.9", k) for k in (1, 5, 3, 2, 1)]
    events = [event for _, _, event in found]
    assert events[0].ProcedureStepState == "IN PROGRESS"
    assert events[1].ScheduledStationNameCodeSequence == station
    assert events[2][PROGRESS][0].ProcedureStepProgress == 50
    assert (events[3].RequestingAE, events[3].ReasonForCancellation) == ("CT1", "moved")
    assert events[4].ProcedureStepState == "CANCELED"
    assert events[4].ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"
    client.n_action("UPS", "1.2.9", UNSUBSCRIBE, dataset(ReceivingAE="WATCHER"))
    assert act(client, "1.2.9", CANCEL).status.code == 0xB304


def test_scheduled_step_is_canceled_at_once(client, watcher):
    client.n_create("UPS", pushed(), "1.2.9")
    client.n_action("UPS", "1.2.9", SUBSCRIBE, watching())
    assert act(client, "1.2.9", CANCEL, ReasonForCancellation="moved").status.code == 0
    states = [(state) for _, _, state in told(watcher, 3)]
    assert states == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    (progress,) = client.n_get("UPS", "1.2.9").dataset[PROGRESS]
    assert progress.ReasonForCancellation == "moved"
    assert progress.ProcedureStepCancellationDateTime


def test_request_to_cancel_without_a_subscriber_is_refused(client):
    client.n_create("UPS", pushed(), "1.2.9")
    claim(client, "1.2.9")
    with refused(0xC312):
        act(client, "1.2.9", CANCEL)


def test_global_subscriptions(client, watcher):
    client.n_create("UPS", pushed(), "1.2.1")
    client.n_action("UPS", ups.GLOBAL, SUBSCRIBE, watching("TRUE"))
    assert told(watcher, 1) == [("1.2.1", 1, "SCHEDULED")]
    client.n_create("UPS", pushed(ScheduledStationNameCodeSequence=[code()]), "1.2.2")
    assert told(watcher, 2) == [("1.2.2", 1, "SCHEDULED"), ("1.2.2", 5, None)]
    client.n_action("UPS", ups.GLOBAL, SUSPEND, dataset(ReceivingAE="WATCHER"))
    client.n_create("UPS", pushed(), "1.2.3")
    claim(client, "1.2.3")
    claim(client, "1.2.1")
    assert told(watcher, 1) == [("1.2.1", 1, "IN PROGRESS")]
    client.n_action("UPS", ups.GLOBAL, UNSUBSCRIBE, dataset(ReceivingAE="WATCHER"))
    claim(client, "1.2.2")
    client.n_action("UPS", ups.GLOBAL, SUBSCRIBE, watching())
    client.n_set("UPS", "1.2.3", dataset(TransactionUID=OURS, InputReadinessState="INCOMPLETE"))
    assert told(watcher, 1) == [("1.2.3", 1, "IN PROGRESS")]


def test_more_steps_than_a_page_are_all_found_and_watched(client, path, watcher):
    state = {"ProcedureStepState": "SCHEDULED", "WorklistLabel": "L"}
    numbers = range(1000, 1250)
    steps = {f"1.2.{n}": dataset(**state, ProcedureStepLabel="AB"[n % 2]) for n in numbers}
    with closing(sqlite3.connect(path)) as db, db:
        rows = [(uid, step.to_json()) for uid, step in steps.items()]
        db.executemany("INSERT INTO step (uid, attributes) VALUES (?, ?)", rows)
    keys = {"ProcedureStepLabel": "", "ProcedureStepState": "SCHEDULED"}
    assert len(list(client.find(keys, "UPS"))) == 250
    assert len(list(client.find({**keys, "ProcedureStepLabel": "A"}, "UPS"))) == 125
    act(client, UPSFilteredGlobalSubscriptionInstance, SUBSCRIBE, **FILTERED)
    assert [uid for uid, *_ in told(watcher, 125)] == sorted(steps)[::2]


FILTERED = {"ReceivingAE": "WATCHER", "DeletionLock": "TRUE", "ProcedureStepLabel": "A"}


@pytest.mark.parametrize(
    "poison",
    [
        {"ScheduledProcedureStepStartDateTime": "yesterday"},
        {"ProcedureStepLabel": "*" * 5 + "a" * 2000 + "*"},
    ],
)
def test_keys_of_a_subscription_that_no_step_could_be_matched_with(client, poison):
    """They would be tried, and fail, at each N-CREATE of anybody."""
    with config.disable_value_validation(), refused(0x0115):
        act(client, UPSFilteredGlobalSubscriptionInstance, SUBSCRIBE, **{**FILTERED, **poison})
    client.n_create("UPS", pushed(), sop_instance="1.2.77")


def test_values_of_an_action_that_could_not_be_given_back(client):
    client.n_create("UPS", pushed(), sop_instance="1.2.78")
    uid = "1.2.78"
    with config.disable_value_validation(), refused(0x0115):
        act(client, uid, STATE, ProcedureStepState="IN PROGRESS", TransactionUID="mine")
    unwritable = dataset(ReasonForCancellation="x", PatientSize=float("nan"))
    with pytest.raises(Failure, match="0x0115"):
        ups.check_cancel(dataset(ProcedureStepState="IN PROGRESS"), unwritable)


def test_filtered_subscription_covers_matching_steps(client, watcher):
    client.n_create("UPS", pushed(PatientID="1"), "1.2.1")
    client.n_create("UPS", pushed(PatientID="2"), "1.2.2")
    client.n_action("UPS", ups.FILTERED_GLOBAL, SUBSCRIBE, watching("TRUE", PatientID="2"))
    client.n_create("UPS", pushed(PatientID="1"), "1.2.3")
    client.n_create("UPS", pushed(PatientID="2"), "1.2.4")
    assert [uid for uid, _, _ in told(watcher, 2)] == ["1.2.2", "1.2.4"]


def test_subscriptions_that_are_refused(client):
    client.n_create("UPS", pushed(), "1.2.9")
    with refused(0xC308):
        client.n_action(
            "UPS", "1.2.9", SUBSCRIBE, dataset(ReceivingAE="NOBODY", DeletionLock="TRUE")
        )
    with refused(0xC314):
        client.n_action("UPS", "1.2.9", SUSPEND, dataset(ReceivingAE="WATCHER"))
    with refused(0xC307):
        client.n_action("UPS", "1.2.8", SUBSCRIBE, watching())
    with refused(0x0123):
        client.n_action("UPS", "1.2.9", 6, watching())


def test_locked_final_step_is_kept(client, path, watcher):
    for uid in ("1.2.1", "1.2.2"):
        client.n_create("UPS", pushed(), uid)
    client.n_action("UPS", "1.2.1", SUBSCRIBE, watching("TRUE"))
    for uid in ("1.2.1", "1.2.2"):
        act(client, uid, CANCEL)
    assert len(told(watcher, 3)) == 3
    with sqlite3.connect(path) as db:
        assert db.execute("UPDATE step SET final = 1").rowcount == 2
    db.close()
    client.n_create("UPS", pushed(), "1.2.3")
    assert client.n_get("UPS", "1.2.1").status.code == 0
    with refused(0xC307):
        client.n_get("UPS", "1.2.2")
    client.n_action("UPS", "1.2.1", UNSUBSCRIBE, dataset(ReceivingAE="WATCHER"))
    client.n_create("UPS", pushed(), "1.2.4")
    with refused(0xC307):
        client.n_get("UPS", "1.2.1")


@pytest.fixture
def listening():
    """pynetdicom, waiting for events."""
    events = queue.Queue()

    def on_event(event):
        events.put(
            (event.request.AffectedSOPInstanceUID, event.event_type, event.event_information)
        )
        return 0, None

    ae = AE("WATCHER")
    ae.add_supported_context(UnifiedProcedureStepEvent, scu_role=False, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, on_event)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    server.events = events
    yield server
    server.shutdown()


def test_every_request_of_pynetdicom(example, listening):
    app, push = example["app"], UnifiedProcedureStepPush
    pull, watch = UnifiedProcedureStepPull, UnifiedProcedureStepWatch
    app.destinations["WATCHER"] = Peer("127.0.0.1", listening.server_address[1])
    ae = AE("CT1")
    ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = WAIT
    for context in (push, pull, watch, UnifiedProcedureStepQuery):
        ae.add_requested_context(context)
    with app.serve(port=0, grace=1) as server:
        peer = ae.associate("127.0.0.1", server.port)

        def action(kind, uid, meta, **information):
            asked = dataset(**information) if information else None
            reply, _ = peer.send_n_action(asked, kind, push, uid, meta_uid=meta)
            return reply.Status

        to_all = {"ReceivingAE": "WATCHER", "DeletionLock": "TRUE"}
        filtered, everything = UPSFilteredGlobalSubscriptionInstance, UPSGlobalSubscriptionInstance
        assert action(SUBSCRIBE, filtered, watch, PatientID="1", **to_all) == 0
        assert action(SUBSCRIBE, everything, watch, **to_all) == 0
        assert peer.send_n_create(pushed(), push, "1.2.9")[0].Status == 0
        for context in (pull, watch, UnifiedProcedureStepQuery):
            keys = dataset(ProcedureStepState="SCHEDULED", PatientName="")
            answers = list(peer.send_c_find(keys, context))
            assert [status.Status for status, _ in answers] == [0xFF00, 0]
            assert answers[0][1].PatientName == "Müller^Ute"
        assert action(SUBSCRIBE, "1.2.9", watch, **to_all) == 0
        state = {"ProcedureStepState": "IN PROGRESS", "TransactionUID": OURS}
        assert action(STATE, "1.2.9", pull, **state) == 0
        assert action(CANCEL, "1.2.9", push, ReasonForCancellation="moved") == 0
        changes = {PERFORMED: performed(), PROGRESS: [dataset(ProcedureStepProgress="90")]}
        change = dataset(TransactionUID=OURS, **changes)
        assert peer.send_n_set(change, push, "1.2.9", meta_uid=pull)[0].Status == 0
        assert action(STATE, "1.2.9", pull, **{**state, "ProcedureStepState": "COMPLETED"}) == 0
        tags = [tag_for_keyword(name) for name in ("ProcedureStepState", "PatientID")]
        for context in (push, pull, watch):
            status, found = peer.send_n_get(tags, push, "1.2.9", meta_uid=context)
            assert (status.Status, found.ProcedureStepState) == (0, "COMPLETED")
        assert action(SUSPEND, everything, watch, ReceivingAE="WATCHER") == 0
        assert action(UNSUBSCRIBE, "1.2.9", watch, ReceivingAE="WATCHER") == 0
        assert action(UNSUBSCRIBE, everything, watch, ReceivingAE="WATCHER") == 0
        assert action(CANCEL, "1.2.9", watch) == 0xC311
        peer.release()
        events = [listening.events.get(timeout=WAIT) for _ in range(6)]
    assert [(uid, kind) for uid, kind, _ in events] == [("1.2.9", k) for k in (1, 1, 1, 2, 3, 1)]
    states = [event.get("ProcedureStepState") for _, _, event in events]
    assert states == ["SCHEDULED", "SCHEDULED", "IN PROGRESS", None, None, "COMPLETED"]
    assert listening.events.empty()


@pytest.mark.parametrize("change", ["check_state", "check_set", "check_cancel"])
def test_step_cannot_change_between_its_check_and_the_action(client, path, monkeypatch, change):
    """Not even by another worker: a step is claimed by one performer only."""
    client.n_create("UPS", pushed(), "1.2.9")
    refusals = []

    checked = beside_another_worker(path, getattr(ups, change), refusals)
    monkeypatch.setattr(ups, change, checked)
    if change == "check_cancel":
        act(client, "1.2.9", CANCEL, ReasonForCancellation="moved")
    else:
        claim(client, "1.2.9")
    if change == "check_set":
        client.n_set("UPS", "1.2.9", dataset(TransactionUID=OURS, StudyInstanceUID="1.2"))
    assert refusals == ["database is locked"]


def test_a_query_does_not_tell_whether_a_lock_was_guessed(client):
    client.n_create("UPS", pushed(), "1.2.9")
    claim(client, "1.2.9")
    for guess in (OURS, f"{OURS}.4"):
        (found,) = client.find({"TransactionUID": guess, "PatientID": ""}, "UPS")
        assert not found.get("TransactionUID")


def test_steps_survive_a_restart(path, listening):
    peer = Peer("127.0.0.1", listening.server_address[1])
    for again in (False, True):
        app = runpy.run_path(str(EXAMPLE))["app"]
        app.destinations["WATCHER"] = peer
        with app.test_client() as client:
            if again:
                uid, kind, event = listening.events.get(timeout=WAIT)
                assert (uid, kind) == (ups.GLOBAL, 4)
                assert (event.SCPStatus, event.SubscriptionListStatus) == (
                    "RESTARTED",
                    "WARM START",
                )
                claim(client, "1.2.9")
            else:
                client.n_create("UPS", pushed(), "1.2.9")
                client.n_action("UPS", "1.2.9", SUBSCRIBE, watching())
            _, kind, event = listening.events.get(timeout=WAIT)
            assert (kind, event.ProcedureStepState) == (1, "IN PROGRESS" if again else "SCHEDULED")


def test_unreachable_subscriber_stops_no_other(client, watcher, example, caplog):
    client.n_create("UPS", pushed(), "1.2.9")
    example["app"].destinations["GONE"] = Peer("127.0.0.1", 1)
    client.n_action("UPS", "1.2.9", SUBSCRIBE, dataset(ReceivingAE="GONE", DeletionLock="FALSE"))
    client.n_action("UPS", "1.2.9", SUBSCRIBE, watching())
    assert told(watcher, 1) == [("1.2.9", 1, "SCHEDULED")]
    assert claim(client, "1.2.9").status.code == 0
    assert told(watcher, 1) == [("1.2.9", 1, "IN PROGRESS")]
    assert "GONE did not get 1 events" in caplog.text
    assert isinstance(client.n_get("UPS", "1.2.9").dataset, Dataset)
