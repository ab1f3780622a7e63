"""The N-services: operations on managed SOP instances (PS3.7 §10, PS3.4)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from pacsroute import uids
from pacsroute.dataset.encoding import RowEncoder, encode
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.parsing import parse_all
from pacsroute.dimse import commands
from pacsroute.dimse.commands import NActionRSP, NEventReportRQ, NEventReportRSP
from pacsroute.errors import AssociationError, DataSetError, DataSetTooLarge
from pacsroute.framework.handling import failed
from pacsroute.framework.requests import (
    EventReport,
    NActionRequest,
    NCreateRequest,
    NDeleteRequest,
    NEventReportRequest,
    NGetRequest,
    NormalizedRequest,
    NSetRequest,
)
from pacsroute.framework.results import Outcome
from pacsroute.services.call import Call, misplaced, unreadable
from pacsroute.services.misfits import without_misfits
from pacsroute.services.responses import response
from pacsroute.status import (
    ATTRIBUTE_LIST_ERROR,
    INVALID_SOP_INSTANCE,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT_TYPE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
    Status,
)

logger = logging.getLogger("pacsroute")

_ELEMENTS = 200_000  # in a data set; a commitment for 30,000 instances has half as many

# The request class of each operation, and its attributes for the data set and the type.
_KINDS: dict[str, tuple[type[NormalizedRequest], str, str]] = {
    kind.command: (kind, data_name, type_name)
    for kind, data_name, type_name in (
        (NCreateRequest, "attribute_list", ""),
        (NSetRequest, "modification_list", ""),
        (NGetRequest, "", ""),
        (NActionRequest, "action_information", "action_type"),
        (NDeleteRequest, "", ""),
        (NEventReportRequest, "event_information", "event_type"),
    )
}


def answer(call: Call) -> Outcome:
    """Answer a request of an N-service; return its outcome."""
    command: Any = call.command
    made = _request(call, command)
    data = None
    if isinstance(made, Outcome):
        outcome, request = made, None
    else:
        request = made
        outcome = call.app.handle(request)
        if isinstance(command, commands.NCreateRQ) and outcome.status.category != "Failure":
            command.affected_sop_instance = request.sop_instance
        if outcome.data is not None:
            try:
                data, outcome = _encoded(call, request, outcome)
                data = data or None  # a data set has at least one element
            except DataSetError as error:
                outcome = failed(request, error)
    reply = response(command, outcome)
    if isinstance(reply, NActionRSP) and data is not None:
        reply.action_type = command.action_type
    elif isinstance(reply, NEventReportRSP):
        reply.event_type = command.event_type
    call.association.send(call.context.id, reply, data)
    if request is not None and request.reports:
        # The response was sent; if the association has ended, the next `receive` raises.
        with contextlib.suppress(AssociationError):
            for report in request.reports:
                _report(call, report)
    return outcome


def _request(call: Call, command: Any) -> NormalizedRequest | Outcome:
    """Return the request for the handler, or the outcome of a refusal."""
    kind, data_name, type_name = _KINDS[command.route]
    sop_class, sop_instance = _named(command)
    sop_class = sop_class or call.context.abstract_syntax
    if refused := misplaced(call, sop_class) or _unknown(call, kind, sop_class, command, type_name):
        return refused
    if not sop_instance and kind is NCreateRequest:
        sop_instance = generate_uid(prefix=None)
    if not uids.is_uid(sop_instance):
        return Outcome(Status(INVALID_SOP_INSTANCE, "the SOP Instance UID is not a UID"))
    values: dict[str, Any] = {"sop_class": sop_class, "sop_instance": sop_instance}
    if type_name:
        values[type_name] = getattr(command, type_name)
    if kind is NGetRequest:
        values["attribute_identifiers"] = command.attribute_identifiers or ()
    data: Any = call.message.data
    if data and data_name:
        try:
            values[data_name] = call.read(_parsed)
        except DataSetTooLarge as error:
            status = Status(RESOURCE_LIMITATION, "the data set is too large")
            return unreadable(call, status, error)
        except DataSetError as error:
            status = Status(PROCESSING_FAILURE, "the data set cannot be read")
            return unreadable(call, status, error)
    return call.make(kind, **values)


def _parsed(data: Any, syntax: str, limits: Limits) -> Dataset:
    return parse_all(data, syntax, limits._replace(elements=min(limits.elements, _ELEMENTS)))


def _named(command: Any) -> tuple[str, str]:
    """Return the SOP class and instance that a command names."""
    role = "requested" if hasattr(command, "requested_sop_class") else "affected"
    sop_class = getattr(command, f"{role}_sop_class") or ""
    sop_instance = getattr(command, f"{role}_sop_instance") or ""
    return uids.trim(sop_class), uids.trim(sop_instance)


def _unknown(
    call: Call, kind: type[NormalizedRequest], sop_class: str, command: Any, type_name: str
) -> Outcome | None:
    """Refuse a request without a route: name the unsupported class, operation or type."""
    number = getattr(command, type_name) if type_name else None
    if call.find_route(sop_class, number) is not None:
        return None
    titles = call.association.calling_ae, call.association.called_ae
    routes = call.app.routes_for(*titles)
    of_class = [route.command for route in routes if route.covers(sop_class)]
    if kind.command in of_class:
        no_such = NO_SUCH_ACTION if kind is NActionRequest else NO_SUCH_EVENT_TYPE
        return Outcome(Status(no_such))
    return Outcome(Status(UNRECOGNIZED_OPERATION if of_class else SOP_CLASS_NOT_SUPPORTED))


def _encoded(
    call: Call, request: NormalizedRequest, outcome: Outcome
) -> tuple[bytes | None, Outcome]:
    """Return the data set of the response; for an N-GET, only the requested attributes."""
    syntax, data = call.context.transfer_syntax, outcome.data
    assert data is not None
    if isinstance(request, NDeleteRequest):
        raise DataSetError("the response to an N-DELETE has no data set")
    charset = call.charset(data.get("SpecificCharacterSet"))
    if not isinstance(request, NGetRequest):
        return encode(data, syntax, charset=charset), outcome
    encoder = RowEncoder(syntax, _asked(request, data), charset=charset)
    try:
        if not request.attribute_identifiers:
            return encode(data, syntax, charset=charset), outcome
        encoded, complete = encoder.encode(data)
    except DataSetError:
        encoded, complete = without_misfits(encoder, data, request, set()), False
    if not complete and outcome.status.code == SUCCESS:
        outcome = outcome._replace(status=Status(ATTRIBUTE_LIST_ERROR, "not all are known here"))
    return encoded, outcome


def _asked(request: NGetRequest, data: Mapping[str, Any] | Dataset) -> Dataset | None:
    """Return an identifier with the attributes that an N-GET requests; None for all."""
    if not request.attribute_identifiers:
        return None
    asked = Dataset()
    for tag in map(Tag, request.attribute_identifiers):
        asked.add_new(tag, "LO", None)
        creator = Tag(tag.group, tag.element >> 8)
        if tag.is_private and isinstance(data, Dataset) and creator in data:
            asked.add(data[creator])  # requested by its tag here, in any block
    return asked


def _report(call: Call, report: EventReport) -> None:
    """Send an N-EVENT-REPORT on the association of the request, and wait for the response.

    The wait is limited: a peer that sends other requests first ignores events.
    """
    association = call.association
    for context in (call.context, *association.contexts.values()):
        abstract = context.abstract_syntax
        if report.sop_class == abstract or report.sop_class in uids.carried(abstract):
            break
    else:
        logger.debug("no context for an event of %s", uids.name(report.sop_class))
        return
    command = NEventReportRQ(
        message_id=next(association.numbers),
        affected_sop_class=report.sop_class,
        affected_sop_instance=report.sop_instance,
        event_type=report.event_type,
    )
    information = report.information
    try:
        data = None if information is None else encode(information, context.transfer_syntax) or None
    except DataSetError as error:
        logger.error("an event report cannot be sent: %s", error)
        return
    association.send(context.id, command, data)
    answered = association.answered(command.message_id)
    who = ascii(association.calling_ae)[1:-1]
    if answered is None:
        logger.info("%s goes on without having answered an event report", who)
        return
    told: Any = answered.command
    status = Status(told.status, told.error_comment or "")
    if status.category not in ("Success", "Warning"):
        logger.warning("%s answered an event report: %s", who, ascii(str(status))[1:-1])
