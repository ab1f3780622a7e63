"""The frame around the response to a request, over DIMSE, HTTP or in a test."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pacsroute import uids
from pacsroute.errors import let_go
from pacsroute.framework.handling import finished
from pacsroute.framework.requests import Request
from pacsroute.framework.results import Outcome
from pacsroute.logs import about, write
from pacsroute.status import CANCEL, SUCCESS

if TYPE_CHECKING:
    from pacsroute.framework.base import BaseApp

logger = logging.getLogger("pacsroute")

_AS_USUAL = SUCCESS, CANCEL


class Answering:
    """The frame around the response to a request: `App.handle` and the response are inside it.

    At the beginning, the app's observer is notified. At the end, when the response has been
    written or cannot be, the observer is notified again, the hooks of `after_request` are called,
    one line is logged, and the functions of `Request.after` are deferred. The handler's exception
    is kept only until then.

    Parameters
    ----------
    app : App
        The app whose handler answers.
    peer : object
        The peer, whose `calling_ae`, `called_ae` and `remote_address` are logged: an association,
        or the request itself.
    command : str
        The standard's name of the operation, such as ``C-STORE``.
    sop_class : str
        The UID of its SOP class.
    size : int, optional
        The length of its data set in bytes.
    defer : callable
        Called with each function of `Request.after`; by default, it is run at once.

    Attributes
    ----------
    request : Request or None
        The request for the handler; None if it is refused earlier. The transport sets it as soon as
        it has made one.
    outcome : Outcome or None
        The result; the transport sets it once the response is written.

    Examples
    --------
    A transport answers each request like this; a `FindRequest` is also iterated inside:

    >>> from pacsroute import App, EchoRequest
    >>> app = App()
    >>> request = EchoRequest(app=app, calling_ae="BROWSER")
    >>> request.after(print, "the response was written before")
    >>> with Answering(app, request, "C-ECHO", uids.VERIFICATION) as answering:
    ...     answering.request = request
    ...     outcome = app.handle(request)
    ...     print("write", outcome.status)
    ...     answering.outcome = outcome
    write 0x0000 Success
    the response was written before
    """

    __slots__ = (
        "_app",
        "_command",
        "_defer",
        "_peer",
        "_size",
        "_sop_class",
        "_started",
        "outcome",
        "request",
    )

    def __init__(
        self,
        app: BaseApp,
        peer: Any,
        command: str,
        sop_class: str,
        *,
        size: int | None = None,
        defer: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        self._app = app
        self._peer = peer
        self._command = command
        self._sop_class = sop_class
        self._size = size
        self._defer = defer
        self.request: Request | None = None
        self.outcome: Outcome | None = None

    def __enter__(self) -> Answering:
        self._started = time.perf_counter()
        self._app.observer.began(self._peer, self._command, self._sop_class, self._size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        lost: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._started
        request, outcome, app = self.request, self.outcome, self._app
        status = None if outcome is None else outcome.status
        app.observer.answered(self._peer, self._command, self._sop_class, status, seconds)
        if status is not None and status.code:
            app.observer.unsuccessful(self._peer, self._command, self._sop_class, status)
        if app.auditors:
            self._audit()
        if request is not None:
            failure = request.error
            finished(request, status, lost or failure)
            if failure is not None and request.keep_failure is None:
                let_go(failure)
        if lost is not None:
            return  # the transport logs why it ended
        if outcome is not None:
            as_usual = outcome.is_logged or outcome.status.code in _AS_USUAL
            level = logging.INFO if as_usual else logging.WARNING
            if logger.isEnabledFor(level):
                self._log(level, outcome, seconds)
        if request is not None and request.followers:
            # A function that refers to its request would form a reference cycle with it.
            followers, request.followers = request.followers, None
            for function in followers:
                if self._defer is None:
                    _call(function)
                else:
                    self._defer(functools.partial(_call, function))

    def _audit(self) -> None:
        from pacsroute.framework import auditing  # noqa: PLC0415 - only for apps that audit

        auditing.answered(self._app, self._peer, self._command, self.request, self.outcome)

    def _log(self, level: int, outcome: Outcome, seconds: float) -> None:
        status, size = outcome.status, self._size
        write(
            logger,
            level,
            "%s %s 0x%04X %s%s%s%s, %.1f ms",
            ascii(self._peer.calling_ae)[1:-1],
            self._command,
            status.code,
            status.name,
            f" ({ascii(status.comment)[1:-1]})" if status.comment else "",
            f", {outcome.note}" if outcome.note else "",
            "" if size is None or outcome.note else f", {size} bytes",
            seconds * 1000,
            extra=lambda: about(
                self._peer,
                event="answered",
                command=self._command,
                sop_class=uids.name(self._sop_class),
                status=f"0x{status.code:04X}",
                bytes=size,
                duration_ms=int(seconds * 1e6) / 1000,
            ),
        )


def _call(function: Callable[[], object]) -> None:
    try:
        function()
    except BaseException:
        logger.exception("a function of request.after failed")
