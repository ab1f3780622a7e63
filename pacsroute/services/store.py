"""C-STORE: the Storage service class (PS3.4 §B, PS3.7 §9.1.1)."""

from __future__ import annotations

import logging

from pacsroute import uids
from pacsroute.dimse.commands import CStoreRQ
from pacsroute.framework.requests import StoreRequest
from pacsroute.framework.results import Outcome
from pacsroute.instances import peek
from pacsroute.instances.instance import Instance
from pacsroute.instances.spool import Spool
from pacsroute.services.call import Call, misplaced
from pacsroute.status import (
    IDENTIFIER_MISMATCH,
    INVALID_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    Status,
)
from pacsroute.upper_layer.negotiation import AcceptedContext

logger = logging.getLogger("pacsroute")


def answer(call: Call) -> Outcome:
    """Answer a C-STORE; return its outcome."""
    try:
        return call.respond(_outcome(call))
    finally:
        if call.app.declared.quiet:
            call.app.work.answered(call.association)


def _outcome(call: Call) -> Outcome:
    command, spool, context = call.command, call.message.data, call.context
    assert isinstance(command, CStoreRQ)
    sop_instance = uids.trim(command.affected_sop_instance)
    outcome = misplaced(call, uids.trim(command.affected_sop_class))
    if call.find_route() is None:
        outcome = outcome or Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
    outcome = outcome or refusal(sop_instance, spool)
    if outcome is None and isinstance(spool, Spool):
        request = call.make(
            StoreRequest,
            sop_class=context.abstract_syntax,
            sop_instance=sop_instance,
            instance=Instance(
                spool,
                sop_class=context.abstract_syntax,
                sop_instance=sop_instance,
                transfer_syntax=context.transfer_syntax,
                limits=call.limits,
            ),
            priority=command.priority,
            move_originator_ae=command.move_originator_ae,
            move_originator_message_id=command.move_originator_message_id,
        )
        outcome = mismatch(spool, context, sop_instance) or call.app.handle(request)
    assert outcome is not None
    return outcome


def refusal(sop_instance: str, spool: object) -> Outcome | None:
    """Return why an instance never reaches a handler."""
    if not uids.is_uid(sop_instance):
        return Outcome(Status(INVALID_SOP_INSTANCE, "the SOP Instance UID is not a UID"))
    if isinstance(spool, Spool) and spool.error is not None:
        logger.error("spooling an instance failed: %s", spool.error)
        return Outcome(Status(OUT_OF_RESOURCES, "the data set could not be kept"))
    if not isinstance(spool, Spool) or not spool.size:
        return Outcome(Status(IDENTIFIER_MISMATCH, "there is no data set"))
    return None


def mismatch(spool: Spool, context: AcceptedContext, sop_instance: str) -> Outcome | None:
    """Refuse a data set whose UIDs differ from those of its command."""
    told_class, told_instance = peek.sop_uids(spool.first(), context.transfer_syntax)
    if told_class not in ("", context.abstract_syntax):
        return Outcome(Status(IDENTIFIER_MISMATCH, "SOP Class UID differs from the command's"))
    if told_instance not in ("", sop_instance):
        return Outcome(Status(IDENTIFIER_MISMATCH, "SOP Instance UID differs from the command's"))
    return None
