"""The decorators that make routes, with their checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from pacsroute import uids
from pacsroute.allow import ae_title
from pacsroute.errors import SetupError, nearest
from pacsroute.framework.character_sets import check_charset
from pacsroute.framework.checks import check_callable
from pacsroute.framework.options import (
    ActionOptions,
    EchoOptions,
    EventOptions,
    FindOptions,
    RetrieveOptions,
    RouteOptions,
    StoreOptions,
    check_options,
)
from pacsroute.framework.routes import Handler, Route
from pacsroute.upper_layer import extended

if TYPE_CHECKING:
    from pacsroute.framework.handlers import (
        ActionHandler,
        CreateHandler,
        DeleteHandler,
        EchoHandler,
        EventHandler,
        FindHandler,
        GetAttributesHandler,
        GetHandler,
        MoveHandler,
        SetHandler,
        StoreHandler,
    )

F = TypeVar("F", bound=Callable[..., Any])

_GENERATES = frozenset({"find", "get", "move"})


class Router:
    """The decorators that register handlers, for apps and blueprints."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    @overload
    def echo(self, handler: EchoHandler, /) -> EchoHandler: ...
    @overload
    def echo(
        self, handler: None = None, /, **options: Unpack[EchoOptions]
    ) -> Callable[[EchoHandler], EchoHandler]: ...
    def echo(self, handler: Any = None, /, **options: Any) -> Any:
        """Register a function for C-ECHO; the response is sent either way (PS3.4 §A).

        Parameters
        ----------
        calling_ae : str, optional
            Only for this calling AE title.

        Raises
        ------
        SetupError
            If the function cannot be such a handler; this holds for all decorators.

        Examples
        --------
        >>> router = Router()
        >>> @router.echo
        ... def verify(request): ...
        """
        return self._decorate("echo", handler, options, EchoOptions)

    @overload
    def store(self, handler: StoreHandler, /) -> StoreHandler: ...
    @overload
    def store(
        self, sop_class: str | None = None, **options: Unpack[StoreOptions]
    ) -> Callable[[StoreHandler], StoreHandler]: ...
    def store(self, sop_class: Any = None, **options: Any) -> Any:
        """Register a handler of C-STORE (PS3.4 §B).

        Parameters
        ----------
        sop_class : str, optional
            A UID or pydicom's keyword; without it, every storage SOP class.
        transfer_syntaxes : list of str, optional
            UIDs or keywords in order of preference. Without it, the peer's first choice,
            because the bytes are only stored.
        calling_ae : str, optional
            Only for this calling AE title.
        unknown : bool
            Whether a handler without a class takes private and unknown classes too; True
            by default.
        extended : mapping of str to int, optional
            The response to extended negotiation (PS3.4 §B.3.1): ``level`` 0 to 3,
            ``signature`` 0 to 3, ``coercion`` 0 to 2.

        Examples
        --------
        >>> router = Router()
        >>> @router.store
        ... def store(request):
        ...     request.save("archive")
        """
        return self._decorate("store", sop_class, options, StoreOptions)

    @overload
    def find(self, handler: FindHandler, /) -> FindHandler: ...
    @overload
    def find(
        self, sop_class: str | None = None, **options: Unpack[FindOptions]
    ) -> Callable[[FindHandler], FindHandler]: ...
    def find(self, sop_class: Any = None, **options: Any) -> Any:
        """Register a generator that answers C-FIND (PS3.4 §C.4.1).

        Parameters
        ----------
        sop_class : str, optional
            ``StudyRoot``, ``PatientRoot``, ``Worklist``, a UID or pydicom's keyword;
            without it, Patient Root and Study Root.
        transfer_syntaxes : list of str, optional
            UIDs or keywords in order of preference.
        calling_ae : str, optional
            Only for this calling AE title.
        extended : list of str, optional
            Those supported of ``relational``, ``date_time``, ``fuzzy``, ``time_zone``,
            ``enhanced_multi_frame``, ``empty_value`` and ``multiple_value`` (PS3.4 §C.5.1.1);
            `request.extended` holds the negotiated ones.
        charset : str, optional
            The Specific Character Set of rows that are not ASCII, instead of the setting. A
            row that it cannot encode is sent as ISO_IR 192.

        Examples
        --------
        >>> router = Router()
        >>> @router.find("StudyRoot")
        ... def find(request):
        ...     yield {"PatientID": "1"}
        """
        return self._decorate("find", sop_class, options, FindOptions)

    @overload
    def get(self, handler: GetHandler, /) -> GetHandler: ...
    @overload
    def get(
        self, sop_class: str | None = None, **options: Unpack[RetrieveOptions]
    ) -> Callable[[GetHandler], GetHandler]: ...
    def get(self, sop_class: Any = None, **options: Any) -> Any:
        """Register a generator of the instances that a C-GET fetches (PS3.4 §C.4.3).

        Parameters
        ----------
        sop_class : str, optional
            ``StudyRoot``, ``PatientRoot``, a UID or pydicom's keyword; without it, Patient
            Root and Study Root.
        transfer_syntaxes : list of str, optional
            Of the identifier: UIDs or keywords in order of preference.
        calling_ae : str, optional
            Only for this calling AE title.
        pending_interval : float, optional
            Seconds between Pending responses; without it, one is sent after each
            sub-operation.
        extended : list of str, optional
            Those supported of ``relational`` and ``enhanced_multi_frame`` (PS3.4 §C.5.3.1).

        Notes
        -----
        A generator is resumed once the peer has answered its last instance. Returning a list is
        faster: the next instance is opened while the peer stores the current one.

        Examples
        --------
        >>> router = Router()
        >>> @router.get("StudyRoot")
        ... @router.move("StudyRoot")
        ... def retrieve(request):
        ...     yield "archive/1.2.3.dcm"
        """
        return self._decorate("get", sop_class, options, RetrieveOptions)

    @overload
    def move(self, handler: MoveHandler, /) -> MoveHandler: ...
    @overload
    def move(
        self, sop_class: str | None = None, **options: Unpack[RetrieveOptions]
    ) -> Callable[[MoveHandler], MoveHandler]: ...
    def move(self, sop_class: Any = None, **options: Any) -> Any:
        """Register a generator of the instances that a C-MOVE sends (PS3.4 §C.4.2).

        Parameters
        ----------
        sop_class, transfer_syntaxes, calling_ae, pending_interval, extended
            As for `get`. The same function may be registered for both.

        Examples
        --------
        >>> router = Router()
        >>> @router.move("StudyRoot")
        ... def retrieve(request):
        ...     request.count = 1
        ...     yield "archive/1.2.3.dcm"
        """
        return self._decorate("move", sop_class, options, RetrieveOptions)

    def n_create(
        self, sop_class: str, **options: Unpack[RouteOptions]
    ) -> Callable[[CreateHandler], CreateHandler]:
        """Register a handler of N-CREATE (PS3.7 §10.1.5).

        It sees `request.attribute_list`. It returns None, a status, a dict or Dataset for the
        response, or a status and one of these.

        Parameters
        ----------
        sop_class : str
            A short name such as ``MPPS``, a UID or pydicom's keyword.
        transfer_syntaxes, calling_ae
            As for `find`.

        Examples
        --------
        >>> router, steps = Router(), {}
        >>> @router.n_create("MPPS")
        ... def create(request):
        ...     steps[request.sop_instance] = request.attribute_list
        """
        return self._registers("n_create", sop_class, options, RouteOptions)

    def n_set(
        self, sop_class: str, **options: Unpack[RouteOptions]
    ) -> Callable[[SetHandler], SetHandler]:
        """Register a handler of N-SET (PS3.7 §10.1.3).

        It sees `request.modification_list`, and returns as for `n_create`.

        Parameters
        ----------
        sop_class, transfer_syntaxes, calling_ae
            As for `n_create`.

        Examples
        --------
        >>> router, steps = Router(), {}
        >>> @router.n_set("MPPS")
        ... def update(request):
        ...     steps[request.sop_instance].update(request.modification_list)
        """
        return self._registers("n_set", sop_class, options, RouteOptions)

    def n_get(
        self, sop_class: str, **options: Unpack[RouteOptions]
    ) -> Callable[[GetAttributesHandler], GetAttributesHandler]:
        """Register a handler of N-GET (PS3.7 §10.1.2).

        It returns the attributes, as for `n_create`; those that were not requested are left out.

        Parameters
        ----------
        sop_class, transfer_syntaxes, calling_ae
            As for `n_create`.

        Examples
        --------
        >>> router = Router()
        >>> @router.n_get("Printer")
        ... def status(request):
        ...     return {"PrinterStatus": "NORMAL"}
        """
        return self._registers("n_get", sop_class, options, RouteOptions)

    def n_action(
        self, sop_class: str, **options: Unpack[ActionOptions]
    ) -> Callable[[ActionHandler], ActionHandler]:
        """Register a handler of N-ACTION (PS3.7 §10.1.4).

        It sees `request.action_type` and `request.action_information`, and returns as for
        `n_create`.

        Parameters
        ----------
        sop_class, transfer_syntaxes, calling_ae
            As for `n_create`.
        action_type : int, optional
            Only for this type.

        Examples
        --------
        >>> router = Router()
        >>> @router.n_action("StorageCommitment", action_type=1)
        ... def commit(request):
        ...     kept = request.action_information.ReferencedSOPSequence
        ...     transaction = request.action_information.TransactionUID
        ...     request.report(1, {"TransactionUID": transaction, "ReferencedSOPSequence": kept})
        """
        return self._registers("n_action", sop_class, options, ActionOptions)

    def n_delete(
        self, sop_class: str, **options: Unpack[RouteOptions]
    ) -> Callable[[DeleteHandler], DeleteHandler]:
        """Register a handler of N-DELETE (PS3.7 §10.1.6).

        It deletes `request.sop_instance`, and returns as for `n_create`.

        Parameters
        ----------
        sop_class, transfer_syntaxes, calling_ae
            As for `n_create`.

        Examples
        --------
        >>> router, films = Router(), {}
        >>> @router.n_delete("FilmBox")
        ... def delete(request):
        ...     films.pop(request.sop_instance, None)
        """
        return self._registers("n_delete", sop_class, options, RouteOptions)

    def n_event_report(
        self, sop_class: str, **options: Unpack[EventOptions]
    ) -> Callable[[EventHandler], EventHandler]:
        """Register a handler of N-EVENT-REPORT (PS3.7 §10.1.1).

        It sees `request.event_type` and `request.event_information`, and returns as for
        `n_create`.

        Parameters
        ----------
        sop_class, transfer_syntaxes, calling_ae
            As for `n_create`.
        event_type : int, optional
            Only for this type.

        Examples
        --------
        >>> router, promised = Router(), []
        >>> @router.n_event_report("StorageCommitment", event_type=1)
        ... def committed(request):
        ...     promised.append(request.event_information.TransactionUID)
        """
        return self._registers("n_event_report", sop_class, options, EventOptions)

    def _decorate(
        self, command: str, first: Any, options: Mapping[str, Any], kind: type[Any]
    ) -> Any:
        """Register a function directly if the decorator is bare, or return a decorator."""
        if callable(first):
            return self._registers(command, None, options, kind)(first)
        return self._registers(command, first, options, kind)

    def _registers(
        self, command: str, sop_class: str | None, options: Mapping[str, Any], kind: type[Any]
    ) -> Callable[[F], F]:
        names = [*(() if command == "echo" else ("sop_class",)), *kind.__annotations__]
        for name in options:
            if name not in names:
                hint = nearest(name, names) or f"; it takes {', '.join(names)}"
                raise SetupError(f"@app.{command} has no option {name!r}{hint}")
        if command == "echo" and sop_class is not None:
            raise SetupError("@app.echo takes no SOP class: it is always Verification")
        if command in uids.N_COMMANDS and (callable(sop_class) or sop_class is None):
            raise SetupError(f'@app.{command} needs a SOP class: @app.{command}("MPPS")')

        def decorator(function: F) -> F:
            self._add(command, function, sop_class, options)
            return function

        return decorator

    def _add(
        self, command: str, handler: Handler, name: str | None, options: Mapping[str, Any]
    ) -> None:
        _check_handler(command, handler)
        check_options(command, options)
        syntaxes = options.get("transfer_syntaxes") or ()
        try:
            sop_class = None if name is None else uids.sop_class(name, command)
            transfer_syntaxes = tuple(uids.transfer_syntax(syntax) for syntax in syntaxes)
            calling_ae = options.get("calling_ae")
            calling_ae = None if calling_ae is None else ae_title(calling_ae)
            if options.get("charset") is not None:
                check_charset(options["charset"])
        except SetupError as error:
            raise SetupError(f"@app.{command}: {error}") from None
        if sop_class in uids.STORAGE and command != "store":
            raise SetupError(f"@app.{command}: {name} is a storage class: use @app.store")
        if command != "store" and not uids.ENCODABLE.issuperset(transfer_syntaxes):
            raise SetupError(f"@app.{command}: identifiers have an uncompressed transfer syntax")
        route = Route(
            command,
            sop_class,
            calling_ae,
            transfer_syntaxes,
            options.get("unknown", True),
            handler,
            float(options.get("pending_interval", 0)),
            options.get("action_type", options.get("event_type")),
            extended.supported(command, options.get("extended")),
            options.get("charset"),
            scopes=(self,),
        )
        self.add_route(route)

    def add_route(self, route: Route) -> None:
        """Add a route, unless there is one for the same requests."""
        for other in self.routes:
            if other.key == route.key and other.handler == route.handler:
                raise SetupError(
                    f"@app.{route.command}: {route.where} is registered twice: once is enough"
                )
            if other.key == route.key:
                raise SetupError(
                    f"@app.{route.command}: {other.where} and {route.where} are registered for "
                    "the same requests; give one a sop_class or calling_ae of its own"
                )
        self.routes.append(route)


def _check_handler(command: str, handler: Handler) -> None:
    if inspect.isclass(handler) and command not in _GENERATES:
        name = handler.__qualname__
        raise SetupError(f"@app.{command}: {name} is a class; only find, get and move take one")
    check_callable(command, handler, ("request",), generates=command in _GENERATES)
