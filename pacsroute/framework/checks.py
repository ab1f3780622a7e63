"""The checks of decorators: functions that could not be called, or would never run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pacsroute.errors import SetupError


def check_callable(
    decorator: str,
    function: Callable[..., Any],
    arguments: tuple[str, ...],
    *,
    generates: bool = False,
) -> None:
    """Raise a `SetupError` if something cannot be called with these arguments, by position.

    A function that is async, or has a yield although the result is not iterated, would never run.
    """
    if not callable(function):
        raise SetupError(f"@app.{decorator} decorates a function, not {function!r:.40}")
    name = getattr(function, "__qualname__", repr(function))
    bodies = (function, type(function).__call__)  # of a function, and of an object with __call__
    if any(map(_is_async, bodies)):
        raise SetupError(
            f"@app.{decorator}: {name} is async; each association has a thread of its own, "
            "so write it with def"
        )
    if not generates and any(map(inspect.isgeneratorfunction, bodies)):
        raise SetupError(
            f"@app.{decorator}: {name} has a yield, but its result is not iterated: use return"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise SetupError(
            f"@app.{decorator}: {name} is called as {name}({', '.join(arguments)}); "
            f"it is defined as {name}{signature}"
        ) from None


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
