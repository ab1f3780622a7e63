"""Event reports of Unified Procedure Steps (PS3.4 §CC.2.4)."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import NamedTuple

from pydicom import Dataset

from pacsroute.ups.steps import PROGRESS, READINESS, REASONS, STATE

STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = 1, 2, 3, 4, 5

_ASSIGNMENT = ("ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence")
_TOLD_OF_PROGRESS = (
    "ProcedureStepProgress",
    "ProcedureStepProgressDescription",
    "ProcedureStepProgressParametersSequence",
    "ProcedureStepCommunicationsURISequence",
)


class Event(NamedTuple):
    """An N-EVENT-REPORT for subscribers: its type and information (§CC.2.4)."""

    event_type: int
    information: Dataset


def events(before: Dataset | None, after: Dataset) -> list[Event]:
    """Return the reports of a step that was made or changed (PS3.4 §CC.2.4.3).

    Parameters
    ----------
    before : pydicom.Dataset or None
        The step before the change, if it existed.
    after : pydicom.Dataset
        The step after the change.

    Examples
    --------
    >>> step = Dataset()
    >>> step.ProcedureStepState, step.InputReadinessState = "SCHEDULED", "READY"
    >>> [event.event_type for event in events(None, step)]
    [1]
    """
    old, found = before if before is not None else Dataset(), []
    if _differ(old, after, [STATE, READINESS]):
        found.append(state_report(after))
    if _differ(old, after, _ASSIGNMENT):
        found.append(_assigned(after))
    if _differ(_item(old, PROGRESS), _item(after, PROGRESS), _TOLD_OF_PROGRESS):
        found.append(Event(PROGRESS_REPORT, _part(after, [PROGRESS])))
    return found


def state_report(step: Dataset) -> Event:
    """Return the report of the state of a step, which a new subscriber gets first."""
    information = _part(step, [STATE, READINESS])
    information.update(_part(_item(step, PROGRESS), REASONS))
    return Event(STATE_REPORT, information)


def cancel_requested(requesting_ae: str, action_information: Dataset) -> Event:
    """Return the report that an AE requests the cancellation of a step.

    Parameters
    ----------
    requesting_ae : str
        The AE title of the N-ACTION.
    action_information : pydicom.Dataset
        The reasons and contacts in it.
    """
    information = _part(action_information, [*REASONS, "ContactURI", "ContactDisplayName"])
    information.RequestingAE = requesting_ae
    return Event(CANCEL_REQUESTED, information)


def scp_status(status: str, *, subscriptions: str, steps: str) -> Event:
    """Return the report, about `GLOBAL`, that the manager of the steps starts or stops.

    Parameters
    ----------
    status : str
        ``RESTARTED`` or ``GOING DOWN``.
    subscriptions, steps : str
        ``WARM START`` if they are kept, ``COLD START`` if they are lost.
    """
    information = Dataset()
    information.SCPStatus = status
    information.SubscriptionListStatus = subscriptions
    information.UnifiedProcedureStepListStatus = steps
    return Event(SCP_STATUS_CHANGE, information)


def _assigned(step: Dataset) -> Event:
    """Return the report that a step was assigned, in the form of Table CC.2.4-1."""
    information = _part(step, _ASSIGNMENT[:1])
    performers = step.get(_ASSIGNMENT[1]) or []
    codes = [code for one in performers for code in one.get("HumanPerformerCodeSequence") or ()]
    if codes:
        information.HumanPerformerCodeSequence = deepcopy(codes)
        information.update(_part(performers[0], ["HumanPerformerOrganization"]))
    return Event(ASSIGNED, information)


def _item(dataset: Dataset, keyword: str) -> Dataset:
    return next(iter(dataset.get(keyword) or ()), Dataset())


def _part(dataset: Dataset, keywords: Iterable[str]) -> Dataset:
    part = Dataset()
    for keyword in keywords:
        if dataset.get(keyword):
            part.add(deepcopy(dataset[keyword]))
    return part


def _differ(one: Dataset, other: Dataset, keywords: Iterable[str]) -> bool:
    return any((one.get(name) or None) != (other.get(name) or None) for name in keywords)
