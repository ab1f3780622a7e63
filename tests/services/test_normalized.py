"""The N-services, as pynetdicom's SCU of each service class asks for them."""

import contextlib
import logging
import queue

import pytest
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom import sop_class as classes
from support.names import EXPLICIT

from pacsroute import App, DataSetError, Failure, RequestFailed, SetupError, Status, uids
from pacsroute.dimse import commands


def dataset(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.fixture
def app():
    return App("MANAGER")


@pytest.fixture
def associate(app):
    """Return a function that associates pynetdicom with the app, for contexts and roles.

    The app serves from its first call on.
    """
    with contextlib.ExitStack() as stack:
        made, servers = [], []

        def connect(*contexts, roles=(), handlers=()):
            if not servers:
                servers.append(stack.enter_context(app.serve(port=0, grace=1)))
            ae = AE("SCU")
            ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = 30
            for context in contexts:
                ae.add_requested_context(context, EXPLICIT)
            association = ae.associate(
                "127.0.0.1", servers[0].port, ext_neg=list(roles), evt_handlers=list(handlers)
            )
            assert association.is_established
            made.append(association)
            return association

        yield connect
        for association in made:
            if association.is_established:
                association.release()


MPPS = classes.ModalityPerformedProcedureStep
COMMITMENT = classes.StorageCommitmentPushModel


def test_n_create_and_n_set_of_mpps(app, associate):
    steps = {}

    @app.n_create("MPPS")
    def create(request):
        if request.sop_instance in steps:
            raise Failure(0x0111)
        steps[request.sop_instance] = request.attribute_list

    @app.n_set("MPPS")
    def update(request):
        if request.sop_instance not in steps:
            raise Failure(0x0112)
        steps[request.sop_instance].update(request.modification_list)

    association = associate(MPPS)
    attributes = dataset(PerformedProcedureStepStatus="IN PROGRESS", Modality="CT")
    status, _ = association.send_n_create(attributes, MPPS, "1.2.3")
    assert status.Status == 0
    status, _ = association.send_n_create(attributes, MPPS, "1.2.3")
    assert status.Status == 0x0111
    status, _ = association.send_n_set(
        dataset(PerformedProcedureStepStatus="COMPLETED"), MPPS, "1.2.3"
    )
    assert status.Status == 0
    status, _ = association.send_n_set(attributes, MPPS, "1.2.4")
    assert status.Status == 0x0112
    assert steps["1.2.3"].PerformedProcedureStepStatus == "COMPLETED"
    assert steps["1.2.3"].Modality == "CT"


def test_n_create_without_a_uid_gets_one(app, associate):
    made = []

    @app.n_create("FilmSession")
    def create(request):
        made.append(request.sop_instance)
        return {"NumberOfCopies": 1, "PrintPriority": "MED"}

    association = associate(classes.BasicGrayscalePrintManagementMeta)
    status, attributes = association.send_n_create(
        dataset(NumberOfCopies="1"),
        classes.BasicFilmSession,
        None,
        meta_uid=classes.BasicGrayscalePrintManagementMeta,
    )
    assert status.Status == 0
    assert UID(made[0]).is_valid
    assert attributes.PrintPriority == "MED"


def test_failed_n_create_returns_no_uid(app, raw_peer):
    def create(request):
        assert uids.is_uid(request.sop_instance)
        raise Failure(0x0120)

    app.n_create("FilmSession")(create)
    session = uids.sop_class("FilmSession", "n_create")
    with app.serve(port=0, grace=1) as server, raw_peer(server.port, [(session, EXPLICIT)]) as peer:
        for given in (None, "1.2.3"):
            peer.send(
                1, commands.NCreateRQ(affected_sop_class=session, affected_sop_instance=given)
            )
            answer, _ = peer.receive()
            assert (answer.status, answer.affected_sop_instance) == (0x0120, given)
        peer.release()


def test_n_get_answers_the_requested_attributes(app, associate):
    @app.n_get("Printer")
    def printer(request):
        assert request.sop_instance == uids.sop_instance("Printer")
        return {"PrinterStatus": "NORMAL", "PrinterStatusInfo": "", "PrinterName": "P"}

    association = associate(classes.BasicColorPrintManagementMeta)

    def ask(*tags):
        return association.send_n_get(
            list(tags),
            classes.Printer,
            classes.PrinterInstance,
            meta_uid=classes.BasicColorPrintManagementMeta,
        )

    status, attributes = ask(0x21100010)
    assert (status.Status, attributes.PrinterStatus) == (0, "NORMAL")
    assert "PrinterName" not in attributes
    status, attributes = ask()
    assert (status.Status, len(attributes)) == (0, 3)
    status, attributes = ask(0x21100010, 0x00080070)
    assert (status.Status, len(attributes)) == (0x0107, 1)


def test_n_get_answers_private_attributes_too(app, associate):
    ds = dataset(PrinterStatus="NORMAL")
    ds.private_block(0x0009, "PACSROUTE TEST", create=True).add_new(1, "LO", "private")
    app.n_get("Printer")(lambda request: ds)
    association = associate(classes.Printer)
    tags = [0x00091001, 0x00091002]
    for asked, code in ((tags[:1], 0), (tags, 0x0107)):
        status, found = association.send_n_get(asked, classes.Printer, classes.PrinterInstance)
        assert status.Status == code
        assert found[0x00091001].value == "private"
        assert "PrinterStatus" not in found


def test_response_without_elements_has_no_data_set(app, raw_peer):
    app.n_get("Printer")(lambda request: {"PrinterStatus": "NORMAL"})
    app.n_create("MPPS")(lambda request: {})
    app.n_action("MPPS")(lambda request: request.report(1, {}))
    printer, mpps = uids.sop_class("Printer", "n_get"), uids.sop_class("MPPS", "n_create")
    get = commands.NGetRQ(
        message_id=1,
        requested_sop_class=printer,
        requested_sop_instance="1.2.3",
        attribute_identifiers=(0x00080070,),
    )
    create = commands.NCreateRQ(message_id=2, affected_sop_class=mpps)
    contexts = [(printer, EXPLICIT), (mpps, EXPLICIT)]
    with app.serve(port=0, grace=1) as server, raw_peer(server.port, contexts) as peer:
        for context_id, command, status in ((1, get, 0x0107), (3, create, 0)):
            peer.send(context_id, command)
            answer, data = peer.receive()
            assert (answer.status, answer.has_data_set, data) == (status, False, None)
        act = commands.NActionRQ(requested_sop_class=mpps, requested_sop_instance="1.2.3")
        peer.send(3, act)
        assert peer.receive()[0].status == 0
        assert peer.receive()[0].has_data_set is False
        peer.release()


def test_n_action_by_type_and_an_event_report_on_the_same_association(app, associate):
    reported, answered = [], queue.Queue()

    @app.n_action("StorageCommitment", action_type=1)
    def commit(request):
        asked = request.action_information
        request.report(
            1,
            {
                "TransactionUID": asked.TransactionUID,
                "ReferencedSOPSequence": list(asked.ReferencedSOPSequence),
            },
        )
        request.after(answered.put, "after the report")

    def on_report(event):
        reported.append((event.event_type, event.event_information.TransactionUID))
        return 0, None

    association = associate(COMMITMENT, handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    item = dataset(ReferencedSOPClassUID=classes.CTImageStorage, ReferencedSOPInstanceUID="1.2.3")
    asked = dataset(TransactionUID="1.2.9", ReferencedSOPSequence=[item])
    status, _ = association.send_n_action(
        asked, 1, COMMITMENT, classes.StorageCommitmentPushModelInstance
    )
    assert status.Status == 0
    status, _ = association.send_n_action(
        asked, 2, COMMITMENT, classes.StorageCommitmentPushModelInstance
    )
    assert status.Status == 0x0123
    assert reported == [(1, "1.2.9")]
    assert answered.get(timeout=30) == "after the report"


def test_n_delete_with_and_without_a_route(app, associate):
    deleted = []
    app.n_delete("FilmBox")(lambda request: deleted.append(request.sop_instance))
    association = associate(classes.BasicGrayscalePrintManagementMeta, MPPS)
    meta = {"meta_uid": classes.BasicGrayscalePrintManagementMeta}
    some = dataset(ImageDisplayFormat="STANDARD\\1,1")
    status = association.send_n_delete(classes.BasicFilmBox, "1.2.3", **meta)
    assert (status.Status, deleted) == (0, ["1.2.3"])
    status, _ = association.send_n_create(some, classes.BasicFilmBox, "1.2.3", **meta)
    assert status.Status == 0x0211
    status = association.send_n_delete(classes.BasicFilmSession, "1.2.3", **meta)
    assert status.Status == 0x0122


def test_an_event_is_reported_to_the_app_by_an_scp(app, associate):
    came = []

    @app.n_event_report("StorageCommitment", event_type=2)
    def some_failed(request):
        came.append((request.event_type, request.event_information.TransactionUID))

    association = associate(COMMITMENT, roles=[build_role(COMMITMENT, scp_role=True)])
    information = dataset(TransactionUID="1.2.9")
    instance = classes.StorageCommitmentPushModelInstance
    status, _ = association.send_n_event_report(information, 2, COMMITMENT, instance)
    assert (status.Status, came) == (0, [(2, "1.2.9")])
    status, _ = association.send_n_event_report(information, 1, COMMITMENT, instance)
    assert status.Status == 0x0113


def test_ups_is_one_route_on_every_context(app, associate):
    asked = []

    @app.n_action("UPS")
    def act(request):
        asked.append((request.action_type, request.sop_class))
        return Status(0x0001), {"TransactionUID": "1.2.3"}

    @app.find("UPS")
    def find(request):
        yield {"PatientID": "1"}

    association = associate(classes.UnifiedProcedureStepPull, classes.UnifiedProcedureStepWatch)
    push, some = classes.UnifiedProcedureStepPush, dataset(TransactionUID="1.2")
    for meta in (classes.UnifiedProcedureStepPull, classes.UnifiedProcedureStepWatch):
        status, reply = association.send_n_action(some, 3, push, "1.2", meta_uid=meta)
        assert (status.Status, reply.TransactionUID) == (0x0001, "1.2.3")
    assert asked == [(3, push)] * 2
    answers = list(association.send_c_find(dataset(PatientID=""), classes.UnifiedProcedureStepPull))
    assert [status.Status for status, _ in answers] == [0xFF00, 0]


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (None, 0),
        (0x0107, 0x0107),
        (True, 0x0110),
        ((0, {}, {}), 0x0110),
        ({"PatientNam": "1"}, 0x0110),
        ("text", 0x0110),
    ],
)
def test_n_service_handler_results(app, associate, result, code):
    app.n_set("MPPS")(lambda request: result)
    status, _ = associate(MPPS).send_n_set(dataset(PatientID="1"), MPPS, "1.2.3")
    assert status.Status == code


def test_an_answer_that_cannot_be_encoded_is_a_mistake_like_any_other():
    app, errors = App(), []
    app.n_set("MPPS")(lambda request: {"PatientNam": "1"})
    app.after_request(lambda request, status, error: errors.append((str(status), type(error))))
    with app.test_client() as client, pytest.raises(DataSetError, match="'PatientName'"):
        client.n_set("MPPS", "1.2.3", {"PatientID": "1"})
    assert errors == [("0x0110 the handler failed: DataSetError", DataSetError)]


def test_client_has_every_n_service():
    app, kept = App("MANAGER"), {}

    @app.n_create("MPPS")
    def create(request):
        kept[request.sop_instance] = request.attribute_list
        return {"PatientID": "1"}

    @app.n_set("MPPS")
    def update(request):
        kept[request.sop_instance].update(request.modification_list)

    @app.n_get("MPPSRetrieve")
    def get(request):
        return kept[request.sop_instance]

    @app.n_action("StorageCommitment")
    def act(request):
        return 0x0107, {"TransactionUID": request.action_information.TransactionUID}

    @app.n_delete("FilmBox")
    def delete(request):
        raise Failure(0x0112)

    @app.n_event_report("StorageCommitment")
    def event(request):
        kept["event"] = request.event_type

    with app.test_client() as client:
        made = client.n_create("MPPS", {"PatientID": "1", "Modality": "CT"})
        assert UID(made.sop_instance).is_valid
        assert (made.status.code, made.dataset.PatientID) == (0, "1")
        client.n_set("MPPS", made.sop_instance, {"Modality": "MR"})
        got = client.n_get("MPPSRetrieve", made.sop_instance, ["Modality"])
        assert (got.dataset.Modality, len(got.dataset)) == ("MR", 1)
        acted = client.n_action(
            "StorageCommitment", "StorageCommitmentPushModel", 1, {"TransactionUID": "1.2"}
        )
        assert (acted.status.code, acted.dataset.TransactionUID) == (0x0107, "1.2")
        with pytest.raises(RequestFailed, match="N-DELETE: 0x0112"):
            client.n_delete("FilmBox", "1.2.3", meta="BasicGrayscalePrintManagementMeta")
        client.n_event_report("StorageCommitment", "StorageCommitmentPushModel", 2)
        assert kept["event"] == 2


@pytest.mark.parametrize("command", uids.N_COMMANDS)
def test_a_bare_decorator_is_an_error(command):
    with pytest.raises(SetupError, match="needs a SOP class"):
        getattr(App(), command)(lambda request: None)


def test_routes_of_two_types_are_two():
    app = App()
    app.n_action("StorageCommitment", action_type=1)(lambda request: None)
    app.n_action("StorageCommitment")(lambda request: None)
    with pytest.raises(SetupError, match="registered for the same"):
        app.n_action("StorageCommitment", action_type=1)(lambda request: None)


FILMS = classes.BasicGrayscalePrintManagementMeta


def test_a_request_knows_the_meta_class_of_its_context(app, associate):
    seen = []

    @app.n_delete("FilmBox")
    def delete(request):
        seen.append((request.sop_class, request.abstract_syntax))

    association = associate(FILMS, classes.BasicColorPrintManagementMeta)
    for meta in (FILMS, classes.BasicColorPrintManagementMeta):
        association.send_n_delete(classes.BasicFilmBox, "1.2.3", meta_uid=meta)
    assert seen == [
        (classes.BasicFilmBox, FILMS),
        (classes.BasicFilmBox, classes.BasicColorPrintManagementMeta),
    ]


def test_an_event_goes_on_the_context_that_it_belongs_to(app, associate):
    @app.n_set("AnnotationBox")
    def write(request):
        printer = uids.sop_instance("Printer")
        job = uids.sop_class("PrintJob", "n_get")
        request.report(1, {"ExecutionStatusInfo": "QUEUED"}, sop_class=job, sop_instance="1.2.9")
        request.report(1, {"PrinterName": "P"}, sop_class=classes.Printer, sop_instance=printer)

    app.n_get("Printer")(lambda request: {"PrinterName": "P"})
    events = queue.Queue()

    def on_report(event):
        events.put((event.request.AffectedSOPClassUID, event.context.abstract_syntax))
        return 0, None

    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    association = associate(FILMS, classes.BasicAnnotationBox, handlers=handlers)
    note = dataset(TextString="text")
    status, _ = association.send_n_set(note, classes.BasicAnnotationBox, "1.2.3")
    assert status.Status == 0
    # There is no context for the print job: nothing is said of it, on no other either.
    assert events.get(timeout=30) == (classes.Printer, FILMS)
    status, _ = association.send_n_get([], classes.Printer, classes.PrinterInstance, meta_uid=FILMS)
    assert (status.Status, events.qsize()) == (0, 0)


def test_a_peer_that_does_not_look_at_events_is_not_kept_waiting(app, raw_peer):
    hooked = queue.Queue()

    @app.n_action("StorageCommitment")
    def commit(request):
        request.report(1, {"TransactionUID": "1.2.8"})
        request.report(2, {"TransactionUID": "1.2.9"})
        request.after(hooked.put, "after")

    app.after_request(lambda request, status, error: hooked.put((status.code, error)))
    command = commands.NActionRQ(
        message_id=5,
        requested_sop_class=COMMITMENT,
        requested_sop_instance=classes.StorageCommitmentPushModelInstance,
        action_type=1,
    )
    contexts = [(COMMITMENT, EXPLICIT), (uids.VERIFICATION, EXPLICIT)]
    with app.serve(port=0, grace=1) as server, raw_peer(server.port, contexts) as peer:
        peer.send(1, command)
        assert peer.receive()[0].status == 0
        assert peer.receive()[0].event_type == 1
        peer.send(3, commands.CEchoRQ(message_id=6, affected_sop_class=uids.VERIFICATION))
        assert peer.receive()[0].event_type == 2
        answer, _ = peer.receive()
        assert (type(answer), answer.status) == (commands.CEchoRSP, 0)
        peer.release()
    told = [hooked.get(timeout=30) for _ in range(3)]  # of the echo, too
    assert told[0] == (0, None)
    assert sorted(told[1:], key=str) == [(0, None), "after"]


def test_peer_gone_before_the_event_has_had_its_response(app, raw_peer):
    hooked = queue.Queue()

    @app.n_action("StorageCommitment")
    def commit(request):
        request.report(1, {"TransactionUID": "1.2.8"})
        request.after(hooked.put, "after")

    app.after_request(lambda request, status, error: hooked.put((status.code, error)))
    with app.serve(port=0, grace=1) as server:
        with raw_peer(server.port, [(COMMITMENT, EXPLICIT)]) as peer:
            peer.send(
                1,
                commands.NActionRQ(
                    requested_sop_class=COMMITMENT,
                    requested_sop_instance=classes.StorageCommitmentPushModelInstance,
                    action_type=1,
                ),
            )
            assert peer.receive()[0].status == 0
            assert peer.receive()[0].event_type == 1
            peer.release()
        assert [hooked.get(timeout=30) for _ in range(2)] == [(0, None), "after"]


def test_an_event_that_cannot_be_written_is_not_sent(app, caplog):
    @app.n_action("StorageCommitment")
    def commit(request):
        request.report(1, {"TransactionUUID": "1.2.8"})

    with app.test_client() as client:
        for _ in range(2):  # the association lives on
            done = client.n_action("StorageCommitment", "StorageCommitmentPushModel", 1)
            assert done.status.code == 0
    assert "an event report cannot be sent: no such keyword" in caplog.text


@pytest.mark.parametrize(("limit", "expected"), [(None, 0), (1_000_000, 0x0213)])
def test_a_large_image_is_whole_or_refused(app, associate, limit, expected):
    lengths = []

    @app.n_set("GrayscaleImageBox")
    def image(request):
        lengths.append(len(request.modification_list.PixelData))

    if limit is not None:
        app.config.max_set_length = limit
    association = associate(FILMS)
    ds = dataset(BitsAllocated=8, PixelData=bytes(6_000_000))
    ds["PixelData"].VR = "OB"
    box = classes.BasicGrayscaleImageBox
    for _ in range(2):
        status, _ = association.send_n_set(ds, box, "1.2.3", meta_uid=FILMS)
        assert status.Status == expected
    assert lengths == ([] if limit else [6_000_000] * 2)


def test_responses_are_in_the_apps_character_set():
    app = App("RIS", charset="ISO_IR 100")
    app.n_get("MPPS")(lambda request: {"PatientName": "Müller", "PatientID": "1"})
    app.n_create("MPPS")(lambda request: {"PatientName": "Müller"})
    with app.test_client() as client:
        replies = [
            client.n_get("MPPS", "1.2.3"),
            client.n_get("MPPS", "1.2.3", ["PatientName"]),
            client.n_create("MPPS", {}, "1.2.3"),
        ]
    for reply in replies:
        assert reply.dataset.SpecificCharacterSet == "ISO_IR 100"
        assert reply.dataset.PatientName == "Müller"


@pytest.mark.parametrize("asked", [[], ["PatientID", "PatientSize"]])
def test_n_get_leaves_out_what_cannot_be_written(asked, caplog):
    app = App()
    row = {"PatientID": "1", "PatientSize": float("nan")}
    app.n_get("MPPSRetrieve")(lambda request: row)
    with app.test_client() as client, caplog.at_level(logging.WARNING, "pacsroute"):
        reply = client.n_get("MPPSRetrieve", "1.2.3", asked)
    assert reply.status.code == 0x0107
    assert dict(reply.dataset.to_json_dict()).keys() == {"00100020"}
    (why, answered) = caplog.messages
    assert why == "N-GET from TEST: answered without PatientSize: invalid for the VR"
    assert answered.startswith("TEST N-GET 0x0107")
