"""The acceptor's answer to an association request (PS3.8 §7.1, PS3.7 Annex D)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pacsroute import uids
from pacsroute.errors import ProtocolError
from pacsroute.upper_layer.pdu import (
    INVALID_PARAMETER,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ContextResult,
    ExtendedNegotiation,
    PresentationContext,
    RoleSelection,
    UserIdentity,
    UserInformation,
)

ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 3, 4

MAXIMUM_CONTEXTS = 128
SMALLEST_MAXIMUM_LENGTH = 8  # a PDV's six-byte header and two bytes of a fragment


class AcceptedContext(NamedTuple):
    """A presentation context that may be used.

    `scu` and `scp` are the requestor's roles, `information` is the acceptor's answer to extended
    negotiation, and `general` is the related general SOP class that the SOP class is served as
    (PS3.7 §D.3.3.6).
    """

    id: int
    abstract_syntax: str
    transfer_syntax: str
    scu: bool = True
    scp: bool = False
    information: bytes = b""
    general: str = ""


class Policy(Protocol):
    """The services that an acceptor offers, for each SOP class."""

    def serves(self, sop_class: str) -> bool:
        """Return whether this side can be its SCP."""

    def uses(self, sop_class: str) -> bool:
        """Return whether this side can be its SCU."""

    def sends_without_role(self, sop_class: str) -> bool:
        """Return whether instances of this class are also sent to peers that select no role."""

    def choose(self, sop_class: str, proposed: tuple[str, ...]) -> str | None:
        """Return one of the transfer syntaxes proposed, or None."""

    @property
    def window(self) -> int:
        """The maximum number of outstanding operations."""

    def extended(self, sop_class: str, offered: bytes) -> bytes:
        """Return the answer to an extended negotiation, or nothing."""


def negotiate(
    request: AssociateRQ, policy: Policy, maximum_length: int
) -> tuple[AssociateAC | AssociateRJ, dict[int, AcceptedContext]]:
    """Return the answer to a request, and the contexts accepted in it by their ID.

    Each context is judged separately; if none is acceptable, the answer is still an
    A-ASSOCIATE-AC.

    Raises
    ------
    ProtocolError
        If the request's maximum length is too short for any data.
    """
    user = request.user_information
    if user.maximum_length and user.maximum_length < SMALLEST_MAXIMUM_LENGTH:
        raise ProtocolError(f"a maximum length of {user.maximum_length}", INVALID_PARAMETER)
    if request.application_context != uids.APPLICATION_CONTEXT:
        return AssociateRJ(1, 1, 2), {}

    judge = _Judge(request, policy)
    results: dict[int, ContextResult] = {}
    accepted: dict[int, AcceptedContext] = {}
    for context in request.contexts:
        if context.id in accepted:
            continue  # some peers repeat an ID: it means the first accepted context
        results[context.id], found = judge.of(context)
        if found is not None:
            accepted[context.id] = found
    informed = {found.abstract_syntax: found.information for found in accepted.values()}
    answer = AssociateAC(
        request.called_ae,
        request.calling_ae,
        tuple(results.values()),
        UserInformation(
            maximum_length,
            uids.IMPLEMENTATION_CLASS,
            uids.IMPLEMENTATION_VERSION,
            asynchronous_operations=_window(user.asynchronous_operations, policy.window),
            roles=tuple(judge.roles.values()),
            extended=tuple(ExtendedNegotiation(*item) for item in informed.items() if item[1]),
        ),
        titles=request.titles,
    )
    return answer, accepted


class _Judge:
    """Judges the presentation contexts of one request separately.

    Parameters
    ----------
    request : AssociateRQ
        The association request.
    policy : Policy
        The services of this side.

    Attributes
    ----------
    roles : dict of str to RoleSelection
        The answers to the peer's role selection, by SOP class (PS3.7 §D.3.3.4).
    """

    def __init__(self, request: AssociateRQ, policy: Policy) -> None:
        user = request.user_information
        self._policy = policy
        self._offers = {item.sop_class: item.information for item in user.extended}
        related = {common.sop_class: common.related for common in user.common_extended}
        # Computed once per class: a peer may propose a class many times.
        self._generals = {uid: _general(policy, uid, of) for uid, of in related.items()}
        # Only for proposed classes: answers for all classes might not fit into the item.
        proposed = {context.abstract_syntax for context in request.contexts}
        self.roles = {
            role.sop_class: RoleSelection(
                role.sop_class,
                role.scu and self._is_served(role.sop_class),
                role.scp and policy.uses(role.sop_class),
            )
            for role in user.roles
            if role.sop_class in proposed
        }
        self._fetches = any(map(policy.sends_without_role, proposed))

    def _is_served(self, sop_class: str) -> bool:
        return self._policy.serves(sop_class) or bool(self._generals.get(sop_class))

    def _role(self, sop_class: str) -> RoleSelection:
        """Return the requestor's roles: those negotiated, or by default that of the SCU."""
        if sop_class in self.roles:
            return self.roles[sop_class]
        is_fetched = self._fetches and uids.is_storage(sop_class) and self._policy.uses(sop_class)
        return RoleSelection(sop_class, self._is_served(sop_class), is_fetched)

    def of(self, context: PresentationContext) -> tuple[ContextResult, AcceptedContext | None]:
        """Return the answer to a context, and the accepted context or None."""
        sop_class, policy = context.abstract_syntax, self._policy
        role = self._role(sop_class)
        # The syntax of a rejected context is not significant, but required.
        first = context.transfer_syntaxes[0] if context.transfer_syntaxes else ""
        if not (role.scu or role.scp):
            return ContextResult(context.id, ABSTRACT_SYNTAX_NOT_SUPPORTED, first), None
        general = "" if policy.serves(sop_class) else self._generals.get(sop_class, "")
        served = general or sop_class
        syntax = policy.choose(served, context.transfer_syntaxes)
        if syntax is None:
            return ContextResult(context.id, TRANSFER_SYNTAXES_NOT_SUPPORTED, first), None
        offered = self._offers.get(sop_class)
        information = b"" if offered is None else policy.extended(served, offered)
        return ContextResult(context.id, 0, syntax), AcceptedContext(
            context.id, sop_class, syntax, role.scu, role.scp, information, general
        )


def _general(policy: Policy, sop_class: str, related: Iterable[str]) -> str:
    """Return the related general storage class that a class can be served as, or "".

    The requestor names the related classes (PS3.4 §B.3.1.4).
    """
    if not uids.is_storage(sop_class):
        return ""
    return next((uid for uid in related if uids.is_storage(uid) and policy.serves(uid)), "")


def _window(offered: tuple[int, int] | None, ours: int) -> tuple[int, int] | None:
    """Answer an asynchronous operations window; without an answer it is one (PS3.7 §D.3.3.3).

    The first number is how many operations the requestor may invoke, with 0 for any number; the
    second is how many we may: one.
    """
    if offered is None or ours == 1:
        return None
    return min(offered[0] or ours, ours), 1


def propose(
    calling_ae: str,
    called_ae: str,
    contexts: Iterable[tuple[str, Sequence[str]]],
    *,
    scp_of: Collection[str] = (),
    extended: Mapping[str, bytes] | None = None,
    user_identity: UserIdentity | None = None,
    maximum_length: int,
) -> AssociateRQ:
    """Return a request for an association.

    Parameters
    ----------
    calling_ae, called_ae : str
        The AE titles.
    contexts : iterable of (str, sequence of str)
        Abstract syntaxes and their transfer syntaxes, 128 pairs at most.
    scp_of : collection of str
        SOP classes of which the requestor wants to be the SCP, too.
    extended : mapping of str to bytes, optional
        Application information by SOP class (PS3.7 §D.3.3.5).
    user_identity : UserIdentity, optional
        The identity of the requestor.
    maximum_length : int
        The maximum length of P-DATA-TF, in bytes.

    Raises
    ------
    ValueError
        If there are more than 128, the number of possible IDs (PS3.8 §9.3.2.2).
    """
    proposed = tuple(
        PresentationContext(2 * number + 1, abstract_syntax, tuple(transfer_syntaxes))
        for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts)
    )
    if len(proposed) > MAXIMUM_CONTEXTS:
        raise ValueError(f"an association has at most 128 contexts, not {len(proposed)}")
    classes = dict.fromkeys(context.abstract_syntax for context in proposed)
    return AssociateRQ(
        called_ae,
        calling_ae,
        proposed,
        UserInformation(
            maximum_length,
            uids.IMPLEMENTATION_CLASS,
            uids.IMPLEMENTATION_VERSION,
            roles=tuple(RoleSelection(uid, True, True) for uid in classes if uid in scp_of),
            extended=tuple(
                ExtendedNegotiation(uid, information)
                for uid, information in (extended or {}).items()
                if uid in classes
            ),
            user_identity=user_identity,
        ),
    )


def agreed(request: AssociateRQ, answer: AssociateAC) -> dict[int, AcceptedContext]:
    """Return the contexts that both sides have agreed on, by their ID."""
    asked = {role.sop_class for role in request.user_information.roles}
    extended = dict(answer.user_information.extended)
    roles = {
        role.sop_class: role for role in answer.user_information.roles if role.sop_class in asked
    }
    proposed = {context.id: context for context in request.contexts}
    accepted = {}
    for result in answer.contexts:
        context = proposed.get(result.id)
        if context is None or result.result != 0:
            continue
        if result.transfer_syntax not in context.transfer_syntaxes:
            continue  # a syntax that was not proposed is unusable
        sop_class = context.abstract_syntax
        role = roles.get(sop_class) or RoleSelection(sop_class, True, False)
        accepted[result.id] = AcceptedContext(
            result.id,
            sop_class,
            result.transfer_syntax,
            role.scu,
            role.scp,
            extended.get(sop_class, b""),
        )
    return accepted
