"""The options of the decorators: their names, types and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypedDict

from pacsroute.errors import SetupError


class Names(Protocol):
    """Several strings: a list, tuple or set, but not one string."""

    def __contains__(self, value: object, /) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...


class EchoOptions(TypedDict, total=False):
    """The options of `@app.echo`."""

    calling_ae: str | None


class RouteOptions(TypedDict, total=False):
    """The options of `@app.n_create`, `n_set`, `n_get` and `n_delete`; others extend them."""

    transfer_syntaxes: Names | None
    calling_ae: str | None


class ActionOptions(RouteOptions, total=False):
    """The options of `@app.n_action`."""

    action_type: int | None


class EventOptions(RouteOptions, total=False):
    """The options of `@app.n_event_report`."""

    event_type: int | None


class StoreOptions(RouteOptions, total=False):
    """The options of `@app.store`."""

    unknown: bool
    extended: Mapping[str, int] | None


class FindOptions(RouteOptions, total=False):
    """The options of `@app.find`."""

    extended: Names | None
    charset: str | None


class RetrieveOptions(RouteOptions, total=False):
    """The options of `@app.get` and `@app.move`."""

    pending_interval: float
    extended: Names | None


def _is_number(value: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


_OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "transfer_syntaxes": (
        "a list of transfer syntaxes",
        lambda value: value is None or (isinstance(value, Iterable) and not isinstance(value, str)),
    ),
    "charset": (
        "a text, with a backslash between terms",
        lambda value: value is None or isinstance(value, str),
    ),
    "unknown": ("True or False", lambda value: isinstance(value, bool)),
    "pending_interval": (
        "a number of seconds",
        lambda value: _is_number(value, (int, float)) and value >= 0,
    ),
    "action_type": ("a whole number", lambda value: value is None or _is_number(value, int)),
    "event_type": ("a whole number", lambda value: value is None or _is_number(value, int)),
}


def check_options(command: str, options: Mapping[str, Any]) -> None:
    """Raise for values that no route can have."""
    for name, value in options.items():
        what, fits = _OPTIONS.get(name, ("", lambda value: True))
        if not fits(value):
            raise SetupError(f"@app.{command}: {name} must be {what}, not {value!r}")
