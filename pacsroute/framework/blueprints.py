"""Blueprints: handlers, hooks and error handlers that are registered with an app together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pacsroute.allow import ae_title
from pacsroute.errors import Failure, SetupError
from pacsroute.framework.checks import check_callable
from pacsroute.framework.decorators import Router
from pacsroute.framework.observer import Gauge

if TYPE_CHECKING:
    from pacsroute.audit.event import Kind
    from pacsroute.framework.handlers import (
        AfterAssociation,
        AfterRequest,
        Authenticator,
        BeforeAssociation,
        BeforeRequest,
        Destinator,
        ErrorHandler,
        Lifespan,
        ReadyCheck,
    )
    from pacsroute.framework.peer import PeerView
    from pacsroute.framework.requests import Peer

F = TypeVar("F", bound=Callable[..., Any])
Family = tuple[tuple["Scope", ...], str | None]
"""A blueprint after its outer ones, outermost first, and the called AE title it owns."""


class Scope(Router):
    """The decorators that an app and a blueprint share.

    Hooks run in the order of their registration: those of the app first, then those of outer
    blueprints, then the blueprint's own. The ``after_`` hooks run in reverse order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hooks: dict[str, list[Callable[..., Any]]] = {
            "before_association": [],
            "after_association": [],
            "before_request": [],
            "after_request": [],
        }
        self.error_handlers: dict[type[BaseException], Callable[[Any, Any], Any]] = {}
        self.authenticator: Callable[[Any, Any], Any] | None = None
        self.destinator: Callable[[str, Any], Peer | None] | None = None
        self.ready_checks: list[Callable[[Any], str | None]] = []
        self.gauges: list[Callable[[], Iterable[Gauge]]] = []
        self.considerations: list[str] = []  # for the conformance statement (PS3.2 §N.5.6)
        self.lifespans: list[Callable[[Any], Iterator[None]]] = []
        self.families: list[Family] = [((self,), None)]

    # ------------------------------------------------------------- hooks

    def before_association(self, function: BeforeAssociation) -> BeforeAssociation:
        """Register a hook that runs before an association is accepted.

        Parameters
        ----------
        function : callable
            Called with the association, which has `user`, `calling_ae`, `called_ae`,
            `remote_address` and `contexts`. To reject it, it raises an `AssociationRejected` (PS3.8
            §9.3.4); to narrow what was negotiated, it deletes entries of `contexts`. Any other
            exception rejects as transient.

        Examples
        --------
        >>> from pacsroute import App, AssociationRejected
        >>> app = App()
        >>> @app.before_association
        ... def only_ours(association):
        ...     if not association.remote_address.startswith("10."):
        ...         raise AssociationRejected(1, 1, 3)
        """
        return self._hook("before_association", function, ("association",))

    def after_association(self, function: AfterAssociation) -> AfterAssociation:
        """Register a hook that runs when an accepted association has ended.

        Parameters
        ----------
        function : callable
            Called with the association, and with the `AssociationAborted` that ended it, or None if
            it was released. Its exceptions are logged.
        """
        return self._hook("after_association", function, ("association", "error"))

    def before_request(self, function: BeforeRequest) -> BeforeRequest:
        """Register a hook that runs before the handler of each request.

        Parameters
        ----------
        function : callable
            Called with the request. It returns nothing, and raises `Failure` to refuse the
            request; an exception is handled as if the handler had raised it.

        Examples
        --------
        >>> from pacsroute import App, Failure
        >>> app = App()
        >>> @app.before_request
        ... def known(request):
        ...     if request.command == "store" and request.calling_ae == "OLD_CT":
        ...         raise Failure(0x0124, "not from here")
        """
        return self._hook("before_request", function, ("request",))

    def after_request(self, function: AfterRequest) -> AfterRequest:
        """Register a hook that runs after each request, whether it succeeded or not.

        Parameters
        ----------
        function : callable
            Called with the request, the `Status` of the final response (None if it could not be
            sent), and the handler's exception or None. The response has been sent by then. Its
            exceptions are logged.

        Examples
        --------
        >>> from pacsroute import App
        >>> app, audit = App(), []
        >>> @app.after_request
        ... def remember(request, status, error):
        ...     audit.append((request.calling_ae, request.command, str(status)))
        """
        return self._hook("after_request", function, ("request", "status", "error"))

    def _hook(self, name: str, function: F, arguments: tuple[str, ...]) -> F:
        check_callable(name, function, arguments)
        self._still_open(name)
        self.hooks[name].append(function)
        return function

    def error_handler(self, kind: type[BaseException]) -> Callable[[ErrorHandler], ErrorHandler]:
        """Register a function that answers requests whose handler raised a class of exception.

        The most specific class counts, first in the blueprint of the route, then outwards. A
        `Failure` is already a response; only an error handler of `Failure` gets it.

        Parameters
        ----------
        kind : exception class
            The decorated function is called with the exception and the request. It returns a status
            or raises a `Failure`, and the original exception is logged. If it returns None, it has
            no effect on the response.

        Examples
        --------
        >>> import sqlite3
        >>> from pacsroute import App, Failure
        >>> app = App()
        >>> @app.error_handler(sqlite3.OperationalError)
        ... def busy(error, request):
        ...     raise Failure(0xA700, "the index is busy")
        """
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise SetupError(f"@app.error_handler(ExceptionType), not {kind!r:.40}")
        if kind in self.error_handlers:
            raise SetupError(f"@app.error_handler: there is one for {kind.__name__} already")

        def decorator(function: ErrorHandler) -> ErrorHandler:
            check_callable("error_handler", function, ("error", "request"))
            self._still_open("error_handler")
            self.error_handlers[kind] = function
            return function

        return decorator

    def error_handler_of(self, error: BaseException) -> Callable[[Any, Any], Any] | None:
        """Return the error handler of the most specific class of an exception."""
        for kind in type(error).__mro__:
            if kind in self.error_handlers:
                return self.error_handlers[kind]
            if kind is Failure:
                return None
        return None

    def authenticate(self, function: Authenticator) -> Authenticator:
        """Register the function that authenticates peers (PS3.7 §D.3.3.7).

        Parameters
        ----------
        function : callable
            Called for every association with the peer's `Identity` (None if it sent no identity)
            and the association. The result becomes `request.user`; None, False, an empty value or
            an exception rejects the association.

        Examples
        --------
        >>> from pacsroute import App
        >>> app = App()
        >>> @app.authenticate
        ... def check(identity, association):
        ...     if identity is not None and identity.proves("doe", "secret"):
        ...         return identity.name
        """
        check_callable("authenticate", function, ("identity", "association"))
        self._still_open("authenticate")
        if self.authenticator is not None:
            raise SetupError("@app.authenticate: there is one already; it sees every association")
        self.authenticator = function
        return function

    def destination(self, function: Destinator) -> Destinator:
        """Register the function that resolves AE titles for C-MOVE and `App.connect`.

        Parameters
        ----------
        function : callable
            Called with an AE title and the `MoveRequest`, which is None for `connect`;
            returns a `Peer`, or None for an unknown title. Then `App.destinations` is used, or the
            response is 0xA801, move destination unknown.

        Examples
        --------
        >>> from pacsroute import App, Peer
        >>> app = App()
        >>> @app.destination
        ... def destination(ae_title, request):
        ...     return {"WORKSTATION": Peer("10.0.0.7", 11112)}.get(ae_title)
        >>> app.resolve("WORKSTATION").port
        11112
        """
        check_callable("destination", function, ("ae_title", "request"))
        self._still_open("destination")
        if self.destinator is not None:
            raise SetupError("@app.destination: there is one already; it sees every title")
        self.destinator = function
        return function

    def lifespan(self, function: Lifespan) -> Lifespan:
        """Register a generator that runs before the first association and after the last.

        Parameters
        ----------
        function : generator function
            Called with the app once in each serving process; it yields once.

        Examples
        --------
        >>> from pacsroute import App
        >>> app = App()
        >>> @app.lifespan
        ... def resources(app):
        ...     app.state.ready = True
        ...     yield
        ...     app.state.ready = False
        """
        check_callable("lifespan", function, ("app",), generates=True)
        self._still_open("lifespan")
        has_yield = inspect.isgeneratorfunction(function)
        if not has_yield:
            raise SetupError(
                f"@app.lifespan: {getattr(function, '__qualname__', function)!s} needs one yield, "
                "between the code for the start and the code for the stop"
            )
        self.lifespans.append(function)
        return function

    def ready(self, function: ReadyCheck) -> ReadyCheck:
        """Register a check for ``/ready``, in addition to the server's own.

        A load balancer sends no associations to a node that is not ready. If any still arrive,
        they are answered as usual.

        Parameters
        ----------
        function : callable
            Called with the app; returns why the node is not ready, or None. If it raises,
            the exception is logged and the node is not ready. The function must return quickly.

        Examples
        --------
        >>> from pathlib import Path
        >>> from pacsroute import App
        >>> app = App()
        >>> @app.ready
        ... def mounted(app):
        ...     if not Path("/mnt/archive").is_mount():
        ...         return "the archive is not mounted"
        >>> app.unready()
        'the archive is not mounted'
        """
        check_callable("ready", function, ("app",))
        self._still_open("ready")
        self.ready_checks.append(function)
        return function

    # ------------------------------------------------------------- blueprints

    def register_blueprint(self, blueprint: Blueprint, *, called_ae: str | None = None) -> None:
        """Add everything that was registered with a blueprint.

        Parameters
        ----------
        blueprint : Blueprint
            The blueprint; nothing can be registered with it after this.
        called_ae : str, optional
            The called AE title that it owns: only associations to that title reach this blueprint,
            and they reach nothing else. Without it, its routes are added to those of the app, or of
            the outer blueprint. For nested blueprints, the inner title counts.

        Raises
        ------
        SetupError
            If there is a route for the same requests already.

        Examples
        --------
        >>> from pacsroute import App, Blueprint
        >>> research = Blueprint("research")
        >>> @research.store
        ... def store(request): ...
        >>> app = App("ARCHIVE")
        >>> app.register_blueprint(research, called_ae="RESEARCH")
        """
        if not isinstance(blueprint, Blueprint):
            raise SetupError(f"register a Blueprint, not {type(blueprint).__name__}")
        if blueprint is self:
            raise SetupError(f"{self!r} is registered with an app or another blueprint")
        self._still_open("register_blueprint")
        title = None if called_ae is None else ae_title(called_ae)
        for route in blueprint.routes:
            scopes = (self, *route.scopes)
            self.add_route(replace(route, called_ae=route.called_ae or title, scopes=scopes))
        for scopes, inner in blueprint.families:
            self.families.append(((self, *scopes), inner or title))
        blueprint.parent = self

    def _still_open(self, what: str) -> None:
        """Raise if it is too late to register anything."""

    def tell_auditors(self, kind: Kind, peer: PeerView | None = None, **values: Any) -> None:
        """Report an event to the functions of `App.audit`."""


class Blueprint(Scope):
    """A part of an app, with the same decorators, for another file.

    Parameters
    ----------
    name : str
        Its name in lists and messages.

    Examples
    --------
    >>> worklist = Blueprint("worklist")
    >>> @worklist.find("Worklist")
    ... def find(request):
    ...     yield {"PatientID": "1"}
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if not isinstance(name, str) or not name:
            raise SetupError('a blueprint has a name: Blueprint("research")')
        self.name = name
        self.parent: Scope | None = None

    def __repr__(self) -> str:
        return f"Blueprint({self.name!r})"

    @property
    def is_registered(self) -> bool:
        """Whether it is registered with an app or another blueprint."""
        return self.parent is not None

    def tell_auditors(self, kind: Kind, peer: PeerView | None = None, **values: Any) -> None:
        """Report an event of the blueprint to the functions of `App.audit`."""
        if self.parent is not None:
            self.parent.tell_auditors(kind, peer, **values)

    def add_route(self, route: Any) -> None:
        """Add a route, unless there is one for the same requests, or it is too late."""
        self._still_open(route.command)
        super().add_route(route)

    def _still_open(self, what: str) -> None:
        if self.is_registered:
            raise SetupError(
                f"@{self.name}.{what}: the blueprint {self.name!r} is registered already; "
                "register it after all of its decorators"
            )
