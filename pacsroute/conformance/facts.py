"""The facts of a statement: the offers of each AE, found by negotiation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.uid import UID

from pacsroute import uids
from pacsroute.conformance import kinds
from pacsroute.framework.base import BaseApp
from pacsroute.framework.blueprints import Scope
from pacsroute.framework.presentation_contexts import ContextPolicy
from pacsroute.framework.routes import Route
from pacsroute.upper_layer import extended

UNKNOWN = "2.25.1"
"""A class or transfer syntax in no dictionary: all unknown ones are treated alike."""


class Syntaxes(NamedTuple):
    """The transfer syntaxes of a presentation context.

    Parameters
    ----------
    uids : tuple of str
        The UIDs, in order of preference.
    ours : bool
        Whether our order counts; otherwise the peer's does.
    unknown : bool
        Whether transfer syntaxes in no dictionary are accepted, too.
    """

    uids: tuple[str, ...]
    ours: bool
    unknown: bool


class Offer(NamedTuple):
    """A SOP class that an AE accepts.

    Parameters
    ----------
    sop_class : str
        Its UID; `UNKNOWN` represents private classes and those newer than the dictionary.
    scp, scu : bool
        The roles that this AE can take if its peer requests the association.
    syntaxes : Syntaxes
        The transfer syntaxes that are accepted.
    commands : tuple of str
        The commands, as in routes, that peers may send on its presentation context.
    extended : tuple of (str, int)
        The response to extended negotiation, by name.
    calling_ae : str
        The calling AE title that gets this offer; empty for all.
    """

    sop_class: str
    scp: bool
    scu: bool
    syntaxes: Syntaxes
    commands: tuple[str, ...]
    extended: tuple[tuple[str, int], ...] = ()
    calling_ae: str = ""

    @property
    def name(self) -> str:
        """The name of the SOP class; a description if the UID represents many or has no name."""
        if self.sop_class == UNKNOWN:
            return "Every other class: private ones, and those that this release does not know"
        if self.sop_class not in uids.SOP_CLASSES:
            return "Private SOP class"
        uid = UID(self.sop_class)
        name = uid.name or "Storage SOP Class without a name in PS3.6"
        return f"{name} (Retired)" if uid.is_retired else name

    @property
    def uid(self) -> str:
        """The UID of the SOP class, as shown in tables."""
        return "any other" if self.sop_class == UNKNOWN else self.sop_class

    @property
    def service(self) -> int:
        """The kind of service of the SOP class."""
        return kinds.kind_of(self.sop_class, self.commands)


@dataclass(frozen=True)
class Entity:
    """An application entity: an AE title with its routes.

    Parameters
    ----------
    title : str
        Its AE title.
    routes : tuple of Route
        The routes that its peers can reach.
    offers : tuple of Offer
        Its offers, ordered by UID.
    scopes : tuple of Scope
        The app and its blueprints, with their hooks.
    """

    title: str
    routes: tuple[Route, ...]
    offers: tuple[Offer, ...]
    scopes: tuple[Scope, ...]

    def answers(self, command: str) -> bool:
        """Return whether a route is for a command; C-ECHO always has one."""
        return command == "echo" or any(route.command == command for route in self.routes)

    @property
    def authenticates(self) -> bool:
        """Whether the AE authenticates its peers."""
        return any(scope.authenticator for scope in self.scopes)


@dataclass(frozen=True)
class Facts:
    """All data for a statement.

    Parameters
    ----------
    app : App
        The app, with its settings.
    entities : tuple of Entity
        Its application entities; the app's own AE title comes first.
    sets : dict of Syntaxes to str
        The name of each set of transfer syntaxes in the tables.
    """

    app: BaseApp
    entities: tuple[Entity, ...]
    sets: dict[Syntaxes, str]

    def answers(self, command: str) -> bool:
        """Return whether any AE has a route for a command."""
        return any(entity.answers(command) for entity in self.entities)


def gather(app: BaseApp) -> Facts:
    """Return the facts of an app."""
    owned = [title for _, title in app.families if title is not None]
    titles = dict.fromkeys((app.ae_title, *owned))
    entities = tuple(_entity(app, title) for title in titles)
    used = dict.fromkeys(offer.syntaxes for entity in entities for offer in entity.offers)
    return Facts(app, entities, {syntaxes: f"TS{n}" for n, syntaxes in enumerate(used, 1)})


def _entity(app: BaseApp, title: str) -> Entity:
    scopes = app.scopes_of(title)
    owned = title if any(title == owner for _, owner in app.families) else None
    routes = tuple(route for route in app.routes if route.called_ae == owned)
    return Entity(title, routes, tuple(_offers(app, title, routes)), scopes)


def _offers(app: BaseApp, called_ae: str, routes: Iterable[Route]) -> Iterator[Offer]:
    """Yield the offers of an AE title.

    If a calling AE title gets a different offer from other peers, that follows as another offer of
    the same class.
    """
    named = {route.sop_class for route in routes if route.sop_class is not None}
    callers = sorted({route.calling_ae for route in routes if route.calling_ae is not None})
    for sop_class in sorted(uids.SOP_CLASSES | named | {UNKNOWN}, key=_number):
        everybody = _offer(app, sop_class, "", called_ae)
        if everybody is not None:
            yield everybody
        for caller in callers:
            own = _offer(app, sop_class, caller, called_ae)
            if own is not None and own._replace(calling_ae="") != everybody:
                yield own


def _number(uid: str) -> tuple[bool, list[int]]:
    return uid == UNKNOWN, [int(part) for part in uid.split(".")]


def _offer(app: BaseApp, sop_class: str, calling_ae: str, called_ae: str) -> Offer | None:
    policy = app.policy(calling_ae, called_ae)
    scp, scu = policy.serves(sop_class), policy.uses(sop_class)
    if not (scp or scu):
        return None
    routes = app.routes_for(calling_ae, called_ae)
    covering = policy.covering(sop_class)
    commands = dict.fromkeys(route.command for route in covering)
    return Offer(
        sop_class,
        scp,
        scu,
        _syntaxes(policy, sop_class, routes),
        tuple(commands) or (("echo",) if sop_class == uids.VERIFICATION else ()),
        _extended(covering),
        calling_ae,
    )


def _syntaxes(policy: ContextPolicy, sop_class: str, routes: Iterable[Route]) -> Syntaxes:
    named = {syntax for route in routes for syntax in route.transfer_syntaxes}
    proposed = tuple(sorted(uids.TRANSFER_SYNTAXES | named, key=_number))
    first = policy.choose(sop_class, proposed)
    ours = first == policy.choose(sop_class, proposed[::-1])
    preferred = []
    while (syntax := policy.choose(sop_class, proposed)) is not None:
        preferred.append(syntax)
        proposed = tuple(other for other in proposed if other != syntax)
    unknown = policy.choose(sop_class, (UNKNOWN,)) is not None
    return Syntaxes(tuple(preferred), ours and not unknown, unknown)


def _extended(covering: Iterable[Route]) -> tuple[tuple[str, int], ...]:
    """Return the value of the first route that has one, since that route answers."""
    for route in covering:
        if route.extended and route.command != "n_event_report":
            return tuple(extended.agreed(route.command, route.extended).items())
    return ()
