"""The app: what a user makes one of, and the one door to its handlers."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pacsroute.blueprints import Scope
from pacsroute.config import Config
from pacsroute.dataset.drafts import sweep
from pacsroute.dataset.spool import Room
from pacsroute.errors import AssociationError, SetupError
from pacsroute.handling import handle
from pacsroute.late import quiet_reading
from pacsroute.observer import Observer
from pacsroute.policy import ECHO, Policy
from pacsroute.requests import MoveRequest, Peer, Request
from pacsroute.router import check_charset
from pacsroute.routing import Route
from pacsroute.trace.tap import TapFactory

if TYPE_CHECKING:
    import click

    from pacsroute.net.client import Client
    from pacsroute.net.server import Server
    from pacsroute.testing import TestClient
    from pacsroute.upper_layer.pdu import UserIdentity

logger = logging.getLogger("pacsroute")

_FOUND = 4096  # routes that are remembered: titles come from the wire, and there is no end of them


class App(Scope):
    """A DICOM application: an AE title and the handlers behind it.

    Parameters
    ----------
    ae_title : str
        Its own title, 1 to 16 characters. Other called AE titles are answered too, unless
        ``require_called_ae=True``.
    **settings
        Any setting of `pacsroute.Config`, such as ``spool``: the folder for data sets that are
        too large for memory while they come, which makes saving a rename where it is on the
        archive's file system.

    Attributes
    ----------
    config : Config
        The settings.
    state : types.SimpleNamespace
        A place for what handlers share.
    destinations : dict of str to Peer
        Where AE titles are to be found that no `destination` function knows.

    Raises
    ------
    SetupError
        If there is no such setting, or it has no such value.

    Examples
    --------
    >>> from pacsroute import EchoRequest
    >>> app = App("ARCHIVE")
    >>> @app.echo
    ... def verify(request): ...
    >>> app.handle(EchoRequest(app=app)).status.code
    0
    """

    loaded_by_command = False

    def __init__(self, ae_title: str = "PACSROUTE", **settings: Any) -> None:
        super().__init__()
        self.config = Config(ae_title=ae_title)
        self.config.from_mapping(settings)
        self.state = SimpleNamespace()
        self.destinations: dict[str, Peer] = {}
        self.in_memory: Mapping[str, App] = {}  # the peers of a test, by AE title
        self.room = Room()
        self.observer = Observer()
        self._found: dict[tuple[object, ...], Route | None] = {}
        self.taps: list[TapFactory] = []  # what observes the bytes of associations

    @property
    def ae_title(self) -> str:
        """Its own AE title."""
        return self.config.ae_title

    @contextlib.contextmanager
    def running(self) -> Iterator[App]:
        """Hold the lifespans: what a server and a test client do around their work."""
        if self.config.charset is not None:
            check_charset(self.config.charset)
        scopes = dict.fromkeys(scope for family, _ in self.families for scope in family)
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet_reading())
            if self.config.spool is not None and (left := sweep(self.config.spool)):
                logger.info("%d unfinished files of an earlier run removed", left)
            for scope in scopes:
                for function in scope.lifespans:
                    stack.enter_context(contextlib.contextmanager(function)(self))
            yield self

    @functools.cached_property
    def cli(self) -> click.Group:
        """Commands of the app's own, for ``pacsroute NAME``: a click group.

        A command that needs what the lifespan makes holds it, ``with app.running():``.

        Examples
        --------
        >>> import click
        >>> app = App()
        >>> @app.cli.command()
        ... @click.argument("folder")
        ... def reindex(folder):
        ...     "Read all files of FOLDER into the index."
        >>> list(app.cli.commands)
        ['reindex']
        """
        import click  # noqa: PLC0415 - only for those who have commands

        return click.Group()

    # ------------------------------------------------------------- called AE titles

    @property
    def titles(self) -> tuple[str, ...]:
        """The called AE titles that are this app's: its own, and those of its blueprints."""
        owned = [title for _, title in self.families if title is not None]
        return tuple(dict.fromkeys((self.ae_title, *self.config.called_ae_titles, *owned)))

    def scopes_of(self, called_ae: str) -> tuple[Scope, ...]:
        """Return the app and those of its blueprints that answer a called AE title."""
        owner = self._owner(called_ae)
        scopes = [scope for family, title in self.families if title == owner for scope in family]
        return tuple(dict.fromkeys((self, *scopes)))

    def _owner(self, called_ae: str) -> str | None:
        """Return a called AE title if a blueprint owns it; None stands for all others."""
        return called_ae if any(title == called_ae for _, title in self.families) else None

    def register_blueprint(self, blueprint: Any, *, called_ae: str | None = None) -> None:
        """Take all that was registered with a blueprint; see `Blueprint`."""
        super().register_blueprint(blueprint, called_ae=called_ae)
        self._found.clear()
        innermost: dict[str | None, Scope] = {}
        for family, title in self.families:
            scope = family[-1]
            if scope.authenticator is None:
                continue
            if title is None and scope is not self:
                raise SetupError(
                    f"@authenticate of {scope!r}: who may come in is asked of an association, so "
                    "register the blueprint with called_ae=, or use @app.authenticate"
                )
            if innermost.setdefault(title, scope) is not scope:
                raise SetupError(f"{title} has two functions of @authenticate")

    register_blueprint.__doc__ = Scope.register_blueprint.__doc__

    def resolve(self, ae_title: str, request: MoveRequest | None = None) -> Peer | None:
        """Return where an AE title is to be found, or None."""
        for scope in reversed(self.scopes_of("" if request is None else request.called_ae)):
            peer = None if scope.destinator is None else scope.destinator(ae_title, request)
            if peer is not None and not isinstance(peer, Peer):
                kind = type(peer).__name__
                raise TypeError(f"@app.destination returns a Peer or None, not {kind}")
            if peer is not None:
                # A peer of a test is found by this title, whatever it has of its own.
                return peer._replace(ae_title=ae_title) if ae_title in self.in_memory else peer
        known = self.destinations.get(ae_title)
        if known is not None and not isinstance(known, Peer):
            raise TypeError(f"app.destinations has Peers: Peer(host, port), not {known!r:.80}")
        return known

    # ------------------------------------------------------------- routes

    def add_route(self, route: Route) -> None:
        """Take a route, unless there is one for the same."""
        super().add_route(route)
        self._found.clear()

    def routes_for(self, calling_ae: str, called_ae: str) -> list[Route]:
        """Return the routes that one AE title reaches when it calls another."""
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

    def policy(self, calling_ae: str, called_ae: str = "") -> Policy:
        """Return what the routes say of the contexts that a peer may have."""
        return Policy(self.routes_for(calling_ae, called_ae), self.config.outstanding)

    # ------------------------------------------------------------- the one door

    def handle(self, request: Request, route: Route | None = None) -> Any:
        """Have the handler of a request answer it, behind the hooks of `before_request`.

        Parameters
        ----------
        request : Request
            An `EchoRequest`, `StoreRequest`, `FindRequest`, `GetRequest`, `MoveRequest` or one
            of the N-services'.
        route : Route, optional
            Its route, where that is known already.

        Returns
        -------
        Outcome or iterator of Answer
            For a find, get or move the answers as the handler yields them, rows or
            instances, and then the final one without. Whatever the handler raises is a
            status in it.
        """
        return handle(self, request, route)

    # ------------------------------------------------------------- doors to the upper floors

    def serve(self, host: str | None = None, port: int | None = None, **options: Any) -> Server:
        """Return a server of this app that listens already, to be used with ``with``.

        Parameters
        ----------
        host, port : str and int, optional
            Where it listens, in the place of what `config` says; port 0 is a free one, see
            the server's `port`.
        **options
            As in `pacsroute.Server`.

        Examples
        --------
        >>> with App().serve(port=0) as server:
        ...     server.port > 0
        True
        """
        from pacsroute.net.server import Server  # noqa: PLC0415 - upstairs, only when asked

        return Server(self, host, port, **options)

    def connect(self, ae_title: str, **options: Any) -> Client:
        """Return a client of an AE title, which is resolved as a C-MOVE does it.

        The app's own handlers answer what the peer asks in return: for an echo, with reports
        of events, and as the SCU of what it was given that role for.

        Parameters
        ----------
        ae_title : str
            What `destination` or `destinations` knows.
        **options
            `user` and `timeout`, as in `pacsroute.connect`.

        Raises
        ------
        AssociationError
            If nobody knows that title.

        Examples
        --------
        >>> app, pacs = App("GATEWAY"), App("PACS")
        >>> with pacs.serve(port=0) as server:
        ...     app.destinations["PACS"] = Peer("127.0.0.1", server.port)
        ...     with app.connect("PACS") as client:
        ...         client.echo().category
        'Success'
        """
        from pacsroute.net.client import client_of  # noqa: PLC0415 - upstairs, only when asked

        peer = self.resolve(ae_title)
        if peer is None:
            raise AssociationError(
                f"nobody knows where {ae_title!r} is: say so in @app.destination, or with "
                f"--destination {ae_title}=HOST:PORT"
            )
        if ae_title in self.in_memory:
            from pacsroute.testing import client_in_memory  # noqa: PLC0415

            return client_in_memory(self, ae_title, **options)
        peer = peer._replace(ae_title=peer.ae_title or ae_title)
        return client_of(peer, self.ae_title, app=self, **options)

    def test_client(
        self,
        *,
        calling_ae: str = "TEST",
        called_ae: str | None = None,
        user: Any = None,
        identity: str | tuple[str, str] | UserIdentity | None = None,
        peers: Mapping[str, App] | None = None,
    ) -> TestClient:
        """Return a client that speaks to this app in memory, for tests; to be used with ``with``.

        Parameters
        ----------
        calling_ae, called_ae : str
            The AE titles of the association; the app's own is called by default.
        user : object, optional
            What `request.user` is, without asking `authenticate`.
        identity : str, (str, str) or UserIdentity, optional
            What `authenticate` is asked of, as the `user` of `pacsroute.connect`.
        peers : mapping of str to App, optional
            The apps that a C-MOVE reaches, and `connect`, by AE title.

        Examples
        --------
        >>> app = App()
        >>> with app.test_client() as client:
        ...     client.echo().category
        'Success'
        """
        from pacsroute.testing import TestClient  # noqa: PLC0415 - upstairs, only when asked

        return TestClient(
            self,
            calling_ae=calling_ae,
            called_ae=called_ae,
            user=user,
            identity=identity,
            peers=peers,
        )

    def run(self, host: str | None = None, port: int | None = None, **options: Any) -> None:
        """Serve until SIGINT or SIGTERM, as ``pacsroute run`` does; for the end of a script.

        It prints what is served and where, logs to stderr unless the script has set up a log,
        and exits with a line where it cannot serve. A file that does this where it is imported
        can be served by ``pacsroute run`` all the same, which leaves the call out.

        Parameters
        ----------
        host, port, **options
            As for `serve`.
        """
        if App.loaded_by_command:
            logger.warning("app.run() is left out: the command serves the app")
            return
        from pacsroute.cli.serving import run  # noqa: PLC0415 - upstairs, only when asked

        run(self, host, port, options)
