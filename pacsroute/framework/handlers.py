"""The types of handlers and hooks: what each takes and returns; for type checkers only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

from pydicom import Dataset

from pacsroute.audit.event import Event
from pacsroute.errors import AssociationAborted
from pacsroute.framework.identity import Identity
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
    Request,
    StoreRequest,
)
from pacsroute.instances.instance import Instance
from pacsroute.status import Status

Final: TypeAlias = int | Status | None
"""A final status; None is Success, or the computed status of a find, get or move."""

Attributes: TypeAlias = Mapping[str, Any] | Dataset
"""A data set: pydicom's, or a dict of keywords."""

Answer: TypeAlias = Final | Attributes | tuple[Final, Attributes] | tuple[Attributes, Final]
"""The result of an N-service's handler: a status, a data set, or both."""

Matches: TypeAlias = Iterable[Attributes | tuple[Attributes, int | Status]]
"""The items that a find yields: rows, or rows with their status."""

Instances: TypeAlias = Iterable[str | os.PathLike[str] | Dataset | Instance]
"""The items that a get or move yields."""

# A class is also a callable, whose instances are iterated.
EchoHandler = TypeVar("EchoHandler", bound=Callable[[EchoRequest], Final])
StoreHandler = TypeVar("StoreHandler", bound=Callable[[StoreRequest], Final])
FindHandler = TypeVar("FindHandler", bound=Callable[[FindRequest], Matches])
GetHandler = TypeVar("GetHandler", bound=Callable[[GetRequest], Instances])
MoveHandler = TypeVar("MoveHandler", bound=Callable[[MoveRequest], Instances])
CreateHandler = TypeVar("CreateHandler", bound=Callable[[NCreateRequest], Answer])
SetHandler = TypeVar("SetHandler", bound=Callable[[NSetRequest], Answer])
GetAttributesHandler = TypeVar("GetAttributesHandler", bound=Callable[[NGetRequest], Answer])
ActionHandler = TypeVar("ActionHandler", bound=Callable[[NActionRequest], Answer])
DeleteHandler = TypeVar("DeleteHandler", bound=Callable[[NDeleteRequest], Answer])
EventHandler = TypeVar("EventHandler", bound=Callable[[NEventReportRequest], Answer])

# The association is Any: hooks may annotate it as `pacsroute.Association`, as in a server, or as
# `pacsroute.PeerView`, which also covers tests.
BeforeAssociation = TypeVar("BeforeAssociation", bound=Callable[[Any], object])
AfterAssociation = TypeVar(
    "AfterAssociation", bound=Callable[[Any, AssociationAborted | None], object]
)
BeforeRequest = TypeVar("BeforeRequest", bound=Callable[[Request], None])
AfterRequest = TypeVar(
    "AfterRequest", bound=Callable[[Request, Status | None, BaseException | None], object]
)
Authenticator = TypeVar("Authenticator", bound=Callable[[Identity | None, Any], object])
Destinator = TypeVar("Destinator", bound=Callable[[str, MoveRequest | None], Peer | None])
Auditor = TypeVar("Auditor", bound=Callable[[Event], object])
ReadyCheck = TypeVar("ReadyCheck", bound=Callable[[Any], "str | None"])  # is given the app
Lifespan = TypeVar("Lifespan", bound=Callable[[Any], Iterator[None]])  # is given the app
# A TypeVar cannot be bound by another, so the exception is not compared with the decorator's.
ErrorHandler = TypeVar("ErrorHandler", bound=Callable[[Any, Request], Answer])
