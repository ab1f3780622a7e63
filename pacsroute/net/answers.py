"""Receive the responses and instances for a client's request, and answer the peer meanwhile."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

from pydicom import Dataset

from pacsroute import uids
from pacsroute.dataset.limits import LIMITS
from pacsroute.dataset.parsing import parse_all, readable
from pacsroute.dimse.commands import (
    CCancelRQ,
    CStoreRQ,
    RequestCommand,
    Response,
    SubOperationsResponse,
)
from pacsroute.dimse.messages import Message
from pacsroute.errors import AssociationAborted, AssociationError, DataSetError, RequestFailed
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Progress
from pacsroute.framework.results import Outcome
from pacsroute.instances.instance import Instance
from pacsroute.instances.spool import Spool
from pacsroute.services import store
from pacsroute.services.dispatcher import Dispatcher
from pacsroute.services.exchange import Exchange
from pacsroute.services.responses import check_response, response
from pacsroute.status import OUT_OF_RESOURCES, SUCCESS, Status
from pacsroute.upper_layer.negotiation import AcceptedContext

_AFTER_CANCEL = 10.0  # seconds that a peer has to end a cancelled request


def answers_to(
    app: BaseApp,
    association: Exchange,
    context: AcceptedContext,
    command: RequestCommand,
    data: bytes,
    *,
    fetches: bool = False,
) -> Generator[Message, None, None]:
    """Send a request and yield its responses, the final one last.

    If the generator is closed before that, it sends a C-CANCEL and waits for the final response.

    Parameters
    ----------
    app : App
        The app that answers requests of the peer.
    association : Association
        The association that carries them.
    context : AcceptedContext
        The presentation context of the request.
    command : RequestCommand
        A C-FIND, C-GET or C-MOVE.
    data : bytes
        Its identifier.
    fetches : bool
        Whether the peer sends C-STORE requests for it, too.
    """
    association.send(context.id, command, data)
    final = False
    try:
        while not final:
            message = answer_to(app, association, command, fetches=fetches)
            final = is_final(message)
            yield message
    except GeneratorExit:
        if final:
            return
        if sys.is_finalizing():  # no thread can start any more, and trying may block
            association.abort()
            raise
        patience = threading.Timer(_AFTER_CANCEL, association.stop)
        patience.start()
        try:
            _cancel(app, association, context, command, fetches=fetches)
        finally:
            patience.cancel()
        raise


def _cancel(
    app: BaseApp,
    association: Exchange,
    context: AcceptedContext,
    command: RequestCommand,
    *,
    fetches: bool,
) -> None:
    """Send a C-CANCEL for a request, and wait for its end."""
    cancel = CCancelRQ(message_id_responded_to=command.message_id)
    refused = Status(OUT_OF_RESOURCES, "cancelled")
    with contextlib.suppress(AssociationError):
        association.send(context.id, cancel)
        while not is_final(message := answer_to(app, association, command, fetches=fetches)):
            if isinstance(message.command, CStoreRQ):
                _answer_store(association, message, message.command, refused)


def answer_to(
    app: BaseApp, association: Exchange, command: RequestCommand, *, fetches: bool = False
) -> Message:
    """Return the next message for a request; the app answers other requests of the peer.

    A response must arrive in time, even if the peer keeps sending requests.

    Parameters
    ----------
    app, association, command, fetches
        As for `answers_to`.
    """
    deadline = 0.0
    while True:
        message = association.receive()
        answer = message.command
        if isinstance(answer, Response):
            if answer.message_id_responded_to == command.message_id:
                check_response(answer, command)
                return message
        elif fetches and isinstance(answer, CStoreRQ):
            return message
        else:
            Dispatcher(app, association).dispatch(message)
        now = time.monotonic()
        deadline = deadline or now + association.patience
        if now > deadline:
            association.abort()
            raise AssociationAborted(
                0, message=f"no answer received for {association.patience:g} s"
            )


def answer_to_store(app: BaseApp, association: Exchange, command: CStoreRQ) -> Message:
    """Return the response to a C-STORE, as `answer_to` does.

    If nothing else arrives first, the association keeps its buffer for the next message.
    """
    message = association.answered(command.message_id)
    return message or answer_to(app, association, command)


def is_final(message: Message) -> bool:
    """Return whether a message is the final response."""
    answer = message.command
    return isinstance(answer, Response) and Status(answer.status).category != "Pending"


def final_status(what: str, message: Message, progress: Progress | None = None) -> Status:
    """Return the status of a final response, as `checked` does."""
    answer = message.command
    assert isinstance(answer, Response)
    return checked(what, Status(answer.status, answer.error_comment or ""), progress)


def checked(what: str, status: Status, progress: Progress | None = None) -> Status:
    """Return a status that is Success or a warning.

    Parameters
    ----------
    what : str
        The request, as its failure names it.
    status : Status
        The status of the response.
    progress : Progress, optional
        The counts so far.

    Raises
    ------
    RequestFailed
        If it is any other status.
    """
    if status.category not in ("Success", "Warning"):
        raise RequestFailed(what, status, progress)
    return status


def data_set_of(message: Message, context: AcceptedContext, charset: str = "") -> Dataset | None:
    """Return the data set of a response, if any; `charset` is the default character set.

    Raises
    ------
    DataSetError
        If it cannot be read to its end as a data set.
    """
    data: Any = message.data
    if getattr(data, "cut", ""):
        raise DataSetError(f"an answer is incomplete: {data.cut}")
    limits = LIMITS._replace(charset=charset)
    return parse_all(bytes(data), context.transfer_syntax, limits) if data else None


def received(
    association: Exchange, message: Message, command: CStoreRQ, charset: str = ""
) -> Generator[Instance, None, None]:
    """Yield the instance of a sub-operation, and acknowledge it afterwards.

    An instance that a server would not accept under that UID is refused; the others are still
    fetched.
    """
    spool, context = message.data, association.contexts[message.context_id]
    sop_instance = uids.trim(command.affected_sop_instance)
    refused = store.refusal(sop_instance, spool)
    if refused is None and isinstance(spool, Spool):
        refused = store.mismatch(spool, context, sop_instance)
    status = Status(OUT_OF_RESOURCES, "the instance could not be kept")
    try:
        if refused is not None:
            status = refused.status
        else:
            assert isinstance(spool, Spool)
            yield Instance(
                spool,
                sop_class=context.abstract_syntax,
                sop_instance=sop_instance,
                transfer_syntax=context.transfer_syntax,
                limits=LIMITS._replace(charset=charset),
            )
            status = Status(SUCCESS)
    finally:
        with contextlib.suppress(AssociationError):
            _answer_store(association, message, command, status)


def _answer_store(
    association: Exchange, message: Message, command: CStoreRQ, status: Status
) -> None:
    association.send(message.context_id, response(command, Outcome(status)))


def progress_of(message: Message, context: AcceptedContext) -> Progress:
    """Return the counts of a response to a C-GET or C-MOVE."""
    answer = message.command
    assert isinstance(answer, SubOperationsResponse)
    failed: tuple[str, ...] = ()
    data: Any = message.data
    if data:
        # Read by `readable`: a long list has VR UN, which pydicom leaves as bytes (PS3.5 §6.2.2).
        listed = readable(bytes(data), context.transfer_syntax).get("FailedSOPInstanceUIDList")
        failed = (listed,) if isinstance(listed, str) else tuple(listed or ())
    return Progress(
        answer.remaining or 0,
        answer.completed or 0,
        answer.failed or 0,
        answer.warning or 0,
        failed,
    )
