"""The example of storage commitment, as modalities use it."""

import importlib.util
import os
import queue
import re
import socket
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from support.names import WAIT
from support.places import EXAMPLES

from pacsroute import App, Failure, Instance, Peer, RequestFailed, connect, uids


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.setenv("COMMITTED", str(tmp_path / "committed"))
    spec = importlib.util.spec_from_file_location("commitment", EXAMPLES / "commitment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def instance(uid="1.2.3", sop_class=CTImageStorage):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    return ds


def asked(*references, transaction="1.2.9"):
    items = []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    ds = Dataset()
    ds.TransactionUID, ds.ReferencedSOPSequence = transaction, items
    return ds


def commit(client, information):
    return client.n_action("StorageCommitment", "StorageCommitmentPushModel", 1, information)


def references(event, keyword):
    return [
        (item.ReferencedSOPInstanceUID, item.get("FailureReason"))
        for item in event.get(keyword) or ()
    ]


@pytest.fixture
def modality():
    """The app of a modality, that waits for events."""
    app = App("CT1")
    app.state.events = queue.Queue()

    @app.n_event_report("StorageCommitment")
    def event(request):
        app.state.events.put(request)

    return app


def test_stored_instances_are_committed_to(example, modality):
    with example.app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        client.store(instance("1.2.3"))
        client.store(instance("1.2.4"))
        assert commit(client, asked((CTImageStorage, "1.2.3"), (CTImageStorage, "1.2.4")))
        client.run_jobs()
        event = modality.state.events.get(timeout=WAIT)
    assert (event.event_type, event.calling_ae) == (1, "COMMITMENT")
    assert event.sop_instance == StorageCommitmentPushModelInstance
    assert event.event_information.TransactionUID == "1.2.9"
    kept = references(event.event_information, "ReferencedSOPSequence")
    assert kept == [("1.2.3", None), ("1.2.4", None)]
    assert "FailedSOPSequence" not in event.event_information


def test_missing_instance_fails_with_its_reason(example, modality):
    with example.app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        client.store(instance("1.2.3"))
        client.store(instance("1.2.4"))
        client.store(instance("1.2.5"))
        (example.FOLDER / "1.2.5.dcm").write_bytes(b"nothing")
        wanted = [
            (CTImageStorage, "1.2.3"),
            (MRImageStorage, "1.2.4"),
            (CTImageStorage, "1.2.5"),
            (CTImageStorage, "1.2.6"),
            (CTImageStorage, "../committed/1.2.3"),
        ]
        commit(client, asked(*wanted))
        client.run_jobs()
        event = modality.state.events.get(timeout=WAIT)
    assert event.event_type == 2
    assert references(event.event_information, "ReferencedSOPSequence") == [("1.2.3", None)]
    assert references(event.event_information, "FailedSOPSequence") == [
        ("1.2.4", 0x0119),
        ("1.2.5", 0x0110),
        ("1.2.6", 0x0112),
        ("../committed/1.2.3", 0x0112),
    ]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="says what is open")
def test_committed_instances_are_flushed_to_disk(example, monkeypatch):
    """Another thread may have given it its name and be flushing the folder only now."""
    folder, flushed, fsync = example.FOLDER, [], os.fsync
    Instance(instance("1.2.3")).save(folder, durable=False)

    def noted(descriptor):
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert example.outcome(asked((CTImageStorage, "1.2.3")))[0] == example.ALL_ARE_HERE
    assert flushed == [str(folder / "1.2.3.dcm"), str(folder)]


def test_an_instance_is_looked_at_once_however_often_it_is_named(example, monkeypatch):
    """Two flushes for each of 15,000 references once kept the disk busy for half a minute."""
    Instance(instance("1.2.3")).save(example.FOLDER, durable=False)
    saved, save = [], Instance.save

    def noted(self, *args, **options):
        saved.append(self.sop_instance)
        return save(self, *args, **options)

    monkeypatch.setattr(Instance, "save", noted)
    wanted = [(CTImageStorage, "1.2.3"), (MRImageStorage, "1.2.3"), (CTImageStorage, "1.2.4")]
    kind, information = example.outcome(asked(*wanted * 200))
    assert kind == example.SOME_FAILED
    assert saved == ["1.2.3"] * 2
    assert len(information["ReferencedSOPSequence"]) == 200
    reasons = [reference["FailureReason"] for reference in information["FailedSOPSequence"]]
    assert reasons == [0x0119, 0x0112] * 200


def waited(caplog):
    return [int(found) for found in re.findall(r"again in (\d+) s", caplog.text)]


def test_a_report_that_fails_is_tried_again_for_a_while(example, modality, caplog):
    refused = [0x0110, 0x0213]
    flaky = App("CT1")

    @flaky.n_event_report("StorageCommitment")
    def event(request):
        if refused:
            raise Failure(refused.pop())
        modality.state.events.put(request)

    with example.app.test_client(calling_ae="CT1", peers={"CT1": flaky}) as client:
        commit(client, asked((CTImageStorage, "1.2.3")))
        client.run_jobs()
        assert modality.state.events.get(timeout=WAIT).event_type == 2
        assert waited(caplog) == [5, 30]


def test_a_report_is_given_up_in_the_end(example, caplog):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    example.app.destinations["CT1"] = Peer("127.0.0.1", port)
    with example.app.test_client(calling_ae="CT1") as client:
        commit(client, asked((CTImageStorage, "1.2.3")))
        client.run_jobs()
        (job,) = example.app.work.opened.queue.jobs()
    assert job.failed  # it is kept, and `pacsroute jobs --retry` reports it
    assert waited(caplog) == list(example.WAITS)
    assert "given up" in caplog.text


def test_a_report_survives_a_restart(example, modality):
    with example.app.serve(port=0, grace=1) as server:
        example.app.destinations["CT1"] = Peer("127.0.0.1", 9)
        with connect("127.0.0.1", server.port, calling_ae="CT1") as client:
            commit(client, asked((CTImageStorage, "1.2.3")))
    with modality.serve(port=0, grace=1) as peer:
        example.app.destinations["CT1"] = Peer("127.0.0.1", peer.port)
        with example.app.serve(port=0, grace=1):
            assert modality.state.events.get(timeout=WAIT).event_type == 2


@pytest.mark.parametrize("keyword", ["TransactionUID", "ReferencedSOPSequence"])
def test_incomplete_commitment_request_is_refused(example, keyword):
    information = asked((CTImageStorage, "1.2.3"))
    del information[keyword]
    with example.app.test_client() as client:
        with pytest.raises(RequestFailed, match=f"0x0115 {keyword}"):
            commit(client, information)
        with pytest.raises(RequestFailed, match="0x0112"):
            client.n_action("StorageCommitment", "1.2.3", 1, information)


def scu(port, *contexts):
    ae = AE("CT1")
    ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = WAIT
    for context in contexts:
        ae.add_requested_context(context, uids.EXPLICIT_VR_LITTLE_ENDIAN)
    return ae


def test_pynetdicom_gets_the_report_on_a_new_association(example):
    events = queue.Queue()

    def on_event(event):
        events.put((event.event_type, event.event_information, event.assoc.requestor.ae_title))
        return 0, None

    listener = AE("CT1")
    listener.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, on_event)]
    listening = listener.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        port = listening.server_address[1]
        example.app.destinations["CT1"] = Peer("127.0.0.1", port)
        with example.app.serve(port=0, grace=1) as server:
            ae = scu(server.port, StorageCommitmentPushModel, CTImageStorage)
            association = ae.associate("127.0.0.1", server.port)
            ds = instance("1.2.3")
            ds.PatientID = "1"
            ds.file_meta = Dataset()
            ds.file_meta.TransferSyntaxUID = uids.EXPLICIT_VR_LITTLE_ENDIAN
            assert association.send_c_store(ds).Status == 0
            status, _ = association.send_n_action(
                asked((CTImageStorage, "1.2.3")),
                1,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            assert status.Status == 0
            association.release()
            kind, information, title = events.get(timeout=WAIT)
        assert (kind, title) == (1, "COMMITMENT")
        assert references(information, "ReferencedSOPSequence") == [("1.2.3", None)]
    finally:
        listening.shutdown()


def test_pynetdicom_without_an_address_gets_the_report_on_its_own_association(example):
    events = queue.Queue()

    def on_event(event):
        events.put((event.event_type, event.event_information))
        return 0, None

    with example.app.serve(port=0, grace=1) as server:
        ae = scu(server.port, StorageCommitmentPushModel)
        handlers = [(evt.EVT_N_EVENT_REPORT, on_event)]
        association = ae.associate("127.0.0.1", server.port, evt_handlers=handlers)
        status, _ = association.send_n_action(
            asked((CTImageStorage, "1.2.3")),
            1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        assert status.Status == 0
        kind, information = events.get(timeout=WAIT)
        association.release()
    assert kind == 2
    assert references(information, "FailedSOPSequence") == [("1.2.3", 0x0112)]
