"""Flask for DICOM: a decorator-routed micro-framework for the server side of medical imaging."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pacsroute import errors, uids
from pacsroute.app import App
from pacsroute.config import Config
from pacsroute.dataset import late
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    DataSetError,
    Failure,
    IdentifierError,
    NotAccepted,
    PacsrouteError,
    ProtocolError,
    ReadFailed,
    RequestFailed,
    SetupError,
)
from pacsroute.framework.blueprints import Blueprint
from pacsroute.framework.identity import Identity
from pacsroute.framework.peer import PeerView
from pacsroute.framework.requests import (
    EchoRequest,
    FindRequest,
    GetRequest,
    MoveRequest,
    NActionRequest,
    NCreateRequest,
    NDeleteRequest,
    NEventReportRequest,
    NGetRequest,
    NSetRequest,
    Peer,
    Progress,
    Request,
    StoreRequest,
)
from pacsroute.instances.instance import Instance
from pacsroute.net.association import Association
from pacsroute.net.server import Server
from pacsroute.services.dispatcher import Dispatcher
from pacsroute.status import Status
from pacsroute.tls import TLS

if TYPE_CHECKING:
    from pacsroute import matching, mpps, testing, ups
    from pacsroute.archive.blueprint import Archive
    from pacsroute.dataset.from_json import from_dicom_json
    from pacsroute.dataset.json_model import dicom_json
    from pacsroute.net.client import Client, Reply
    from pacsroute.net.connecting import connect

    __version__: str

__all__ = [
    "TLS",
    "App",
    "Archive",
    "Association",
    "AssociationAborted",
    "AssociationError",
    "AssociationRejected",
    "AssociationReleased",
    "Blueprint",
    "Client",
    "Config",
    "DataSetError",
    "Dispatcher",
    "EchoRequest",
    "Failure",
    "FindRequest",
    "GetRequest",
    "IdentifierError",
    "Identity",
    "Instance",
    "MoveRequest",
    "NActionRequest",
    "NCreateRequest",
    "NDeleteRequest",
    "NEventReportRequest",
    "NGetRequest",
    "NSetRequest",
    "NotAccepted",
    "PacsrouteError",
    "Peer",
    "PeerView",
    "Progress",
    "ProtocolError",
    "ReadFailed",
    "Reply",
    "Request",
    "RequestFailed",
    "Server",
    "SetupError",
    "Status",
    "StoreRequest",
    "__version__",
    "connect",
    "dicom_json",
    "errors",
    "from_dicom_json",
    "matching",
    "mpps",
    "testing",
    "uids",
    "ups",
]


def __getattr__(name: str) -> Any:
    """Import a name that needs pydicom on first use; see `pacsroute.dataset.late`."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes 10 ms, and is seldom asked

        return version("pacsroute")
    if name in ("Archive", "matching", "mpps", "testing", "ups", "Client", "Reply", "connect"):
        late.load()
    if name in ("matching", "mpps", "testing", "ups"):
        return import_module(f"pacsroute.{name}")
    if name == "Archive":
        return import_module("pacsroute.archive.blueprint").Archive
    if name in ("dicom_json", "from_dicom_json"):
        return getattr(import_module("pacsroute.dataset"), name)
    if name in ("Client", "Reply"):
        return getattr(import_module("pacsroute.net.client"), name)
    if name == "connect":
        return import_module("pacsroute.net.connecting").connect
    raise AttributeError(f"module 'pacsroute' has no attribute {name!r}")
