"""The checks of decorators: find functions that cannot be called, or would never run."""

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
    """Raise a `SetupError` if an object cannot be called with these positional arguments.

    An async function, or a generator function whose result is not iterated, would never run.
    """
    if not callable(function):
        raise SetupError(f"@app.{decorator} decorates a function, not {function!r:.40}")
    name = getattr(function, "__qualname__", repr(function))
    bodies = (function, type(function).__call__)  # a function, or an object with __call__
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
