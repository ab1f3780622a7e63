"""The associations of a client: opened on demand, and reused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from pacsroute import uids
from pacsroute.errors import (
    AssociationAborted,
    AssociationError,
    NotAccepted,
    PacsrouteError,
    ProtocolError,
)
from pacsroute.framework.base import BaseApp
from pacsroute.services.exchange import Exchange
from pacsroute.upper_layer.negotiation import MAXIMUM_CONTEXTS, AcceptedContext, propose
from pacsroute.upper_layer.pdu import AssociateRQ, UserIdentity

Context = tuple[str, tuple[str, ...]]


class Opener(Protocol):
    """The opener of associations: over a socket, or in memory."""

    def __call__(self, request: AssociateRQ, app: BaseApp, /) -> Exchange:
        """Ask for an association."""


@dataclass
class _Open:
    """An association with its proposed contexts."""

    association: Exchange
    proposed: set[Context]
    scp_of: frozenset[str]


class Pool:
    """A pool of associations with one peer; each carries one request at a time.

    Parameters
    ----------
    opener : Opener
        The opener of another association.
    called_ae, calling_ae : str
        The peer's AE title, and ours.
    app : App
        The app that answers requests of the peer.
    user : str, (str, str) or UserIdentity, optional
        As for `pacsroute.connect`.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        called_ae: str,
        calling_ae: str,
        app: BaseApp,
        user: str | tuple[str, str] | UserIdentity | None = None,
    ) -> None:
        self.called_ae = called_ae
        self.calling_ae = calling_ae
        self._opener = opener
        self._app = app
        self._identity = identity_of(user)
        self._idle: list[_Open] = []
        self._busy: list[_Open] = []
        # Guards the idle, busy and closed state. It is reentrant: the garbage collector may close
        # an iterator while a thread holds the lock, which gives the iterator's association back.
        self._lock = threading.RLock()
        self._contexts: dict[Context, None] = {}
        self._closed = False

    def close(self, *, abort: bool = False) -> None:
        """Release the associations, or abort them; those with a request under way are aborted."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy, self._busy = self._busy, []
        for one in idle:
            _end(one, abort=abort)
        for one in busy:
            _interrupt(one)

    @contextlib.contextmanager
    def use(
        self, contexts: Collection[Context], scp_of: frozenset[str] = frozenset()
    ) -> Iterator[tuple[Exchange, AcceptedContext]]:
        """Take an association on which the contexts were proposed; no other request uses it.

        The first accepted context of the first abstract syntax is returned with it.

        Parameters
        ----------
        contexts : collection of (str, tuple of str)
            Abstract syntaxes, and the transfer syntaxes of each.
        scp_of : frozenset of str, optional
            The SOP classes for which the SCP role is proposed.

        Raises
        ------
        AssociationError
            If there is none.
        NotAccepted
            If the peer has not accepted the first abstract syntax.
        """
        one = self._idle_one(contexts, scp_of) or self._new_one(contexts, scp_of)
        sound = False
        try:
            yield one.association, _accepted(one.association, contexts, scp_of)
            sound = True
        except (PacsrouteError, OSError, GeneratorExit) as error:
            sound = not isinstance(error, ProtocolError)
            raise
        finally:
            # Anything else, such as a KeyboardInterrupt, may have left half of a message.
            ended = one.association.ended() is not None
            with self._lock:
                if one in self._busy:
                    self._busy.remove(one)
                keep = sound and not ended and not self._closed
                if keep:
                    self._idle.append(one)
            if not keep:
                _end(one, abort=True)

    def _idle_one(self, contexts: Collection[Context], scp_of: frozenset[str]) -> _Open | None:
        """Return an open association with the needed contexts."""
        wanted = set(contexts)
        while True:
            with self._lock:
                if self._closed:
                    raise AssociationError("the client is closed")
                if not self._idle:
                    return None
                one = self._idle.pop()
                self._busy.append(one)  # so that `close` sees it
            if _is_gone(one):
                self._drop(one, abort=True)
            elif wanted <= one.proposed and _has_roles(one, scp_of):
                return one
            else:
                self._drop(one, abort=False)

    def _drop(self, one: _Open, *, abort: bool) -> None:
        with self._lock:
            if one not in self._busy:  # `close` ended it
                return
            self._busy.remove(one)
        _end(one, abort=abort)

    def _new_one(self, contexts: Collection[Context], scp_of: frozenset[str]) -> _Open:
        with self._lock:
            everything = self._contexts | dict.fromkeys(contexts)
            if len(everything) > MAXIMUM_CONTEXTS:
                everything = dict.fromkeys(contexts)
            # Roles apply to a whole class: classes to fetch are proposed only for fetching.
            proposed = dict.fromkeys(contexts) if scp_of else everything
            if not scp_of:
                self._contexts = everything
        request = propose(
            self.calling_ae,
            self.called_ae,
            proposed,
            scp_of=scp_of,
            user_identity=self._identity,
            maximum_length=self._app.config.maximum_length,
        )
        try:
            association = self._opener(request, self._app)
        except AssociationAborted as error:
            error.began = False
            raise
        one = _Open(association, set(proposed), scp_of)
        with self._lock:
            if not self._closed:
                self._busy.append(one)
                return one
        _end(one, abort=True)
        raise AssociationError("the client is closed")


def identity_of(user: str | tuple[str, str] | UserIdentity | None) -> UserIdentity | None:
    """Return the user identity to propose for a user name, or one with a passcode."""
    if isinstance(user, str):
        return UserIdentity(1, False, user.encode())
    if user is None or isinstance(user, UserIdentity):
        return user
    name, passcode = user
    return UserIdentity(2, False, name.encode(), passcode.encode())


def _accepted(
    association: Exchange, contexts: Collection[Context], scp_of: frozenset[str]
) -> AcceptedContext:
    sop_class = next(iter(contexts))[0]
    for context in association.contexts.values():
        if context.abstract_syntax == sop_class and (context.scu or context.scp):
            return context
    role = " as its SCP" if sop_class in scp_of else ""
    raise NotAccepted(
        f"{association.called_ae} does not accept {uids.name(sop_class)}: it does not offer "
        f"this service, or not to {association.calling_ae}{role}"
    )


def _has_roles(one: _Open, scp_of: frozenset[str]) -> bool:
    """Return whether an association has the needed roles; if none are needed, it must have none.

    A peer that sends instances over an association may not accept instances on it.
    """
    return scp_of <= one.scp_of if scp_of else not one.scp_of


def _is_gone(one: _Open) -> bool:
    """Return whether an association has ended while it was idle."""
    try:
        return one.association.cancelled(-1)
    except AssociationError:  # the peer sent something meanwhile
        return True


def _interrupt(one: _Open) -> None:
    """Abort an association in use; its thread, which may be waiting, closes it."""
    with contextlib.suppress(AssociationError):
        one.association.abort()
        one.association.stop()


def _end(one: _Open, *, abort: bool) -> None:
    with contextlib.suppress(AssociationError):
        if abort:
            one.association.abort()
            one.association.close()
        else:
            one.association.release()
