"""One association from its request to its end, with its log lines."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from pacsroute import uids
from pacsroute.errors import AssociationAborted, AssociationError, AssociationRejected
from pacsroute.framework.base import BaseApp
from pacsroute.logs import about, counted, write
from pacsroute.net import overlapping
from pacsroute.net.association import Association
from pacsroute.net.channel import NothingCame
from pacsroute.services.dispatcher import Dispatcher
from pacsroute.tls import subject
from pacsroute.upper_layer.pdu import AssociateRJ

logger = logging.getLogger("pacsroute")

_NAMED = 8  # SOP classes in a log line


def serve(
    app: BaseApp, association: Association, refuse: Callable[[str], AssociateRJ | None]
) -> None:
    """Answer a peer until its association ends; never raises.

    Parameters
    ----------
    app : App
        The app whose handlers answer.
    association : Association
        An association whose request has not been read yet.
    refuse : callable
        As for `Association.negotiate`.
    """
    started = time.monotonic()
    negotiated = False
    try:
        association.negotiate(refuse)
        negotiated = True
        if logger.isEnabledFor(logging.INFO):
            write(
                logger,
                logging.INFO,
                "%s associated from %s%s as %s, %s accepted",
                ascii(association.calling_ae)[1:-1],
                association.remote_address,
                _identified(association),
                ascii(association.called_ae)[1:-1],
                counted(len(association.contexts), "presentation context"),
                extra=lambda: about(association, event="accepted"),
            )
        if len(association.contexts) < len(association.proposed):
            _tell_of_rejected(association)
        if (work := app.work_under_way) is not None:
            work.associated(association.calling_ae)
        overlapping.run(Dispatcher(app, association))
        if logger.isEnabledFor(logging.INFO):
            seconds = time.monotonic() - started
            write(
                logger,
                logging.INFO,
                "%s released after %.1f s",
                ascii(association.calling_ae)[1:-1],
                seconds,
                extra=lambda: about(
                    association, event="released", duration_ms=int(seconds * 1e6) / 1000
                ),
            )
    except AssociationRejected as error:
        logger.warning(
            "%s: %s",
            association.remote_address,
            error,
            extra=about(
                association,
                event="rejected",
                result=error.result,
                source=error.source,
                reason=error.reason,
            ),
        )
    except NothingCame as error:
        logger.debug("%s: %s", association.remote_address, error)
    except AssociationAborted as error:
        if not negotiated:
            app.observer.failed(association, error)
        logger.warning(
            "%s (%s): the association ended: %s",
            ascii(association.calling_ae)[1:-1] or "a peer",
            association.remote_address,
            ascii(str(error))[1:-1],
            extra=about(association, event="aborted"),
        )
    except AssociationError as error:
        logger.warning("%s: %s", association.remote_address, error)
    except BaseException:  # a handler may raise anything; this thread goes on
        logger.exception("an association failed", extra=about(association, event="failed"))
        with contextlib.suppress(Exception):
            association.abort(2)


def _tell_of_rejected(association: Association) -> None:
    """Log a peer without accepted contexts, and the roles that it should have selected."""
    who = ascii(association.calling_ae)[1:-1]
    policy = association.app.policy(association.calling_ae, association.called_ae)
    accepted = {context.abstract_syntax for context in association.contexts.values()}
    without_role = [
        sop_class
        for sop_class in dict.fromkeys(association.proposed)
        if sop_class not in accepted and policy.uses(sop_class) and not policy.serves(sop_class)
    ]
    if not accepted:
        names = _names(association.proposed)
        hint = " (it did not select the SCP role)" if without_role else ""
        logger.warning("%s has proposed nothing that is served: %s%s", who, names, hint)
    elif without_role:
        logger.warning("%s did not select the SCP role for %s", who, _names(without_role))


def _names(sop_classes: list[str]) -> str:
    return ascii(", ".join(map(uids.name, sop_classes[:_NAMED])))[1:-1]


def _identified(association: Association) -> str:
    """Return the subject of the peer's certificate for the log."""
    if association.peer_certificate is None:
        return ""
    return f" with the certificate of {ascii(subject(association.peer_certificate))[1:-1]}"
