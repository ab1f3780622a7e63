"""The app without a socket: set-up, routing, statuses, lifespan, and negotiation's rules."""

import asyncio
import re
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, config
from support.names import CT, EXPLICIT, FIND, IMPLICIT, MR

from pacsroute import (
    App,
    Blueprint,
    EchoRequest,
    Failure,
    FindRequest,
    GetRequest,
    Instance,
    NCreateRequest,
    SetupError,
    Status,
    StoreRequest,
    matching,
    uids,
)

PATIENT = uids.sop_class("PatientRoot", "find")
JPEG = uids.transfer_syntax("JPEGBaseline8Bit")
JPIP = uids.transfer_syntax("JPIPReferenced")
MODEL = "QueryRetrieveInformationModel"


def store_request(sop_class=CT, **values):
    instance = Instance(b"", sop_class=sop_class, sop_instance="1.2.3", transfer_syntax=EXPLICIT)
    return StoreRequest(instance=instance, **values)


async def _coroutine(request): ...


async def _async_generator(request):
    yield {}


def _generator(request):
    yield {}


class _Class:
    def __init__(self, request): ...


class _AsyncCall:
    async def __call__(self, request): ...


class _YieldingCall:
    def __call__(self, request):
        yield {}


@pytest.mark.parametrize(
    ("command", "handler", "words"),
    [
        ("echo", _coroutine, "async"),
        ("store", _coroutine, "async"),
        ("find", _coroutine, "async"),
        ("find", _async_generator, "async"),
        ("echo", _generator, "yield"),
        ("store", _generator, "yield"),
        ("find", _AsyncCall(), "async"),
        ("store", _YieldingCall(), "yield"),
        ("store", _Class, "class"),
        ("echo", _Class, "class"),
        ("store", lambda: None, r"called as <lambda>\(request\)"),
        ("find", lambda request, more: None, r"called as <lambda>\(request\)"),
    ],
)
def test_invalid_handler_is_a_set_up_error(command, handler, words):
    app = App()
    with pytest.raises(SetupError, match=words):
        getattr(app, command)(handler)
    assert app.routes == []


def test_a_misspelt_option_names_the_nearest():
    app = App()
    with pytest.raises(SetupError, match="did you mean 'transfer_syntaxes'"):
        app.store(transfer_syntax=[JPEG])
    with pytest.raises(SetupError, match="did you mean 'calling_ae'"):
        app.echo(caling_ae="A")
    with pytest.raises(SetupError, match="no option"):
        app.find(zzz=1)
    with pytest.raises(SetupError, match="'action_type'; it takes sop_class, transfer_syntaxes"):
        app.store(action_type=1)


def test_a_misspelt_sop_class_names_the_nearest():
    app = App()
    with pytest.raises(SetupError, match="did you mean 'CTImageStorage'"):
        app.store("CTImageStorag")(lambda request: None)
    with pytest.raises(SetupError, match="did you mean 'StudyRoot'"):
        app.find("StudyRot")(lambda request: [])
    with pytest.raises(SetupError, match="did you mean 'JPEGBaseline8Bit'"):
        app.store(transfer_syntaxes=["JPEGBaseline8Bi"])(lambda request: None)
    with pytest.raises(SetupError, match="must be a list"):
        app.store(transfer_syntaxes=JPEG)(lambda request: None)


@pytest.mark.parametrize(
    ("command", "name", "meant"),
    [
        ("find", "StudyRootQuery", "StudyRoot"),
        ("find", "PatientRootQueryRetrieveInformationModelGet2", f"PatientRoot{MODEL}Find"),
        ("move", "PatientRot", "PatientRoot"),
        (
            "get",
            "CompositeInstanceRetrieveWithoutBulkDat",
            "CompositeInstanceRetrieveWithoutBulkData",
        ),
        ("store", "StudyRot", None),
        ("store", "EnhancedCTImageStorag", "EnhancedCTImageStorage"),
        ("find", "CTImageStorag", None),
        ("n_create", "MPS", "MPPS"),
        ("n_action", "StorageCommitmentPush", "StorageCommitment"),
        ("n_set", "BasicColorPrintManagementMet", "BasicColorPrintManagementMeta"),
    ],
)
def test_a_misspelt_sop_class_names_the_nearest_of_its_command(command, name, meant):
    with pytest.raises(SetupError, match=f"no SOP class is called '{name}'") as caught:
        getattr(App(), command)(name)(lambda request: None)
    hint = "" if meant is None else f"; did you mean {meant!r}?"
    assert str(caught.value).endswith(f"is called '{name}'{hint}")


def test_a_name_in_another_case_names_the_one_that_was_meant():
    app = App()
    with pytest.raises(SetupError, match="did you mean 'CTImageStorage'"):
        app.store("ctimagestorage")(lambda request: None)
    with pytest.raises(SetupError, match="did you mean 'JPEGBaseline8Bit'"):
        app.store(transfer_syntaxes=["jpegbaseline8bit"])(lambda request: None)


@pytest.mark.parametrize(
    ("command", "sop_class", "other"),
    [
        ("find", "StudyRootQueryRetrieveInformationModelGet", "get"),
        ("move", "StudyRootQueryRetrieveInformationModelFind", "find"),
        ("get", "1.2.840.10008.5.1.4.1.2.2.1", "find"),
        ("store", "ModalityWorklistInformationModelFind", "find"),
        ("n_set", "ModalityWorklistInformationModelFind", "find"),
        ("find", "ModalityPerformedProcedureStep", "n_create"),
        ("store", "StorageCommitmentPushModel", "n_create"),
        ("find", "Verification", "echo"),
    ],
)
def test_a_sop_class_of_another_command_is_a_set_up_error(command, sop_class, other):
    app = App()
    with pytest.raises(SetupError, match=f"is a class of {other}, not of {command}"):
        getattr(app, command)(sop_class)(lambda request: None)
    assert app.routes == []


def test_two_equal_routes_are_a_set_up_error():
    app = App()
    app.store(lambda request: None)
    app.store("CTImageStorage")(lambda request: None)
    with pytest.raises(SetupError, match="registered for the same"):
        app.store(lambda request: None)
    with pytest.raises(SetupError, match="registered for the same"):
        app.store(CT)(lambda request: None)
    app.store(CT, calling_ae="A")(lambda request: None)


def test_one_handler_twice_is_a_set_up_error():
    app, part = App(), Blueprint("part")
    app.find(app.find("Worklist")(_generator))  # of two classes: that is not twice
    with pytest.raises(SetupError, match="_generator is registered twice: once is enough"):
        app.find(_generator)
    part.get(_generator)
    app.register_blueprint(part)
    with pytest.raises(SetupError, match="_generator is registered twice"):
        app.register_blueprint(part)


@pytest.mark.parametrize("title", ["", "   ", "A" * 17, "A\\B", "É", "A\nB"])
def test_an_impossible_ae_title_is_a_set_up_error(title):
    with pytest.raises(SetupError, match="AE title"):
        App(title)
    with pytest.raises(SetupError, match=r"@app\.store: .* is not a valid AE title"):
        App().store(calling_ae=title)(lambda request: None)


def test_the_spaces_around_a_calling_ae_title_are_not_its_own():
    app = App()
    app.store(calling_ae=" CT ")(lambda request: None)
    assert [len(app.routes_for(title, "ARCHIVE")) for title in ("CT", "MR")] == [1, 0]


def test_invalid_options_are_set_up_errors():
    app = App()
    with pytest.raises(SetupError, match=r"5 is not a valid AE title: use 1 to 16 printable ASCII"):
        app.store(calling_ae=5)(lambda request: None)
    with pytest.raises(SetupError, match=r"@app\.echo takes no SOP class"):
        app.echo("CTImageStorage")(lambda request: None)
    for decorator, name, value in (
        (app.get, "pending_interval", "1 s"),
        (app.get, "pending_interval", -1),
        (app.get, "pending_interval", float("nan")),
        (app.get, "pending_interval", True),
        (app.find, "charset", ["ISO_IR 100"]),
        (app.find, "transfer_syntaxes", 5),
        (app.find, "transfer_syntaxes", EXPLICIT),
        (app.store, "unknown", "no"),
    ):
        with pytest.raises(SetupError, match=rf"{name} must be .*, not {re.escape(repr(value))}"):
            decorator(**{name: value})(lambda request: None)
    for decorator, name in ((app.n_action, "action_type"), (app.n_event_report, "event_type")):
        with pytest.raises(SetupError, match=f"{name} must be a whole number, not '1'"):
            decorator("StorageCommitment", **{name: "1"})(lambda request: None)
    with pytest.raises(SetupError, match=r"@app\.find: 'ISO_IR 1' is not a Specific Character Set"):
        app.find(charset="ISO_IR 1")(lambda request: [])
    assert not app.routes


def test_options_hold_for_a_function_that_is_passed_directly():
    app = App()
    app.store(lambda request: None, calling_ae="CT", unknown=False)
    (route,) = app.routes
    assert (route.calling_ae, route.unknown) == ("CT", False)
    with pytest.raises(SetupError, match="AE title"):
        app.find(lambda request: [], calling_ae="")


def test_decorators_return_the_function_unchanged():
    app = App()

    def handler(request):
        return []

    assert app.find(handler) is handler
    assert app.find("Worklist")(handler) is handler
    assert app.store(calling_ae="A")(handler) is handler


def test_the_most_specific_route_answers():
    app = App()
    for name, arguments, options in (
        ("class and caller", ["CTImageStorage"], {"calling_ae": "A"}),
        ("any", [], {}),
        ("caller", [], {"calling_ae": "A"}),
        ("class", ["CTImageStorage"], {}),
    ):
        app.store(*arguments, **options)(lambda request, name=name: name)
    answered = [
        app.route("store", sop_class, calling).handler(None)
        for sop_class in (CT, MR)
        for calling in ("A", "B")
    ]
    assert answered == ["class and caller", "class", "caller", "any"]


def test_a_bare_find_covers_patient_and_study_root_only():
    app = App()
    app.find(lambda request: [])
    assert app.route("find", FIND, "") is app.route("find", PATIENT, "") is not None
    assert app.route("find", uids.sop_class("Worklist", "find"), "") is None


def test_echo_is_answered_with_and_without_a_route():
    assert App().handle(EchoRequest()).status.code == 0
    app = App()
    app.echo(lambda request: 0x0110)
    assert app.handle(EchoRequest(sop_class=uids.VERIFICATION)).status.code == 0x0110


def test_a_request_without_a_route_is_not_supported():
    assert App().handle(store_request()).status.code == 0x0122
    answers = list(App().handle(FindRequest(sop_class=FIND)))
    assert [answer.outcome.status.code for answer in answers] == [0x0122]


def test_a_request_with_the_name_of_a_class_for_its_uid_is_a_mistake():
    with pytest.raises(ValueError, match=r"uids.sop_class\('StudyRoot', 'find'\)"):
        list(App().handle(FindRequest(sop_class="StudyRoot")))
    with pytest.raises(ValueError, match="UID of its SOP class"):
        App().handle(NCreateRequest(sop_class="MPPS", attribute_list=Dataset()))


def _raising(error):
    def handler(request):
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (lambda request: None, 0),
        (lambda request: 0, 0),
        (lambda request: 0xB000, 0xB000),
        (lambda request: 0xA700, 0xA700),
        (lambda request: Status(0xC123, "no"), 0xC123),
        (lambda request: True, 0xC000),
        (lambda request: False, 0xC000),
        (lambda request: "0", 0xC000),
        (lambda request: 0x1234, 0xC000),
        (lambda request: -1, 0xC000),
        (lambda request: 0xFF00, 0xC000),
        (_raising(Failure(0x0124, "not you")), 0x0124),
        (_raising(Failure(0xB007)), 0xB007),
        (_raising(Failure(0)), 0xC000),
        (_raising(Failure(0x9999)), 0xC000),
        (_raising(KeyError("DOE^JOHN")), 0xC000),
        (_raising(SystemExit(1)), 0xC000),
        (_raising(asyncio.CancelledError()), 0xC000),
        (_raising(GeneratorExit()), 0xC000),
        (_raising(OSError(28, "full")), 0xA700),
    ],
)
def test_store_handler_result_becomes_a_status(handler, code):
    app = App()
    app.store(handler)
    outcome = app.handle(store_request())
    assert outcome.status.code == code
    assert "DOE" not in outcome.status.comment


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Path("archive/1.2.3.dcm"), r"keep returned \w+Path: return None, an int or a Status"),
        (Failure(0xA700), "keep returned Failure: raise it"),
        (0xFF00, "keep returned 0xFF00, which is not a final status"),
    ],
)
def test_a_result_that_is_no_status_names_the_handler(caplog, result, words):
    app = App()

    @app.store
    def keep(request):
        return result

    app.handle(store_request(app=app))
    assert re.search(words, caplog.text)


def test_a_failure_gives_its_comment_and_elements():
    app = App()
    app.store(_raising(Failure(0xA900, "PatientID is required", OffendingElement=0x00100020)))
    outcome = app.handle(store_request())
    assert outcome.status == Status(0xA900, "PatientID is required")
    assert outcome.elements == {"OffendingElement": 0x00100020}


def test_a_key_that_cannot_be_matched_is_the_peers_mistake():
    app, identifier = App(), Dataset()
    identifier.add(DataElement("StudyDate", "DA", "soon", validation_mode=config.IGNORE))

    @app.find
    def find(request):
        return [
            row for row in [{"StudyDate": "20240101"}] if matching.matches(request.identifier, row)
        ]

    (answer,) = app.handle(FindRequest(app=app, sop_class=FIND, identifier=identifier))
    assert answer.outcome.status.code == 0xA900
    assert "StudyDate" in answer.outcome.status.comment
    assert "soon" not in answer.outcome.status.comment


@pytest.mark.parametrize(
    "result", [{"PatientID": "1"}, None, "text", b"bytes", Dataset(), 5, [1], [("a", 0xFF00)]]
)
def test_a_find_that_returns_no_answers_fails(result):
    app = App()
    app.find(lambda request: result)
    answers = list(app.handle(FindRequest(sop_class=FIND)))
    assert [answer.row for answer in answers] == [None]
    assert answers[-1].outcome.status.code == 0xC000


def test_find_answers_become_rows_and_statuses():
    app = App()

    @app.find
    def find(request):
        yield {"PatientID": "1"}
        yield Dataset(), 0xFF01
        return 0xA700

    answers = list(app.handle(FindRequest(sop_class=FIND)))
    assert [(answer.outcome.status.code, answer.complete) for answer in answers] == [
        (0xFF00, True),
        (0xFF01, False),
        (0xA700, True),
    ]


def test_status_before_its_row_is_an_error_that_names_the_order(caplog):
    app = App()
    app.find(lambda request: [(0xFF00, {"PatientID": "1"})])
    list(app.handle(FindRequest(app=app, sop_class=FIND)))
    assert "a find must yield a dict or Dataset, or (row, status), not int" in caplog.text


def test_a_find_may_return_a_list_or_be_a_class():
    app = App()
    app.find("StudyRoot")(lambda request: [{"PatientID": "1"}] * 3)

    class Find:
        closed = False

        def __init__(self, request):
            self.request = request

        def __iter__(self):
            return iter([{"PatientID": "1"}])

        def close(self):
            Find.closed = True

    app.find("PatientRoot")(Find)
    assert len(list(app.handle(FindRequest(sop_class=FIND)))) == 4
    assert len(list(app.handle(FindRequest(sop_class=PATIENT)))) == 2
    assert Find.closed


def test_a_find_that_fails_midway_keeps_its_answers_and_is_closed():
    app, closed = App(), []

    @app.find
    def find(request):
        try:
            yield {"PatientID": "1"}
            yield {"PatientID": "2"}, 0x0000
        finally:
            closed.append(True)

    answers = list(app.handle(FindRequest(sop_class=FIND)))
    assert [answer.outcome.status.code for answer in answers] == [0xFF00, 0xC000]
    assert closed == [True]


def test_closing_the_answers_closes_the_generator():
    app, closed = App(), []

    @app.find
    def find(request):
        try:
            while True:
                yield {"PatientID": "1"}
        finally:
            closed.append(True)

    answers = app.handle(FindRequest(sop_class=FIND))
    next(answers)
    answers.close()
    assert closed == [True]


def test_lifespans_are_entered_in_order_and_left_in_reverse():
    app, seen = App(), []
    for name in ("one", "two"):

        @app.lifespan
        def resources(app, name=name):
            seen.append(name)
            yield
            seen.append(f"-{name}")

    with app.running():
        assert seen == ["one", "two"]
    assert seen == ["one", "two", "-two", "-one"]


def test_a_lifespan_that_is_no_generator_is_a_set_up_error():
    with pytest.raises(SetupError, match="yield"):
        App().lifespan(lambda app: None)


def test_a_lifespan_that_fails_keeps_the_server_from_starting():
    app = App()

    @app.lifespan
    def broken(app):
        raise RuntimeError("no database")
        yield

    with pytest.raises(RuntimeError, match="no database"), app.serve(port=0):
        pass


def test_store_accepts_the_peers_first_transfer_syntax():
    app = App()
    app.store(lambda request: None)
    policy = app.policy("A")
    assert policy.choose(CT, (JPEG, IMPLICIT)) == JPEG
    assert policy.choose(CT, ()) is None


@pytest.mark.parametrize("command", ["store", "get"])
@pytest.mark.parametrize("odd", ["1.2.3.999", JPIP, "1.2.840.113619.5.2"])
def test_what_nobody_can_read_later_is_the_last_choice(command, odd):
    app = App()
    getattr(app, command)(lambda request: None)
    policy = app.policy("A")
    assert policy.choose(CT, (odd, EXPLICIT)) == EXPLICIT
    assert policy.choose(CT, (odd, JPEG, IMPLICIT)) == JPEG
    assert policy.choose(CT, (odd,)) == odd
    assert policy.choose(CT, ("no UID", odd)) == odd


def test_a_route_may_prefer_a_private_transfer_syntax():
    app = App()
    app.store(transfer_syntaxes=["1.2.3.999", JPIP])(lambda request: None)
    assert app.policy("A").choose(CT, (EXPLICIT, JPIP, "1.2.3.999")) == "1.2.3.999"
    assert app.policy("A").choose(CT, (EXPLICIT, JPIP)) == JPIP


def test_a_routes_own_transfer_syntaxes_come_first_and_implicit_is_always_acceptable():
    app = App()
    app.store(transfer_syntaxes=["JPEGBaseline8Bit", EXPLICIT])(lambda request: None)
    policy = app.policy("A")
    assert policy.choose(CT, (IMPLICIT, EXPLICIT, JPEG)) == JPEG
    assert policy.choose(CT, (IMPLICIT, EXPLICIT)) == EXPLICIT
    assert policy.choose(CT, ("1.2.3.999", IMPLICIT)) == IMPLICIT
    assert policy.choose(CT, ("1.2.3.999",)) is None


@pytest.mark.parametrize("specific_first", [True, False])
def test_the_most_specific_route_chooses_whatever_was_registered_first(specific_first):
    app = App()
    bare = (app.store, {})
    specific = (app.store, {"sop_class": CT, "transfer_syntaxes": [EXPLICIT]})
    one_peer = (app.store, {"sop_class": CT, "calling_ae": "B", "transfer_syntaxes": [IMPLICIT]})
    routes = [bare, specific, one_peer]
    for decorator, options in reversed(routes) if specific_first else routes:
        decorator(**options)(lambda request: None)
    proposed = (JPEG, IMPLICIT, EXPLICIT)
    assert app.policy("A").choose(CT, proposed) == EXPLICIT
    assert app.policy("B").choose(CT, proposed) == IMPLICIT
    assert app.policy("A").choose(MR, proposed) == JPEG


def test_identifiers_come_in_syntaxes_that_are_known():
    app = App()
    app.find(lambda request: [])
    policy = app.policy("A")
    assert policy.choose(FIND, (JPEG, EXPLICIT)) == EXPLICIT
    assert policy.choose(FIND, (JPEG,)) is None
    assert not policy.serves(CT)
    assert policy.serves(uids.VERIFICATION)


def test_unknown_classes_are_stored_unless_declined():
    private = "1.3.12.2.1107.5.9.1"
    taking, declining = App(), App()
    taking.store(lambda request: None)
    declining.store(unknown=False)(lambda request: None)
    assert taking.policy("A").serves(private)
    assert not declining.policy("A").serves(private)
    assert declining.policy("A").serves(CT)
    assert not taking.policy("A").serves(FIND)


def test_a_route_for_one_caller_is_no_route_for_another():
    app = App()
    app.store(calling_ae="A")(lambda request: None)
    assert app.policy("A").serves(CT)
    assert not app.policy("B").serves(CT)
    assert app.handle(store_request(calling_ae="B")).status.code == 0x0122


def test_unknown_charset_is_a_set_up_error():
    with pytest.raises(SetupError, match="did you mean 'ISO_IR 100'"):
        App().find("StudyRoot", charset="ISO_IR100")(lambda request: [])
    with pytest.raises(SetupError, match="latin1"), App(charset="latin1").test_client():
        pass
    with App(charset="ISO 2022 IR 6\\ISO 2022 IR 87").test_client() as client:
        assert client.echo().category == "Success"


def test_a_failure_of_impossible_parts_is_the_handlers_error():
    for elements in (
        {"comment": ValueError("x")},
        {"OffendingElement": "PatientID"},
        {"AttributeIdentifierList": ["PatientID"]},
        {"ErrorID": 70_000},
    ):
        with pytest.raises(
            TypeError, match=r"Failure must be a string|must be tags|from 0 to 65535"
        ):
            Failure(0xA900, **elements)
    assert Failure(0xA900, OffendingElement=[0x00100020], ErrorID=1).elements["ErrorID"] == 1
    for status in ("0xA900", None, Failure):
        with pytest.raises(TypeError, match="a Failure's status must be a number like 0xA700"):
            Failure(status)


@pytest.mark.parametrize("name", ["ahead", "error", "followers", "_state", "reports", "route"])
def test_internals_are_no_arguments_of_a_request(name):
    for kind in (GetRequest, NCreateRequest):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            kind(**{name: None})


def test_a_policy_is_shared_until_routes_or_settings_change():
    app = App()
    first = app.policy("A")
    assert app.policy("B") is first
    assert not first.serves(CT)

    @app.store
    def store(request):
        pass

    assert app.policy("A").serves(CT)
    assert app.policy("A").window == 1
    app.config.outstanding = 5
    assert app.policy("A").window == 5


def test_a_policy_remembers_no_more_classes_than_peers_usually_name():
    policy = App().policy("A")
    for number in range(5000):
        assert not policy.serves(f"1.2.{number}")
        assert not policy.serves("1." * 40 + str(number))
    assert len(policy._known) <= 1024
