"""The client: a peer's services, as methods that return or iterate."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from pydicom import Dataset

from pacsroute import uids
from pacsroute.app import App
from pacsroute.dataset.encode import encode, keyword_tag
from pacsroute.dataset.instance import Instance
from pacsroute.dataset.parse import parse
from pacsroute.dataset.spool import Spool
from pacsroute.dimse.commands import (
    CCancelRQ,
    CEchoRQ,
    CFindRQ,
    CGetRQ,
    CMoveRQ,
    CStoreRQ,
    NActionRQ,
    NCreateRQ,
    NDeleteRQ,
    NEventReportRQ,
    NGetRQ,
    NSetRQ,
    Request,
    Response,
    SubOperationsResponse,
)
from pacsroute.dimse.messages import Message
from pacsroute.dispatcher import Dispatcher
from pacsroute.errors import (
    AssociationError,
    NotAccepted,
    PacsrouteError,
    ProtocolError,
    RequestFailed,
)
from pacsroute.net.association import RESPONSE_TIMEOUT, Association
from pacsroute.net.tls import TLS
from pacsroute.outcome import Outcome
from pacsroute.requests import Peer, Progress
from pacsroute.routing import name_of
from pacsroute.services import transfer
from pacsroute.services.base import Association as Carried
from pacsroute.services.base import response
from pacsroute.status import OUT_OF_RESOURCES, SUCCESS, Status
from pacsroute.upper_layer.negotiation import MAXIMUM_CONTEXTS, AcceptedContext, propose
from pacsroute.upper_layer.pdu import AssociateRQ, UserIdentity

Source = Instance | str | os.PathLike[str] | Dataset | bytes
Keys = Mapping[str, Any] | Dataset
Context = tuple[str, tuple[str, ...]]

_AFTER_CANCEL = 10.0  # seconds in which a peer has to end what was cancelled
_NATIVE = (uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN)


class Reply(NamedTuple):
    """How a peer answered a request of an N-service.

    Parameters
    ----------
    status : Status
        Success or a warning.
    sop_instance : str
        The UID of the instance that it was about; made by the peer in an N-CREATE without.
    dataset : pydicom.Dataset or None
        The attribute list, action reply or event reply.
    """

    status: Status
    sop_instance: str = ""
    dataset: Dataset | None = None


class Opener(Protocol):
    """What associates: over a socket, or in memory."""

    def __call__(self, request: AssociateRQ, app: App, /) -> Carried:
        """Ask for an association."""


@dataclass
class _Open:
    """An association, and what was proposed for it."""

    association: Carried
    proposed: set[Context]
    scp_of: frozenset[str]


class Client:
    """Asks a peer for its services; made by `connect`, `App.connect` and `App.test_client`.

    It associates with what each request needs, and anew when a context or role is
    missing. As a context manager it releases at the end, or aborts when an exception
    leaves it. Threads may share it: each request has an association to itself, so an
    iterator that is not exhausted and another request go over two.

    Examples
    --------
    >>> app = App("PACS")
    >>> with app.serve(port=0) as server, connect("127.0.0.1", server.port) as client:
    ...     client.echo().name
    'Success'
    """

    def __init__(
        self,
        opener: Opener,
        *,
        called_ae: str,
        calling_ae: str,
        user: str | tuple[str, str] | UserIdentity | None = None,
        app: App | None = None,
    ) -> None:
        self.called_ae = called_ae
        self.calling_ae = calling_ae
        self._opener = opener
        self._app = app or App(calling_ae)
        self._identity = identity_of(user)
        self._idle: list[_Open] = []
        self._busy: list[_Open] = []
        self._lock = threading.Lock()
        self._contexts: dict[Context, None] = {}
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(abort=kind is not None)

    def close(self, *, abort: bool = False) -> None:
        """Release the associations, or abort them; those with a request under way are aborted."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy, self._busy = self._busy, []
        for one in idle:
            _end(one, abort=abort)
        for one in busy:
            _end(one, abort=True)

    # ------------------------------------------------------------- requests

    def echo(self) -> Status:
        """Verify that the peer answers (PS3.7 §9.1.5).

        Returns
        -------
        Status
            Success or a warning.

        Raises
        ------
        AssociationError
            If there is no association, or it ends; this holds for all methods.
        NotAccepted
            If the peer does not accept what the request needs; this too.
        RequestFailed
            If the peer answers with a failure; this too.
        """
        with self._use([(uids.VERIFICATION, _NATIVE)]) as (one, context):
            command = CEchoRQ(
                message_id=next(one.association.numbers), affected_sop_class=context.abstract_syntax
            )
            return _final("C-ECHO", self._ask(one, context, command))

    def store(self, source: Source, *, priority: int = 0) -> Status:
        """Send an instance (PS3.7 §9.1.1).

        Parameters
        ----------
        source : Instance, path, pydicom.Dataset or bytes
            It is sent as it is stored, or converted where the peer wants another transfer
            syntax. Bytes are those of a Part 10 file.
        priority : int
            0 medium, 1 high, 2 low.

        Raises
        ------
        DataSetError, OSError
            If it cannot be read or converted.
        """
        instance = source if isinstance(source, Instance) else Instance(source)
        needed = transfer.contexts_for(instance.sop_class, instance.transfer_syntax)
        with self._use(needed) as (one, _):
            context = transfer.pick(one.association.contexts.values(), instance, as_acceptor=False)
            status = transfer.send(
                one.association, context, instance, next(one.association.numbers), priority=priority
            )
            return _checked(f"C-STORE of {instance.sop_instance}", status)

    def find(
        self, keys: Keys, sop_class: str = "StudyRoot", *, priority: int = 0
    ) -> Generator[Dataset, None, Status]:
        """Query (PS3.7 §9.1.2).

        Parameters
        ----------
        keys : mapping of str or pydicom.Dataset
            The identifier: keywords and what they have to match; an empty value or None
            is asked for only.
        sop_class : str
            ``StudyRoot``, ``PatientRoot``, ``Worklist``, a UID or a keyword.
        priority : int
            As for `store`.

        Yields
        ------
        pydicom.Dataset
            What matches. Closing the iterator sends a C-CANCEL.

        Returns
        -------
        Status
            The generator's value: Success.

        Examples
        --------
        ::

            for study in client.find({"QueryRetrieveLevel": "STUDY", "PatientID": "1*"}):
                print(study.get("StudyInstanceUID"))
        """
        uid = uids.sop_class(sop_class, "find")
        with self._use([(uid, _NATIVE)]) as (one, context):
            command = CFindRQ(
                message_id=next(one.association.numbers), affected_sop_class=uid, priority=priority
            )
            with contextlib.closing(self._answers(one, context, command, keys)) as answers:
                for message in answers:
                    if _is_final(message):
                        return _final("C-FIND", message)
                    data: Any = message.data
                    if data:
                        yield parse(bytes(data), context.transfer_syntax)
        raise AssertionError  # the last of the answers is a status

    def get(
        self,
        keys: Keys,
        sop_class: str = "StudyRoot",
        *,
        storage: Iterable[str] | None = None,
        transfer_syntaxes: Sequence[str] = _NATIVE,
        priority: int = 0,
    ) -> Generator[Instance, None, Status]:
        """Fetch instances over this association (PS3.7 §9.1.3).

        Parameters
        ----------
        keys : mapping of str or pydicom.Dataset
            The identifier: the level, and the unique keys down to it.
        sop_class : str
            ``StudyRoot``, ``PatientRoot``, a UID or a keyword.
        storage : iterable of str, optional
            The storage classes that may come, as UIDs or keywords: 127 contexts at most.
            Each transfer syntax has a context of its own then, so that the peer can send
            what it has. Without it, the most usual classes with a context each.
        transfer_syntaxes : sequence of str
            Those that instances may come in, as UIDs or keywords, the best first.
        priority : int
            As for `store`.

        Yields
        ------
        Instance
            As it was received. Its Success is answered when the next one is asked for:
            what was not dealt with is not acknowledged. Closing the iterator sends a
            C-CANCEL.

        Returns
        -------
        Status
            The generator's value: Success, or a warning if sub-operations failed.

        Examples
        --------
        ::

            keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
            for instance in client.get(keys):
                instance.save("incoming")
        """
        uid = uids.sop_class(sop_class, "get")
        syntaxes = tuple(uids.transfer_syntax(syntax) for syntax in transfer_syntaxes)
        if storage is None:
            classes = uids.usual_storage(MAXIMUM_CONTEXTS - 1)
            contexts = [(storage_class, syntaxes) for storage_class in classes]
        else:
            classes = tuple(uids.sop_class(name, "store") for name in storage)
            contexts = [(one, (syntax,)) for one in classes for syntax in syntaxes]
        with self._use([(uid, _NATIVE), *contexts], frozenset(classes)) as (one, context):
            command = CGetRQ(
                message_id=next(one.association.numbers), affected_sop_class=uid, priority=priority
            )
            coming = self._answers(one, context, command, keys, fetches=True)
            with contextlib.closing(coming) as answers:
                for message in answers:
                    if _is_final(message):
                        return _final("C-GET", message, _progress(message, context))
                    if isinstance(message.command, CStoreRQ):
                        yield from _received(one, message, message.command)
        raise AssertionError

    def move(
        self, keys: Keys, destination: str, sop_class: str = "StudyRoot", *, priority: int = 0
    ) -> Generator[Progress, None, Status]:
        """Have the peer send instances to somebody (PS3.7 §9.1.4).

        Parameters
        ----------
        keys : mapping of str or pydicom.Dataset
            The identifier: the level, and the unique keys down to it.
        destination : str
            The AE title to send to, which the peer has to know.
        sop_class : str
            ``StudyRoot``, ``PatientRoot``, a UID or a keyword.
        priority : int
            As for `store`.

        Yields
        ------
        Progress
            The counts, as the peer tells them, the final ones last. Closing the iterator
            sends a C-CANCEL.

        Returns
        -------
        Status
            The generator's value: Success, or a warning if sub-operations failed.
        """
        uid = uids.sop_class(sop_class, "move")
        with self._use([(uid, _NATIVE)]) as (one, context):
            command = CMoveRQ(
                message_id=next(one.association.numbers),
                affected_sop_class=uid,
                move_destination=destination,
                priority=priority,
            )
            with contextlib.closing(self._answers(one, context, command, keys)) as answers:
                for message in answers:
                    progress = _progress(message, context)
                    yield progress
                    if _is_final(message):
                        return _final("C-MOVE", message, progress)
        raise AssertionError

    # ------------------------------------------------------------- N-services

    def n_create(
        self,
        sop_class: str,
        attributes: Keys | None = None,
        sop_instance: str | None = None,
        *,
        meta: str | None = None,
    ) -> Reply:
        """Have an SOP instance made (PS3.7 §10.1.5).

        Parameters
        ----------
        sop_class : str
            A short name such as ``MPPS``, a UID or pydicom's keyword.
        attributes : mapping of str or Dataset, optional
            Its attribute list.
        sop_instance : str, optional
            Its UID; the peer makes one without.
        meta : str, optional
            The SOP class of the presentation context, where that is another one: a print
            management meta class, or a class of UPS. This holds for all N-services.

        Returns
        -------
        Reply
            Success or a warning, with what the peer answered. This holds for all of them.
        """
        command = NCreateRQ(affected_sop_class="", affected_sop_instance=sop_instance)
        return self._managed("n_create", sop_class, meta, command, attributes)

    def n_set(
        self, sop_class: str, sop_instance: str, attributes: Keys, *, meta: str | None = None
    ) -> Reply:
        """Have attributes of an SOP instance changed (PS3.7 §10.1.3)."""
        command = NSetRQ(requested_sop_instance=uids.sop_instance(sop_instance))
        return self._managed("n_set", sop_class, meta, command, attributes)

    def n_get(
        self,
        sop_class: str,
        sop_instance: str,
        attributes: Iterable[str] = (),
        *,
        meta: str | None = None,
    ) -> Reply:
        """Ask for attributes of an SOP instance, by keyword; for all of them without (§10.1.2)."""
        tags = tuple(keyword_tag(keyword) for keyword in attributes)
        command = NGetRQ(
            requested_sop_instance=uids.sop_instance(sop_instance),
            attribute_identifiers=tags or None,
        )
        return self._managed("n_get", sop_class, meta, command, None)

    def n_action(
        self,
        sop_class: str,
        sop_instance: str,
        action_type: int,
        information: Keys | None = None,
        *,
        meta: str | None = None,
    ) -> Reply:
        """Have something done with an SOP instance (PS3.7 §10.1.4)."""
        command = NActionRQ(
            requested_sop_instance=uids.sop_instance(sop_instance), action_type=action_type
        )
        return self._managed("n_action", sop_class, meta, command, information)

    def n_delete(self, sop_class: str, sop_instance: str, *, meta: str | None = None) -> Reply:
        """Have an SOP instance deleted (PS3.7 §10.1.6)."""
        command = NDeleteRQ(requested_sop_instance=uids.sop_instance(sop_instance))
        return self._managed("n_delete", sop_class, meta, command, None)

    def n_event_report(
        self,
        sop_class: str,
        sop_instance: str,
        event_type: int,
        information: Keys | None = None,
        *,
        meta: str | None = None,
    ) -> Reply:
        """Report an event of an SOP instance, as its SCP (PS3.7 §10.1.1).

        The association proposes the SCP role for it.
        """
        command = NEventReportRQ(
            affected_sop_instance=uids.sop_instance(sop_instance), event_type=event_type
        )
        return self._managed("n_event_report", sop_class, meta, command, information)

    def _managed(
        self, name: str, sop_class: str, meta: str | None, command: Any, data: Keys | None
    ) -> Reply:
        uid = uids.sop_class(sop_class, name)
        abstract = uid if meta is None else uids.sop_class(meta, name)
        scp_of = frozenset({abstract} if name == "n_event_report" else ())
        with self._use([(abstract, _NATIVE)], scp_of) as (one, context):
            role = "affected" if hasattr(command, "affected_sop_class") else "requested"
            setattr(command, f"{role}_sop_class", uid)
            command.message_id = next(one.association.numbers)
            encoded = None if data is None else encode(data, context.transfer_syntax)
            one.association.send(context.id, command, encoded)
            message = self._next(one, command, fetches=False)
            status = _final(name_of(name), message)
            answer, reply = message.command, None
            answered: Any = message.data
            if answered:
                reply = parse(bytes(answered), context.transfer_syntax)
            return Reply(status, getattr(answer, "affected_sop_instance", None) or "", reply)

    # ------------------------------------------------------------- how they are made

    def _answers(
        self,
        one: _Open,
        context: AcceptedContext,
        command: CFindRQ | CGetRQ | CMoveRQ,
        keys: Keys,
        *,
        fetches: bool = False,
    ) -> Generator[Message, None, None]:
        """Send a request and yield what comes for it, the final response last.

        Closed before that, it sends a C-CANCEL and waits for the end.
        """
        association = one.association
        data = encode(keys, context.transfer_syntax)
        association.send(context.id, command, data)
        final = False
        try:
            while not final:
                message = self._next(one, command, fetches=fetches)
                final = _is_final(message)
                yield message
        except GeneratorExit:
            if final:
                return
            with contextlib.suppress(AssociationError):
                association.send(context.id, CCancelRQ(message_id_responded_to=command.message_id))
                patience = time.monotonic() + _AFTER_CANCEL
                while True:
                    if time.monotonic() > patience:  # it goes on as if nothing had been said
                        association.abort()
                    message = self._next(one, command, fetches=fetches)
                    answer = message.command
                    if isinstance(answer, CStoreRQ):
                        _answer_store(one, message, answer, Status(OUT_OF_RESOURCES, "cancelled"))
                    elif _is_final(message):
                        break
            raise

    def _next(self, one: _Open, command: Request, *, fetches: bool) -> Message:
        """Return the next message for a request; what else the peer asks, the app answers."""
        while True:
            message = one.association.receive()
            answer = message.command
            if isinstance(answer, Response):
                if answer.message_id_responded_to == command.message_id:
                    return message
            elif fetches and isinstance(answer, CStoreRQ):
                return message
            else:
                Dispatcher(self._app, one.association).dispatch(message)

    def _ask(self, one: _Open, context: AcceptedContext, command: Request) -> Message:
        one.association.send(context.id, command)
        return self._next(one, command, fetches=False)

    @contextlib.contextmanager
    def _use(
        self, contexts: Collection[Context], scp_of: frozenset[str] = frozenset()
    ) -> Iterator[tuple[_Open, AcceptedContext]]:
        """Have an association to oneself, on which the contexts were proposed.

        With it comes the first context that was accepted of the first abstract syntax.
        """
        one = self._check_out(contexts, scp_of)
        sound = False
        try:
            yield one, _accepted(one, contexts)
            sound = True
        except (PacsrouteError, OSError, GeneratorExit) as error:
            sound = not isinstance(error, ProtocolError)
            raise
        finally:
            # Anything else, such as a KeyboardInterrupt, may have left half of a message.
            ended = one.association.ended() is not None
            with self._lock:
                if one in self._busy:
                    self._busy.remove(one)
                keep = sound and not ended and not self._closed
                if keep:
                    self._idle.append(one)
            if not keep:
                _end(one, abort=True)

    def _check_out(self, contexts: Collection[Context], scp_of: frozenset[str]) -> _Open:
        wanted = set(contexts)
        while True:
            with self._lock:
                if self._closed:
                    raise AssociationError("the client is closed")
                one = self._idle.pop() if self._idle else None
            if one is None:
                break
            gone = one.association.cancelled(-1)  # while it was idle
            if not gone and wanted <= one.proposed and scp_of <= one.scp_of:
                with self._lock:
                    self._busy.append(one)
                return one
            _end(one, abort=gone)
        with self._lock:
            everything = self._contexts | dict.fromkeys(contexts)
            if len(everything) > MAXIMUM_CONTEXTS:
                everything = dict.fromkeys(contexts)
            # Roles belong to a class as a whole: what is fetched is proposed for that only.
            proposed = dict.fromkeys(contexts) if scp_of else everything
            if not scp_of:
                self._contexts = everything
        request = propose(
            self.calling_ae,
            self.called_ae,
            proposed,
            scp_of=scp_of,
            user_identity=self._identity,
            maximum_length=self._app.config.maximum_length,
        )
        one = _Open(self._opener(request, self._app), set(proposed), scp_of)
        with self._lock:
            self._busy.append(one)
        return one


def connect(
    host: str,
    port: int = 11112,
    *,
    called_ae: str = "ANY-SCP",
    calling_ae: str = "PACSROUTE",
    tls: TLS | SSLContext | bool | None = None,
    user: str | tuple[str, str] | UserIdentity | None = None,
    timeout: float = RESPONSE_TIMEOUT,
    app: App | None = None,
) -> Client:
    """Return a client of a peer; it associates when it is first asked for something.

    Parameters
    ----------
    host, port : str and int
        Where the peer listens.
    called_ae, calling_ae : str
        Its AE title, and ours.
    tls : TLS or ssl.SSLContext or bool, optional
        What to speak TLS with; True trusts the system's CAs, for the host as it is called.
    user : str, (str, str) or UserIdentity, optional
        A user name, or one with a passcode, or what else PS3.7 §D.3.3.7 has.
    timeout : float
        Seconds without a message, after which a request is given up.
    app : App, optional
        What answers requests of the peer.

    Raises
    ------
    SetupError
        If the TLS files cannot be used.

    Examples
    --------
    ::

        with pacsroute.connect("10.0.0.7", 11112, called_ae="PACS") as client:
            client.store("image.dcm")
    """
    if tls is True:
        tls = TLS()
    if isinstance(tls, TLS):
        tls.client()  # what is wrong with the files is better known now
    return client_of(
        Peer(host, port, called_ae, tls or None), calling_ae, user=user, timeout=timeout, app=app
    )


def client_of(
    peer: Peer,
    calling_ae: str,
    *,
    user: str | tuple[str, str] | UserIdentity | None = None,
    timeout: float = RESPONSE_TIMEOUT,
    app: App | None = None,
) -> Client:
    """Return a client of a peer whose address is known."""

    def opener(request: AssociateRQ, app: App) -> Association:
        return Association.request(peer, request, app, idle_timeout=timeout)

    return Client(opener, called_ae=peer.ae_title, calling_ae=calling_ae, user=user, app=app)


def identity_of(user: str | tuple[str, str] | UserIdentity | None) -> UserIdentity | None:
    if isinstance(user, str):
        return UserIdentity(1, False, user.encode())
    if user is None or isinstance(user, UserIdentity):
        return user
    name, passcode = user
    return UserIdentity(2, False, name.encode(), passcode.encode())


def _accepted(one: _Open, contexts: Collection[Context]) -> AcceptedContext:
    sop_class = next(iter(contexts))[0]
    for context in one.association.contexts.values():
        if context.abstract_syntax == sop_class and (context.scu or context.scp):
            return context
    raise NotAccepted(
        f"{one.association.called_ae} does not accept {uids.name(sop_class)}: it has no such "
        f"service, or not for {one.association.calling_ae}"
    )


def _end(one: _Open, *, abort: bool) -> None:
    with contextlib.suppress(AssociationError):
        if abort:
            one.association.abort()
            one.association.close()
        else:
            one.association.release()


def _is_final(message: Message) -> bool:
    answer = message.command
    return isinstance(answer, Response) and Status(answer.status).category != "Pending"


def _final(what: str, message: Message, progress: Progress | None = None) -> Status:
    answer = message.command
    assert isinstance(answer, Response)
    return _checked(what, Status(answer.status, answer.error_comment or ""), progress)


def _checked(what: str, status: Status, progress: Progress | None = None) -> Status:
    if status.category not in ("Success", "Warning"):
        raise RequestFailed(what, status, progress)
    return status


def _received(one: _Open, message: Message, command: CStoreRQ) -> Generator[Instance, None, None]:
    """Yield the instance of a sub-operation, and acknowledge it afterwards."""
    spool = message.data
    status = Status(OUT_OF_RESOURCES, "the instance could not be kept")
    try:
        if isinstance(spool, Spool) and spool.size and spool.error is None:
            context = one.association.contexts[message.context_id]
            yield Instance(
                spool,
                sop_class=context.abstract_syntax,
                sop_instance=uids.trim(command.affected_sop_instance),
                transfer_syntax=context.transfer_syntax,
            )
            status = Status(SUCCESS)
    finally:
        with contextlib.suppress(AssociationError):
            _answer_store(one, message, command, status)


def _answer_store(one: _Open, message: Message, command: CStoreRQ, status: Status) -> None:
    one.association.send(message.context_id, response(command, Outcome(status)))


def _progress(message: Message, context: AcceptedContext) -> Progress:
    answer = message.command
    assert isinstance(answer, SubOperationsResponse)
    failed: tuple[str, ...] = ()
    data: Any = message.data
    if data:
        listed = parse(bytes(data), context.transfer_syntax).get("FailedSOPInstanceUIDList")
        failed = (listed,) if isinstance(listed, str) else tuple(listed or ())
    return Progress(
        answer.remaining or 0,
        answer.completed or 0,
        answer.failed or 0,
        answer.warning or 0,
        failed,
    )
