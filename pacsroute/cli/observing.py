"""``--record`` and ``--trace`` of the commands that associate."""

from __future__ import annotations

import functools
import io
import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pacsroute.upper_layer.tap import TapFactory

Command = Callable[..., None]

_NO_TERMINAL = 100  # characters of a line in a file

_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option(
        "--record",
        type=click.Path(file_okay=False),
        metavar="DIR",
        envvar="PACSROUTE_RECORD",
        help="Record each association in a file in this folder, patient data included; only you "
        "can read it. `pacsroute explain` and `replay` take such files.",
    ),
    click.option(
        "--trace",
        is_flag=True,
        envvar="PACSROUTE_TRACE",
        help="Print each association, and each request over HTTP: negotiation, messages and data "
        "sets. Values that may hold patient data are masked.",
    ),
    click.option(
        "--trace-values",
        is_flag=True,
        envvar="PACSROUTE_TRACE_VALUES",
        help="Like --trace, but with all values, patient data included.",
    ),
)


def observes(*, err: bool, http: bool = False) -> Callable[[Command], Command]:
    """Give a command ``--record`` and ``--trace``; it is called with the resulting `taps`.

    Parameters
    ----------
    err : bool
        Whether to write the trace to stderr, because stdout has other output.
    http : bool
        Whether requests over HTTP are shown, too: by the `http_taps` that it is called with.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(record: str | None, trace: bool, trace_values: bool, **others: Any) -> None:
            taps: list[TapFactory] = []
            http_taps: list[Any] = []
            if record:
                from pacsroute.trace.recording import recorder  # noqa: PLC0415 - only if asked

                try:
                    taps.append(recorder(record))
                except OSError as error:
                    raise click.ClickException(
                        f"cannot record in {record}: {error.strerror}"
                    ) from None
            if trace or trace_values:
                from pacsroute.trace.live import tracer  # noqa: PLC0415 - pydicom, late

                taps.append(tracer(writer(err=err), values=trace_values, width=width))
                if http:
                    from pacsroute.trace.http import http_tracer  # noqa: PLC0415 - pydicom, late

                    http_taps.append(http_tracer(writer(err=err), values=trace_values))
            function(taps=taps, **({"http_taps": http_taps} if http else {}), **others)

        wrapped: Command = command
        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def width() -> int:
    """Return how many characters a line of the terminal has."""
    return shutil.get_terminal_size((_NO_TERMINAL, 24)).columns


def writer(*, err: bool = False) -> Callable[[str], None]:
    """Return the function that prints a text, in colour on a terminal unless NO_COLOR is set."""
    # Some terminals lack some characters; that must not stop the command.
    stream = sys.stderr if err else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    colour = stream.isatty() and not os.environ.get("NO_COLOR")
    return lambda text: click.echo(text, file=stream, color=colour)
