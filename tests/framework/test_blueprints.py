"""Blueprints, hooks and error handlers, as a user puts them together."""

from __future__ import annotations

import sqlite3

import pytest

from pacsroute import App, AssociationRejected, Blueprint, Failure, SetupError, Status, connect

STUDY = {"QueryRetrieveLevel": "STUDY", "PatientID": ""}


def _finder(router, patient):
    @router.find("StudyRoot")
    def find(request):
        yield {"PatientID": patient}

    return find


def _patients(app, called_ae):
    with app.test_client(called_ae=called_ae) as client:
        return [row.PatientID for row in client.find(STUDY)]


def test_called_ae_title_belongs_to_one_blueprint():
    app, research = App("ARCHIVE"), Blueprint("research")
    _finder(app, "clinic")
    _finder(research, "study")
    app.register_blueprint(research, called_ae="RESEARCH")
    assert _patients(app, "ARCHIVE") == ["clinic"]
    assert _patients(app, "ANYTHING") == ["clinic"]
    assert _patients(app, "RESEARCH") == ["study"]


def test_request_to_a_title_never_reaches_another_title():
    app, research = App("ARCHIVE"), Blueprint("research")
    _finder(app, "clinic")

    @research.store
    def store(request): ...

    app.register_blueprint(research, called_ae="RESEARCH")
    assert not app.policy("CT", "RESEARCH").serves(app.routes[0].sop_class)
    assert app.policy("CT", "ARCHIVE").serves(app.routes[0].sop_class)
    with app.serve(port=0, grace=1) as server:
        with connect("127.0.0.1", server.port, called_ae="RESEARCH") as client:
            assert client.echo().category == "Success"
            with pytest.raises(Exception, match="RESEARCH does not accept"):
                list(client.find(STUDY))


def test_find_answers_name_the_called_title_as_retrieve_ae():
    app, research = App("ARCHIVE"), Blueprint("research")
    _finder(app, "clinic")
    _finder(research, "study")
    app.register_blueprint(research, called_ae="RESEARCH")
    keys = STUDY | {"RetrieveAETitle": ""}
    for called, stated in (("RESEARCH", "RESEARCH"), ("ARCHIVE", "ARCHIVE"), ("ANY", "ARCHIVE")):
        with app.test_client(called_ae=called) as client:
            assert [row.RetrieveAETitle for row in client.find(keys)] == [stated]


def test_blueprint_without_a_title_adds_its_routes_to_the_app():
    app, part = App("ARCHIVE"), Blueprint("part")
    _finder(part, "part")
    app.register_blueprint(part)
    assert _patients(app, "ARCHIVE") == ["part"]


def test_nested_blueprint_uses_the_inner_title_and_outer_hooks_first():
    app, outer, inner = App("ARCHIVE"), Blueprint("outer"), Blueprint("inner")
    seen = []
    for name, scope in (("app", app), ("outer", outer), ("inner", inner)):

        @scope.before_request
        def before(request, name=name):
            seen.append(f"before {name}")

        @scope.after_request
        def after(request, status, error, name=name):
            seen.append(f"after {name}")

    _finder(inner, "inner")
    _finder(outer, "outer")
    outer.register_blueprint(inner, called_ae="INNER")
    app.register_blueprint(outer, called_ae="OUTER")
    assert _patients(app, "OUTER") == ["outer"]
    seen.clear()
    assert _patients(app, "INNER") == ["inner"]
    assert seen[:3] == ["before app", "before outer", "before inner"]
    assert seen[3:] == ["after inner", "after outer", "after app"]


def test_one_blueprint_under_two_titles_starts_once():
    app, part, started = App(), Blueprint("part"), []
    _finder(part, "x")

    @part.lifespan
    def resources(app):
        started.append(app)
        yield

    app.register_blueprint(part, called_ae="A")
    app.register_blueprint(part, called_ae="B")
    assert _patients(app, "A") == _patients(app, "B") == ["x"]
    assert started == [app, app]  # once for each of the two test clients


def test_a_blueprint_that_is_registered_is_closed():
    app, part = App(), Blueprint("part")
    app.register_blueprint(part)
    with pytest.raises(SetupError, match="'part' is registered already"):
        part.store(lambda request: None)
    with pytest.raises(SetupError, match="registered already"):
        part.before_request(lambda request: None)


def test_the_same_route_twice_is_an_error():
    app, part = App(), Blueprint("part")
    _finder(app, "a")
    _finder(part, "b")
    with pytest.raises(SetupError, match="registered for the same"):
        app.register_blueprint(part)
    app.register_blueprint(part, called_ae="OTHER")


def test_authenticate_of_a_blueprint_needs_a_title():
    app, part = App(), Blueprint("part")
    part.authenticate(lambda identity, association: True)
    with pytest.raises(SetupError, match="called_ae="):
        app.register_blueprint(part)
    app = App()
    other = Blueprint("other")
    other.authenticate(lambda identity, association: True)
    app.register_blueprint(part, called_ae="X")
    with pytest.raises(SetupError, match="two @authenticate functions"):
        app.register_blueprint(other, called_ae="X")


@pytest.mark.parametrize("wrong", [None, "research", App])
def test_registering_something_else_is_a_set_up_error(wrong):
    with pytest.raises(SetupError, match="Blueprint"):
        App().register_blueprint(wrong)


def test_a_blueprint_is_not_registered_with_itself():
    part, inner = Blueprint("part"), Blueprint("inner")
    with pytest.raises(SetupError, match="with an app or another"):
        part.register_blueprint(part)
    part.register_blueprint(inner)
    with pytest.raises(SetupError, match="registered already"):
        inner.register_blueprint(part)


def test_a_destination_of_a_title_is_asked_first(monkeypatch):
    from pacsroute import MoveRequest, Peer

    app, part = App(), Blueprint("part")
    app.destination(lambda title, request: Peer("outer", 1))
    part.destination(lambda title, request: Peer("inner", 2) if title == "WS" else None)
    app.register_blueprint(part, called_ae="PART")
    assert app.resolve("WS").host == "outer"
    assert app.resolve("WS", MoveRequest(called_ae="PART")).host == "inner"
    assert app.resolve("ELSE", MoveRequest(called_ae="PART")).host == "outer"


# ------------------------------------------------------------------------------ hooks


def test_a_hook_before_a_request_can_refuse_it():
    app, reached = App(), []

    @app.before_request
    def refuse(request):
        if request.calling_ae == "OLD":
            raise Failure(0x0124, "not from here")

    @app.echo
    def echo(request):
        reached.append(request.calling_ae)

    for title in ("OLD", "NEW"):
        with app.test_client(calling_ae=title) as client:
            if title == "OLD":
                with pytest.raises(Exception, match="0x0124 not from here"):
                    client.echo()
            else:
                client.echo()
    assert reached == ["NEW"]


def test_a_hook_before_a_request_that_returns_something_is_loud(caplog):
    app = App()
    app.before_request(lambda request: 0)
    with pytest.raises(TypeError, match="returns nothing"), app.test_client() as client:
        client.echo()


def test_after_a_request_the_hook_sees_status_and_exception():
    app, seen = App(), []
    app.after_request(lambda request, status, error: seen.append((request.command, status, error)))

    @app.store
    def store(request):
        raise ZeroDivisionError

    @app.find("StudyRoot")
    def find(request):
        yield {"PatientID": "1"}
        return 0xB000

    with app.test_client() as client:
        list(client.find(STUDY))
        client.echo()
    assert seen == [("find", Status(0xB000), None), ("echo", Status(0), None)]
    seen.clear()
    ds = _instance()
    with pytest.raises(ZeroDivisionError), app.test_client() as client:
        client.store(ds)
    ((command, status, error),) = seen
    assert (command, status.code, type(error)) == ("store", 0xC000, ZeroDivisionError)


def test_a_hook_after_a_request_that_raises_changes_nothing(caplog):
    app = App()

    @app.after_request
    def broken(request, status, error):
        raise RuntimeError("audit is down")

    with app.serve(port=0, grace=1) as server, connect("127.0.0.1", server.port) as client:
        assert client.echo().category == "Success"
        assert client.echo().category == "Success"
    assert "@app.after_request failed" in caplog.text


def test_after_request_hook_gets_no_status_when_the_peer_is_gone(raw_peer):
    import queue

    from pacsroute import uids
    from pacsroute.dataset.encoding import encode

    app, seen = App(), queue.Queue()
    app.after_request(lambda request, status, error: seen.put((status, type(error).__name__)))

    @app.find("StudyRoot")
    def find(request):
        while True:
            yield {"PatientID": "1" * 60}

    sop_class = uids.sop_class("StudyRoot", "find")
    with app.serve(port=0, grace=1) as server:
        with raw_peer(server.port, [(sop_class, uids.IMPLICIT_VR_LITTLE_ENDIAN)]) as peer:
            peer.find(encode(STUDY, uids.IMPLICIT_VR_LITTLE_ENDIAN), sop_class)
            peer.receive()
        assert seen.get(timeout=30) == (None, "AssociationAborted")


def test_an_association_hook_can_reject():
    app = App()

    @app.before_association
    def only_known(association):
        if association.calling_ae != "KNOWN":
            raise AssociationRejected(1, 1, 3)

    with app.serve(port=0, grace=1) as server:
        with connect("127.0.0.1", server.port, calling_ae="KNOWN") as client:
            assert client.echo().category == "Success"
        with connect("127.0.0.1", server.port, calling_ae="OTHER") as client:
            with pytest.raises(AssociationRejected) as caught:
                client.echo()
    assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 3)


def test_association_hook_can_narrow_the_accepted_contexts(dcmtk, sample):
    app = App()

    @app.store
    def store(request): ...

    @app.before_association
    def no_ct(association):
        for number, context in list(association.contexts.items()):
            if context.abstract_syntax == "1.2.840.10008.5.1.4.1.1.2":
                del association.contexts[number]

    with app.serve(port=0, grace=1) as server:
        done = dcmtk("storescu", "-v", "127.0.0.1", server.port, sample("CT_small.dcm"))
        assert "No Acceptable Presentation Contexts" in done.stdout or done.returncode != 0
        done = dcmtk("storescu", "127.0.0.1", server.port, sample("MR_small.dcm"))
        assert done.returncode == 0, done.stdout


def test_a_broken_association_hook_rejects_for_now(caplog):
    app = App()

    @app.before_association
    def broken(association):
        raise KeyError

    with app.serve(port=0, grace=1) as server:
        with connect("127.0.0.1", server.port) as client, pytest.raises(AssociationRejected) as no:
            client.echo()
    assert no.value.result == 2
    assert "KeyError" in caplog.text


def test_an_association_has_a_state_and_an_end():
    import queue

    app, seen = App(), queue.Queue()

    @app.before_association
    def begin(association):
        association.state.count = 0

    @app.echo
    def echo(request):
        request.association.state.count += 1

    @app.after_association
    def end(association, error):
        seen.put((association.state.count, error))

    with app.serve(port=0, grace=1) as server:
        with connect("127.0.0.1", server.port) as client:
            client.echo()
            client.echo()
        assert seen.get(timeout=30) == (2, None)
        client = connect("127.0.0.1", server.port)
        client.echo()
        client.__exit__(RuntimeError, RuntimeError(), None)  # as an exception leaves it
        count, error = seen.get(timeout=30)
        assert count == 1
        assert error.source == 0
    with app.test_client() as client:
        client.echo()
    assert seen.get(timeout=30) == (1, None)


# ------------------------------------------------------------------------------ error handlers


def _failing(app, error):
    @app.find("StudyRoot")
    def find(request):
        yield {"PatientID": "1"}
        raise error


def test_an_error_handler_answers_for_its_class_and_those_below():
    app, part = App(), Blueprint("part")
    _failing(part, sqlite3.OperationalError("locked"))

    @app.error_handler(Exception)
    def any_error(error, request):
        return 0xC001

    @part.error_handler(sqlite3.Error)
    def database(error, request):
        raise Failure(0xA700, f"{request.command}: database")

    app.register_blueprint(part)
    with app.test_client() as client, pytest.raises(Exception, match="0xA700 find: database"):
        list(client.find(STUDY))


def test_the_apps_error_handler_is_asked_when_the_blueprint_has_none():
    app, part = App(), Blueprint("part")
    _failing(part, ValueError("x"))
    app.error_handler(ValueError)(lambda error, request: Status(0xC123, "mine"))
    app.register_blueprint(part)
    with app.test_client() as client, pytest.raises(Exception, match="0xC123 mine"):
        list(client.find(STUDY))


def test_an_error_handler_that_returns_nothing_never_makes_success_of_it():
    app, seen = App(), []
    app.error_handler(ValueError)(lambda error, request: seen.append(error))

    @app.echo
    def echo(request):
        raise ValueError

    with pytest.raises(ValueError), app.test_client() as client:
        client.echo()
    assert len(seen) == 1


def test_a_failure_is_an_answer_and_no_error():
    app = App()
    app.error_handler(Exception)(lambda error, request: 0)

    @app.echo
    def echo(request):
        raise Failure(0x0124)

    with app.test_client() as client, pytest.raises(Exception, match="0x0124"):
        client.echo()


def test_an_error_handler_that_raises_is_answered_for_what_it_raised(caplog):
    app = App()

    @app.error_handler(ValueError)
    def worse(error, request):
        raise LookupError

    @app.echo
    def echo(request):
        raise ValueError

    with pytest.raises(LookupError), app.test_client() as client:
        client.echo()


@pytest.mark.parametrize("wrong", [ValueError("x"), "ValueError", int])
def test_an_error_handler_is_for_exception_classes(wrong):
    with pytest.raises(SetupError, match="ExceptionType"):
        App().error_handler(wrong)


def test_debug_sends_the_exception_to_the_peer():
    for debug in (False, True):
        app = App(debug=debug)

        @app.echo
        def echo(request):
            raise ValueError("the reason")

        with app.serve(port=0, grace=1) as server, connect("127.0.0.1", server.port) as client:
            with pytest.raises(Exception, match="ValueError") as caught:
                client.echo()
        assert ("the reason" in str(caught.value)) == debug


HOOKS = ["before_association", "after_association", "before_request", "after_request"]


@pytest.mark.parametrize("name", [*HOOKS, "authenticate"])
def test_a_hook_of_the_wrong_shape_is_a_set_up_error(name):
    with pytest.raises(SetupError, match="called as"):
        getattr(App(), name)(lambda: None)
    with pytest.raises(SetupError, match="decorates a function"):
        getattr(App(), name)("text")


async def _coroutine(*arguments): ...


def _generator(*arguments):
    yield


@pytest.mark.parametrize("name", [*HOOKS, "authenticate", "destination", "error_handler"])
def test_a_hook_that_would_never_run_is_a_set_up_error(name):
    app = App()
    decorator = app.error_handler(ValueError) if name == "error_handler" else getattr(app, name)
    with pytest.raises(SetupError, match=f"@app.{name}: _coroutine is async"):
        decorator(_coroutine)
    with pytest.raises(SetupError, match=f"@app.{name}: _generator has a yield"):
        decorator(_generator)


def test_async_lifespan_is_a_set_up_error():
    with pytest.raises(SetupError, match="is async"):
        App().lifespan(_coroutine)


def _instance():
    from pydicom import Dataset

    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    return ds
