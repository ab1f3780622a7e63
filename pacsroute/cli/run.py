"""``pacsroute run``: serve an app."""

from __future__ import annotations

import errno
import logging

import click

from pacsroute.cli.loading import load
from pacsroute.errors import SetupError
from pacsroute.net.server import MAX_ASSOCIATIONS, Server
from pacsroute.requests import Peer
from pacsroute.routing import name_of

_LEVELS = ["debug", "info", "warning", "error"]


def _destinations(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, Peer]:
    found = {}
    for text in texts:
        title, _, address = text.partition("=")
        host, _, port = address.rpartition(":")
        if not (title and host and port.isdecimal() and 0 < int(port) < 65536):
            raise click.BadParameter(f"{text!r} is not AE=HOST:PORT, as WORKSTATION=10.0.0.7:104")
        found[title] = Peer(host.strip("[]"), int(port))
    return found


@click.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option("--host", default="127.0.0.1", envvar="PACSROUTE_HOST", show_default=True)
@click.option(
    "--port",
    default=11112,
    type=click.IntRange(0, 65535),
    envvar="PACSROUTE_PORT",
    show_default=True,
    help="0 is a free one.",
)
@click.option("--ae-title", envvar="PACSROUTE_AE_TITLE", help="In the place of the app's own.")
@click.option(
    "--max-associations",
    default=MAX_ASSOCIATIONS,
    type=click.IntRange(1),
    envvar="PACSROUTE_MAX_ASSOCIATIONS",
    show_default=True,
    help="Served at once; more are rejected.",
)
@click.option(
    "--destination",
    "destinations",
    multiple=True,
    metavar="AE=HOST:PORT",
    callback=_destinations,
    envvar="PACSROUTE_DESTINATION",
    help="Where a C-MOVE to that AE title goes; may be given several times.",
)
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(_LEVELS, case_sensitive=False),
    envvar="PACSROUTE_LOG_LEVEL",
    show_default=True,
)
def run(
    app: str | None,
    host: str,
    port: int,
    ae_title: str | None,
    max_associations: int,
    destinations: dict[str, Peer],
    log_level: str,
) -> None:
    """Serve APP until Ctrl-C.

    APP is module:app, path/to/file.py, module:create_app(), or nothing for app.py in this
    folder. Each option is also an environment variable: --port is PACSROUTE_PORT.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(message)s")
    found = load(app)
    found.destinations |= destinations
    if ae_title is not None:
        try:
            found.ae_title = type(found)(ae_title).ae_title
        except SetupError as error:
            raise click.BadParameter(str(error), param_hint="--ae-title") from None
    try:
        server = Server(found, host, port, max_associations=max_associations)
    except OSError as error:
        raise click.ClickException(_why_not(error, host, port)) from None
    if not found.routes:
        click.echo("no handler is registered: only C-ECHO is answered", err=True)
    click.echo(f"{found.ae_title} serves")
    for route in found.routes:
        click.echo(f"  {route}")
    if not any(route.command == "echo" for route in found.routes):
        click.echo(f"  {name_of('echo'):<14} Verification")
    where = f"listening on {server.host}:{server.port}, Ctrl-C stops"
    server.run(ready=lambda: click.echo(where))
    click.echo("stopped")


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken: stop what listens there, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} is for root only: choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: choose another with --host"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
