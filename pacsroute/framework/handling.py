"""Run a request's hooks and handler, and turn an exception into a status."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any

from pacsroute import uids
from pacsroute.errors import DataSetTooLarge, Failure, IdentifierError, UnreadableDataSet
from pacsroute.framework.requests import (
    FindRequest,
    GetRequest,
    NormalizedRequest,
    QueryRequest,
    Request,
    StoreRequest,
)
from pacsroute.framework.results import (
    DONE,
    Answer,
    Outcome,
    close_all,
    final_status,
    find_rows,
    instances_of,
    reply,
    rows_of,
)
from pacsroute.framework.routes import Route, name_of
from pacsroute.framework.work import WorkQueue, current_priority
from pacsroute.logs import about
from pacsroute.status import (
    IDENTIFIER_MISMATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    UNABLE_TO_PROCESS,
    Status,
)

logger = logging.getLogger("pacsroute")


def handle(request: Request) -> Any:
    """Call the handler of a request's route: see `App.handle`."""
    route = request.route
    if isinstance(request, FindRequest):
        return _answers(request, route, find_rows)
    if isinstance(request, GetRequest):
        return _answers(request, route, instances_of)
    if route is None:
        return _unserved(request)
    try:
        _prepare(request, route)
        if isinstance(request, StoreRequest) and request.priority:
            result = _prioritized(request, route)
        else:
            result = route.handler(request)
        if isinstance(request, NormalizedRequest):
            return reply(result, route.where)
        return DONE if result is None else Outcome(final_status(result, route.where))
    except BaseException as error:  # noqa: BLE001 - the association lives on
        return failed(request, error)


def _prioritized(request: StoreRequest, route: Route) -> object:
    """Call the handler of a C-STORE with its priority, which instances it forwards inherit."""
    token = current_priority.set(request.priority)
    try:
        return route.handler(request)
    finally:
        current_priority.reset(token)


def after_store(work: WorkQueue, request: StoreRequest, outcome: Outcome) -> Outcome:
    """Note a stored instance before Success is sent; return the outcome to send."""
    if outcome.status.category not in ("Success", "Warning"):
        return outcome
    try:
        work.stored(request)
    except BaseException as error:  # noqa: BLE001 - as if the handler had raised it
        return failed(request, error)
    return outcome


def _answers(
    request: QueryRequest,
    route: Route | None,
    items: Callable[[Any, Any, Iterator[Any]], Generator[Answer, None, Any]],
) -> Iterator[Answer]:
    if route is None:
        yield Answer(None, _unserved(request))
        return
    rows: Iterator[Any] | None = None
    source: Any = None
    outcome: Outcome | None = None
    try:
        _prepare(request, route)
        source = route.handler(request)
        rows = rows_of(source, route)
        result = yield from items(request, source, rows)
        if result is not None or isinstance(request, FindRequest):
            outcome = Outcome(final_status(result, route.where))
    except GeneratorExit:  # not from the handler: the consumer closed this generator
        raise
    except BaseException as error:  # noqa: BLE001
        outcome = failed(request, error)
    finally:
        close_all(rows, source)
    yield Answer(None, outcome)


def _unserved(request: Request) -> Outcome:
    """Return the outcome of a request without a route; never used for requests of peers."""
    if request.sop_class and not uids.is_uid(request.sop_class):
        name = request.sop_class
        raise ValueError(
            f"a request needs the UID of its SOP class, not {name!r:.40}: "
            f"uids.sop_class({name!r:.40}, {request.command!r})"
        )
    return Outcome(Status(SOP_CLASS_NOT_SUPPORTED))


def _prepare(request: Request, route: Route) -> None:
    """Call the hooks of `before_request`, the outermost first."""
    for scope in route.scopes:
        for hook in scope.hooks["before_request"]:
            result = hook(request)
            if result is not None:
                name = getattr(hook, "__qualname__", repr(hook))
                raise TypeError(
                    f"{name} returned {result!r:.40}: a before_request hook raises "
                    "a Failure to refuse, and returns nothing"
                )


def finished(request: Request, status: Status | None, error: BaseException | None) -> None:
    """Call the hooks of `after_request`, the innermost first."""
    route = request.route
    for scope in () if route is None else route.scopes[::-1]:
        for hook in reversed(scope.hooks["after_request"]):
            try:
                hook(request, status, error)
            except BaseException:
                logger.exception("@app.after_request failed")


def failed(request: Request, error: BaseException) -> Outcome:
    """Return the outcome of a request whose handler raised; log unintended exceptions."""
    request.error = error
    scopes = reversed(_scopes(request))
    handler = next(filter(None, (scope.error_handler_of(error) for scope in scopes)), None)
    if handler is None:
        return _default(request, error)
    try:
        result = handler(error, request)
        where = getattr(handler, "__qualname__", repr(handler))
        outcome = None if result is None else reply(result, where)
    except BaseException as another:  # noqa: BLE001 - a Failure is its way to answer
        return _default(request, another, cause=error)
    if outcome is None:
        return _default(request, error)
    return _caused(request, outcome, error) if outcome.status.category == "Failure" else outcome


def refused(command: str, calling_ae: str, outcome: Outcome, why: str) -> Outcome:
    """Log why a peer's request is refused, in one line, since there may be many."""
    logger.warning("%s from %s: %s", name_of(command), ascii(calling_ae)[1:-1], ascii(why)[1:-1])
    return outcome._replace(is_logged=True)


def _caused(request: Request, outcome: Outcome, cause: BaseException | None) -> Outcome:
    """Log the exception that led a handler or error handler to answer with a failure."""
    if cause is None or isinstance(cause, Failure):
        return outcome  # its status and comment are enough
    if isinstance(cause, IdentifierError | UnreadableDataSet):  # the peer's fault
        return refused(request.command, request.calling_ae, outcome, str(cause))
    logger.warning(
        "%s from %s: the cause of 0x%04X is %s",
        name_of(request.command),
        ascii(request.calling_ae)[1:-1],
        outcome.status.code,
        type(cause).__name__,
        exc_info=cause,
        extra=_about(request, "refused"),
    )
    return outcome


def _default(request: Request, error: BaseException, cause: BaseException | None = None) -> Outcome:
    """Return the outcome of an exception that has no error handler, or was raised by one.

    For the latter, `cause` is the exception that it handled.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, Failure):
        status = Status(error.status, error.comment)
        if status.category not in ("Unknown", "Pending", "Success"):
            hidden = error.__cause__ is None and error.__suppress_context__  # ``from None``
            outcome = Outcome(status, error.elements)
            return outcome if hidden else _caused(request, outcome, error.__cause__ or cause)
        error = ValueError(f"Failure(0x{error.status:04X}): not a failure status")
    # The peer's fault, not the handler's.
    if isinstance(error, IdentifierError):
        outcome = Outcome(Status(IDENTIFIER_MISMATCH, str(error)))
        return refused(request.command, request.calling_ae, outcome, str(error))
    if isinstance(error, UnreadableDataSet):
        outcome = Outcome(Status(_code(request, error), "the data set cannot be read"))
        return refused(
            request.command, request.calling_ae, outcome, f"{outcome.status.comment}: {error}"
        )
    if request.keep_failure is not None:
        request.keep_failure(error)
    logger.error(
        "%s from %s: the handler failed",
        name_of(request.command),
        ascii(request.calling_ae)[1:-1],
        exc_info=error,
        extra=_about(request, "failed"),
    )
    # The text of an exception may hold patient data; its type's name cannot.
    text = f": {error}" if request.app.config.debug else ""
    return Outcome(
        Status(_code(request, error), f"the handler failed: {type(error).__name__}{text}")
    )


def _about(request: Request, event: str) -> dict[str, Any]:
    return about(
        request,
        association=getattr(request.association, "id", None),
        event=event,
        command=name_of(request.command),
        sop_class=uids.name(request.sop_class),
    )


def _code(request: Request, error: BaseException) -> int:
    """Return the status of a service for an unexpected exception."""
    if isinstance(request, NormalizedRequest):
        too_large = isinstance(error, DataSetTooLarge)
        return RESOURCE_LIMITATION if too_large else PROCESSING_FAILURE
    if isinstance(error, DataSetTooLarge):
        return OUT_OF_RESOURCES
    if request.command == "store":
        return OUT_OF_RESOURCES if isinstance(error, OSError) else UNABLE_TO_PROCESS
    return UNABLE_TO_PROCESS if isinstance(request, QueryRequest) else PROCESSING_FAILURE


def _scopes(request: Request) -> tuple[Any, ...]:
    """Return the scopes whose hooks and error handlers apply to a request, outermost first."""
    route = request.route
    return () if route is None else route.scopes
