"""C-FIND: queries, answer by answer (PS3.4 §C.4.1 and §K, PS3.7 §9.1.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pacsroute import uids
from pacsroute.dataset.encoding import RowEncoder
from pacsroute.dimse.command_set import encode
from pacsroute.dimse.commands import RequestCommand, Response
from pacsroute.errors import AssociationError
from pacsroute.framework.handling import failed
from pacsroute.framework.requests import FindRequest
from pacsroute.framework.results import Answer, Outcome
from pacsroute.instances.instance import Instance
from pacsroute.logs import counted
from pacsroute.services.call import Call, read_query
from pacsroute.services.misfits import without_misfits
from pacsroute.services.responses import response
from pacsroute.status import (
    CANCEL,
    PENDING,
    PENDING_WARNING,
    SUCCESS,
    Status,
)

if TYPE_CHECKING:
    from pydicom import Dataset

# Keys that a response may contain without a request, or instead of a requested Retrieve AE Title
# (PS3.4 §C.4.1.1.3.2).
_KEPT = ("InstanceAvailability", "StorageMediaFileSetID", "StorageMediaFileSetUID")
_LOOK_EVERY = 0.01  # seconds between checks for a C-CANCEL


def answer(call: Call) -> Outcome:
    """Answer a C-FIND with all its responses; return its outcome."""
    made = read_query(call, FindRequest)
    return call.respond(made if isinstance(made, Outcome) else _send_answers(call, made))


def _pending(command: RequestCommand, status: int) -> Response:
    """Return a Pending response that is sent repeatedly, but encoded once."""
    pending = response(command, Outcome(Status(status)))
    pending.has_data_set = True
    pending.encoded = encode(pending)
    return pending


def _send_answers(call: Call, request: FindRequest) -> Outcome:
    """Send a Pending response for each answer; return the outcome for the final one."""
    association, context = call.association, call.context
    encoder = _encoder(call, request.identifier)
    complete = _pending(call.command, PENDING)
    partial = _pending(call.command, PENDING_WARNING)
    answers: Iterator[Answer] = call.app.handle(request)
    looked, sent, told = 0.0, 0, set[str]()
    try:
        for row, outcome, supported in answers:
            if row is None or isinstance(row, Instance):
                assert outcome is not None
                # A handler that stopped because of the cancel has not yielded everything.
                early = outcome.status.code == SUCCESS
                if early and association.cancelled(request.message_id):
                    return Outcome(Status(CANCEL), note=counted(sent, "answer"), number=sent)
                return outcome._replace(note=counted(sent, "answer"), number=sent)
            now = time.monotonic()
            if now - looked > _LOOK_EVERY:
                looked = now
                if association.cancelled(request.message_id):
                    ended = association.ended()
                    if ended is not None:
                        raise ended
                    return Outcome(Status(CANCEL), note=counted(sent, "answer"), number=sent)
            try:
                data, whole = encoder.encode(row)
            except Exception:  # noqa: BLE001 - of a Dataset, pydicom raises whatever comes up
                data, whole = without_misfits(encoder, row, request, told), False
            pending = complete if whole and supported else partial
            association.send(context.id, pending, data, more=True)
            sent += 1
    except AssociationError:
        raise
    except BaseException as error:  # noqa: BLE001 - not a row
        return failed(request, error)
    finally:
        answers.close()  # type: ignore[attr-defined]
    return Outcome(Status(CANCEL))


def _encoder(call: Call, identifier: Dataset) -> RowEncoder:
    """Return the encoder of rows for an identifier."""
    app, called_ae, context = call.app, call.association.called_ae, call.context
    always: dict[str, str] = {}
    kept: tuple[str, ...] = ()
    if context.abstract_syntax in uids.QUERY_RETRIEVE["find"].values():
        kept = _KEPT
        always["RetrieveAETitle"] = called_ae if called_ae in app.titles else app.ae_title
        level = identifier.get("QueryRetrieveLevel")
        if isinstance(level, str) and level:
            always["QueryRetrieveLevel"] = level
    charset = call.charset(identifier.get("SpecificCharacterSet"))
    return RowEncoder(
        context.transfer_syntax, identifier, always=always, kept=kept, charset=charset
    )
