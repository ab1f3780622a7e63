"""Requests: plain values that the dispatcher builds from messages, and tests directly."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, overload

from pacsroute.dataset import late
from pacsroute.instances.instance import Duplicate, Instance
from pacsroute.instances.stored import Storage

if TYPE_CHECKING:
    from ssl import SSLContext

    from pydicom import Dataset

    from pacsroute.audit.event import Subject
    from pacsroute.framework.peer import PeerView
    from pacsroute.framework.routes import Route
    from pacsroute.tls import TLS


@dataclass(kw_only=True, repr=False, eq=False)
class Request:
    """The base of all requests.

    Parameters
    ----------
    app : App
        The app that answers it.
    calling_ae, called_ae : str
        The AE titles of the association.
    remote_address : str
        The peer's host.
    user : object
        The result of `@app.authenticate`; None without an identity.
    message_id : int
        The peer's Message ID.
    sop_class, sop_instance, transfer_syntax : str
        UIDs; empty if the command has none.
    abstract_syntax : str
        The UID of its presentation context, which is not always that of the command's SOP class:
        a film box is sent on the context of a print management meta class.
    general : str
        The UID of the related general SOP class that it is served as, if the peer has negotiated
        one (PS3.7 §D.3.3.6) and its own class has no route; else empty.
    extended : mapping of str to int
        The result of extended negotiation for its SOP class, by name: see
        `pacsroute.App.find` and its like.
    association : object
        Its association; None in a test, and over HTTP.
    transport : str
        ``dimse`` or ``web``: an association, or HTTP.
    is_cancelled : callable, optional
        The function behind `cancelled`, set by the transport; without it, `cancelled` is false.

    Attributes
    ----------
    route : Route or None
        The route of its handler, set when it is answered.
    error : BaseException or None
        The exception of the handler.
    keep_failure : callable or None
        Called with an unintended exception of the handler, before the response: a test client
        raises it. Without it, the frames of the exception are released afterwards.
    """

    command: ClassVar[str] = ""

    app: Any = None
    calling_ae: str = ""
    called_ae: str = ""
    remote_address: str = ""
    user: Any = None
    message_id: int = 0
    sop_class: str = ""
    sop_instance: str = ""
    transfer_syntax: str = ""
    abstract_syntax: str = ""
    general: str = ""
    extended: Mapping[str, int] = field(default_factory=dict)
    association: PeerView | None = field(default=None, repr=False)
    transport: Literal["dimse", "web"] = "dimse"
    is_cancelled: Callable[[], bool] | None = field(default=None, repr=False, compare=False)
    error: BaseException | None = field(default=None, init=False, repr=False)
    followers: list[Callable[[], object]] | None = field(default=None, init=False, repr=False)
    keep_failure: Callable[[BaseException], object] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    _state: SimpleNamespace | None = field(default=None, init=False, repr=False)
    route: Route | None = field(default=None, init=False, repr=False, compare=False)

    # Shared: generating them for each class takes a twentieth of a server's start.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [one.name for one in fields(self) if one.compare]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    @property
    def state(self) -> SimpleNamespace:
        """A place for objects that hooks and handlers of this request share."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def cancelled(self) -> bool:
        """Whether the peer has cancelled it (C-CANCEL) or disconnected; checked on each use."""
        return self.is_cancelled is not None and self.is_cancelled()

    def is_wanted(self) -> bool:
        """Return whether the peer still waits for it; slow functions should check now and then."""
        return not self.cancelled

    def after(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function once the response has been sent; a crash loses the call.

        It runs once, on a small pool of threads; a stopping server waits for it. Work that must
        not be lost needs a durable job: see `App.job` and `App.forward`.

        Examples
        --------
        >>> request = EchoRequest()
        >>> request.after(print, "answered")
        >>> len(request.followers)
        1
        """
        if self.followers is None:
            self.followers = []
        self.followers.append(lambda: function(*args))


@dataclass(kw_only=True, repr=False, eq=False)
class EchoRequest(Request):
    """C-ECHO: tests the connection (PS3.7 §9.1.5)."""

    command: ClassVar[str] = "echo"


@dataclass(kw_only=True, repr=False, eq=False)
class StoreRequest(Request):
    """C-STORE: store this instance (PS3.7 §9.1.1).

    Parameters
    ----------
    instance : Instance
        The instance to store.
    priority : int
        The priority of the C-STORE: 0 medium, 1 high, 2 low (PS3.7 §9.3.1.1).
    move_originator_ae, move_originator_message_id : str and int, or None
        The AE title and Message ID of the C-MOVE behind it.

    Examples
    --------
    >>> from pydicom import Dataset
    >>> ds = Dataset()
    >>> ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    >>> StoreRequest(instance=Instance(ds)).sop_instance
    '1.2.3'
    """

    command: ClassVar[str] = "store"

    instance: Instance
    priority: int = 0
    move_originator_ae: str | None = None
    move_originator_message_id: int | None = None

    def __post_init__(self) -> None:
        if not self.sop_class:
            self.sop_class = self.instance.sop_class
            self.sop_instance = self.instance.sop_instance
            self.transfer_syntax = self.instance.transfer_syntax

    @property
    def dataset(self) -> Dataset:
        """The data set, parsed on first use."""
        return self.instance.dataset

    @overload
    def save(
        self,
        folder: str | os.PathLike[str],
        name: str | None = None,
        duplicate: Duplicate = "replace",
        durable: bool = True,
    ) -> Path: ...

    @overload
    def save(self, folder: Storage) -> Instance: ...

    def save(
        self,
        folder: str | os.PathLike[str] | Storage,
        name: str | None = None,
        duplicate: Duplicate = "replace",
        durable: bool = True,
    ) -> Path | Instance:
        """Write the instance to a Part 10 file as it was received; see `Instance.save`."""
        return self.instance.save(folder, name, duplicate, durable)


LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
"""The levels of query/retrieve, from the top (PS3.4 §C.6)."""


@dataclass(kw_only=True, repr=False, eq=False)
class QueryRequest(Request):
    """The base of requests with an identifier.

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys to match, and in a C-FIND those to return (PS3.4 §C.4.1.1.3).
    """

    identifier: Dataset = field(default_factory=late.empty)

    @property
    def level(self) -> str:
        """The Query/Retrieve Level in the standard's spelling; empty if it is invalid.

        Peers also write ``IMAGES`` or ``Study``, so only the first three letters count.
        """
        written = str(self.identifier.get("QueryRetrieveLevel") or "").strip().upper()
        return {level[:3]: level for level in LEVELS}.get(written[:3], "")


@dataclass(kw_only=True, repr=False, eq=False)
class FindRequest(QueryRequest):
    """C-FIND: query (PS3.7 §9.1.2).

    Parameters
    ----------
    identifier : pydicom.Dataset
        The keys to match, and those to return (PS3.4 §C.4.1.1.3).
    limit, offset : int, optional
        The number of requested rows, and of rows to skip; a C-FIND requests all rows.
    paged : bool
        Set by a handler that has applied `limit` and `offset` itself.
    total : callable, optional
        Set by such a handler if it can count matches. It is called with a bound, and returns the
        number of rows up to it.

    Examples
    --------
    >>> from pacsroute import App, uids
    >>> app = App()
    >>> @app.find("StudyRoot")
    ... def find(request):
    ...     yield {"PatientID": "1"}
    >>> answers = app.handle(FindRequest(app=app, sop_class=uids.sop_class("StudyRoot", "find")))
    >>> [answer.row for answer in answers]  # the final one has none
    [{'PatientID': '1'}, None]
    """

    command: ClassVar[str] = "find"

    limit: int | None = None
    offset: int = 0
    paged: bool = field(default=False, compare=False)
    total: Callable[[int], int] | None = field(default=None, compare=False)


@dataclass(kw_only=True, repr=False, eq=False)
class GetRequest(QueryRequest):
    """C-GET: send these instances on this association (PS3.7 §9.1.3).

    Parameters
    ----------
    identifier : pydicom.Dataset
        The level, and the unique keys of the instances to send (PS3.4 §C.4.3.1.3).
    count : int, optional
        The number of instances. If a generator sets it before its first yield, its instances are
        sent one by one; else they are counted first.

    Attributes
    ----------
    read_ahead : bool
        Set by a generator before its first yield, if it may be resumed before its last instance
        was sent: then the next one is read in advance.
    ahead : sequence
        All instances, if they are known before the first is sent.
    subjects : tuple of pacsroute.audit.Subject
        The patients and studies of the instances, if the handler names them for `App.audit`.
    """

    command: ClassVar[str] = "get"

    count: int | None = None
    read_ahead: bool = field(default=False, init=False, repr=False, compare=False)
    ahead: Sequence[object] = field(default=(), init=False, repr=False, compare=False)
    subjects: tuple[Subject, ...] = field(default=(), init=False, repr=False, compare=False)


@dataclass(kw_only=True, repr=False, eq=False)
class MoveRequest(GetRequest):
    """C-MOVE: send these instances to another AE (PS3.7 §9.1.4).

    Parameters
    ----------
    identifier, count
        As for `GetRequest`.
    move_destination : str
        The AE title to send to, as `App.destination` resolves it.

    Attributes
    ----------
    peer : Peer or None
        The resolved address of the destination.
    """

    command: ClassVar[str] = "move"

    move_destination: str = ""
    peer: Peer | None = field(default=None, init=False, repr=False, compare=False)


@dataclass(kw_only=True, repr=False, eq=False)
class NormalizedRequest(Request):
    """The base of the requests of the N-services (PS3.7 §10).

    `sop_instance` is the affected or requested SOP instance. If an N-CREATE has none, it is
    generated before the handler runs.
    """

    reports: list[EventReport] | None = field(default=None, init=False, repr=False)

    def report(
        self,
        event_type: int,
        information: Mapping[str, Any] | Dataset | None = None,
        *,
        sop_class: str | None = None,
        sop_instance: str | None = None,
    ) -> None:
        """Send an N-EVENT-REPORT on this association after the response.

        Nothing is sent if the peer negotiated no presentation context for it.

        Parameters
        ----------
        event_type : int
            Its Event Type ID.
        information : mapping of str or Dataset, optional
            The event information.
        sop_class, sop_instance : str, optional
            UIDs of the event, if they differ from those of this request.
        """
        if self.reports is None:
            self.reports = []
        self.reports.append(
            EventReport(
                sop_class or self.sop_class,
                sop_instance or self.sop_instance,
                event_type,
                information,
            )
        )


class EventReport(NamedTuple):
    """An event to report."""

    sop_class: str
    sop_instance: str
    event_type: int
    information: Mapping[str, Any] | Dataset | None = None


@dataclass(kw_only=True, repr=False, eq=False)
class NCreateRequest(NormalizedRequest):
    """N-CREATE: create this SOP instance (PS3.7 §10.1.5).

    Parameters
    ----------
    attribute_list : pydicom.Dataset
        Its attributes.
    """

    command: ClassVar[str] = "n_create"

    attribute_list: Dataset = field(default_factory=late.empty)


@dataclass(kw_only=True, repr=False, eq=False)
class NSetRequest(NormalizedRequest):
    """N-SET: change these attributes (PS3.7 §10.1.3).

    Parameters
    ----------
    modification_list : pydicom.Dataset
        The attributes with their new values.
    """

    command: ClassVar[str] = "n_set"

    modification_list: Dataset = field(default_factory=late.empty)


@dataclass(kw_only=True, repr=False, eq=False)
class NGetRequest(NormalizedRequest):
    """N-GET: return these attributes, or all if there is no list (PS3.7 §10.1.2).

    Parameters
    ----------
    attribute_identifiers : tuple of int
        The requested tags.
    """

    command: ClassVar[str] = "n_get"

    attribute_identifiers: tuple[int, ...] = ()


@dataclass(kw_only=True, repr=False, eq=False)
class NActionRequest(NormalizedRequest):
    """N-ACTION: perform this action (PS3.7 §10.1.4).

    Parameters
    ----------
    action_type : int
        The Action Type ID of the service class.
    action_information : pydicom.Dataset
        The data set of the request; empty if the peer sent none.
    """

    command: ClassVar[str] = "n_action"

    action_type: int = 0
    action_information: Dataset = field(default_factory=late.empty)


@dataclass(kw_only=True, repr=False, eq=False)
class NDeleteRequest(NormalizedRequest):
    """N-DELETE: delete this SOP instance (PS3.7 §10.1.6)."""

    command: ClassVar[str] = "n_delete"


@dataclass(kw_only=True, repr=False, eq=False)
class NEventReportRequest(NormalizedRequest):
    """N-EVENT-REPORT: an event has happened (PS3.7 §10.1.1).

    Parameters
    ----------
    event_type : int
        The Event Type ID of the service class.
    event_information : pydicom.Dataset
        The data set of the request; empty if the peer sent none.
    """

    command: ClassVar[str] = "n_event_report"

    event_type: int = 0
    event_information: Dataset = field(default_factory=late.empty)


class Progress(NamedTuple):
    """The sub-operations of a C-GET or C-MOVE (PS3.7 §9.1.4.1).

    Parameters
    ----------
    remaining, completed, failed, warning : int
        The numbers of those that remain, succeeded, failed, or ended with a warning.
    failed_instances : tuple of str
        The SOP Instance UIDs of the failed ones, if the peer lists them.
    """

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0
    failed_instances: tuple[str, ...] = ()


class Peer(NamedTuple):
    """The address of an application entity.

    Parameters
    ----------
    host, port : str and int
        Its address.
    ae_title : str, optional
        Its AE title, if it differs from the requested one.
    tls : TLS or ssl.SSLContext, optional
        The TLS settings; without them, the connection is plain.
    url : str, optional
        The root of its DICOMweb, instead of a host and a port: ``https://pacs.example/dicom-web``.

    Examples
    --------
    >>> Peer("10.0.0.7", 11112).port
    11112
    """

    host: str = ""
    port: int = 0
    ae_title: str = ""
    tls: TLS | SSLContext | None = None
    url: str = ""
