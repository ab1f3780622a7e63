"""The rules of the Unified Procedure Step (PS3.4 Annex CC).

`check_create`, `check_set`, `check_state` and `check_cancel` check a request, and raise the
`Failure`, or the warning, that the standard demands. The handler keeps the steps:

>>> from pacsroute import App, ups
>>> app, steps = App("WORKLIST"), {}
>>> @app.n_create("UPS")
... def create(request):
...     step = steps.get(request.sop_instance)
...     ups.check_create(step, request.attribute_list)
...     steps[request.sop_instance] = request.attribute_list
>>> @app.n_action("UPS", action_type=ups.CHANGE_STATE)
... def change_state(request):
...     step, asked = steps.get(request.sop_instance), request.action_information
...     ups.check_state(step, asked)
...     step.ProcedureStepState = asked.ProcedureStepState
...     step.TransactionUID = asked.TransactionUID

`events` returns the reports of a change, and `check_subscription` the subscribers. A step is a
Dataset with the attributes of Table CC.2.5-3, its Transaction UID among them.
"""

from pacsroute.ups.events import Event, cancel_requested, events, scp_status, state_report
from pacsroute.ups.steps import (
    CANCELED,
    CHANGE_STATE,
    COMPLETED,
    IN_PROGRESS,
    REQUEST_CANCEL,
    SCHEDULED,
    check_cancel,
    check_create,
    check_set,
    check_state,
    discontinue,
    now,
    read,
)
from pacsroute.ups.subscriptions import (
    FILTERED_GLOBAL,
    GLOBAL,
    INITIAL,
    SUBSCRIBE,
    SUSPEND,
    UNSUBSCRIBE,
    Subscription,
    check_subscription,
)

__all__ = [
    "CANCELED",
    "CHANGE_STATE",
    "COMPLETED",
    "FILTERED_GLOBAL",
    "GLOBAL",
    "INITIAL",
    "IN_PROGRESS",
    "REQUEST_CANCEL",
    "SCHEDULED",
    "SUBSCRIBE",
    "SUSPEND",
    "UNSUBSCRIBE",
    "Event",
    "Subscription",
    "cancel_requested",
    "check_cancel",
    "check_create",
    "check_set",
    "check_state",
    "check_subscription",
    "discontinue",
    "events",
    "now",
    "read",
    "scp_status",
    "state_report",
]
