"""Sub-operations: what C-GET and C-MOVE have in common (PS3.4 §C.4.2 and §C.4.3)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydicom.multival import MultiValue

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dimse.commands import (
    HIGH,
    LOW,
    MEDIUM,
    CGetRQ,
    CMoveRQ,
    SubOperationsResponse,
)
from pacsroute.errors import AssociationError, DataSetError, NotAccepted, ProtocolError
from pacsroute.framework.requests import GetRequest
from pacsroute.framework.results import Answer, Outcome
from pacsroute.framework.routes import name_of
from pacsroute.instances.instance import Instance
from pacsroute.services.call import Call, read_query
from pacsroute.services.responses import response
from pacsroute.status import (
    CANCEL,
    IDENTIFIER_MISMATCH,
    PENDING,
    SUB_OPERATIONS_FAILED,
    SUB_OPERATIONS_WARNING,
    SUCCESS,
    Status,
)

logger = logging.getLogger("pacsroute")

SendInstance = Callable[[Instance, Callable[[], object]], Status]
"""Sends one instance, and calls the given function while the peer stores it.

DataSetError, NotAccepted and OSError are failures of that sub-operation.
"""


class _Ahead:
    """A handler's answers, with a look-ahead of one.

    While a peer stores an instance, the next one is opened, and read if it is small. This sends
    a fifth more instances per second. It requires that all instances are known, or that the
    handler has set `GetRequest.read_ahead`: otherwise it may still need the last one.
    """

    def __init__(self, request: GetRequest, answers: Iterator[Answer]) -> None:
        self._request = request
        self._answers = answers
        self._fetched: Answer | None = None
        self._ready: Instance | None = None

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        answer, self._fetched = self._fetched, None
        return answer or next(self._answers)

    @property
    def is_ready(self) -> bool:
        """Whether the next one is fetched."""
        return self._fetched is not None

    def look(self) -> None:
        """Fetch the next one, if possible."""
        request = self._request
        if (request.ahead or request.read_ahead) and self._fetched is None:
            answer = next(self._answers)  # never past the last one
            row, outcome, _ = answer
            if isinstance(row, Instance):
                self._ready = row.opened()
                answer = Answer(self._ready, outcome)
            self._fetched = answer

    def close(self) -> None:
        """Close the answers and opened files."""
        if self._ready is not None:
            self._ready.forget()
        self._answers.close()  # type: ignore[attr-defined]


@dataclass
class SubOperations:
    """The counts of the sub-operations, and the instances that failed."""

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0
    failed_instances: list[str] = field(default_factory=list)

    def add(self, status: Status, sop_instance: str) -> None:
        """Count a sub-operation that has ended."""
        self.remaining = max(0, self.remaining - 1)
        if status.code == SUCCESS:
            self.completed += 1
        elif status.category == "Warning":
            self.warning += 1
        else:
            self.failed += 1
            if sop_instance:
                self.failed_instances.append(sop_instance)

    def status(self) -> Status:
        """Return the final status for the counts (PS3.4 §C.4.2.1.5)."""
        if not (self.failed or self.warning):
            return Status(SUCCESS)
        if not (self.completed or self.warning):
            return Status(SUB_OPERATIONS_FAILED)
        return Status(SUB_OPERATIONS_WARNING)


_RECENT = 0.001  # seconds between reads that look for a C-CANCEL; a response is read, too
_TOLD = 20  # failures per retrieval that are logged as warnings
_UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}


def refusal(request: GetRequest) -> Outcome | None:
    """Return why a request never reaches a handler: it would fetch the whole archive."""
    roots = {uid: root for root, uid in uids.QUERY_RETRIEVE[request.command].items()}
    root = roots.get(request.sop_class)
    if root is None:
        return None  # a class with other keys
    level = request.level
    if not level or (level == "PATIENT" and root == "StudyRoot"):
        return Outcome(Status(IDENTIFIER_MISMATCH, "no such Query/Retrieve Level"))
    key = request.identifier.get(_UNIQUE[level])
    values = [str(value).strip() for value in (key if isinstance(key, MultiValue) else [key or ""])]
    # A list that contains an empty value would match everything.
    if not all(values) or any(mark in value for value in values for mark in ("*", "?")):
        return Outcome(Status(IDENTIFIER_MISMATCH, f"{_UNIQUE[level]} needs a value"))
    return None


def priority_of(call: Call) -> int:
    """Return the priority of the sub-operations: the request's if valid (PS3.4 §C.4.2.1.2)."""
    command = call.command
    assert isinstance(command, CGetRQ | CMoveRQ)
    return command.priority if command.priority in (LOW, HIGH) else MEDIUM


_Retrieval = TypeVar("_Retrieval", bound=GetRequest)


def answer(
    call: Call,
    kind: type[_Retrieval],
    sender: Callable[[Call, _Retrieval], AbstractContextManager[SendInstance] | Outcome],
    **values: Any,
) -> Outcome:
    """Answer a C-GET or C-MOVE with its sub-operations; return its outcome.

    Parameters
    ----------
    call : Call
        The message.
    kind : type
        The type of its request.
    sender : callable
        Called with the call and the request; returns a context of the function that sends the
        instances, or the outcome of a refusal.
    **values
        Other values of the request, besides its identifier.
    """
    request = read_query(call, kind, **values)
    if isinstance(request, Outcome):
        return call.respond(request)
    refused = refusal(request)
    sending = refused or sender(call, request)
    if isinstance(sending, Outcome):
        return call.respond(sending)
    with sending as send:
        outcome, counts = perform(call, request, send)
    return _finish(call, outcome, counts)


class _Progress:
    """Reports the progress of a retrieval to the peer, with Pending responses.

    One is sent for each sub-operation, or at the route's interval, and after each second in which
    nothing else was sent. The one for a sub-operation is built while the peer stores the next
    instance, so that this one is sent as soon as the peer is ready for it.
    """

    def __init__(self, call: Call, counts: SubOperations) -> None:
        self._call = call
        self._counts = counts
        self._answer = _response(call, Outcome(Status(PENDING)))  # only its counts change
        self._interval = 0.0 if call.route is None else call.route.pending_interval
        self._told = time.monotonic()
        self._is_told = True

    def __enter__(self) -> _Progress:
        self._call.association.pulse(self._pending)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._call.association.pulse(None)
        if kind is None:
            self.tell()

    def _pending(self) -> tuple[int, SubOperationsResponse]:
        _count(self._answer, self._counts, remaining=True)
        return self._call.context.id, self._answer

    def add(self, status: Status, sop_instance: str) -> None:
        """Count a sub-operation that has ended; `tell` tells the peer."""
        self.tell()  # of the one before, if this one was not sent
        self._counts.add(status, sop_instance)
        self._is_told = False

    def tell(self) -> None:
        """Send the counts, if they are new and the last ones were not sent a moment ago."""
        if self._is_told:
            return
        self._is_told = True
        if self._interval:
            now = time.monotonic()
            if now - self._told < self._interval:
                return
            self._told = now
        try:
            # It is sent together with the next message, or soon.
            self._call.association.send(*self._pending(), more=True)
        except AssociationError:
            pass  # not a failure of the sub-operation that is under way: the next look finds out


def perform(call: Call, request: GetRequest, send: SendInstance) -> tuple[Outcome, SubOperations]:
    """Send the handler's instances; return the outcome."""
    association, counts = call.association, SubOperations()
    known = False
    with (
        contextlib.closing(_Ahead(request, call.app.handle(request))) as answers,
        _Progress(call, counts) as progress,
    ):

        def meanwhile() -> None:
            progress.tell()
            answers.look()

        for item, outcome, _ in answers:
            if item is None:
                # A handler that stopped because of the cancel has not sent everything.
                early = outcome is None and (counts.remaining or not known)
                if early and association.cancelled(request.message_id):
                    break
                return _final(request, outcome, counts), counts
            if not known:
                # Some databases return -1, which an unsigned number cannot hold.
                known, counts.remaining = True, max(0, request.count or 0)
            if association.cancelled(request.message_id, _RECENT):
                break
            assert isinstance(item, Instance)
            name = item.sop_instance_if_known  # now: the handler may reuse the Dataset
            status = _sent(send, item, request, meanwhile, counts.failed)
            progress.add(status, name or item.sop_instance_if_known)
            call.app.observer.sub_operation(call.command.name, status)
            if not answers.is_ready:  # the next one may take long
                progress.tell()
    ended = association.ended()
    if ended is not None:
        raise ended
    return Outcome(Status(CANCEL)), counts


def _final(request: GetRequest, outcome: Outcome | None, counts: SubOperations) -> Outcome:
    """Return the outcome of a retrieval whose handler has ended."""
    # A handler's Success only means that it has finished.
    if outcome is not None and outcome.status.code != SUCCESS:
        return outcome
    if counts.remaining:
        logger.warning(
            "%s from %s: the handler yielded %d fewer than its count says",
            name_of(request.command),
            ascii(request.calling_ae)[1:-1],
            counts.remaining,
        )
    status = counts.status()
    if status.code == SUB_OPERATIONS_FAILED and request.command == "get":
        contexts = request.association.contexts.values() if request.association else ()
        if not any(context.scp for context in contexts):
            status = Status(status.code, "no storage context has the SCP role (PS3.7 D.3.3.4)")
    return Outcome(status)


def _sent(
    send: SendInstance,
    instance: Instance,
    request: GetRequest,
    meanwhile: Callable[[], object],
    failed: int,
) -> Status:
    """Send an instance; log the reason of a failure, up to a limit."""
    try:
        status = send(instance, meanwhile)
    except (DataSetError, NotAccepted, OSError, ValueError) as error:  # or a bad path
        why = getattr(error, "strerror", None) or error
        status = Status(SUB_OPERATIONS_FAILED, f"{why}")
        # A path may contain a patient's name.
        logger.debug("an instance cannot be sent: %s", ascii(str(error))[1:-1])
    except (AssociationError, ProtocolError):
        raise
    except Exception as error:  # from a handler's subclass of Instance or Dataset
        logger.exception("an instance cannot be read")
        status = Status(SUB_OPERATIONS_FAILED, type(error).__name__)
    finally:
        instance.forget()
    if status.code != SUCCESS and status.category != "Warning":
        logger.log(
            logging.WARNING if failed < _TOLD else logging.DEBUG,
            "%s from %s: %s failed: %s%s",
            name_of(request.command),
            ascii(request.calling_ae)[1:-1],
            instance.sop_instance_if_known or "an instance",
            ascii(str(status))[1:-1],
            "; further ones are logged at DEBUG" if failed == _TOLD - 1 else "",
        )
    return status


def _response(call: Call, outcome: Outcome) -> SubOperationsResponse:
    answer = response(call.command, outcome)
    assert isinstance(answer, SubOperationsResponse)
    return answer


def _count(answer: SubOperationsResponse, counts: SubOperations, *, remaining: bool) -> None:
    """Set the counts of a response; not every response has that of the remaining."""
    answer.remaining = min(counts.remaining, 0xFFFF) if remaining else None
    answer.completed = min(counts.completed, 0xFFFF)
    answer.failed = min(counts.failed, 0xFFFF)
    answer.warning = min(counts.warning, 0xFFFF)


def _finish(call: Call, outcome: Outcome, counts: SubOperations) -> Outcome:
    """Send the final response, listing the instances that failed; note the counts."""
    code = outcome.status.code
    answer = _response(call, outcome)
    _count(answer, counts, remaining=code == CANCEL)
    data = None
    if counts.failed_instances and code != SUCCESS:
        data = encode(
            {"FailedSOPInstanceUIDList": counts.failed_instances}, call.context.transfer_syntax
        )
    call.association.send(call.context.id, answer, data)
    sent = counts.completed + counts.warning
    return outcome._replace(
        note=f"{sent} sent" + (f", {counts.failed} failed" * bool(counts.failed)),
        is_logged=outcome.is_logged or counts.failed > 0,  # with reasons
        number=sent,
    )
