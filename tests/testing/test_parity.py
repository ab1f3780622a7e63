"""The test client and a client over a socket: an app does the same for both."""

import contextlib
import io

import pytest
from pydicom import Dataset
from support.names import CT, MR

import pacsroute
from pacsroute import App, Failure, Instance, PacsrouteError, Peer
from pacsroute.instances import part10

COMMITMENT = "1.2.840.10008.1.20.1.1"
KEYS = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2", "PatientID": ""}


def made(number, sop_class=CT, **values):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"1.2.{number}"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


class Broken(io.RawIOBase):
    def readable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        return 500 if whence == io.SEEK_END else 0

    def readinto(self, room):
        raise OSError("no disk")


class Breaking(Instance):
    def open(self):
        return Broken()


def odd():
    """Return an instance whose data set has an odd length."""
    head = part10.head(CT, "1.2.1", "1.2.840.10008.1.2.1.99", writer="", sender="", receiver="")
    return Instance(head + b"\x4b\x04\0")


def scribe():
    """Return an app with all services, and what it writes down of what it sees."""
    seen = []
    app = App("ARCHIVE", max_identifier_length=2_000, max_dataset_length=5_000)

    @app.before_association
    def before_association(association):
        contexts = sorted(association.contexts.items())
        seen.append((association.calling_ae, association.called_ae, association.user, contexts))

    @app.after_association
    def after_association(association, error):
        seen.append(("ended", type(error)))

    @app.before_request
    def before_request(request):
        seen.append((request.command, request.message_id, request.sop_class, request.user))
        seen.append((request.transfer_syntax, request.abstract_syntax, request.extended))

    @app.after_request
    def after_request(request, status, error):
        seen.append((request.command, status, type(error)))

    @app.authenticate
    def authenticate(identity, association):
        return None if identity and identity.name == "mallory" else identity or "anybody"

    @app.store
    def store(request):
        with request.instance.open() as file:
            seen.append(len(file.read()))
        number = int(request.sop_instance.rpartition(".")[2])
        if number == 3:
            raise ValueError
        if number == 2:
            raise Failure(0xA700, "full")
        return (0, 0, 0, 0, 0xB000)[number]

    @app.find
    def find(request):
        yield from ({"PatientID": f"{number}", "PatientName": "X"} for number in range(3))
        if request.identifier.PatientID:
            raise Failure(0xA700, "no more")

    @app.get
    @app.move
    def retrieve(request):
        return [made(1), made(2, MR), made(4)]

    @app.n_get("MPPS")
    @app.n_action("StorageCommitment")
    def echoed(request):
        return {"PatientID": "1"}

    @app.n_set("MPPS")
    def n_set(request):
        raise Failure(0x0106, "bad", ErrorID=3)

    return app, seen


@contextlib.contextmanager
def connected(app, way, calling_ae="TEST", user=None):
    destination = App("DEST")
    destination.store(lambda request: 0xB000 if request.sop_instance == "1.2.4" else None)
    if way == "memory":
        with app.test_client(
            calling_ae=calling_ae, identity=user, peers={"DEST": destination}
        ) as client:
            yield client
        return
    with destination.serve(port=0) as there, app.serve(port=0) as server:
        app.destinations["DEST"] = Peer("127.0.0.1", there.port)
        names = {"called_ae": "ARCHIVE", "calling_ae": calling_ae, "user": user}
        with pacsroute.connect("127.0.0.1", server.port, **names) as client:
            yield client


def told(answer):
    """Return what a client's method has returned or yielded, as something to compare."""
    if isinstance(answer, Instance):
        return answer.sop_instance, answer.transfer_syntax
    if not hasattr(answer, "__next__"):
        return str(answer)
    rows = []
    while True:
        try:
            rows.append(told(next(answer)))
        except StopIteration as end:
            return rows, end.value
        except PacsrouteError as error:
            return rows, type(error), str(error)


SCENARIOS = {
    "echo": lambda client: client.echo(),
    "a store": lambda client: client.store(made(1)),
    "a store with a warning": lambda client: client.store(made(4)),
    "a store that fails": lambda client: client.store(made(2)),
    "a data set that is too large": lambda client: client.store(made(1, PatientID="1" * 6_000)),
    "an odd data set": lambda client: client.store(odd()),
    "a file that breaks": lambda client: client.store(
        Breaking(b"", sop_class=CT, sop_instance="1.2.1", transfer_syntax="1.2.840.10008.1.2")
    ),
    "a private class": lambda client: client.store(made(1, "1.2.3.4.5")),
    "find": lambda client: client.find(KEYS),
    "a find that fails": lambda client: client.find({**KEYS, "PatientID": "1"}),
    "long keys": lambda client: client.find({**KEYS, "PatientName": "X" * 3_000}),
    "a find that is not served": lambda client: client.find(KEYS, "Worklist"),
    "get": lambda client: client.get(KEYS),
    "get of one class": lambda client: client.get(KEYS, storage=[CT]),
    "get without its key": lambda client: client.get({"QueryRetrieveLevel": "STUDY"}),
    "move": lambda client: client.move(KEYS, "DEST"),
    "move to nobody": lambda client: client.move(KEYS, "NOBODY"),
    "n_get": lambda client: client.n_get("MPPS", "1.2.3", ["PatientID"]),
    "n_set": lambda client: client.n_set("MPPS", "1.2.3", {}),
    "n_action": lambda client: client.n_action("StorageCommitment", COMMITMENT, 1, {}),
    "n_delete": lambda client: client.n_delete("MPPS", "1.2.3"),
}


def happens(way, ask, **options):
    app, seen = scribe()
    with connected(app, way, **options) as client:
        try:
            answer = told(ask(client))
        except PacsrouteError as error:
            answer = type(error), getattr(error, "status", None)
    return answer, seen


@pytest.mark.parametrize("name", SCENARIOS)
def test_memory_and_socket_answer_alike(name):
    assert happens("memory", SCENARIOS[name]) == happens("socket", SCENARIOS[name])


@pytest.mark.parametrize("options", [{"calling_ae": " A B "}, {"user": "mallory"}], ids=str)
def test_memory_and_socket_negotiate_alike(options):
    ask = SCENARIOS["echo"]
    assert happens("memory", ask, **options) == happens("socket", ask, **options)


def test_memory_and_socket_fail_alike():
    """The test client raises what it has raised; the association lives on all the same."""

    def ask(client):
        with pytest.raises((ValueError, PacsrouteError)):
            client.store(made(3))
        return client.store(made(1))

    assert happens("memory", ask) == happens("socket", ask)
