"""Turn a handler's result into a status, a data set, or a stream of answers."""

from __future__ import annotations

import itertools
import logging
import operator
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pacsroute.dataset.late import is_dataset
from pacsroute.errors import DataSetError, Failure
from pacsroute.framework.requests import GetRequest
from pacsroute.framework.routes import Route
from pacsroute.instances.atomic_files import scratch
from pacsroute.instances.instance import Instance
from pacsroute.status import PENDING, PENDING_WARNING, SUCCESS, Status

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger("pacsroute")


class Outcome(NamedTuple):
    """The outcome of a request: its status, more response elements, and a note for the log.

    `is_logged` is true if the reason of a refusal is logged already; `number` is the number of
    its answers or instances.
    """

    status: Status
    elements: Mapping[str, Any] = {}
    note: str = ""
    data: Mapping[str, Any] | Dataset | None = None
    is_logged: bool = False
    number: int | None = None


DONE = Outcome(Status(SUCCESS))
_ROW = {code: Outcome(Status(code)) for code in (PENDING, PENDING_WARNING)}


class Answer(NamedTuple):
    """An answer of a generator; `row` is None in the final one.

    The outcome is None if the handler left the final status to the service.
    """

    row: Mapping[str, Any] | Dataset | Instance | None
    outcome: Outcome | None
    complete: bool = True


def final_status(result: object, who: str = "a handler") -> Status:
    """Return the status for a handler's return value; `who` is its name.

    Raises
    ------
    TypeError, ValueError
        If the value is invalid.
    """
    if result is None:
        return Status(SUCCESS)
    if isinstance(result, Status):
        status = result
    elif isinstance(result, int) and not isinstance(result, bool):
        status = Status(result)
    else:
        kind = type(result).__name__
        what = "raise it" if isinstance(result, Failure) else "return None, an int or a Status"
        raise TypeError(f"{who} returned {kind}: {what}")
    if status.category in ("Unknown", "Pending"):
        raise ValueError(f"{who} returned 0x{status.code:04X}, which is not a final status")
    return status


def reply(result: object, who: str = "a handler") -> Outcome:
    """Return the outcome for the result of an N-service's handler: status, data set, or both."""
    parts = result if isinstance(result, tuple) and not isinstance(result, Status) else (result,)
    data = [part for part in parts if isinstance(part, Mapping) or is_dataset(part)]
    rest = [part for part in parts if not (isinstance(part, Mapping) or is_dataset(part))]
    if len(data) > 1 or len(rest) > 1:
        raise TypeError(f"{who} returned too much: a status, a dict or Dataset, or one of each")
    status = final_status(rest[0] if rest else None, who)
    return Outcome(status, data=data[0] if data else None)


def rows_of(result: object, route: Route) -> Iterator[Any]:
    whole = isinstance(result, (str, bytes, os.PathLike, Mapping)) or is_dataset(result)
    if result is None or whole:
        raise TypeError(
            f"{route.where} returned {type(result).__name__}, which is not iterable: "
            "yield each answer, or return a list"
        )
    if not isinstance(result, Iterable):
        raise TypeError(f"{route.where} returned {type(result).__name__}, which is not iterable")
    return iter(result)


def find_rows(request: Any, source: Any, rows: Iterator[Any]) -> Generator[Answer, None, Any]:
    """Yield the rows of a find, each with its status."""
    matched = _ROW[PENDING]
    while True:
        try:
            item = next(rows)
        except StopIteration as stop:
            return stop.value
        if item.__class__ is dict:  # most rows are
            yield Answer(item, matched)
            continue
        row, status = item if isinstance(item, tuple) and len(item) == 2 else (item, PENDING)
        if not (isinstance(row, Mapping) or is_dataset(row)):
            kind = type(row).__name__
            raise TypeError(f"a find must yield a dict or Dataset, or (row, status), not {kind}")
        code = int(status[0] if isinstance(status, Status) else status)
        if code not in _ROW:
            raise ValueError(f"a row must have the status 0xFF00 or 0xFF01, not 0x{code:04X}")
        yield Answer(row, _ROW[code], code == PENDING)


class _Instances:
    """The results of a handler, as instances; `result` is its return value."""

    def __init__(self, command: str, rows: Iterator[Any]) -> None:
        self._command = command
        self._rows = rows
        self.result: Any = None

    def __iter__(self) -> Iterator[Instance]:
        return self

    def __next__(self) -> Instance:
        try:
            item = next(self._rows)
        except StopIteration as stop:
            self.result = stop.value
            raise
        if isinstance(item, Instance):
            return item
        if not isinstance(item, (str, os.PathLike)) and not is_dataset(item):
            kind = type(item).__name__
            raise TypeError(f"a {self._command} yields paths, Datasets or Instances, not {kind}")
        return Instance(item)


def instances_of(
    request: GetRequest, source: Any, rows: Iterator[Any]
) -> Generator[Answer, None, Any]:
    """Yield instances, with `request.count` known before the first."""
    request.ahead = source if isinstance(source, (list, tuple)) else ()
    coming = _Instances(request.command, rows)
    first = next(coming, None)  # a generator that sets the count has done so by now
    instances = itertools.chain(() if first is None else (first,), coming)
    if request.count is None and hasattr(source, "__len__"):
        request.count = len(source)
    if request.count is not None:
        request.count = operator.index(request.count)
        for instance in instances:
            yield Answer(instance, None)
    elif first is not None:
        with scratch(None if request.app is None else request.app.config.spool) as folder:
            request.ahead = known = _drained(request, instances, folder)
            request.count = len(known)
            for instance in known:
                yield Answer(instance, None)
    return coming.result


def _drained(request: GetRequest, instances: Iterator[Instance], folder: str) -> list[Instance]:
    """Return all instances, to count them; stop if the request is cancelled."""
    known: list[Instance] = []
    for instance in instances:
        if known and request.cancelled:
            break
        known.append(_set_aside(instance, folder, len(known)))
    return known


def _set_aside(instance: Instance, folder: str, number: int) -> Instance:
    """Write a Dataset to a file, so that it occupies neither memory nor an open file."""
    try:
        return instance.set_aside(folder, str(number))
    except (DataSetError, Failure):  # only its own sub-operation fails
        return instance


def close_all(*things: object) -> None:
    for thing in things:
        try:
            close = getattr(thing, "close", None)
            if close is not None:
                close()
        except BaseException:
            logger.exception("closing the answers of a handler failed")
