"""DIMSE statuses mapped to HTTP statuses (PS3.18 §8.5)."""

from __future__ import annotations

from werkzeug.exceptions import HTTPException

from pacsroute.framework.results import Outcome
from pacsroute.status import (
    CANCEL,
    NO_SUCH_INSTANCE,
    NOT_AUTHORIZED,
    SOP_CLASS_NOT_SUPPORTED,
    Status,
)

RETRY_AFTER = 30
"""Seconds after which a client may retry if resources were exhausted."""

_CLOSED_REQUEST = 499


def http_status(status: Status) -> int:
    """Return the HTTP status of a failed request.

    Examples
    --------
    >>> [http_status(Status(code)) for code in (0xA700, 0xA900, 0x0124, 0xC000)]
    [503, 400, 403, 500]
    """
    code = status.code
    if code & 0xFF00 == 0xA700:
        return 503
    if code & 0xFF00 == 0xA900:
        return 400
    known = {NOT_AUTHORIZED: 403, NO_SUCH_INSTANCE: 404, SOP_CLASS_NOT_SUPPORTED: 501}
    known[CANCEL] = _CLOSED_REQUEST
    return known.get(code, 500)


class Failed(HTTPException):
    """A request that the handler refused or could not answer.

    Parameters
    ----------
    outcome : Outcome
        Its status and comment.
    """

    def __init__(self, outcome: Outcome) -> None:
        status = outcome.status
        super().__init__(status.comment or status.name)
        self.code = http_status(status)
        self.outcome = outcome
