"""C-STORE: the Storage service class (PS3.4 §B, PS3.7 §9.1.1)."""

from __future__ import annotations

import logging
import struct

from pacsroute import uids
from pacsroute.app import App, Outcome
from pacsroute.dataset import part10
from pacsroute.dataset.instance import Instance
from pacsroute.dataset.spool import Spool
from pacsroute.dimse.commands import CStoreRQ
from pacsroute.requests import Request, StoreRequest
from pacsroute.services.base import Association, Call, misplaced, response
from pacsroute.status import (
    IDENTIFIER_MISMATCH,
    INVALID_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    Status,
)
from pacsroute.upper_layer.negotiation import AcceptedContext

logger = logging.getLogger("pacsroute")


def open_spool(
    app: App, association: Association, context: AcceptedContext, command: CStoreRQ
) -> Spool:
    """Return where the data set of a C-STORE goes while it comes."""
    uid = uids.trim(command.affected_sop_instance)
    head = part10.head(
        context.abstract_syntax,
        uid if uids.is_uid(uid) else "",  # one that is not is refused later
        context.transfer_syntax,
        writer=app.ae_title,
        sender=association.calling_ae,
        receiver=association.called_ae,
    )
    return Spool(head, app.spool)


def answer(call: Call) -> tuple[Outcome, Request | None]:
    """Answer a C-STORE; return how it went."""
    command, spool = call.message.command, call.message.data
    assert isinstance(command, CStoreRQ)
    sop_class = call.context.abstract_syntax
    sop_instance = uids.trim(command.affected_sop_instance)
    request = None
    outcome = misplaced(call, uids.trim(command.affected_sop_class))
    outcome = outcome or _refusal(call, sop_instance, spool)
    if outcome is None and isinstance(spool, Spool):
        syntax = call.context.transfer_syntax
        outcome = _mismatch(spool.first(), syntax, sop_class, sop_instance)
        if outcome is None:
            request = StoreRequest(
                sop_class=sop_class,
                sop_instance=sop_instance,
                instance=Instance(
                    spool, sop_class=sop_class, sop_instance=sop_instance, transfer_syntax=syntax
                ),
                move_originator_ae=command.move_originator_ae,
                move_originator_message_id=command.move_originator_message_id,
                **call.values(),
            )
            outcome = call.app.handle(request)
    assert outcome is not None
    call.association.send(call.context.id, response(command, outcome))
    return outcome, request


def _refusal(call: Call, sop_instance: str, spool: object) -> Outcome | None:
    """Return why an instance does not even reach a handler."""
    sop_class, calling_ae = call.context.abstract_syntax, call.association.calling_ae
    if call.app.route("store", sop_class, calling_ae) is None:
        return Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
    if not uids.is_uid(sop_instance):
        return Outcome(Status(INVALID_SOP_INSTANCE, "the SOP Instance UID is not a UID"))
    if isinstance(spool, Spool) and spool.error is not None:
        logger.error("spooling an instance failed: %s", spool.error)
        return Outcome(Status(OUT_OF_RESOURCES, "the data set could not be kept"))
    if not isinstance(spool, Spool) or not spool.size:
        return Outcome(Status(IDENTIFIER_MISMATCH, "there is no data set"))
    return None


_EXPLICIT = struct.Struct("<HH2sH")
_IMPLICIT = struct.Struct("<HHI")


def _mismatch(
    data: bytes, transfer_syntax: str, sop_class: str, sop_instance: str
) -> Outcome | None:
    """Refuse a data set that says it is another instance than its command.

    Both UIDs stand among the first few elements; they are looked up without parsing.
    Where they are not found there, the command is believed.
    """
    if transfer_syntax in (
        uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        uids.EXPLICIT_VR_BIG_ENDIAN,
    ):
        return None
    implicit = transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN
    position, end = 0, len(data) - 8
    while position <= end:
        if implicit:
            group, element, length = _IMPLICIT.unpack_from(data, position)
        else:
            group, element, vr, length = _EXPLICIT.unpack_from(data, position)
            if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
                return None
        if group != 8 or element > 0x18:
            return None
        value = data[position + 8 : position + 8 + length]
        if element in (0x16, 0x18) and len(value) == length:
            expected = sop_class if element == 0x16 else sop_instance
            text = uids.trim(value.decode("latin-1"))
            if text and text != expected:
                what = "Class" if element == 0x16 else "Instance"
                return Outcome(
                    Status(IDENTIFIER_MISMATCH, f"SOP {what} UID differs from the command's")
                )
        position += 8 + length
    return None
