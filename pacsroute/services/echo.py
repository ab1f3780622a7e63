"""C-ECHO: the Verification service class (PS3.4 §A, PS3.7 §9.1.5)."""

from __future__ import annotations

from pacsroute.dimse.commands import CEchoRQ
from pacsroute.framework.requests import EchoRequest
from pacsroute.framework.results import Outcome
from pacsroute.services.call import Call
from pacsroute.services.responses import response
from pacsroute.status import SOP_CLASS_NOT_SUPPORTED, Status
from pacsroute.uids import VERIFICATION


def answer(call: Call) -> Outcome:
    """Answer a C-ECHO; return how it went."""
    command = call.message.command
    assert isinstance(command, CEchoRQ)
    if call.context.abstract_syntax != VERIFICATION:
        outcome = Outcome(Status(SOP_CLASS_NOT_SUPPORTED))
    else:
        call.request = request = EchoRequest(sop_class=VERIFICATION, **call.values())
        outcome = call.app.handle(request)
    call.association.send(call.context.id, response(command, outcome))
    return outcome
