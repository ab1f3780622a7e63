"""Accept or reject an association request: AE titles, user identity and presentation contexts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from pacsroute.allow import allowed
from pacsroute.errors import AssociationAborted, AssociationRejected
from pacsroute.framework.base import BaseApp
from pacsroute.framework.identity import NAMED, Identity
from pacsroute.framework.peer import PeerView
from pacsroute.upper_layer.negotiation import AcceptedContext
from pacsroute.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ, UserIdentity

logger = logging.getLogger("pacsroute")

_USER_REJECTION = 1  # of a presentation context (PS3.8 §9.3.3.2)


def admit(
    app: BaseApp, association: PeerView, request: AssociateRQ, *, user: Any = None
) -> AssociateAC | AssociateRJ:
    """Return the answer to an association request, and set `user` and `contexts`.

    Parameters
    ----------
    app : App
        The app whose settings, functions and routes decide.
    association : PeerView
        The association, with its titles and remote address.
    request : AssociateRQ
        The association request.
    user : object, optional
        The user, if a test passes one; then no function is called.

    Raises
    ------
    ProtocolError
        If it cannot even be rejected.
    """
    refused = _stranger(app, association) or _excess(app, association, request)
    if refused is not None:
        return refused
    try:
        response = _authenticate(app, association, request.user_information.user_identity, user)
        if app.auditors and association.user is not None:
            from pacsroute.framework import auditing  # noqa: PLC0415 - only for apps that audit

            auditing.authenticated(app, association)
        policy = app.policy(association.calling_ae, association.called_ae)
        answer, contexts = policy.answer(request, app.config.maximum_length)
        if isinstance(answer, AssociateRJ):
            return answer
        association.contexts = contexts
        before = dict(contexts)
        _call_hooks(app, association)
    except AssociationRejected as rejected:
        return AssociateRJ(rejected.result, rejected.source, rejected.reason)
    if before.keys() != association.contexts.keys():
        answer = _narrowed(answer, association.contexts)
    if response is not None:
        information = replace(answer.user_information, user_identity_response=response)
        answer = replace(answer, user_information=information)
    return answer


def let_in(
    app: BaseApp, caller: PeerView, claimed: UserIdentity | None, *, user: Any = None
) -> None:
    """Admit a peer without an association, as over HTTP, and set its `user`.

    The rules are those for an association. An AE title that was not claimed in an association
    matches no rule of the setting ``allow``.

    Parameters
    ----------
    app : App
        The app whose settings and functions decide.
    caller : PeerView
        The peer, with its titles and remote address.
    claimed : UserIdentity or None
        The claimed identity.
    user : object, optional
        As for `admit`.

    Raises
    ------
    AssociationRejected
        If it is not admitted.
    """
    refused = _stranger(app, caller, anonymous=True)
    if refused is not None:
        raise AssociationRejected(refused.result, refused.source, refused.reason)
    _authenticate(app, caller, claimed, user)
    _call_hooks(app, caller)


def _call_hooks(app: BaseApp, association: PeerView) -> None:
    for scope in app.scopes_of(association.called_ae):
        for hook in scope.hooks["before_association"]:
            hook(association)


def _excess(app: BaseApp, association: PeerView, request: AssociateRQ) -> AssociateRJ | None:
    """Reject a request with too many contexts."""
    if len(request.contexts) <= app.config.max_contexts:
        return None
    logger.warning("%s (%s) proposes more contexts than max_contexts", *_who(association))
    return AssociateRJ(2, 3, 2)


def _stranger(
    app: BaseApp, association: PeerView, *, anonymous: bool = False
) -> AssociateRJ | None:
    """Reject a peer that no rule allows, or that calls another AE title."""
    config = app.config
    claimed = "" if anonymous else association.calling_ae
    if config.require_called_ae and association.called_ae not in app.titles:
        logger.warning(
            "%s (%s) calls %s, which is not an AE title of this app",
            *_who(association),
            ascii(association.called_ae),
        )
        return AssociateRJ(1, 1, 7)
    if not allowed(config.allow, claimed, association.remote_address):
        logger.warning("%s (%s) is not allowed to associate", *_who(association))
        return AssociateRJ(1, 1, 3)
    return None


def _who(peer: PeerView) -> tuple[str, str]:
    """Return a peer's title and address for the log."""
    return ascii(peer.calling_ae)[1:-1], peer.remote_address


def _authenticate(
    app: BaseApp, association: PeerView, claimed: UserIdentity | None, user: Any
) -> bytes | None:
    """Set the association's user; return the response that the peer requested."""
    if user is not None:
        association.user = user
        return None
    for scope in reversed(app.scopes_of(association.called_ae)):
        if scope.authenticator is None:
            continue
        identity = None if claimed is None else Identity(claimed)
        try:
            found = scope.authenticator(identity, association)
        except AssociationRejected:
            _audit(app, association, identity)
            raise
        except Exception as error:  # noqa: BLE001
            # Without a traceback: an authentication library may quote the secret.
            logger.error("@app.authenticate failed: %s", type(error).__name__)
            _audit(app, association, identity)
            raise AssociationRejected(2, 2, 1) from None
        if not found:  # an empty name is not a user
            # Not its value, which may hold a secret.
            kind = "None" if found is None else type(found).__name__
            logger.warning(
                "%s (%s) is not authenticated: @app.authenticate returned %s",
                *_who(association),
                kind,
            )
            _audit(app, association, identity)
            raise AssociationRejected(1, 2, 1)
        association.user = found
        association.proven_by = _proof(identity, association)
        if identity is None or claimed is None or not claimed.response_requested:
            return None
        return b"" if identity.kind in NAMED else identity.response
    return None


def _proof(identity: Identity | None, association: PeerView) -> str:
    """Return the proof of a peer's identity."""
    if identity is not None:
        return identity.kind
    return "" if association.peer_certificate is None else "certificate"


def _audit(app: BaseApp, association: PeerView, failed: Identity | None) -> None:
    """Report a failed authentication to the audit functions, if there are any."""
    if app.auditors:
        from pacsroute.framework import auditing  # noqa: PLC0415 - only for apps that audit

        auditing.not_authenticated(app, association, failed)


def tell_of_rejected(app: BaseApp, peer: PeerView, why: str) -> None:
    """Report a rejected peer to the audit functions, if there are any."""
    if app.auditors:
        from pacsroute.framework import auditing  # noqa: PLC0415 - only for apps that audit

        auditing.rejected(app, peer, why)


def _narrowed(answer: AssociateAC, contexts: dict[int, AcceptedContext]) -> AssociateAC:
    """Return the answer without the contexts that a hook has removed."""
    results = tuple(
        result._replace(result=_USER_REJECTION)
        if result.result == 0 and result.id not in contexts
        else result
        for result in answer.contexts
    )
    return replace(answer, contexts=results)


def left(app: BaseApp, association: PeerView, error: AssociationAborted | None) -> None:
    """Call the hooks of `after_association`, the innermost first."""
    for scope in reversed(app.scopes_of(association.called_ae)):
        for hook in reversed(scope.hooks["after_association"]):
            try:
                hook(association, error)
            except BaseException:
                logger.exception("@app.after_association failed")
