"""What users write and type checkers must accept: handlers, hooks, options, settings, doors."""

from __future__ import annotations

import functools
import os
import sqlite3
import tomllib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset

import pacsroute
from pacsroute import (
    App,
    Association,
    AssociationAborted,
    AssociationRejected,
    Blueprint,
    Client,
    EchoRequest,
    Failure,
    FindRequest,
    GetRequest,
    Identity,
    Instance,
    MoveRequest,
    NActionRequest,
    NCreateRequest,
    NDeleteRequest,
    NEventReportRequest,
    NGetRequest,
    NSetRequest,
    Peer,
    PeerView,
    Request,
    Server,
    Status,
    StoreRequest,
    audit,
    errors,
    matching,
    testing,
    uids,
)

# ---------------------------------------------------------------- settings

app = App("ARCHIVE", spool=Path("archive") / ".spool", allow=["CT1", "10.0.0.0/8"], port=104)
texts = App("TEXTS", spool="archive/.spool", tls_certificate="own.pem", tls_key=Path("own.key"))
others = App(called_ae_titles=("OLD", "OLDER"), artim=5, debug=True, log_level="debug")
without = App(spool=None, metrics_port=None, tls_client_certificate="required", charset=None)
app.config.from_mapping(tomllib.loads('max_associations = 7\nallow = ["CT1"]'))
app.config.from_file(Path("pacs.toml"))
app.config.from_environment()
app.config.max_associations = 50


# ---------------------------------------------------------------- statuses


@app.echo
def verify(request: EchoRequest) -> None:
    request.after(print, request.calling_ae)


@app.echo(calling_ae="CT1")
def verify_one(request: EchoRequest) -> int:
    return 0


@app.store
def store(request: StoreRequest) -> int | None:
    path: Path = request.save("archive", duplicate="keep")
    return 0xB000 if path.suffix else None


@app.store("CTImageStorage", transfer_syntaxes=["ExplicitVRLittleEndian"], calling_ae="CT1")
def store_ct(request: StoreRequest) -> Status:
    return Status(0xB000, f"{request.dataset.PatientID} coerced")


@app.store(unknown=False, extended={"level": 2, "coercion": 1})
def store_any_request(request: Request) -> None:
    raise Failure(0xA700, "full")


class Shelf:
    """Handlers that are methods, and an object that is called."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def keep(self, request: StoreRequest) -> None:
        request.save(self.folder)

    def __call__(self, request: StoreRequest) -> Status | int | None:
        return None


def keep_in(folder: str, request: StoreRequest) -> None:
    request.save(folder)


shelf = Shelf("archive")
kept = app.store("MRImageStorage")(shelf.keep)
app.store("CTImageStorage", calling_ae="CT2")(shelf)
app.store("CTImageStorage", calling_ae="CT3")(functools.partial(keep_in, "archive"))
app.store("CTImageStorage", calling_ae="CT4")(lambda request: None)

# The decorators give back what they were given.
its_own_type: Callable[[StoreRequest], int | None] = store
its_own_status: Status = store_ct(StoreRequest(instance=Instance("image.dcm")))


# ---------------------------------------------------------------- answers


@app.find
def find(request: FindRequest) -> Iterator[dict[str, str | None]]:
    for row in [{"PatientID": "1"}]:
        if matching.matches(request.identifier, row):
            yield {"PatientName": None, **row}


@app.find("StudyRoot", extended=["relational", "fuzzy"], charset="ISO_IR 100")
def find_with_status(request: FindRequest) -> Iterator[tuple[dict[str, object], int]]:
    yield {"PatientID": "1", "ReferencedSOPSequence": [{"SOPInstanceUID": "1.2"}]}, 0xFF01


@app.find("PatientRoot", transfer_syntaxes=("ImplicitVRLittleEndian",))
def find_mixed(
    request: FindRequest,
) -> Generator[dict[str, str] | Dataset | tuple[Dataset, Status], None, int | None]:
    yield {"PatientID": "1"}
    yield request.identifier
    yield request.identifier, Status(0xFF01)
    return 0xA700 if request.cancelled else None


@app.find("Worklist")
def find_list(request: FindRequest) -> list[Dataset]:
    return [Dataset()]


class Answers:
    """A handler that is a class: called with the request, then iterated."""

    def __init__(self, request: FindRequest) -> None:
        self.level: str = request.level

    def __iter__(self) -> Iterator[dict[str, str]]:
        yield {"QueryRetrieveLevel": self.level}

    def close(self) -> None: ...


same = app.find("PatientRoot", calling_ae="CT1")(Answers)
level: str = same(FindRequest()).level


@app.get("StudyRoot")
@app.move("StudyRoot", pending_interval=5)
def retrieve(request: GetRequest) -> Iterator[str]:
    request.count = 1
    yield "archive/1.2.3.dcm"


@app.get
@app.move
def retrieve_all(request: GetRequest) -> list[Path | Instance | Dataset | str]:
    return [Path("1.dcm"), Instance("2.dcm", sop_instance="1.2.3"), Dataset(), "3.dcm"]


@app.get("PatientRoot", extended=["relational"], pending_interval=0.5)
class Files:
    """A handler that is a class and has a length."""

    def __init__(self, request: GetRequest) -> None:
        self.names = [f"{request.identifier.StudyInstanceUID}.dcm"]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[os.PathLike[str]]:
        return map(Path, self.names)


files: int = len(Files(GetRequest()))


@app.move("PatientRoot")
def send(request: MoveRequest) -> Iterable[Instance]:
    print(request.move_destination)
    return (Instance(path) for path in Path("archive").iterdir())


# ---------------------------------------------------------------- N-services


@app.n_create("MPPS", transfer_syntaxes=["ImplicitVRLittleEndian"], calling_ae="CT1")
def create(request: NCreateRequest) -> None:
    request.state.step = request.attribute_list


@app.n_set("MPPS")
def change(request: NSetRequest) -> int:
    return 0x0112 if "PatientID" in request.modification_list else 0


@app.n_get("Printer")
def printer(request: NGetRequest) -> dict[str, str]:
    return {"PrinterStatus": "NORMAL"}


@app.n_get("MPPSRetrieve")
def step(request: NGetRequest) -> Dataset:
    return Dataset()


@app.n_action("StorageCommitment", action_type=1)
def commit(request: NActionRequest) -> tuple[int, dict[str, str]]:
    request.report(1, {"TransactionUID": request.action_information.TransactionUID})
    return 0, {"TransactionUID": "1.2"}


@app.n_delete(sop_class="FilmBox")
def delete(request: NDeleteRequest) -> Status:
    return Status(0)


@app.n_event_report("StorageCommitment", event_type=1)
def committed(request: NEventReportRequest) -> None:
    print(request.event_information)


# ---------------------------------------------------------------- hooks and blueprints

part = Blueprint("part")


@part.store("SecondaryCaptureImageStorage")
def store_part(request: StoreRequest) -> None:
    request.save(f"part/{request.user}")


app.register_blueprint(part, called_ae="PART")


@app.before_association
def only_ours(association: Association) -> None:
    if not association.remote_address.startswith("10."):
        raise AssociationRejected(1, 1, 3)


@app.before_association
def narrowed(association: PeerView) -> None:
    association.contexts.clear()


@app.after_association
def left(association: PeerView, error: AssociationAborted | None) -> None: ...


@app.before_request
def known(request: Request) -> None:
    if request.command == "store" and request.calling_ae == "OLD_CT":
        raise Failure(0x0124, "not from here")


@app.after_request
def remember(request: Request, status: Status | None, error: BaseException | None) -> None: ...


@app.error_handler(TimeoutError)
@app.error_handler(sqlite3.OperationalError)
def busy(error: TimeoutError | sqlite3.OperationalError, request: Request) -> int:
    return 0xA700


@app.error_handler(KeyError)
def missing(error: KeyError, request: Request) -> None:
    raise Failure(0xA900, "incomplete") from error


@app.authenticate
def check(identity: Identity | None, association: PeerView) -> str | None:
    if identity is not None and identity.proves("doe", "secret"):
        return identity.name
    return None


@app.destination
def destination(ae_title: str, request: MoveRequest | None) -> Peer | None:
    return {"WORKSTATION": Peer("10.0.0.7", 11112)}.get(ae_title)


@app.lifespan
def resources(app: App) -> Iterator[None]:
    app.state.db = sqlite3.connect("index.db")
    yield
    app.state.db.close()


@part.lifespan
def more(app: Any) -> Generator[None, None, None]:
    yield


@app.audit
def keep(event: audit.Event) -> None:
    print(event.user, audit.xml(event).decode())


# ---------------------------------------------------------------- doors


def doors() -> None:
    app.destinations["PACS"] = Peer("10.0.0.7", 104, tls=pacsroute.TLS())
    with app.serve("0.0.0.0", port=0, max_associations=5, grace=1, tls_ca=Path("ca.pem")) as server:
        assert server.port
    with Server(app, port=0, idle_timeout=5.5) as another:
        print(another.host)
    with app.connect("PACS", user=("doe", "secret"), timeout=5) as client:
        client.echo()
    with pacsroute.connect("10.0.0.7", 104, called_ae="PACS", tls=True, user="doe") as client:
        client.store("image.dcm")
    with app.test_client(peers={"PACS": App("PACS")}, identity="doe") as tested:
        print(tested.echo().category)
    print(pacsroute.__version__, uids.sop_class("StudyRoot", "find"), errors.Failure, testing)
    app.run(port=11112, network_timeout=30)


def client_of_mine() -> Client:
    return pacsroute.connect("10.0.0.7")
