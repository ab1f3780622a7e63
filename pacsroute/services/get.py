"""C-GET: instances that travel back on the same association (PS3.4 §C.4.3, PS3.7 §9.1.3)."""

from __future__ import annotations

from collections.abc import Callable

from pacsroute import uids
from pacsroute.dimse.commands import CGetRQ
from pacsroute.framework.requests import GetRequest
from pacsroute.framework.results import Outcome
from pacsroute.instances.instance import Instance
from pacsroute.instances.without_bulk_data import without_bulk_data
from pacsroute.services import retrieve, transfer
from pacsroute.services.call import Call, read_identifier
from pacsroute.status import Status


def answer(call: Call) -> Outcome:
    """Answer a C-GET with its sub-operations; return how it went."""
    command = call.message.command
    assert isinstance(command, CGetRQ)
    counts = None
    identifier = read_identifier(call, "get", command.affected_sop_class)
    if isinstance(identifier, Outcome):
        outcome = identifier
    else:
        call.request = request = GetRequest(
            sop_class=call.context.abstract_syntax, identifier=identifier, **call.values()
        )
        refused = retrieve.refusal(request)
        if refused is not None:
            outcome = refused
        else:
            outcome, counts = retrieve.perform(call, command, request, _sender(call, command))
    return retrieve.finish(call, command, outcome, counts)


def _sender(call: Call, command: CGetRQ) -> retrieve.Sender:
    association = call.association
    bare = call.context.abstract_syntax == uids.WITHOUT_BULK_DATA

    def send(instance: Instance, meanwhile: Callable[[], object]) -> Status:
        if bare:
            instance = without_bulk_data(instance)
        return transfer.send(
            association,
            transfer.pick(association.contexts.values(), instance, as_acceptor=True),
            instance,
            next(association.numbers),
            priority=retrieve.priority_of(command),
            meanwhile=meanwhile,
        )

    return send
