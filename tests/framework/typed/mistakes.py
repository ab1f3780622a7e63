"""What users get wrong: each part under a line of "# mistake:" is an error to type checkers."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pacsroute
from pacsroute import (
    App,
    AssociationAborted,
    Blueprint,
    EchoRequest,
    FindRequest,
    GetRequest,
    Identity,
    MoveRequest,
    NCreateRequest,
    NGetRequest,
    NSetRequest,
    Peer,
    PeerView,
    Request,
    Server,
    Status,
    StoreRequest,
)

app = App("ARCHIVE")
part = Blueprint("part")


def store(request: StoreRequest) -> None: ...


def find(request: FindRequest) -> Iterator[dict[str, str]]:
    yield {"PatientID": "1"}


def retrieve(request: GetRequest) -> Iterator[Path]:
    yield Path("1.dcm")


def create(request: NCreateRequest) -> None: ...


# mistake: a misspelt option
app.store("CTImageStorage", calling_aet="CT1")(store)
# mistake: an option of another decorator
app.store(pending_interval=5)(store)
# mistake: a type of action for what has types of events
app.n_event_report("StorageCommitment", action_type=1)
# mistake: an option of the echo
app.echo(transfer_syntaxes=["ImplicitVRLittleEndian"])
# mistake: an option that is no list
app.store("CTImageStorage", transfer_syntaxes="ExplicitVRLittleEndian")(store)
# mistake: an option that is a text where a number is due
app.get("StudyRoot", pending_interval="5")(retrieve)
# mistake: an option that is a list where a mapping is due
app.store(extended=["relational"])(store)
# mistake: an option that is one name where a list is due
app.find(extended="relational")(find)
# mistake: a calling AE title that is a list
app.find("Worklist", calling_ae=["CT1", "CT2"])(find)
# mistake: an option by position
app.find("Worklist", ["ImplicitVRLittleEndian"])(find)
# mistake: several SOP classes in one decorator
app.store(["CTImageStorage", "MRImageStorage"])(store)
# mistake: a bare decorator of an N-service
app.n_create(create)
# mistake: an N-service without a SOP class
app.n_create()(create)
# mistake: a decorator that there is not
app.query(find)
# mistake: a method that a handler has not
store.save("archive")


# mistake: a handler of another request
@app.find
def find_of_store(request: StoreRequest) -> Iterator[dict[str, str]]:
    yield {"PatientID": "1"}


# mistake: a handler of another request, with options
@app.n_set("MPPS")
def set_of_create(request: NCreateRequest) -> None: ...


# mistake: a handler of C-MOVE for C-GET
@app.get("StudyRoot")
@app.move("StudyRoot")
def get_of_move(request: MoveRequest) -> Iterator[Path]:
    yield Path("1.dcm")


# mistake: no parameter
@app.echo
def no_parameter() -> None: ...


# mistake: a parameter too many
@app.store("CTImageStorage")
def two_parameters(request: StoreRequest, folder: str) -> None: ...


# mistake: async def
@app.store
async def store_async(request: StoreRequest) -> None: ...


# mistake: async def with a yield
@app.find("StudyRoot")
async def find_async(request: FindRequest) -> AsyncIterator[dict[str, str]]:
    yield {"PatientID": "1"}


# mistake: a yield that nobody iterates over
@app.store
def store_yields(request: StoreRequest) -> Iterator[int]:
    yield 0


# mistake: a status that is a text
@app.store
def store_returns_text(request: StoreRequest) -> str:
    return "Success"


# mistake: a path in the place of a status
@app.store
def store_returns_path(request: StoreRequest) -> Path:
    return request.save("archive")


# mistake: a class under store
@app.store
class Keeper:
    def __init__(self, request: StoreRequest) -> None: ...


# mistake: a find that returns nothing
@app.find
def find_nothing(request: FindRequest) -> None: ...


# mistake: a find that returns one row
@app.find("Worklist")
def find_one(request: FindRequest) -> dict[str, str]:
    return {"PatientID": "1"}


# mistake: a find that yields texts
@app.find
def find_texts(request: FindRequest) -> Iterator[str]:
    yield "1.2.3"


# mistake: a find whose status is a text
@app.find
def find_text_status(request: FindRequest) -> Iterator[tuple[dict[str, str], str]]:
    yield {"PatientID": "1"}, "0xFF01"


# mistake: a move that returns one path
@app.move
def move_one(request: MoveRequest) -> Path:
    return Path("1.dcm")


# mistake: a get that yields rows
@app.get
def get_rows(request: GetRequest) -> Iterator[dict[str, str]]:
    yield {"SOPInstanceUID": "1.2.3"}


# mistake: a class whose request is of another kind
@app.find
class OfAnother:
    def __init__(self, request: NSetRequest) -> None: ...

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(())


# mistake: a class that cannot be iterated
@app.get("StudyRoot")
class NotIterable:
    def __init__(self, request: GetRequest) -> None: ...


# mistake: attributes that are a list
@app.n_get("Printer")
def printer(request: NGetRequest) -> list[str]:
    return ["NORMAL"]


# mistake: an attribute that a request has not
@app.echo
def wrong_attribute(request: EchoRequest) -> None:
    print(request.identifier)


# mistake: a hook of requests for associations
@app.before_association
def hook_of_two(association: PeerView, request: Request) -> None: ...


# mistake: a hook that answers
@app.before_request
def answers(request: Request) -> int:
    return 0xA700


# mistake: a hook of one kind of request
@app.before_request
def of_store_only(request: StoreRequest) -> None: ...


# mistake: a hook without what it is told
@app.after_request
def told_too_little(request: Request, status: Status) -> None: ...


# mistake: a hook without the reason
@app.after_association
def without_reason(association: PeerView) -> None: ...


# mistake: an identity that is always there
@app.authenticate
def always_there(identity: Identity, association: PeerView) -> bool:
    return identity.proves("doe", "secret")


# mistake: a destination that is a tuple
@app.destination
def a_tuple(ae_title: str, request: MoveRequest | None) -> tuple[str, int] | None:
    return ("10.0.0.7", 11112)


# mistake: a destination without the request
@app.destination
def only_title(ae_title: str) -> Peer | None:
    return None


# mistake: an audit function of two events
@app.audit
def two_events(event: object, other: object) -> None: ...


# mistake: a lifespan without a yield
@app.lifespan
def no_yield(app: App) -> None: ...


# mistake: a lifespan of a blueprint that is async
@part.lifespan
async def async_lifespan(app: App) -> AsyncIterator[None]:
    yield


# mistake: an error handler of the exception only
@app.error_handler(TimeoutError)
def only_error(error: TimeoutError) -> int:
    return 0xA700


# mistake: an error handler of no exception
@app.error_handler("TimeoutError")
def of_text(error: TimeoutError, request: Request) -> int:
    return 0xA700


# mistake: an error handler that returns a text
@app.error_handler(sqlite3.Error)
def returns_text(error: sqlite3.Error, request: Request) -> str:
    return "busy"


# mistake: a hook of ends that is asked of reasons which are no aborts
@app.after_association
def other_reason(association: PeerView, error: TimeoutError) -> AssociationAborted: ...


# mistake: a misspelt setting
App("ARCHIVE", max_asociations=5)
# mistake: a setting of the wrong type
App("ARCHIVE", port="11112")
# mistake: a setting that is None
App("ARCHIVE", max_associations=None)
# mistake: a number where there are seconds
App("ARCHIVE", idle_timeout="60s")
# mistake: a list where there is one folder
App("ARCHIVE", spool=["archive"])
# mistake: numbers in a list of texts
App("ARCHIVE", allow=[10, 11])
# mistake: a text that is not one of the choices
App("ARCHIVE", log_level="loud")
# mistake: a truth value as text
App("ARCHIVE", debug="yes")
# mistake: an AE title that is a number
App(5)
# mistake: two titles by position
App("ARCHIVE", "OLD")
# mistake: a setting of the app for a server
app.serve(port=0, spool="archive")
# mistake: a misspelt setting of a server
app.serve(port=0, idle_timout=5)
# mistake: a setting of a server of the wrong type
app.run(max_associations="5")
# mistake: a setting of the app where it runs
app.run(port=0, charset="ISO_IR 100")
# mistake: a setting of the app for a server of one's own
Server(app, port=0, allow=["CT1"])
# mistake: a port that is a text
app.serve("0.0.0.0", "11112")
# mistake: a misspelt option of a connection
app.connect("PACS", time_out=5)
# mistake: a password without a user
app.connect("PACS", user=("doe",))
# mistake: a time that is a text
pacsroute.connect("10.0.0.7", timeout="5")
# mistake: a misspelt title of a connection
pacsroute.connect("10.0.0.7", called_aet="PACS")
# mistake: settings that are no mapping
app.config.from_mapping([("port", 104)])
# mistake: a setting that there is not
app.config.max_asociations = 5
# mistake: a destination that is no peer
app.destinations["PACS"] = ("10.0.0.7", 104)
# mistake: the module in the place of the blueprint
app.register_blueprint(pacsroute, called_ae="PART")
# mistake: internals as arguments of a request
GetRequest(ahead=[], followers=[])
