"""One dispatcher for each association: it routes messages to services and logs them."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from pacsroute import uids
from pacsroute.dimse import commands
from pacsroute.dimse.commands import Command, CStoreRQ
from pacsroute.dimse.messages import Message, Sink
from pacsroute.errors import AssociationAborted, AssociationError, AssociationReleased, let_go
from pacsroute.framework.base import BaseApp
from pacsroute.framework.handling import finished
from pacsroute.framework.results import Outcome
from pacsroute.logs import about
from pacsroute.services import store
from pacsroute.services.call import Call, limit_of
from pacsroute.services.exchange import Exchange
from pacsroute.services.responses import response
from pacsroute.status import SOP_CLASS_NOT_SUPPORTED, UNRECOGNIZED_OPERATION, Status
from pacsroute.thread_pool import Daemons
from pacsroute.upper_layer.negotiation import AcceptedContext

logger = logging.getLogger("pacsroute")

_SERVICES = {
    commands.CEchoRQ: "echo",
    commands.CStoreRQ: "store",
    commands.CFindRQ: "find",
    commands.CGetRQ: "get",
    commands.CMoveRQ: "move",
    commands.NCreateRQ: "normalized",
    commands.NSetRQ: "normalized",
    commands.NGetRQ: "normalized",
    commands.NActionRQ: "normalized",
    commands.NDeleteRQ: "normalized",
    commands.NEventReportRQ: "normalized",
}
_loaded: dict[type[Command], Callable[[Call], Outcome]] = {}


def _service(kind: type[Command]) -> Callable[[Call], Outcome]:
    """Return what answers a kind of request, imported with the first one: see `dataset.late`."""
    if kind not in _SERVICES:
        return _unrecognized
    if kind not in _loaded:
        _loaded[kind] = import_module(f"pacsroute.services.{_SERVICES[kind]}").answer
    return _loaded[kind]


def get_ready() -> None:
    """Import what answers all kinds of requests, so that the first one does not wait for it."""
    for kind in _SERVICES:
        _service(kind)


_AHEAD = 2  # times its window that a peer may have outstanding before it is aborted


class Memory(bytearray):
    """A sink for data sets that are read at once: all but those to be stored.

    What goes beyond the limit is dropped, and `is_cut` tells of it.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.is_cut = False

    def write(self, data: memoryview, /) -> None:
        """Take a fragment."""
        room = self.limit - len(self)
        self.is_cut = self.is_cut or len(data) > room
        self += data[:room]


def open_sink(app: BaseApp, association: Exchange, context_id: int, command: Command) -> Sink:
    """Return where the data set of a message goes."""
    if isinstance(command, CStoreRQ):
        return store.open_spool(app, association, association.contexts[context_id], command)
    return Memory(getattr(app.config, limit_of(command)))


def is_expected(app: BaseApp, association: Exchange, context_id: int, command: Command) -> bool:
    """Tell whether the data set of what a peer asks may reach a handler."""
    if not isinstance(command, commands.Request):
        return True
    titles = association.calling_ae, association.called_ae
    if isinstance(command, CStoreRQ):
        context = association.contexts[context_id]
        served = context.general or context.abstract_syntax
        return app.route("store", served, *titles) is not None
    name = command_name(command).removeprefix("C-").lower().replace("-", "_")
    return any(route.command == name for route in app.routes_for(*titles))


def _may_ask(association: Exchange, context: AcceptedContext, command: Command) -> bool:
    """Tell whether the peer may ask this of us at all.

    Who has asked for the association was let in for what its routes are. Whom we have asked
    was let in by nobody: it reports events as the SCP that it is, and asks for what it was
    given the role of an SCU for.
    """
    if association.role == "acceptor" or context.scp:
        return True
    return isinstance(command, commands.CEchoRQ | commands.NEventReportRQ)


class Dispatcher:
    """Routes the messages of one association to the handlers of an app.

    Parameters
    ----------
    app : App
        Whose handlers answer.
    association : Association
        What the messages come over, such as `pacsroute.Association.accept(…)`.

    Examples
    --------
    ::

        with Association.accept(socket, app) as association:
            dispatcher = Dispatcher(app, association)
            try:
                while True:
                    dispatcher.receive_and_dispatch()
            except AssociationReleased:
                print("done")
    """

    def __init__(self, app: BaseApp, association: Exchange) -> None:
        self.app = app
        self.association = association

    def run(self) -> None:
        """Receive and dispatch until the association is released.

        Raises
        ------
        AssociationAborted
            If it ends otherwise.
        """
        try:
            if self.association.window > 1:
                self._run_overlapping(self.association.window)
            while True:
                self.dispatch(self.association.receive())
        except AssociationReleased:
            pass

    def _run_overlapping(self, window: int) -> None:
        """Answer requests while others are being answered (PS3.7 §D.3.3.3)."""
        under_way = threading.Semaphore(window * _AHEAD)
        operations = Daemons("pacsroute-operation", window)
        try:
            while True:
                message = self.association.receive()
                # This thread has to go on reading: cancels and responses come here, too.
                if not under_way.acquire(blocking=False):
                    self.association.abort(2)
                    raise AssociationAborted(2, message=f"more than {window} operations at once")
                operations.submit(functools.partial(self._answer, message, under_way))
        finally:
            operations.drain()

    def _answer(self, message: Message, under_way: threading.Semaphore) -> None:
        try:
            self.dispatch(message)
        except AssociationError:
            pass  # the reading thread meets it, too
        except BaseException:
            logger.exception("an operation failed")
            self.association.abort(2)
        finally:
            under_way.release()

    def receive_and_dispatch(self) -> None:
        """Wait for the next message and answer it."""
        self.dispatch(self.association.receive())

    def dispatch(self, message: Message) -> None:
        """Answer one message.

        A response that nobody waits for and a C-CANCEL that comes too late are ignored.
        """
        command, association = message.command, self.association
        if not isinstance(command, commands.Request):
            title = ascii(association.calling_ae)[1:-1]
            logger.debug("%s ignored: %s", title, type(command).__name__)
            return
        started = time.perf_counter()
        context = association.contexts[message.context_id]
        call = Call(self.app, association, context, message)
        status, error = None, None
        self.app.observer.began(call)
        try:
            allowed = _may_ask(association, context, command)
            outcome = (_service(type(command)) if allowed else _not_for_the_peer)(call)
            status = outcome.status
        except BaseException as lost:
            error = lost
            raise
        finally:
            seconds = time.perf_counter() - started
            self.app.observer.answered(call, status, seconds)
            if call.request is not None:
                failure = call.request.error
                finished(self.app, call.request, status, error or failure)
                if failure is not None and failure is not association.failure:  # a test's to see
                    let_go(failure)
        if logger.isEnabledFor(logging.INFO):
            _log(association, context, message, outcome, seconds)
        if call.request is not None and call.request.followers:
            # A function that knows its request would keep it, and the request the function.
            followers, call.request.followers = call.request.followers, None
            for function in followers:
                association.defer(functools.partial(_call, function))


def _unrecognized(call: Call) -> Outcome:
    return _refused(call, Status(UNRECOGNIZED_OPERATION))


def _not_for_the_peer(call: Call) -> Outcome:
    return _refused(call, Status(SOP_CLASS_NOT_SUPPORTED, "no role for it was negotiated"))


def _refused(call: Call, status: Status) -> Outcome:
    outcome = Outcome(status)
    command: Any = call.message.command
    call.association.send(call.context.id, response(command, outcome))
    return outcome


def _call(function: Callable[[], object]) -> None:
    try:
        function()
    except BaseException:
        logger.exception("a function of request.after failed")


def _log(
    association: Exchange,
    context: AcceptedContext,
    message: Message,
    outcome: Outcome,
    seconds: float,
) -> None:
    status = outcome.status
    name = command_name(message.command)
    size = size_of(message)
    logger.log(
        logging.INFO if status.category in ("Success", "Cancel") else logging.WARNING,
        "%s %s 0x%04X %s%s%s%s %.1f ms",
        ascii(association.calling_ae)[1:-1],
        name,
        status.code,
        status.name,
        f" ({ascii(status.comment)[1:-1]})" if status.comment else "",
        f", {outcome.note}," if outcome.note else "",
        "" if size is None or outcome.note else f", {size} bytes,",
        seconds * 1000,
        extra=about(
            association,
            event="answered",
            command=name,
            sop_class=uids.name(context.abstract_syntax),
            status=f"0x{status.code:04X}",
            bytes=size,
            duration_ms=int(seconds * 1e6) / 1000,
        ),
    )


def size_of(message: Message) -> int | None:
    """Return the length of a message's data set; None without one."""
    size = getattr(message.data, "size", None)
    return len(message.data) if isinstance(message.data, bytearray) else size


def command_name(command: Command) -> str:
    """Return the standard's name of a command, of a response that of its request."""
    return _NAMES.get(type(command), "an unknown command")


def _name(kind: type[Command]) -> str:
    words = {"EventReport": "EVENT-REPORT"}
    text = kind.__name__.removesuffix("RQ").removesuffix("RSP")
    return f"{text[0]}-{words.get(text[1:], text[1:].upper())}"


_NAMES = {kind: _name(kind) for kind in commands.TYPES.values()}
