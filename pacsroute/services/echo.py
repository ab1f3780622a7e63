"""C-ECHO: the Verification service class (PS3.4 §A, PS3.7 §9.1.5)."""

from __future__ import annotations

from pacsroute.framework.requests import EchoRequest
from pacsroute.framework.results import Outcome
from pacsroute.services.call import Call
from pacsroute.status import SOP_CLASS_NOT_SUPPORTED, Status
from pacsroute.uids import VERIFICATION


def answer(call: Call) -> Outcome:
    """Answer a C-ECHO; return its outcome."""
    if call.context.abstract_syntax != VERIFICATION:
        return call.respond(Outcome(Status(SOP_CLASS_NOT_SUPPORTED)))
    call.find_route()
    request = call.make(EchoRequest, sop_class=VERIFICATION)
    return call.respond(call.app.handle(request))
