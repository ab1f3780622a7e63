"""The lanes and jobs of the queue, and the buttons that control them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from werkzeug.exceptions import BadRequest, Conflict, NotFound, ServiceUnavailable

from pacsroute import uids
from pacsroute.framework.base import BaseApp
from pacsroute.framework.work import JobView, WorkControl
from pacsroute.web.console.access import Visit

_SHOWN = 100
_ORDER = ("failed", "running", "waiting")


def queue_of(app: BaseApp) -> dict[str, Any]:
    """Return the lanes and jobs for the page, failed jobs first."""
    found: dict[str, Any] = {"lanes": [], "jobs": [], "more": 0, "trouble": ""}
    control = _control(app)
    if control is None:
        return found
    try:
        jobs = control.jobs()
        jobs.sort(key=lambda job: _ORDER.index(job.state))
        found |= {"lanes": control.lanes(), "jobs": jobs[:_SHOWN], "more": len(jobs) - _SHOWN}
    except OSError as error:
        found["trouble"] = str(error)
    return found


def instance_of(job: JobView) -> str:
    """Return the SOP Instance UID in a delivery's key; empty for other jobs.

    Other keys are chosen by the app and may contain patient data.
    """
    last = (job.key or "").rpartition(" ")[2]
    return last if uids.is_uid(last) else ""


def change(visit: Visit) -> None:
    """Carry out a button's action: retry or drop a job, pause or resume a lane.

    Raises
    ------
    werkzeug.exceptions.HTTPException
        If the action is not possible.
    """
    control = _control(visit.app)
    if control is None:
        raise NotFound("there is no queue")
    action, what = visit.http.form.get("action", ""), visit.http.form.get("what", "")
    of_lanes: dict[str, Callable[[str], bool]] = {"pause": control.pause, "resume": control.resume}
    of_jobs: dict[str, Callable[[int], bool]] = {"retry": control.retry, "drop": control.drop}
    try:
        if action in of_lanes:
            kind, done = "lane", of_lanes[action](what)
        elif action in of_jobs and what.isascii() and what.isdecimal() and len(what) < 19:
            kind, done = "job", of_jobs[action](int(what))
        else:
            raise BadRequest("there is no such button")
    except OSError as error:
        raise ServiceUnavailable(f"the queue cannot be used: {error}") from None
    visit.tell(f"{action} {kind} {what}", action="D" if action == "drop" else "U", failed=not done)
    if not done:
        raise Conflict(f"there is no such {kind} any more, or it is under way")


def _control(app: BaseApp) -> WorkControl | None:
    work = app.work_under_way
    return None if work is None else work.control
