"""C-GET: send instances back on the same association (PS3.4 §C.4.3, PS3.7 §9.1.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from pacsroute import uids
from pacsroute.framework.requests import GetRequest
from pacsroute.framework.results import Outcome
from pacsroute.instances.instance import Instance
from pacsroute.instances.without_bulk_data import without_bulk_data
from pacsroute.services import retrieve, transfer
from pacsroute.services.call import Call
from pacsroute.services.retrieve import SendInstance
from pacsroute.status import Status


def answer(call: Call) -> Outcome:
    """Answer a C-GET with its sub-operations; return its outcome."""
    return retrieve.answer(call, GetRequest, _back)


def _back(call: Call, request: GetRequest) -> AbstractContextManager[SendInstance]:
    """Return the function that sends instances on the association of the request."""
    association, priority = call.association, retrieve.priority_of(call)
    pick = transfer.picker(association, as_acceptor=True)
    bare = call.context.abstract_syntax == uids.WITHOUT_BULK_DATA

    def send(instance: Instance, meanwhile: Callable[[], object]) -> Status:
        if bare:
            instance = without_bulk_data(instance, wanted=request.is_wanted)
        return transfer.send(
            association,
            pick(instance.sop_class, instance.transfer_syntax),
            instance,
            next(association.numbers),
            priority=priority,
            meanwhile=meanwhile,
            wanted=request.is_wanted,
        )

    return contextlib.nullcontext(send)
