"""The app without a socket: its routes, its settings, and the single entry to its handlers."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from socket import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

from pacsroute.config import Config
from pacsroute.dataset import late
from pacsroute.errors import SetupError
from pacsroute.framework.blueprints import Blueprint, Scope
from pacsroute.framework.character_sets import check_charsets
from pacsroute.framework.checks import check_callable
from pacsroute.framework.counted import Counted
from pacsroute.framework.destinations import Destinations
from pacsroute.framework.handling import after_store, handle
from pacsroute.framework.observer import Gauge, Observer, Observers
from pacsroute.framework.presentation_contexts import ECHO, ContextPolicy
from pacsroute.framework.quiet import quiet_libraries
from pacsroute.framework.reach import Reach
from pacsroute.framework.requests import MoveRequest, Peer, Request, StoreRequest
from pacsroute.framework.routes import Route, name_of
from pacsroute.framework.work import Declared, WorkQueue
from pacsroute.instances.atomic_files import sweep
from pacsroute.instances.decoding.wall import Decoders
from pacsroute.instances.place import Place
from pacsroute.instances.room import Room
from pacsroute.upper_layer.tap import TapFactory

if TYPE_CHECKING:
    from pacsroute.audit.event import Event, Kind
    from pacsroute.framework.handlers import Auditor
    from pacsroute.framework.peer import PeerView
    from pacsroute.settings import Settings
    from pacsroute.trace.http import HttpExchange

logger = logging.getLogger("pacsroute")

_FOUND = 4096  # cached routes; bounded, because peers choose the titles


class Listening(Protocol):
    """A listener with its own port, beside the DICOM server."""

    def start(self) -> None:
        """Start to answer."""

    def stop(self) -> None:
        """Stop answering, and close the socket."""


class ServerView(Protocol):
    """The DICOM server of an app, as seen by the other servers beside it.

    Attributes
    ----------
    config : Config
        Its settings.
    host, port : str and int
        The address on which it listens.
    tls_port, metrics_port, web_port : int or None
        Its other ports.
    associations : int
        The number of open associations.
    neighbours : str or None
        A folder for the sockets of the processes that share its listeners.
    """

    config: Config
    host: str
    port: int
    tls_port: int | None
    metrics_port: int | None
    web_port: int | None
    neighbours: str | None

    @property
    def associations(self) -> int: ...

    def obstacle(self) -> str:
        """Return why the server is not ready, or an empty text."""


ListenerFactory = Callable[[socket, "BaseApp", ServerView], Listening]
"""Makes a listener from a listening socket, an app, and the DICOM server."""


class BaseApp(Scope):
    """The app as the layers above the framework see it; `pacsroute.App` is its only subclass.

    Nothing here opens a socket or imports a layer above.
    """

    def __init__(self, ae_title: str = "PACSROUTE", **settings: Unpack[Settings]) -> None:
        super().__init__()
        self.config = Config(ae_title=ae_title)
        self.config.from_mapping(settings)
        self.state = SimpleNamespace()
        self._destinations = Destinations()
        self.reach = Reach()
        self.room = Room()
        self.fetched_place = Place()  # for instances that its clients retrieve
        self.decoders = Decoders(self.config, self.room)
        self.observers: list[Observer] = []
        self.observer = Observer()  # all of them
        self._found: dict[tuple[object, ...], Route | None] = {}
        self._policies: dict[tuple[object, ...], ContextPolicy] = {}
        self._held = Counted(self._lifespans)
        self._served = Counted(self._serves)
        self.serving = False
        self._locked = False
        self.declared = Declared()  # its durable work
        self.listeners: dict[str, ListenerFactory] = {}  # by the name of the port's setting
        self.taps: list[TapFactory] = []  # observe the bytes of associations
        self.http_taps: list[Callable[[HttpExchange], object]] = []  # observe HTTP requests
        self.auditors: list[Callable[[Event], object]] = []

    def __repr__(self) -> str:
        commands = dict.fromkeys(name_of(route.command) for route in self.routes)
        return f"<{type(self).__name__} {self.ae_title!r}: {', '.join(commands) or 'no routes'}>"

    @property
    def ae_title(self) -> str:
        """The app's own AE title."""
        return self.config.ae_title

    @property
    def destinations(self) -> Destinations:
        """The peers of AE titles that no `destination` function knows."""
        return self._destinations

    @destinations.setter
    def destinations(self, peers: Mapping[str, Peer]) -> None:
        self._destinations = peers if isinstance(peers, Destinations) else Destinations(peers)

    def observe(self, observer: Observer) -> None:
        """Add an observer of the app's work."""
        self.observers.append(observer)
        several = len(self.observers) > 1
        self.observer = Observers(*self.observers) if several else observer

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Enter the lifespans, as servers, test clients and commands do around their work.

        The first entry runs them, and the last exit ends them. Meanwhile nothing can
        be registered, except by the lifespans themselves. `state` and `destinations` are data
        and may change at any time.

        Raises
        ------
        SetupError
            If a setting cannot be used. Exceptions of a lifespan are raised, too.
        """
        with self._held:
            yield self

    @contextlib.contextmanager
    def serving_peers(self) -> Iterator[Self]:
        """Enter the lifespans and run the durable work, as a server does.

        `serving` is true meanwhile, including while the lifespans begin.
        """
        with self._served:
            yield self

    @contextlib.contextmanager
    def _serves(self) -> Iterator[None]:
        self.serving = True
        try:
            with self.running():
                self.tell_auditors("start")
                try:
                    with self._working():
                        yield
                finally:
                    self.tell_auditors("stop")
        finally:
            self.serving = False

    def _working(self) -> AbstractContextManager[object]:
        """Return the context that runs durable work; a `BaseApp` has no such work."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _lifespans(self) -> Iterator[None]:
        check_charsets(self.config)
        late.load()  # before lifespans or servers start other threads
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_libraries)
            stack.enter_context(self.decoders.serving())
            if self.config.spool is not None and (left := sweep(self.config.spool)):
                logger.info("%d unfinished files of an earlier run removed", left)
            begun: Counter[Scope] = Counter()
            # Scopes that a lifespan registers come last.
            while coming := [one for one in self._scopes if begun[one] < len(one.lifespans)]:
                scope = coming[0]
                function = scope.lifespans[begun[scope]]
                begun[scope] += 1
                stack.enter_context(contextlib.contextmanager(function)(self))
            self._locked = True
            stack.callback(setattr, self, "_locked", False)
            yield

    @property
    def _scopes(self) -> list[Scope]:
        """The blueprints, then the app, whose lifespans may use what the blueprints have opened."""
        scopes = dict.fromkeys(scope for family, _ in self.families for scope in family)
        return [*(scope for scope in scopes if scope is not self), self]

    def _still_open(self, what: str) -> None:
        if self._locked:
            raise SetupError(
                f"app.{what}: the app is serving already, and nothing can be registered any more; "
                "do it before the app serves, or in a lifespan"
            )

    @property
    def work(self) -> WorkQueue:
        """The queue of durable work."""
        raise SetupError("only an App has durable work")

    @property
    def work_under_way(self) -> WorkQueue | None:
        """The queue of durable work, if one is in use."""
        return None

    def unready(self) -> str:
        """Return why a check of `ready` failed, or an empty text."""
        for scope in self._scopes:
            for check in scope.ready_checks:
                try:
                    why = check(self)
                except Exception:
                    name = getattr(check, "__qualname__", repr(check))
                    logger.exception("@app.ready: %s failed", name)
                    return f"{name} failed"
                if why:
                    return str(why)
        return ""

    def measured(self) -> Iterator[Gauge]:
        """Yield the gauges of the app and its blueprints."""
        for scope in self._scopes:
            for gauges in scope.gauges:
                yield from gauges()

    def considered(self) -> list[str]:
        """Return the texts of a conformance statement for services that belong together."""
        return [text for scope in self._scopes for text in scope.considerations]

    def audit(self, function: Auditor) -> Auditor:
        """Register a function for each store, query, retrieval, deletion and the like.

        Parameters
        ----------
        function : callable
            Called with a `pacsroute.audit.Event` after the action, on the thread that performed
            it; several threads may call it at the same time. If it raises, only the type of the
            exception is logged, and the response does not change.

        Examples
        --------
        >>> from pacsroute import App
        >>> app, trail = App("ARCHIVE"), []
        >>> @app.audit
        ... def keep(event):
        ...     trail.append((event.kind, event.user, event.address))
        """
        check_callable("audit", function, ("event",))
        self._still_open("audit")
        self.auditors.append(function)
        return function

    def tell_auditors(self, kind: Kind, peer: PeerView | None = None, **values: Any) -> None:
        """Report an event to the functions of `audit`: see `pacsroute.audit.Event`."""
        if self.auditors:
            from pacsroute.framework.audit_trail import tell  # noqa: PLC0415 - for who audits

            tell(self.auditors, self.ae_title, kind, peer, **values)

    def client_of(self, peer: Peer, calling_ae: str) -> Any:
        """Return a client of a resolved peer."""
        raise SetupError("only an App has clients")

    # ------------------------------------------------------------- called AE titles

    @property
    def titles(self) -> tuple[str, ...]:
        """The called AE titles of this app: its own, and those of its blueprints."""
        owned = [title for _, title in self.families if title is not None]
        return tuple(dict.fromkeys((self.ae_title, *self.config.called_ae_titles, *owned)))

    def scopes_of(self, called_ae: str) -> tuple[Scope, ...]:
        """Return the app and those of its blueprints that answer a called AE title."""
        return self._owners[self._owner(called_ae)]

    def _owner(self, called_ae: str) -> str | None:
        """Return a called AE title if a blueprint owns it; None for all others."""
        return called_ae if called_ae in self._owners else None

    @functools.cached_property
    def _owners(self) -> dict[str | None, tuple[Scope, ...]]:
        """The scopes that answer each owned title, and, at None, those that answer all others."""
        found: dict[str | None, dict[Scope, None]] = {None: {self: None}}
        for family, title in self.families:
            found.setdefault(title, {self: None}).update(dict.fromkeys(family))
        return {title: tuple(scopes) for title, scopes in found.items()}

    def register_blueprint(self, blueprint: Blueprint, *, called_ae: str | None = None) -> None:
        """Add everything that was registered with a blueprint; see `Blueprint`."""
        super().register_blueprint(blueprint, called_ae=called_ae)
        self._found.clear()
        vars(self).pop("_owners", None)
        innermost: dict[str | None, Scope] = {}
        for family, title in self.families:
            scope = family[-1]
            if scope.authenticator is None:
                continue
            if title is None and scope is not self:
                raise SetupError(
                    f"@authenticate of {scope!r}: it runs for associations, so "
                    "register the blueprint with called_ae=, or use @app.authenticate"
                )
            if innermost.setdefault(title, scope) is not scope:
                raise SetupError(f"{title} has two @authenticate functions")

    register_blueprint.__doc__ = Scope.register_blueprint.__doc__

    def resolve(
        self, ae_title: str, request: MoveRequest | None = None, *, called_ae: str = ""
    ) -> Peer | None:
        """Return the peer of an AE title, or None.

        Without a request, `called_ae` is the title under which we call the peer; the function of
        the blueprint that owns it is tried first.
        """
        for scope in reversed(self.scopes_of(called_ae if request is None else request.called_ae)):
            peer = None if scope.destinator is None else scope.destinator(ae_title, request)
            if peer is not None and not isinstance(peer, Peer):
                kind = type(peer).__name__
                raise TypeError(f"@app.destination returns a Peer or None, not {kind}")
            if peer is not None:
                return self.reach.settle(ae_title, peer)
        return self._destinations.get(ae_title)

    # ------------------------------------------------------------- routes

    def add_route(self, route: Route) -> None:
        """Add a route; raise if one exists for the same requests, or it is too late."""
        self._still_open(route.command)
        super().add_route(route)
        self._found.clear()

    def routes_for(self, calling_ae: str, called_ae: str) -> list[Route]:
        """Return the routes open to a calling AE title at a called one."""
        owner = self._owner(called_ae)
        return [
            route
            for route in self.routes
            if route.called_ae == owner and route.calling_ae in (None, calling_ae)
        ]

    def route(
        self,
        command: str,
        sop_class: str,
        calling_ae: str = "",
        called_ae: str = "",
        kind: int | None = None,
    ) -> Route | None:
        """Return the most specific route: by SOP class, then type, then calling AE title.

        `kind` is an action or event type. C-ECHO always has one.
        """
        key = (command, sop_class, calling_ae, called_ae, kind)
        try:
            return self._found[key]
        except KeyError:
            pass
        found = [
            route
            for route in self.routes_for(calling_ae, called_ae)
            if route.command == command and route.kind in (None, kind) and route.covers(sop_class)
        ]
        if command == "echo":
            found.append(replace(ECHO, scopes=self.scopes_of(called_ae)))
        found.sort(key=lambda route: route.rank)
        if len(self._found) >= _FOUND:
            self._found.clear()
        best = self._found[key] = found[0] if found else None
        return best

    def find_route(self, request: Request) -> Route | None:
        """Return the route of a request."""
        kind = getattr(request, "action_type", getattr(request, "event_type", None))
        return self.route(
            request.command,
            request.general or request.sop_class,
            request.calling_ae,
            request.called_ae,
            kind,
        )

    def policy(self, calling_ae: str, called_ae: str = "") -> ContextPolicy:
        """Return the policy for a peer's presentation contexts, from the routes."""
        window, get_without_role = self.config.outstanding, self.config.get_without_role
        routes = self.routes_for(calling_ae, called_ae)
        key = (*map(id, routes), window, get_without_role)
        policy = self._policies.get(key)
        if policy is None:
            policy = ContextPolicy(routes, window, get_without_role=get_without_role)
            self._policies[key] = policy
        return policy

    # ------------------------------------------------------------- the entry to the handlers

    def handle(self, request: Request) -> Any:
        """Call the hooks of `before_request`, then the handler of a request.

        The transport of the request runs later steps, such as the hooks of
        `after_request`: see `pacsroute.framework.answering`.

        Parameters
        ----------
        request : Request
            An `EchoRequest`, `StoreRequest`, `FindRequest`, `GetRequest`, `MoveRequest` or one
            of the N-services'.

        Returns
        -------
        Outcome or iterator of Answer
            For a find, get or move: the handler's rows or instances, one by one, then the final
            answer, whose row is None. An exception of the handler becomes its status.
        """
        if request.app is not self:
            request.app, request.route = self, None
        request.route = request.route or self.find_route(request)
        outcome = handle(request)
        if self.declared.quiet and isinstance(request, StoreRequest):
            return after_store(self.work, request, outcome)
        return outcome
