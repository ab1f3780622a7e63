"""Deliveries that are done when the destination has committed to them (PS3.4 Annex J)."""

import threading
import time

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from support.names import WAIT
from support.samples import FILES

from pacsroute import App, Instance, Peer, SetupError
from pacsroute.jobs import commitment
from pacsroute.jobs.opening import open_queue
from pacsroute.jobs.rows import NewJob

SAMPLE = FILES / "CT_small.dcm"
PUSH = ("StorageCommitment", "StorageCommitmentPushModel")


def instance(number):
    dataset = Instance(SAMPLE).dataset
    dataset.SOPInstanceUID = f"1.2.3.{number}"
    return Instance(dataset)


def saved(number, folder):
    return instance(number).save(folder)


def until(condition, what=lambda: None):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


def outcome(asked, reasons):
    """Return a report: each reference is committed to, or fails with a reason of `reasons`."""
    kept, failed = [], []
    for item in asked.ReferencedSOPSequence:
        reference = {
            "ReferencedSOPClassUID": item.ReferencedSOPClassUID,
            "ReferencedSOPInstanceUID": item.ReferencedSOPInstanceUID,
        }
        told = reasons.get(item.ReferencedSOPInstanceUID) or [None]
        reason = told.pop(0) if len(told) > 1 else told[0]
        if reason is None:
            kept.append(reference)
        elif reason:
            failed.append({**reference, "FailureReason": reason})
    information = {"TransactionUID": asked.TransactionUID}
    if kept:
        information["ReferencedSOPSequence"] = kept
    if failed:
        information["FailedSOPSequence"] = failed
    return (2 if failed else 1), information


@pytest.fixture
def pacs():
    """Return an archive; `reasons` are those of failures by instance, each used once but the last.

    0 is for an instance of which it says nothing.
    """
    app = App("PACS")
    app.state.came, app.state.asked, app.state.reasons = [], [], {}

    @app.store
    def store(request):
        app.state.came.append(request.sop_instance)

    @app.n_action("StorageCommitment", action_type=1)
    def commit(request):
        asked = request.action_information
        app.state.asked.append(
            sorted(item.ReferencedSOPInstanceUID for item in asked.ReferencedSOPSequence)
        )
        request.report(*outcome(asked, app.state.reasons))

    return app


@pytest.fixture
def app():
    app = App("ROUTER")
    app.commitment(timeout=3600)
    app.state.given_up = []

    @app.gave_up
    def gave_up(job, error):
        app.state.given_up.append((job.arguments["sop_instance"], str(error)))

    return app


def test_a_file_is_removed_when_it_was_committed_to_and_not_before(app, pacs, tmp_path):
    path, there = saved(1, tmp_path), []
    pacs.before_request(lambda request: there.append((request.command, path.exists())))
    with app.test_client(peers={"PACS": pacs}) as client:
        app.forward(path, to="PACS", commit=True, delete=True)
        client.run_jobs()
        assert app.work.opened.queue.jobs() == []
        assert list(app.work.opened.files.folder.iterdir()) == []
    assert ("store", True) in there
    assert ("n_action", True) in there
    assert not path.exists()
    assert pacs.state.asked == [["1.2.3.1"]]


def test_many_instances_are_asked_for_in_one_request(app, pacs, tmp_path):
    with app.test_client(peers={"PACS": pacs}):
        for number in range(20):
            app.forward(instance(number), to="PACS", commit=True)
    assert len(pacs.state.asked) == 1
    assert len(pacs.state.asked[0]) == 20


def test_commitment_is_asked_for_by_the_app_itself_even_where_another_title_sends(app, pacs):
    titles = []
    pacs.before_request(lambda request: titles.append((request.command, request.calling_ae)))
    with app.test_client(peers={"PACS": pacs}):
        app.forward(SAMPLE, to="PACS", commit=True, calling_ae="CT1")
    assert ("store", "CT1") in titles
    assert ("n_action", "ROUTER") in titles


def test_what_the_destination_does_not_have_is_sent_again(app, pacs, tmp_path):
    path = saved(1, tmp_path)
    pacs.state.reasons["1.2.3.1"] = [0x0112, None]
    with app.test_client(peers={"PACS": pacs}):
        app.forward(path, to="PACS", commit=True, delete=True)
    assert pacs.state.came == ["1.2.3.1"] * 2
    assert not path.exists()
    assert app.state.given_up == []


@pytest.mark.parametrize("reason", [0x0119, 0x0122])
def test_what_it_never_will_have_is_given_up_and_its_file_stays(app, pacs, tmp_path, reason):
    path, other = saved(1, tmp_path), saved(2, tmp_path)
    pacs.state.reasons["1.2.3.1"] = [reason]
    with app.test_client(peers={"PACS": pacs}) as client:
        for one in (path, other):
            app.forward(one, to="PACS", commit=True, delete=True)
        client.run_jobs()
        (job,) = app.work.opened.queue.jobs()
        assert job.failed
        assert len(list(app.work.opened.files.folder.iterdir())) == 1
    assert path.exists()
    assert not other.exists()
    ((uid, said),) = app.state.given_up
    assert uid == "1.2.3.1"
    assert f"0x{reason:04X}" in said


def test_any_other_failure_is_asked_for_again_and_given_up_in_the_end(app, pacs):
    pacs.state.reasons["1.2.3.1"] = [0x0110, 0x0213, None]
    pacs.state.reasons["1.2.3.2"] = [0x0110]
    with app.test_client(peers={"PACS": pacs}):
        for number in (1, 2):
            app.forward(instance(number), to="PACS", commit=True)
    assert sorted(pacs.state.came) == ["1.2.3.1", "1.2.3.2"]
    assert [uid for uid, _ in app.state.given_up] == ["1.2.3.2"]
    assert sum("1.2.3.1" in asked for asked in pacs.state.asked) == 3


def test_without_a_report_it_is_asked_for_once_more_and_then_given_up(app, pacs, tmp_path):
    path = saved(1, tmp_path)
    pacs.state.reasons["1.2.3.1"] = [0]
    with app.test_client(peers={"PACS": pacs}):
        app.forward(path, to="PACS", commit=True, delete=True)
    assert len(pacs.state.asked) == 2
    assert app.state.given_up == [("1.2.3.1", "no report within 3600 s")]
    assert path.exists()


def test_a_destination_without_storage_commitment_gives_up_and_keeps_the_file(app, tmp_path):
    pacs, path = App("PACS"), saved(1, tmp_path)
    pacs.store(lambda request: None)
    with app.test_client(peers={"PACS": pacs}):
        app.forward(path, to="PACS", commit=True, delete=True)
    ((_, said),) = app.state.given_up
    assert "does not accept" in said
    assert path.exists()


def test_only_what_a_report_names_is_done(app, pacs, tmp_path):
    path = saved(1, tmp_path)
    with app.test_client(peers={"PACS": pacs}) as client:
        pacs.state.reasons["1.2.3.1"] = [0, None]
        app.forward(path, to="PACS", commit=True, delete=True)
        app.forward(instance(2), to="PACS", commit=True)
        client.run_jobs()
    assert pacs.state.asked == [["1.2.3.1", "1.2.3.2"], ["1.2.3.1"]]
    assert not path.exists()


def test_a_report_of_nobody_knows_what_changes_nothing(app, pacs, tmp_path):
    with app.test_client(calling_ae="PACS", peers={"PACS": pacs}) as client:
        app.forward(SAMPLE, to="PACS", commit=True)
        information = {
            "TransactionUID": "1.2.3",
            "ReferencedSOPSequence": [
                {
                    "ReferencedSOPClassUID": CTImageStorage,
                    "ReferencedSOPInstanceUID": Instance(SAMPLE).sop_instance,
                }
            ],
        }
        assert client.n_event_report(*PUSH, 1, information).status.category == "Success"
        assert len(app.work.opened.queue.jobs()) == 1


def test_it_needs_to_be_declared():
    app = App("ROUTER")
    with app.test_client(), pytest.raises(SetupError, match="reports of storage commitment"):
        app.forward(SAMPLE, to="PACS", commit=True)
    with pytest.raises(SetupError, match="above 0"):
        app.commitment(timeout=0)


def test_a_handler_of_ones_own_takes_the_place_of_the_route(app, pacs):
    seen = []

    @app.n_event_report("StorageCommitment")
    def event(request):
        seen.append(request.event_type)
        app.answer_commitment(request)

    with app.test_client(peers={"PACS": pacs}) as client:
        app.forward(SAMPLE, to="PACS", commit=True)
        client.run_jobs()
        assert app.work.opened.queue.jobs() == []
    assert seen == [1]


# ------------------------------------------------------------- over the network


@pytest.fixture
def router(tmp_path, monkeypatch):
    monkeypatch.setattr(commitment, "GATHER", 0.2)
    monkeypatch.setattr("pacsroute.jobs.work.GATHER", 0.2)
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    app.commitment()
    return app


def is_done(app):
    return app.work.opened.queue.jobs() == []


def test_a_report_may_come_before_the_response_and_on_another_association(router, tmp_path):
    pacs, path = App("PACS"), saved(1, tmp_path)
    pacs.store(lambda request: None)

    @pacs.n_action("StorageCommitment", action_type=1)
    def commit(request):
        with pacs.connect("ROUTER") as client:
            client.n_event_report(*PUSH, *outcome(request.action_information, {}))

    with router.serve(port=0) as running, pacs.serve(port=0) as archive:
        pacs.destinations["ROUTER"] = Peer("127.0.0.1", running.port)
        router.destinations["PACS"] = Peer("127.0.0.1", archive.port)
        router.forward(path, to="PACS", commit=True, delete=True)
        until(lambda: is_done(router), router.work.opened.queue.jobs)
    assert not path.exists()


@pytest.mark.parametrize("how", ["the same association", "a new association"])
def test_pynetdicom_reports_after_its_response(router, tmp_path, how):
    paths = [saved(number, tmp_path) for number in range(3)]
    threads = []

    def report(association, asked):
        kind, information = outcome(asked, {})
        event = Dataset()
        event.TransactionUID = information["TransactionUID"]
        event.ReferencedSOPSequence = asked.ReferencedSOPSequence
        if how != "the same association":
            ae = AE("PACS")
            ae.add_requested_context(StorageCommitmentPushModel)
            role = evt_role(StorageCommitmentPushModel)
            association = ae.associate(
                "127.0.0.1", router.state.port, ext_neg=[role], ae_title="ROUTER"
            )
        association.send_n_event_report(
            event, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        if how != "the same association":
            association.release()

    def on_action(event):
        thread = threading.Timer(0.2, report, (event.assoc, event.action_information))
        threads.append(thread)
        thread.start()
        return 0, None

    ae = AE("PACS")
    for context in (CTImageStorage, StorageCommitmentPushModel, "1.2.840.10008.1.1"):
        ae.add_supported_context(context)
    handlers = [(evt.EVT_C_STORE, lambda event: 0), (evt.EVT_N_ACTION, on_action)]
    listening = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        with router.serve(port=0) as running:
            router.state.port = running.port
            router.destinations["PACS"] = Peer("127.0.0.1", listening.server_address[1])
            for path in paths:
                router.forward(path, to="PACS", commit=True, delete=True)
            until(lambda: is_done(router), router.work.opened.queue.jobs)
    finally:
        listening.shutdown()
        for thread in threads:
            thread.join()
    assert not any(path.exists() for path in paths)


def evt_role(sop_class):
    from pynetdicom import build_role

    return build_role(sop_class, scu_role=False, scp_role=True)


# ------------------------------------------------------------- processes


def test_a_report_is_taken_by_a_process_that_did_not_ask(tmp_path):
    where = str(tmp_path / "jobs.db")
    asking, other = (open_queue(where, tmp_path, "ROUTER") for _ in range(2))
    arguments = {"sop_class": CTImageStorage, "sop_instance": "1.2.3", "delete": [], "file": "a"}
    lane = commitment.lane_of("PACS")
    asking.queue.put([NewJob(lane, commitment.ASK, arguments, key="k")])
    (job,) = asking.queue.claim(lane, 1)
    asking.queue.database.write(lambda one: commitment._note(one, "1.9", [job]))
    told = Dataset()
    told.TransactionUID = "1.9"
    told.ReferencedSOPSequence = [Dataset()]
    told.ReferencedSOPSequence[0].ReferencedSOPClassUID = CTImageStorage
    told.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    assert commitment.report(other.queue, told) == []
    assert not asking.queue.put_back(job, delay=3600, tried=False)  # it was not its own any more
    (over,) = other.queue.claim(lane, 1)
    assert over.function == commitment.OVER
    for opened in (asking, other):
        opened.close()
