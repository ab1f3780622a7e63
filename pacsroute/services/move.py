"""C-MOVE: send instances to another AE (PS3.4 §C.4.2, PS3.7 §9.1.4)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import cast

from pacsroute.dimse.commands import CMoveRQ
from pacsroute.errors import (
    AssociationError,
    ConnectionRefused,
    DataSetError,
    ProtocolError,
    ReadFailed,
    RequestFailed,
)
from pacsroute.framework.handling import failed
from pacsroute.framework.requests import MoveRequest, Peer
from pacsroute.framework.results import Outcome
from pacsroute.instances.instance import Instance
from pacsroute.services import retrieve, transfer
from pacsroute.services.call import Call
from pacsroute.services.exchange import Carrier
from pacsroute.services.retrieve import SendInstance
from pacsroute.status import MOVE_DESTINATION_UNKNOWN, Status
from pacsroute.upper_layer.negotiation import MAXIMUM_CONTEXTS, AcceptedContext, propose
from pacsroute.upper_layer.pdu import AssociateRQ

logger = logging.getLogger("pacsroute")

_NOT_YET = 1.0  # seconds that a destination has to open its port
_TICK = 0.1
_IN_VAIN = 10  # associations without a delivery before a destination is given up
_PATIENCE = 60.0  # seconds that these may take together


def answer(call: Call) -> Outcome:
    """Answer a C-MOVE with its sub-operations; return its outcome."""
    command = call.command
    assert isinstance(command, CMoveRQ)
    return retrieve.answer(
        call, MoveRequest, _destination, move_destination=command.move_destination
    )


def _destination(call: Call, request: MoveRequest) -> _Destination | _WebDestination | Outcome:
    """Return the destination of the instances, or the outcome of a refusal."""
    title, peer = request.move_destination, None
    if len(title) <= 16 and title.isprintable():  # otherwise it is not an AE title
        try:
            peer = call.app.resolve(title, request)
        except BaseException as error:  # noqa: BLE001 - the user's function
            return failed(request, error)
    if peer is None:
        return Outcome(Status(MOVE_DESTINATION_UNKNOWN))
    request.peer = peer
    if peer.url:
        return _WebDestination(call, request, peer)
    return _Destination(call, request, peer)


class _WebDestination:
    """A DICOMweb destination of a C-MOVE: each request sends one instance."""

    def __init__(self, call: Call, request: MoveRequest, peer: Peer) -> None:
        calling_ae = request.called_ae or call.app.ae_title
        self._client = call.app.client_of(peer, calling_ae)

    def __enter__(self) -> SendInstance:
        return self.send

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, instance: Instance, meanwhile: Callable[[], object]) -> Status:
        """Send an instance."""
        meanwhile()
        try:
            status: Status = self._client.store(instance)
        except RequestFailed as error:
            return cast("Status", error.status)
        except AssociationError as error:
            raise DataSetError(f"not sent: {error}") from None
        return status


class _Destination:
    """The association with the destination of a C-MOVE, from the first instance to the last.

    It proposes the contexts that the instances so far needed, and those that listed instances
    with hints will need. If an instance needs another context, it associates again, proposing all
    of them while they fit into 128 contexts.

    A broken association is replaced. The instance on which it broke is sent once more, unless
    it was the first on that association: then it fails, and the rest are tried. The whole
    retrieval fails only if the destination cannot be reached any more, or no instance gets through.
    """

    def __init__(self, call: Call, request: MoveRequest, peer: Peer) -> None:
        self._call = call
        self._request = request
        self._peer = peer
        self._calling_ae = request.called_ae or call.app.ae_title
        self._called_ae = peer.ae_title or request.move_destination
        self._name = ascii(self._called_ae)[1:-1]  # for the log: the requestor chose it
        self._originator = (request.calling_ae, request.message_id)
        self._priority = retrieve.priority_of(call)
        self._contexts: dict[tuple[str, tuple[str, ...]], None] = {}
        self._ahead = transfer.contexts_ahead(request)
        self._association: Carrier | None = None
        self._pick: Callable[[str, str], AcceptedContext]  # of the association
        self._delivered = 0  # over the current association
        self._broken = 0  # consecutive associations without a delivery
        self._wasted = 0.0  # seconds that they took
        self._lost: Exception | None = None

    def __enter__(self) -> SendInstance:
        return self.send

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, instance: Instance, meanwhile: Callable[[], object]) -> Status:
        """Send an instance; if the association breaks, retry on a second one."""
        needed = transfer.contexts_for(instance.sop_class, instance.transfer_syntax)
        while True:
            association = self._associated(needed)
            began = time.monotonic()
            try:
                status = self._send_on(association, instance, meanwhile)
            except ReadFailed as error:
                # Not sent again: the destination would store a part as a whole instance.
                self._drop(association)
                raise DataSetError(str(error)) from None
            except (AssociationError, ProtocolError) as error:
                logger.warning("the association to %s broke: %s", self._name, error)
                self._drop(association)
                if not self._delivered:
                    self._note_failure(error, time.monotonic() - began)
                    raise DataSetError(f"the association broke: {error}") from None
            else:
                self._delivered += 1
                self._broken, self._wasted = 0, 0.0
                return status

    def _note_failure(self, error: Exception, seconds: float) -> None:
        """Note that an instance broke an association that delivered nothing before it."""
        self._broken += 1
        self._wasted += seconds
        if self._broken >= _IN_VAIN or self._wasted >= _PATIENCE:
            self._lost = error

    def _send_on(
        self, association: Carrier, instance: Instance, meanwhile: Callable[[], object]
    ) -> Status:
        return transfer.send(
            association,
            self._pick(instance.sop_class, instance.transfer_syntax),
            instance,
            next(association.numbers),
            priority=self._priority,
            originator=self._originator,
            meanwhile=meanwhile,
            wanted=self._request.is_wanted,
        )

    def _associated(self, needed: Sequence[tuple[str, tuple[str, ...]]]) -> Carrier:
        if self._lost is not None:
            raise DataSetError(f"not sent: {self._lost}")
        new = [context for context in needed if context not in self._contexts]
        if self._association is not None and not new:
            return self._association
        self.close()
        if len(self._contexts) + len(new) > MAXIMUM_CONTEXTS:
            self._contexts.clear()
            new = list(needed)
        self._contexts |= dict.fromkeys(new)
        while len(self._contexts) < MAXIMUM_CONTEXTS and (coming := next(self._ahead, None)):
            self._contexts[coming] = None
        request = propose(
            self._calling_ae,
            self._called_ae,
            self._contexts,
            maximum_length=self._call.app.config.maximum_length,
        )
        try:
            self._association = self._connected(request)
        except (AssociationError, ValueError) as error:  # not a host name or AE title
            logger.warning("no association to %s: %s", self._name, ascii(str(error))[1:-1])
            self._lost = error
            raise DataSetError(str(error)) from None
        self._pick = transfer.picker(self._association, as_acceptor=False)
        return self._association

    def _connected(self, request: AssociateRQ) -> Carrier:
        """Request an association; some peers open their port only after sending the C-MOVE."""
        deadline = time.monotonic() + _NOT_YET
        while True:
            try:
                self._delivered = 0
                return self._call.association.connect(self._peer, request)
            except ConnectionRefused:
                if time.monotonic() >= deadline or self._request.cancelled:
                    raise
                time.sleep(_TICK)

    def _drop(self, association: Carrier) -> None:
        association.abort()
        association.close()
        self._association = None

    def close(self) -> None:
        """Release the association, if there is one."""
        if self._association is not None:
            with contextlib.suppress(AssociationError):
                self._association.release()
            self._association = None
