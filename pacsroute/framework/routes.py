"""Routes: the handlers of commands, by SOP class and calling AE title."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pacsroute import uids
from pacsroute.dimse.commands import NAMES
from pacsroute.instances.place import Place

Handler = Callable[[Any], Any]

BARE = {
    command: frozenset({models["PatientRoot"], models["StudyRoot"]})
    for command, models in uids.QUERY_RETRIEVE.items()
}
"""The SOP classes of a find, get or move that names none."""


@dataclass(frozen=True, repr=False)
class Route:
    """A handler with the requests that it answers.

    Parameters
    ----------
    command : str
        ``echo``, ``store``, ``find``, ``get``, ``move``, ``n_create``, ``n_set``, ``n_get``,
        ``n_action``, ``n_delete`` or ``n_event_report``.
    sop_class : str or None
        Its UID; None for a decorator without arguments.
    calling_ae : str or None
        The calling AE title that it answers; None for all.
    transfer_syntaxes : tuple of str
        UIDs in order of preference; if empty, the peer's order counts.
    unknown : bool
        Whether a store without a class covers unknown classes.
    handler : callable
        The user's function.
    pending_interval : float
        Seconds between the Pending responses of a get or move; 0 sends one after each
        sub-operation.
    kind : int, optional
        The action or event type that it answers.
    extended : bytes
        The extended negotiation that it supports.
    charset : str, optional
        The Specific Character Set of its rows; by default, that of the settings or the peer.
    called_ae : str, optional
        The called AE title that its blueprint owns; None for every title without an owner.
    scopes : tuple of Scope
        The app and the blueprints of its registration, the outermost first, with their hooks and
        error handlers.
    default : bool
        Whether any other route for the same request replaces it.
    place : Place
        The folder in which its handler saves instances.
    """

    command: str
    sop_class: str | None
    calling_ae: str | None
    transfer_syntaxes: tuple[str, ...]
    unknown: bool
    handler: Handler
    pending_interval: float = 0
    kind: int | None = None
    extended: bytes = b""
    charset: str | None = None
    called_ae: str | None = None
    scopes: tuple[Any, ...] = field(default=(), compare=False)
    default: bool = False
    place: Place = field(default_factory=Place, repr=False, compare=False)

    @property
    def key(self) -> tuple[object, ...]:
        """The key that identifies the route."""
        return (
            self.command,
            self.sop_class,
            self.calling_ae,
            self.kind,
            self.called_ae,
            self.default,
        )

    @property
    def rank(self) -> tuple[bool, bool, bool, bool]:
        """Its rank: of several routes for a request, the lowest rank wins."""
        return (
            self.default,
            self.sop_class is None,
            self.kind is None,
            self.calling_ae is None,
        )

    def covers(self, sop_class: str) -> bool:
        """Return whether it answers for a SOP class."""
        if self.sop_class is not None:
            return self.sop_class == sop_class or (
                # Commands of every UPS class name UPS Push (PS3.4 §CC.3.1).
                self.sop_class == uids.UPS_PUSH and sop_class in uids.UPS
            )
        if self.command == "echo":
            return sop_class == uids.VERIFICATION
        if self.command == "store":
            return sop_class in uids.STORAGE or (self.unknown and uids.is_storage(sop_class))
        return sop_class in BARE[self.command]

    def __repr__(self) -> str:
        return f"<Route {' '.join(str(self).split())}>"

    def __str__(self) -> str:
        if self.sop_class is not None:
            what = uids.name(self.sop_class)
        else:
            what = {
                "echo": "Verification",
                "store": "every storage class" + (", unknown ones too" if self.unknown else ""),
            }.get(self.command, "Patient Root and Study Root")
        who = f" from {self.calling_ae}" if self.calling_ae else ""
        who += f" to {self.called_ae}" if self.called_ae else ""
        kind = "" if self.kind is None else f", type {self.kind}"
        return f"{name_of(self.command):<14} {what}{kind}{who} -> {self.where}"

    @property
    def where(self) -> str:
        """The handler's name."""
        return getattr(self.handler, "__qualname__", type(self.handler).__qualname__)


def name_of(command: str) -> str:
    """Return the standard's name of a command.

    Examples
    --------
    >>> name_of("n_event_report"), name_of("find")
    ('N-EVENT-REPORT', 'C-FIND')
    """
    return NAMES[command]


def choose_syntax(route: Route, proposed: Iterable[str]) -> str | None:
    """Return the transfer syntax of a context for a route, or None if none is acceptable.

    The route's order of preference counts; if it has none, the peer's. Bytes that are only stored
    may be in any syntax, see `storable`; others must be in a known one. Implicit VR little endian
    is always accepted.
    """
    proposed = tuple(proposed)
    for syntax in route.transfer_syntaxes:
        if syntax in proposed:
            return syntax
    if not route.transfer_syntaxes:
        if route.command == "store":
            return storable(proposed)
        for syntax in proposed:
            if syntax in uids.ENCODABLE:
                return syntax
    implicit = uids.IMPLICIT_VR_LITTLE_ENDIAN
    return implicit if implicit in proposed else None


def storable(proposed: Sequence[str]) -> str | None:
    """Return the transfer syntax of a context for instances, or None if there is none.

    It is the first that others can read later. A private one, or one whose pixels stay with the
    peer, is used only if nothing else is proposed.

    Examples
    --------
    >>> storable(["1.2.840.113619.5.2", "1.2.840.10008.1.2.1"])
    '1.2.840.10008.1.2.1'
    """
    for syntax in proposed:
        if syntax in _LASTING:
            return syntax
    return next(filter(uids.is_uid, proposed), None)


_LASTING = uids.TRANSFER_SYNTAXES - uids.REFERENCED
