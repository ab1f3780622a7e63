"""Requests of one association that are answered at the same time (PS3.7 §D.3.3.3)."""

from __future__ import annotations

import functools
import logging
import threading

from pacsroute.dimse.messages import Message
from pacsroute.errors import AssociationAborted, AssociationError, AssociationReleased
from pacsroute.services.dispatcher import Dispatcher
from pacsroute.thread_pool import DaemonPool

logger = logging.getLogger("pacsroute")

_AHEAD = 2  # multiple of its window that a peer may have outstanding before an abort


def run(dispatcher: Dispatcher) -> None:
    """Receive and dispatch until the association is released, at most its window at once.

    `Dispatcher.run`, in contrast, answers one request at a time.

    Raises
    ------
    AssociationAborted
        If it ends otherwise.
    """
    association = dispatcher.association
    if association.window == 1:
        dispatcher.run()
        return
    under_way = threading.Semaphore(association.window * _AHEAD)
    operations = DaemonPool("pacsroute-operation", association.window)
    try:
        while True:
            message = association.receive()
            # This thread must go on reading, because it receives cancels and responses, too.
            if not under_way.acquire(blocking=False):
                association.abort(2)
                raise AssociationAborted(
                    2, message=f"more than {association.window} operations at once"
                )
            operations.submit(functools.partial(_answer, dispatcher, message, under_way))
    except AssociationReleased:
        pass
    finally:
        operations.drain()


def _answer(dispatcher: Dispatcher, message: Message, under_way: threading.Semaphore) -> None:
    try:
        dispatcher.dispatch(message)
    except AssociationError:
        pass  # the reading thread handles the error
    except BaseException:
        logger.exception("an operation failed")
        dispatcher.association.abort(2)
    finally:
        under_way.release()
