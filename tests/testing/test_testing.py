"""The test client and the fixtures, as a user's tests use them."""

import contextlib
import threading

import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from support.names import STUDY

from pacsroute import (
    App,
    AssociationAborted,
    EchoRequest,
    Failure,
    Instance,
    NotAccepted,
    Peer,
    RequestFailed,
    uids,
)


@pytest.fixture
def sample():
    return get_testdata_file("CT_small.dcm")


@pytest.fixture
def app(sample):
    app = App("ARCHIVE")
    app.state.stored = []
    app.state.events = []

    @app.lifespan
    def lifespan(app):
        app.state.events.append("start")
        yield
        app.state.events.append("stop")

    @app.store
    def store(request):
        app.state.stored.append(request.instance)
        app.state.originator = request.move_originator_ae

    @app.find("StudyRoot")
    def find(request):
        try:
            for number in range(10_000):
                yield {"PatientID": f"{number}"}
        finally:
            app.state.events.append("closed")

    @app.get
    @app.move
    def retrieve(request):
        yield sample
        yield Instance(sample)

    return app


def test_the_fixture_is_a_client_of_the_app(dicom_client):
    assert dicom_client.echo().category == "Success"


def test_the_server_fixture_listens(app, dicom_server):
    from pacsroute import connect

    with connect("127.0.0.1", dicom_server.port) as client:
        assert client.echo().category == "Success"
    assert app.state.events == ["start"]


def test_the_lifespan_is_around_the_test(app):
    with app.test_client() as client:
        client.echo()
        assert app.state.events == ["start"]
    assert app.state.events == ["start", "stop"]


def test_stored_instance_has_the_bytes_that_were_sent(app, sample):
    with app.test_client() as client:
        assert client.store(sample).category == "Success"
    (instance,) = app.state.stored
    with instance.open() as stored, Instance(sample).open() as sent:
        assert stored.read() == sent.read()


def test_a_find_is_iterated_and_cancelled(app):
    with app.test_client() as client:
        answers = client.find({"QueryRetrieveLevel": "STUDY", "PatientID": ""})
        assert [next(answers).PatientID for _ in range(3)] == ["0", "1", "2"]
        answers.close()
        assert app.state.events[-1] == "closed"
        assert client.echo().category == "Success"


def test_a_get_fetches(app, sample):
    with app.test_client() as client:
        fetched = list(client.get(STUDY, storage=["CTImageStorage"]))
    assert len(fetched) == 2
    with fetched[1].open() as got, Instance(sample).open() as sent:
        assert got.read() == sent.read()


def test_a_move_goes_to_a_peer_of_the_test(app, sample):
    workstation = App("WS")
    came = []

    @workstation.store
    def store(request):
        came.append((request.calling_ae, request.move_originator_ae, request.sop_class))

    with app.test_client(calling_ae="ME", peers={"WS": workstation}) as client:
        *_, last = client.move(STUDY, "WS")
        with pytest.raises(RequestFailed, match="0xA801"):
            list(client.move(STUDY, "NOBODY"))
    assert (last.completed, last.failed) == (2, 0)
    assert came == [("ARCHIVE", "ME", uids.sop_class("CTImageStorage", "store"))] * 2


def test_connect_reaches_a_peer_of_the_test(app):
    asked = []
    other = App("OTHER")
    other.echo(lambda request: asked.append(request.calling_ae))

    @app.echo
    def echo(request):
        with app.connect("OTHER") as client:
            client.echo()

    with app.test_client(peers={"OTHER": other}) as client:
        client.echo()
    assert asked == ["ARCHIVE"]


def test_connection_to_a_test_peer_sends_the_identity(app):
    other, asked = App("OTHER"), []

    @other.authenticate
    def check(identity, association):
        asked.append(identity and identity.proves("doe", "secret"))
        return True

    @app.echo
    def echo(request):
        with app.connect("OTHER", user=("doe", "secret"), timeout=30) as client:
            client.echo()
        with pytest.raises(TypeError, match="nonsense"):
            app.connect("OTHER", nonsense=1)

    with app.test_client(peers={"OTHER": other}) as client:
        client.echo()
    assert asked == [True]


@pytest.mark.parametrize("command", ["echo", "store", "find", "get"])
def test_a_handlers_own_exception_is_seen(command, sample):
    app = App()

    def handler(request):
        raise ZeroDivisionError("mine")

    for name in ("echo", "store", "find", "get"):
        getattr(app, name)(handler)
    with app.test_client() as client:
        call = {
            "echo": client.echo,
            "store": lambda: client.store(sample),
            "find": lambda: list(client.find(STUDY)),
            "get": lambda: list(client.get(STUDY)),
        }[command]
        with pytest.raises(ZeroDivisionError, match="mine"):
            call()


def test_a_failure_that_is_meant_is_the_peers_answer(sample):
    app = App()

    @app.store
    def store(request):
        raise Failure(0xA700, "full")

    with app.test_client() as client:
        with pytest.raises(RequestFailed, match="0xA700 full") as caught:
            client.store(sample)
        assert caught.value.status.code == 0xA700
        assert client.echo().category == "Success"


def test_a_row_that_cannot_be_encoded_is_seen():
    app = App()

    @app.find
    def find(request):
        yield {"PatientNam": "1"}

    with app.test_client() as client, pytest.raises(ValueError, match="PatientName"):
        list(client.find(STUDY))


def test_unserved_class_is_not_accepted():
    with App().test_client() as client, pytest.raises(NotAccepted, match="Study Root"):
        list(client.find(STUDY))


def test_the_user_and_the_titles_are_the_requests():
    app, seen = App("A"), []

    @app.echo
    def echo(request: EchoRequest):
        seen.append((request.calling_ae, request.called_ae, request.user))
        request.after(seen.append, "after")

    with app.test_client(calling_ae="ME", called_ae="YOU", user="ann") as client:
        client.echo()
        client.echo()
    assert seen[:2] == [("ME", "YOU", "ann"), "after"]


def test_after_functions_end_before_the_lifespan(app):
    @app.echo
    def echo(request):
        request.after(work)

    def work():
        threading.Event().wait(0.1)
        app.state.events.append("done")

    with app.test_client() as client:
        client.echo()
    assert app.state.events == ["start", "done", "stop"]


def test_failing_test_ends_operations_before_the_lifespan(app):
    @app.after_request
    def told(request, status, error):
        threading.Event().wait(0.1)
        app.state.events.append("told")

    with contextlib.suppress(KeyError), app.test_client() as client:
        client.echo()
        raise KeyError
    assert app.state.events == ["start", "told", "stop"]


def test_an_exception_aborts_the_association(app):
    with contextlib.suppress(KeyError), app.test_client() as client:
        answers = client.find({"QueryRetrieveLevel": "STUDY", "PatientID": ""})
        next(answers)
        raise KeyError
    with pytest.raises(AssociationAborted):
        next(answers)


def test_a_dataset_is_stored_as_well(app):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uids.sop_class("CTImageStorage", "store"), "1.2.3.4"
    ds.PatientName = "Doe^John"
    with app.test_client() as client:
        client.store(ds)
    assert app.state.stored[0].dataset.PatientName == "Doe^John"


def test_lifespans_of_the_peers_of_a_test():
    told = []

    def living(title, *, fails=False):
        app = App(title)

        @app.lifespan
        def resources(app):
            told.append(f"{title} starts")
            if fails:
                raise RuntimeError("no database")
            try:
                yield
            finally:
                told.append(f"{title} stops")

        return app

    app = living("A")
    with app.test_client(peers={"A": app, "B": living("B")}):
        assert told == ["A starts", "B starts"]
    assert told[2:] == ["B stops", "A stops"]
    told.clear()
    with pytest.raises(RuntimeError), living("A").test_client(peers={"B": living("B", fails=True)}):
        pass
    assert told == ["A starts", "B starts", "A stops"]


def test_the_peers_of_a_test_around_another():
    app, came = App("ARCHIVE"), []
    first, second = App("FIRST"), App("SECOND")
    first.echo(lambda request: came.append("FIRST"))
    app.destination(lambda title, request: Peer("127.0.0.1", 9, "WS1") if title == "WS" else None)
    with app.test_client(peers={"WS": first}):
        with app.test_client(peers={"SECOND": second}):
            pass
        with app.connect("WS") as client:
            client.echo()
        assert app.resolve("WS") == Peer("127.0.0.1", 9, "WS")
    assert app.resolve("WS") == Peer("127.0.0.1", 9, "WS1")
    assert came == ["FIRST"]
