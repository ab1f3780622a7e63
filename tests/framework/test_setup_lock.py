"""Set-up is locked while an app serves, and its lifespans run once for all who run it."""

import threading

import pytest

from pacsroute import App, Blueprint, Peer, SetupError
from pacsroute.framework.counted import Counted

TOO_LATE = {
    "store": lambda app: app.store(lambda request: None),
    "find": lambda app: app.find("StudyRoot")(lambda request: []),
    "n_set": lambda app: app.n_set("MPPS")(lambda request: None),
    "before_request": lambda app: app.before_request(lambda request: None),
    "after_association": lambda app: app.after_association(lambda association, error: None),
    "error_handler": lambda app: app.error_handler(OSError)(lambda error, request: None),
    "authenticate": lambda app: app.authenticate(lambda identity, association: True),
    "destination": lambda app: app.destination(lambda ae_title, request: None),
    "lifespan": lambda app: app.lifespan(resources),
    "register_blueprint": lambda app: app.register_blueprint(Blueprint("late")),
}


def resources(app):
    yield


@pytest.mark.parametrize("what", TOO_LATE)
def test_registering_while_the_app_serves_is_an_error_that_says_so(what):
    app = App()
    with app.serve(port=0), pytest.raises(SetupError, match=rf"app\.{what}: the app is serving"):
        TOO_LATE[what](app)
    TOO_LATE[what](app)  # it serves no more


def test_registering_while_a_test_client_is_open_is_an_error():
    app = App()
    with app.test_client(), pytest.raises(SetupError, match="serving already"):
        app.store(lambda request: None)


def test_a_lifespan_may_register_and_what_it_registers_is_in_use():
    app, done = App(), []

    @app.lifespan
    def first(app):
        @app.find("StudyRoot")
        def find(request):
            yield {"PatientID": "1"}

        @app.lifespan
        def second(app):
            done.append("second begins")
            yield
            done.append("second ends")

        done.append("first begins")
        yield
        done.append("first ends")

    with app.test_client() as client:
        rows = list(client.find({"QueryRetrieveLevel": "STUDY", "PatientID": ""}))
    assert [row.PatientID for row in rows] == ["1"]
    assert done == ["first begins", "second begins", "second ends", "first ends"]


def test_an_app_that_only_acts_as_a_client_is_not_locked(server):
    app = App("GATEWAY")
    app.destinations["SERVER"] = Peer("127.0.0.1", server.port)
    with app.connect("SERVER") as client:
        client.echo()
        app.store(lambda request: None)
    assert [route.command for route in app.routes] == ["store"]


@pytest.fixture
def server():
    with App("SERVER").serve(port=0) as server:
        yield server


def test_destinations_and_state_are_never_locked():
    app = App()
    with app.running():
        app.destinations["NEW"] = Peer("127.0.0.1", 104)
        app.state.ready = True
        assert app.resolve("NEW").port == 104


def test_lifespans_run_once_for_a_server_a_client_and_a_command_at_once():
    app, done = App(), []

    @app.lifespan
    def index(app):
        done.append("begins")
        yield
        done.append("ends")

    with app.serve(port=0), app.serve(port=0), app.test_client() as client, app.running():
        assert client.echo().code == 0
    assert done == ["begins", "ends"]
    with app.running():
        assert done == ["begins", "ends", "begins"]


def test_last_exit_of_running_ends_the_lifespans():
    app, done = App(), []

    @app.lifespan
    def index(app):
        yield
        done.append("ends")

    first, second = app.running(), app.running()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert done == []
    with pytest.raises(SetupError):
        app.store(lambda request: None)
    second.__exit__(None, None, None)
    assert done == ["ends"]
    app.store(lambda request: None)


def test_a_lifespan_that_fails_leaves_the_app_as_it_was():
    app, tries = App(), []

    @app.lifespan
    def index(app):
        tries.append(1)
        if len(tries) == 1:
            raise OSError("the disk")
        yield

    with pytest.raises(OSError, match="the disk"), app.running():
        pass
    app.store(lambda request: None)
    with app.running():
        assert len(tries) == 2


def test_a_lifespan_may_run_the_app_that_it_belongs_to():
    app, done = App(), []

    @app.lifespan
    def index(app):
        with app.running():
            done.append("begins")
        yield
        with app.running():
            done.append("ends")

    with app.running():
        pass
    assert done == ["begins", "ends"]


def test_concurrent_requests_share_one_conversion():
    begun, go, seen = threading.Event(), threading.Event(), []

    class Made:
        def __enter__(self):
            begun.set()
            assert go.wait(30)
            seen.append("made")

        def __exit__(self, *_):
            seen.append("ended")

    held = Counted(Made)

    def hold(name):
        with held:
            seen.append(name)

    first = threading.Thread(target=hold, args=("first",))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=hold, args=("second",))
    second.start()
    go.set()
    first.join(30)
    second.join(30)
    # The second may come when the first is through: then it makes another.
    assert seen in (
        ["made", "first", "second", "ended"],
        ["made", "second", "first", "ended"],
        ["made", "first", "ended", "made", "second", "ended"],
    )
