"""``--record`` and ``--trace`` of the commands that associate, and what reads recordings."""

from __future__ import annotations

import functools
import io
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import click
from click.exceptions import Exit

from pacsroute import testing
from pacsroute.cli.loading import load
from pacsroute.trace.conversation import Conversation, UnreadableFile
from pacsroute.trace.files import read
from pacsroute.trace.live import tracer
from pacsroute.trace.recording import recorder
from pacsroute.trace.tap import TapFactory
from pacsroute.trace.text import Trace

Command = Callable[..., None]

_NO_TERMINAL = 100  # characters of a line that goes to a file

_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option(
        "--record",
        type=click.Path(file_okay=False),
        metavar="DIR",
        envvar="PACSROUTE_RECORD",
        help="Keep the bytes of each association in a file there, patient data included; "
        "only you can read them. `pacsroute explain` and `replay` take such files.",
    ),
    click.option(
        "--trace",
        is_flag=True,
        envvar="PACSROUTE_TRACE",
        help="Print each association: negotiation, messages and data sets. Values that may "
        "hold patient data are masked.",
    ),
    click.option(
        "--trace-values",
        is_flag=True,
        envvar="PACSROUTE_TRACE_VALUES",
        help="Print them with all values, patient data included.",
    ),
)


def observes(*, err: bool) -> Callable[[Command], Command]:
    """Give a command ``--record`` and ``--trace``; it is called with the `taps` they mean.

    Parameters
    ----------
    err : bool
        Whether a trace goes to stderr, where stdout has something else on it.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(record: str | None, trace: bool, trace_values: bool, **others: Any) -> None:
            taps: list[TapFactory] = []
            if record:
                try:
                    taps.append(recorder(record))
                except OSError as error:
                    raise click.ClickException(
                        f"cannot record in {record}: {error.strerror}"
                    ) from None
            if trace or trace_values:
                taps.append(tracer(writer(err=err), values=trace_values, width=width))
            function(taps=taps, **others)

        wrapped: Command = command
        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def width() -> int:
    """Return how many characters a line of the terminal has."""
    return shutil.get_terminal_size((_NO_TERMINAL, 24)).columns


def writer(*, err: bool = False) -> Callable[[str], None]:
    """Return what prints a text, in colour on a terminal unless NO_COLOR is set."""
    # Not every terminal has every character; that is no reason to stop.
    stream = sys.stderr if err else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    colour = stream.isatty() and not os.environ.get("NO_COLOR")
    return lambda text: click.echo(text, file=stream, color=colour)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--values", is_flag=True, help="Show all values, also those that may hold patient data."
)
def explain(file: str, values: bool) -> None:
    """Tell what went over the associations in FILE.

    FILE is a recording of `pacsroute run --record`, or a pcap or pcapng capture. What is
    damaged or cut is told as far as it goes; what is inside TLS cannot be told.

    \b
    Example:
      tcpdump -i any -w trouble.pcap tcp port 11112
      pacsroute explain trouble.pcap
    """  # noqa: D301 - click's mark is a backspace
    write = writer()
    told: dict[Conversation, tuple[Trace, list[str]]] = {}
    number = 0
    try:
        for conversation, chunk in read(file):
            if conversation not in told:
                number += 1
                blocks: list[str] = []
                trace = Trace(
                    conversation, blocks.append, label=f"#{number} ", values=values, width=width
                )
                told[conversation] = trace, blocks
            trace, blocks = told[conversation]
            if chunk is not None:
                trace.add(*chunk)
            else:
                # Each as a whole, though they may have happened at the same time.
                trace.end()
                write("\n".join(blocks))
                del told[conversation]
    except UnreadableFile as error:
        raise click.ClickException(f"{file}: {error}") from None
    if not number:
        raise click.ClickException(f"{file}: no TCP connection in it")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--ignore",
    multiple=True,
    metavar="KEYWORD",
    help="An element that may differ, as ErrorComment; may be given several times.",
)
@click.option(
    "--values", is_flag=True, help="Show all values, also those that may hold patient data."
)
def replay(file: str, app: str | None, ignore: tuple[str, ...], values: bool) -> None:
    """Play FILE back to APP, and tell where APP answers otherwise; exit code 1 if it does.

    FILE is a recording of `pacsroute run --record`, or a pcap or pcapng capture, be it of
    another server. No network is used, but APP does what it does: an archive stores what
    was recorded. APP is given as to `pacsroute run`.

    \b
    Example:
      pacsroute replay odd-modality.rec app.py --ignore ErrorComment
    """  # noqa: D301 - click's mark is a backspace
    found = load(app)
    try:
        differences = testing.replay(file, found, ignore=ignore, values=values)
    except UnreadableFile as error:
        raise click.ClickException(f"{file}: {error}") from None
    write = writer()
    for difference in differences:
        write(str(difference))
    if differences:
        raise Exit(1)
    write(f"{found.ae_title} answers as was recorded")
