"""Storage commitment by the archive (PS3.4 Annex J)."""

import queue
import time

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage
from support.archives import image
from support.names import WAIT

from pacsroute import App, Archive, Peer, RequestFailed, Status, connect
from pacsroute.archive import commitment
from pacsroute.archive.database import UnavailableError

PUSH = "StorageCommitmentPushModel"


@pytest.fixture
def modality():
    """The app of a modality, that waits for events and answers with what it is told."""
    app = App("CT1")
    app.state.events, app.state.answers = queue.Queue(), []

    @app.n_event_report("StorageCommitment")
    def event(request):
        app.state.events.put(request)
        return app.state.answers.pop() if app.state.answers else None

    return app


def asked(*references, transaction="1.2.9"):
    ds = Dataset()
    ds.TransactionUID, ds.ReferencedSOPSequence = transaction, []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        ds.ReferencedSOPSequence.append(item)
    return ds


def commit(client, *references, **options):
    return client.n_action("StorageCommitment", PUSH, 1, asked(*references, **options))


def reasons(event):
    told = event.event_information
    kept = [str(item.ReferencedSOPInstanceUID) for item in told.get("ReferencedSOPSequence") or ()]
    failed = {
        str(item.ReferencedSOPInstanceUID): item.FailureReason
        for item in told.get("FailedSOPSequence") or ()
    }
    return event.event_type, kept, failed


CTS = [(CTImageStorage, f"1.3.{number}") for number in range(9)]


def test_each_reference_is_in_one_sequence_with_its_reason(make, modality):
    app = make()
    with app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        for number in (1, 2, 3):
            client.store(image(number))
        make.spoil(app, "1.3.2")
        make.remove(app, "1.3.3")
        wanted = [
            *(CTS[1], CTS[1], CTS[2], CTS[3], CTS[4]),
            (MRImageStorage, "1.3.1"),
            ("1.2.840.10008.1.1", "1.3.8"),
            (CTImageStorage, "../1.3.1"),
        ]
        commit(client, *wanted)
        event = modality.state.events.get(timeout=WAIT)
    assert event.event_information.RetrieveAETitle == "ARCHIVE"
    kind, kept, failed = reasons(event)
    assert (kind, kept) == (2, ["1.3.1"])
    assert failed == {
        "1.3.1": 0x0119,
        "1.3.2": 0x0110,
        "1.3.3": 0x0110,
        "1.3.4": 0x0112,
        "1.3.8": 0x0122,
        "../1.3.1": 0x0112,
    }


def test_without_an_address_the_report_goes_back_on_the_association(make):
    app, events = make(), queue.Queue()
    modality = App("CT1")
    modality.n_event_report("StorageCommitment")(lambda event: events.put(event) or None)
    with app.serve(port=0) as server:
        with connect("127.0.0.1", server.port, calling_ae="CT1", app=modality) as client:
            client.store(image(1))
            commit(client, CTS[1])
            commit(client, CTS[1])  # what the peer has sent before is read first
            event = events.get(timeout=WAIT)
    assert reasons(event) == (1, ["1.3.1"], {})
    assert event.event_information.RetrieveAETitle == "ARCHIVE"


def test_whose_version_was_refused_is_not_promised_that_it_is_here(make, modality):
    app, other = make(), App("CT2")
    other.n_event_report("StorageCommitment")(
        lambda event: modality.state.events.put(event) or None
    )
    with app.test_client(calling_ae="CT1") as client:
        client.store(image(1))
    with app.test_client(calling_ae="CT2", peers={"CT2": other}) as client:
        with pytest.raises(RequestFailed):
            client.store(image(1, Rows=7))
        commit(client, CTS[1])
        assert reasons(modality.state.events.get(timeout=WAIT)) == (2, [], {"1.3.1": 0x0110})
    with app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        commit(client, CTS[1])
        assert reasons(modality.state.events.get(timeout=WAIT)) == (1, ["1.3.1"], {})


def test_what_is_in_quarantine_is_not_promised(make, modality):
    app = make()
    with app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        client.store(image(1))
        client.store(image(2, PatientID="888"))
        commit(client, CTS[2])
        assert reasons(modality.state.events.get(timeout=WAIT)) == (2, [], {"1.3.2": 0x0110})


def test_an_index_that_cannot_be_asked_is_no_missing_instance(make, modality, monkeypatch):
    app = make()
    with app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        client.store(image(1))
        rows = app.state.archive._database.rows

        def broken(sql, *rest):
            if "image" in sql:
                raise UnavailableError("disk I/O error")
            return rows(sql, *rest)

        monkeypatch.setattr(app.state.archive._database, "rows", broken)
        commit(client, CTS[1])
        assert reasons(modality.state.events.get(timeout=WAIT)) == (2, [], {"1.3.1": 0x0213})


def test_a_report_that_fails_is_sent_again(make, modality, monkeypatch, caplog):
    monkeypatch.setattr(commitment, "_WAITS", (0.05,))
    modality.state.answers += [Status(0x0110), Status(0x0110)]
    app = make()
    with app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        commit(client, CTS[1])
        for _ in range(3):
            told = reasons(modality.state.events.get(timeout=WAIT))
            assert told == (2, [], {"1.3.1": 0x0112})
    assert caplog.text.count("no report yet") == 2
    assert modality.state.events.empty()


def test_a_report_survives_a_restart(make, modality, monkeypatch):
    app = make()
    app.destinations["CT1"] = Peer("127.0.0.1", 1)  # nobody listens there
    with app.serve(port=0) as server:
        with connect("127.0.0.1", server.port, calling_ae="CT1") as client:
            client.store(image(1))
            commit(client, CTS[1])
    now = time.time() + 1000
    monkeypatch.setattr(commitment.time, "time", lambda: now)
    with modality.serve(port=0) as peer:
        app = make()
        app.destinations["CT1"] = Peer("127.0.0.1", peer.port)
        with app.running():
            assert reasons(modality.state.events.get(timeout=WAIT)) == (1, ["1.3.1"], {})


def test_report_of_a_blueprint_leaves_from_its_title_to_where_it_says(make, modality, tmp_path):
    research = Archive(tmp_path / "research", name="research")
    app = make()
    app.destinations["CT1"] = Peer("127.0.0.1", 1)  # nobody listens there
    with modality.serve(port=0) as peer:

        @research.destination
        def destination(ae_title, request):
            return Peer("127.0.0.1", peer.port)

        app.register_blueprint(research, called_ae="RESEARCH")
        with app.serve(port=0) as server:
            with connect(
                "127.0.0.1", server.port, calling_ae="CT1", called_ae="RESEARCH"
            ) as client:
                client.store(image(1))
                commit(client, CTS[1])
            event = modality.state.events.get(timeout=WAIT)
    assert reasons(event) == (1, ["1.3.1"], {})
    assert event.calling_ae == "RESEARCH"
    assert event.event_information.RetrieveAETitle == "RESEARCH"


def test_a_report_is_given_up_after_days(make, modality, monkeypatch, caplog):
    app = make()
    refused = Status(0x0110)
    modality.state.answers += [refused] * 9
    now = [1e9]
    monkeypatch.setattr(commitment.time, "time", lambda: now[0])
    with app.test_client(calling_ae="CT1", peers={"CT1": modality}) as client:
        commit(client, CTS[1])
        modality.state.events.get(timeout=WAIT)
    now[0] += 30 * 86_400
    app = make()
    with app.test_client(peers={"CT1": modality}):
        modality.state.events.get(timeout=WAIT)
    with app.test_client(peers={"CT1": modality}):
        pass
    assert "given up" in caplog.text
    assert modality.state.events.empty()


def test_a_transaction_uid_that_is_in_use_for_something_else_is_told(make, modality):
    modality.state.answers += [Status(0x0110)]
    app = make()
    app.destinations["CT1"] = Peer("127.0.0.1", 1)  # nobody listens there: it stays in use
    with app.serve(port=0) as server:
        with connect("127.0.0.1", server.port, calling_ae="CT1", app=modality) as client:
            commit(client, CTS[1])
            commit(client, CTS[1])  # a repetition is the same transaction
            commit(client, CTS[2])
            commit(client, CTS[1])  # what the peer has sent before is read first
            told = reasons(modality.state.events.get(timeout=WAIT))
    assert told == (2, [], {"1.3.2": 0x0131})
    assert modality.state.events.empty()


@pytest.mark.parametrize("lacking", ["TransactionUID", "ReferencedSOPSequence"])
def test_a_request_without_what_it_is_about_is_refused(make, lacking):
    with make().test_client() as client:
        ds = asked(CTS[1])
        del ds[lacking]
        with pytest.raises(RequestFailed, match=f"0x0115 {lacking} is missing"):
            client.n_action("StorageCommitment", PUSH, 1, ds)
        with pytest.raises(RequestFailed, match="0x0112 not the well-known"):
            client.n_action("StorageCommitment", "1.2.3", 1, asked(CTS[1]))
