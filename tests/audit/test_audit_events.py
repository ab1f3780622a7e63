"""The events that `@app.audit` gets, wherever they come from, and what it never does."""

import logging

import pytest
from pydicom import Dataset
from support.archives import image
from support.names import CT

from pacsroute import App, Archive, AssociationRejected, Failure, RequestFailed
from pacsroute.audit import MINOR, SERIOUS, SUCCESS, Subject
from pacsroute.framework.auditing import accessed


@pytest.fixture
def trail():
    return []


@pytest.fixture
def app(trail, tmp_path):
    app = App("ARCHIVE")
    app.state.archive = Archive(tmp_path / "archive")
    app.register_blueprint(app.state.archive)
    app.audit(trail.append)
    return app


DOE = Subject(
    patient_id="777",
    patient_name="Doe^John",
    study="1.1",
    accession_number="A1",
    sop_classes={CT: 1},
)


def stored(client, *numbers):
    for number in numbers:
        client.store(image(number, AccessionNumber="A1"))


def test_store_names_patient_study_and_sender(app, trail):
    with app.test_client(calling_ae="CT1") as client:
        stored(client, 1)
    (event,) = trail
    assert (event.kind, event.outcome, event.why, event.count) == ("store", SUCCESS, "", 1)
    assert (event.calling_ae, event.called_ae, event.ae_title) == ("CT1", "ARCHIVE", "ARCHIVE")
    assert (event.address, event.transport) == ("memory", "dimse")
    assert event.subjects == (DOE,)
    assert event.at.utcoffset().total_seconds() == 0


def test_refused_and_quarantined_stores_are_told_with_their_outcome(app, trail):
    with app.test_client() as client:
        stored(client, 1)
        with pytest.raises(RequestFailed):
            client.store(image(1, PatientComments="another"))
        client.store(image(2, PatientID="888", PatientName="Roe^Jane"))
    assert [(one.outcome, one.why[:6]) for one in trail] == [
        (SUCCESS, ""),
        (SERIOUS, "0x0111"),
        (MINOR, "0xB000"),
    ]
    assert trail[2].subjects[0].patient_id == "888"


def test_instance_that_code_stores_is_told_without_a_peer(app, trail):
    from pacsroute import Instance

    archive = app.state.archive
    with app.running():
        archive.add(Instance(image(1, AccessionNumber="A1")))
        with pytest.raises(Failure):
            archive.add(Instance(image(1, Rows=9)))
    told = [(one.kind, one.calling_ae, one.transport, one.count, one.outcome) for one in trail]
    assert told == [("store", "", "", 1, SUCCESS), ("store", "", "", 1, SERIOUS)]
    assert trail[0].subjects == (DOE,)


def test_query_is_told_with_its_keys_and_the_number_of_its_answers(app, trail):
    with app.test_client() as client:
        stored(client, 1)
    trail.clear()
    with app.test_client() as client:
        asked = {"QueryRetrieveLevel": "STUDY", "PatientName": "Doe*", "StudyInstanceUID": ""}
        list(client.find(asked))
    (event,) = trail
    assert (event.kind, event.count) == ("query", 1)
    assert event.identifier.PatientName == "Doe*"
    assert event.sop_class.endswith(".2.2.1")


def test_retrieval_names_the_studies_that_were_found_and_not_those_asked_for(app, trail):
    with app.test_client() as client:
        stored(client, 1, 2)
        client.store(image(3, study="1.9", series="1.9.1", AccessionNumber="A2"))
    trail.clear()
    with app.test_client() as client:
        list(client.get({"QueryRetrieveLevel": "PATIENT", "PatientID": "777"}, "PatientRoot"))
    (event,) = trail
    assert (event.kind, event.count, event.outcome) == ("retrieve", 3, SUCCESS)
    assert {(one.study, one.accession_number, one.sop_classes[CT]) for one in event.subjects} == {
        ("1.1", "A1", 2),
        ("1.9", "A2", 1),
    }


def test_retrieval_of_another_handler_is_told_by_its_identifier(trail):
    app = App("ROUTER")
    app.audit(trail.append)

    @app.get("StudyRoot")
    def get(request):
        return []

    with app.test_client() as client:
        asked = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ["1.1", "1.2"]}
        list(client.get(asked))
    assert [one.study for one in trail[0].subjects] == ["1.1", "1.2"]
    assert trail[0].count == 0


def test_move_is_an_export_to_its_destination(app, trail):
    from pacsroute import Peer

    workstation = App("WORKSTATION")

    @workstation.store
    def store(request): ...

    with app.test_client() as client:
        stored(client, 1)
    trail.clear()
    with workstation.serve(port=0) as server:
        app.destinations["WORKSTATION"] = Peer("127.0.0.1", server.port)
        with app.test_client(calling_ae="VIEWER") as client:
            asked = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.1"}
            list(client.move(asked, "WORKSTATION"))
    (event,) = trail
    assert (event.kind, event.calling_ae, event.count) == ("export", "VIEWER", 1)
    assert (event.destination_ae, event.destination) == ("WORKSTATION", "127.0.0.1")
    assert event.subjects == (DOE,)


def test_delivery_from_the_queue_is_an_export(trail):
    from pacsroute import Instance, Peer

    pacs, app = App("PACS"), App("ROUTER")

    @pacs.store
    def store(request): ...

    app.audit(trail.append)
    with pacs.serve(port=0) as server:
        app.destinations["PACS"] = Peer("127.0.0.1", server.port)
        with app.test_client() as client:
            app.forward(Instance(image(1, AccessionNumber="A1")), to="PACS")
            client.run_jobs()
    (event,) = trail
    assert (event.kind, event.destination_ae, event.count) == ("export", "PACS", 1)
    assert event.subjects == (DOE,)


def test_deletion_and_correction_name_the_person_and_the_reason(app, trail):
    archive = app.state.archive
    with app.test_client() as client:
        stored(client, 1, 2)
    trail.clear()
    with app.running():
        archive.correct("1.1", PatientID="778", reason="mistyped", by="doe")
        archive.delete(instance="1.3.1", reason="blurred", by="doe")
        archive.hold("1.1", reason="in court", by="doe")
        with pytest.raises(Failure):
            archive.delete(study="1.1", reason="old", by="roe")
        archive.release("1.1", reason="settled", by="doe")
        archive.delete(study="1.1", reason="old", by="roe")
    told = [(one.kind, one.user, one.outcome, one.why, one.count, one.what) for one in trail]
    assert told == [
        ("correction", "doe", SUCCESS, "mistyped", 0, ""),
        ("deletion", "doe", SUCCESS, "blurred", 1, "instance 1.3.1"),
        ("deletion", "roe", SERIOUS, "the study is held", 1, ""),
        ("deletion", "roe", SUCCESS, "old", 1, ""),
    ]
    assert [one.subjects[0].patient_id for one in trail] == ["777", "778", "778", "778"]


def test_authentication_tells_who_and_how_it_was_proven(app, trail):
    @app.authenticate
    def check(identity, association):
        return identity is not None and identity.proves("doe", "secret") and identity.name

    with app.serve(port=0) as server:
        from pacsroute import connect

        with connect("127.0.0.1", server.port, user=("doe", "secret")) as client:
            client.store(image(1))
        with pytest.raises(AssociationRejected):
            with connect("127.0.0.1", server.port, user=("roe", "wrong")) as client:
                client.echo()
    told = [(one.kind, one.user, one.proven_by, one.outcome) for one in trail]
    assert told == [
        ("start", None, "", SUCCESS),
        ("authentication", "doe", "passcode", SUCCESS),
        ("store", "doe", "passcode", SUCCESS),
        ("authentication", "roe", "", SERIOUS),
        ("rejection", None, "", SERIOUS),
        ("stop", None, "", SUCCESS),
    ]
    assert "secret" not in repr(trail)


def test_rejected_association_is_told_with_the_reason(trail):
    app = App("ARCHIVE", require_called_ae=True)
    app.audit(trail.append)
    with pytest.raises(AssociationRejected):
        with app.test_client(called_ae="ANOTHER", calling_ae="CT1") as client:
            client.echo()
    (event,) = trail
    assert (event.kind, event.calling_ae, event.called_ae) == ("rejection", "CT1", "ANOTHER")
    assert event.why == "called AE title not recognized"


def test_search_retrieval_and_store_over_http_are_told_as_such(app, trail):
    pytest.importorskip("flask")
    with app.running():
        with app.test_client() as client:
            stored(client, 1)
        web = app.web.test_client()
        assert web.get("/dicom-web/studies/1.7/metadata").status_code == 404
        assert trail[1].kind == "start", "of a process that another server has begun"
        trail.clear()
        assert web.get("/dicom-web/studies?PatientName=Doe*").status_code == 200
        web.get("/dicom-web/studies/1.1").close()
        web.get("/dicom-web/studies/1.8").close()
    told = [(one.kind, one.transport, one.count, one.outcome) for one in trail]
    assert told[:2] == [("query", "web", 1, SUCCESS), ("retrieve", "web", 1, SUCCESS)]
    assert told[2][:3] == ("retrieve", "web", 0)
    assert trail[0].address == "127.0.0.1"
    assert trail[1].subjects == (DOE,)
    assert trail[2].subjects == (Subject(study="1.8"),)


def test_stranger_over_http_is_told(app, trail):
    pytest.importorskip("flask")
    with app.running():
        answer = app.web.test_client().get(
            "/dicom-web/studies", environ_overrides={"REMOTE_ADDR": "10.9.9.9"}
        )
    assert answer.status_code == 403
    assert [(one.kind, one.address, one.transport) for one in trail] == [
        ("start", "", ""),
        ("rejection", "10.9.9.9", "web"),
    ]


def test_page_that_was_seen_is_told(app, trail):
    from pacsroute.web.caller import Caller

    caller = Caller("BROWSER", "ARCHIVE", "10.0.0.9", user="doe", proven_by="passcode")
    accessed(app, caller, "retry job 17", action="U")
    (event,) = trail
    assert (event.kind, event.what, event.action, event.user) == (
        "access",
        "retry job 17",
        "U",
        "doe",
    )
    assert (event.proven_by, event.address, event.transport) == ("passcode", "10.0.0.9", "web")


def test_function_that_fails_changes_no_answer_and_quotes_nothing_in_the_log(tmp_path, caplog):
    app, told = App("ARCHIVE"), []
    app.register_blueprint(Archive(tmp_path / "archive"))

    @app.audit
    def broken(event):
        raise ValueError(f"no place for {event.subjects[0].patient_name}")

    app.audit(told.append)
    with caplog.at_level(logging.DEBUG), app.test_client() as client:
        stored(client, 1)
    assert len(told) == 1
    assert "broken failed: ValueError" in caplog.text
    assert "Doe" not in caplog.text
    assert "777" not in caplog.text


def test_events_are_in_no_log(app, trail, caplog):
    with caplog.at_level(logging.DEBUG), app.test_client() as client:
        stored(client, 1)
        list(client.find({"QueryRetrieveLevel": "STUDY", "PatientName": "Doe*"}))
    assert len(trail) == 2
    assert "Doe" not in caplog.text


def test_without_a_function_nothing_is_imported_or_read(tmp_path, monkeypatch):
    import sys

    app = App("ARCHIVE")
    app.register_blueprint(Archive(tmp_path / "archive"))
    monkeypatch.delitem(sys.modules, "pacsroute.framework.auditing", raising=False)
    monkeypatch.delitem(sys.modules, "pacsroute.framework.audit_trail", raising=False)
    with app.test_client() as client:
        stored(client, 1)
    assert "pacsroute.framework.auditing" not in sys.modules
    assert "pacsroute.framework.audit_trail" not in sys.modules


def test_a_function_that_takes_no_event_is_a_set_up_error():
    from pacsroute import SetupError

    with pytest.raises(SetupError, match="called as"):
        App().audit(lambda: None)


def test_store_without_a_readable_data_set_is_told_by_its_class(trail):
    app = App("ARCHIVE")
    app.audit(trail.append)

    @app.store
    def store(request): ...

    from pacsroute import Instance

    with app.test_client() as client:
        hints = {"sop_class": CT, "sop_instance": "1.2", "transfer_syntax": "1.2.840.10008.1.2"}
        client.store(Instance(b"\1" * 20, **hints))
    assert trail[0].subjects == (Subject(sop_classes={CT: 1}),)


def test_identifier_in_an_event_is_a_data_set(app, trail):
    with app.test_client() as client:
        list(client.find({"QueryRetrieveLevel": "STUDY", "PatientID": "777"}))
    assert isinstance(trail[0].identifier, Dataset)
