"""Send an instance with a C-STORE, for C-GET, C-MOVE and the client (PS3.4 §B)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from pacsroute import uids
from pacsroute.dimse.commands import CStoreRQ
from pacsroute.dimse.messages import Message
from pacsroute.errors import DataSetError, NotAccepted
from pacsroute.framework.requests import GetRequest
from pacsroute.instances.convert import can_convert, is_video
from pacsroute.instances.instance import Instance
from pacsroute.services.exchange import Carrier
from pacsroute.services.responses import check_response
from pacsroute.status import Status
from pacsroute.upper_layer.negotiation import MAXIMUM_CONTEXTS, AcceptedContext

# The targets of a conversion, best first: most peers know the first two.
CONVERTED = (
    uids.EXPLICIT_VR_LITTLE_ENDIAN,
    uids.IMPLICIT_VR_LITTLE_ENDIAN,
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    uids.EXPLICIT_VR_BIG_ENDIAN,
)

FETCHED = (
    *CONVERTED[:2],
    *map(
        uids.transfer_syntax,
        (
            *("JPEGLosslessSV1", "JPEGLSLossless", "JPEG2000Lossless", "JPEGBaseline8Bit"),
            *("JPEG2000", "JPEGExtended12Bit", "RLELossless", "JPEGLSNearLossless"),
            *("HTJ2KLossless", "HTJ2KLosslessRPCL", "HTJ2K", "JPEGLossless"),
            *("MPEG4HP41", "MPEG4HP41BD", "MPEG4HP422D", "MPEG4HP423D", "MPEG4HP42STEREO"),
            *("MPEG2MPML", "MPEG2MPHL", "HEVCMP51", "HEVCM10P51"),
        ),
    ),
    CONVERTED[2],
)
"""The transfer syntaxes for instances that are only stored; native ones first."""


def contexts_to_fetch(
    classes: Sequence[str] | None, syntaxes: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the presentation contexts for the instances of a C-GET, 127 at most.

    Each context ends up with one transfer syntax. So each class gets a context per syntax if
    they fit; otherwise one for native and one for compressed syntaxes, so that the peer can send
    both unconverted; otherwise one for all of them.

    Parameters
    ----------
    classes : sequence of str or None
        The UIDs of the expected storage classes; None for the most common ones, where image
        classes get two contexts.
    syntaxes : sequence of str
        The UIDs of their transfer syntaxes, best first.
    """
    most = MAXIMUM_CONTEXTS - 1
    native = tuple(syntax for syntax in syntaxes if syntax in CONVERTED[:2])
    groups = [group for group in (native, tuple(s for s in syntaxes if s not in native)) if group]
    if classes is None:
        contexts: list[tuple[str, tuple[str, ...]]] = []
        for one in uids.usual_storage(most):
            keyword = uids.UID_dictionary[one][4]
            for group in groups if "Image" in keyword else groups[:1]:
                first = sorted(group, key=lambda syntax: not is_video(syntax))
                contexts.append((one, tuple(first) if "Video" in keyword else group))
        return contexts[:most]
    for parts in ([(syntax,) for syntax in syntaxes], groups):
        if len(classes) * len(parts) <= most:
            return [(one, part) for one in classes for part in parts]
    return [(one, tuple(syntaxes)) for one in classes]


@functools.lru_cache(maxsize=256)
def contexts_for(sop_class: str, transfer_syntax: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the presentation contexts to propose for instances of a class.

    The syntax in which they are stored gets its own context, so that a peer that supports it
    receives them unconverted. The targets of a conversion share another context.

    Parameters
    ----------
    sop_class, transfer_syntax : str
        Their UIDs.

    Raises
    ------
    DataSetError
        If one of them is not a UID, so that it cannot be proposed (PS3.8 §9.3.2.2).
    """
    for uid, name in ((sop_class, "SOP Class"), (transfer_syntax, "Transfer Syntax")):
        if not uids.is_uid(uid):
            raise DataSetError(f"it has no {name} UID")
    others = tuple(uid for uid in CONVERTED[:2] if uid != transfer_syntax)
    if not can_convert(transfer_syntax, others[0]):
        return ((sop_class, (transfer_syntax,)),)
    return ((sop_class, (transfer_syntax,)), (sop_class, others))


def contexts_ahead(request: GetRequest) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the presentation contexts for listed instances, if known without reading a file."""
    kinds = (one.kind_if_known for one in request.ahead if isinstance(one, Instance))
    for kind in dict.fromkeys(kinds):
        if kind is not None:
            with contextlib.suppress(DataSetError):  # it is reported when the instance is sent
                yield from contexts_for(*kind)


def pick(
    contexts: Collection[AcceptedContext],
    sop_class: str,
    transfer_syntax: str,
    *,
    as_acceptor: bool,
) -> AcceptedContext:
    """Return the context in which to send instances of a class.

    Parameters
    ----------
    contexts : collection of AcceptedContext
        The accepted contexts of the association.
    sop_class, transfer_syntax : str
        The UIDs of the instances.
    as_acceptor : bool
        Whether they are sent to the requestor of the association, as in a C-GET; the requestor
        must then have the SCP role.

    Raises
    ------
    NotAccepted
        If there is no such context; the message says why.
    DataSetError
        If they have no SOP class.
    """
    if not sop_class:
        raise DataSetError("it has no SOP Class UID")
    syntaxes = {
        context.transfer_syntax: context
        for context in contexts
        if context.abstract_syntax == sop_class and (context.scp if as_acceptor else context.scu)
    }
    if not syntaxes:
        name = uids.name(sop_class)
        if as_acceptor and any(one.abstract_syntax == sop_class for one in contexts):
            raise NotAccepted(f"the peer did not select the SCP role for {name}")
        raise NotAccepted(f"the peer has not accepted {name}")
    for syntax in (transfer_syntax, *CONVERTED):
        if syntax in syntaxes and can_convert(transfer_syntax, syntax):
            return syntaxes[syntax]
    raise NotAccepted(
        f"the peer has accepted {uids.name(sop_class)} in "
        f"{', '.join(map(uids.name, syntaxes))} only, not in {uids.name(transfer_syntax)}"
    )


def picker(association: Carrier, *, as_acceptor: bool) -> Callable[[str, str], AcceptedContext]:
    """Return `pick` for an association. It picks once for each kind of instances: there are few."""
    contexts = association.contexts.values()
    return functools.cache(functools.partial(pick, contexts, as_acceptor=as_acceptor))


def send(
    association: Carrier,
    context: AcceptedContext,
    instance: Instance,
    message_id: int,
    *,
    priority: int = 0,
    originator: tuple[str, int] | None = None,
    meanwhile: Callable[[], object] | None = None,
    wait: Callable[[CStoreRQ], Message] | None = None,
    wanted: Callable[[], bool] | None = None,
) -> Status:
    """Send an instance and return the peer's status.

    Parameters
    ----------
    association : Association
        The association on which to send it.
    context : AcceptedContext
        The context returned by `pick`.
    instance : Instance
        The instance: read while it is sent, and not parsed if it is in the context's syntax.
    message_id : int
        The Message ID of the C-STORE.
    priority : int
        The priority: a constant of `pacsroute.dimse.commands`.
    originator : (str, int), optional
        The calling AE title and the Message ID of the C-MOVE behind it.
    meanwhile : callable, optional
        Called once it is sent, while the peer processes it.
    wait : callable, optional
        Waits for the response; by default, other requests of the peer wait until then.
    wanted : callable, optional
        Returns whether it should still be sent, called during a conversion.

    Raises
    ------
    DataSetError, OSError
        If it cannot be converted or opened; nothing has been sent.
    ReadFailed
        If it could not be read to its end, which also ends the association.
    AssociationError
        If the association ends otherwise.
    """
    sop_instance = instance.sop_instance
    if not sop_instance:
        raise DataSetError("it has no SOP Instance UID")
    command = CStoreRQ(
        message_id=message_id,
        affected_sop_class=instance.sop_class,
        affected_sop_instance=sop_instance,
        priority=priority,
    )
    if originator is not None:
        command.move_originator_ae, command.move_originator_message_id = originator
    data = instance.data_as(context.transfer_syntax, wanted=wanted)
    if isinstance(data, bytes):
        association.send(context.id, command, data)
    else:
        with data:
            association.send(context.id, command, data)
    if meanwhile is not None:
        meanwhile()
    message = wait(command) if wait else association.receive(response_to=message_id)
    answer: Any = message.command
    check_response(answer, command)
    return Status(answer.status, answer.error_comment or "")
