"""The commands that read the files of ``--record``: ``explain`` and ``replay``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click
from click.exceptions import Exit

from pacsroute import testing
from pacsroute.cli.loading import load
from pacsroute.cli.observing import width, writer
from pacsroute.cli.progress import counting
from pacsroute.trace.conversation import Conversation, UnreadableFile
from pacsroute.trace.files import read
from pacsroute.trace.text import Trace


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--values", is_flag=True, help="Show all values, including those that may hold patient data."
)
def explain(file: str, values: bool) -> None:
    """Show the associations in FILE, message by message.

    FILE is a recording of `pacsroute run --record`, or a pcap or pcapng capture. Damaged or
    truncated parts are shown as far as possible; the content of TLS cannot be shown.

    \b
    Example:
      tcpdump -i any -w trouble.pcap tcp port 11112
      pacsroute explain trouble.pcap
    """  # noqa: D301 - click's mark is a backspace
    write = writer()
    told: dict[Conversation, tuple[Trace, list[str]]] = {}
    number = 0
    with counting("{:,} segments read") as tell, _explained(file):
        for count, (conversation, chunk) in enumerate(read(file), 1):
            tell(count)
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
                # One after the other, though they may have overlapped.
                trace.end()
                tell(None)
                write("\n".join(blocks))
                del told[conversation]
    if not number:
        raise click.ClickException(f"{file}: there is no TCP connection in it")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--ignore",
    multiple=True,
    metavar="KEYWORD",
    help="An element that may differ, such as ErrorComment; may be given several times.",
)
@click.option(
    "--values", is_flag=True, help="Show all values, including those that may hold patient data."
)
def replay(file: str, app: str | None, ignore: tuple[str, ...], values: bool) -> None:
    """Replay FILE to APP, and compare the responses.

    Differences are printed. The exit code is 1 if there are any.

    FILE is a recording of `pacsroute run --record`, or a pcap or pcapng capture, also one of
    another server. No network is used, but APP does its work: an archive stores the recorded
    instances. APP is named as in `pacsroute run`.

    \b
    Example:
      pacsroute replay odd-modality.rec app.py --ignore ErrorComment
    """  # noqa: D301 - click's mark is a backspace
    found = load(app)
    with _explained(file), counting("{:,} associations played") as tell:
        differences = testing.replay(file, found, ignore=ignore, values=values, progress=tell)
    write = writer()
    for difference in differences:
        write(str(difference))
    if differences:
        raise Exit(1)
    write(f"{found.ae_title} answers as recorded")


@contextlib.contextmanager
def _explained(file: str) -> Iterator[None]:
    """End with a one-line error if a file cannot be read."""
    try:
        yield
    except UnreadableFile as error:
        raise click.ClickException(f"{file}: {error}") from None
