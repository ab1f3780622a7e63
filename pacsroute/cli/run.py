"""``pacsroute run``: serve an app."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

import click

from pacsroute.cli.loading import load
from pacsroute.cli.tracing import observes
from pacsroute.config import SETTINGS
from pacsroute.errors import SetupError
from pacsroute.net.server import Server
from pacsroute.requests import Peer
from pacsroute.routing import name_of
from pacsroute.trace.tap import TapFactory

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


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting; `Config` checks what they say."""
    for name, setting in reversed(SETTINGS.items()):
        flag = f"--{name.replace('_', '-')}"
        shown = setting.default
        help_text = setting.metadata["purpose"]
        options: dict[str, Any] = {"default": None, "help": help_text}
        if isinstance(shown, bool):
            flag = f"{flag}/--no-{name.replace('_', '-')}"
        elif isinstance(shown, tuple):
            options |= {"multiple": True, "metavar": "TEXT"}
        else:
            kind = str(setting.type).removesuffix(" | None")
            options["metavar"] = {"int": "NUMBER", "float": "SECONDS"}.get(kind, "TEXT")
            if shown is not None:
                options["help"] = (
                    f"{help_text}  [default: {shown:,}]"
                    if isinstance(shown, (int, float)) and name != "port"
                    else f"{help_text}  [default: {shown}]"
                )
        command = click.option(flag, name, **options)(command)
    return command


@click.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False),
    envvar="PACSROUTE_CONFIG",
    help="A TOML file with settings, named as the options are, with underscores.",
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
@_setting_options
@observes(err=False)
def run(
    app: str | None,
    file: str | None,
    destinations: dict[str, Peer],
    log_level: str,
    taps: list[TapFactory],
    **options: Any,
) -> None:
    """Serve APP until Ctrl-C.

    APP is module:app, path/to/file.py, module:create_app(), or nothing for app.py in this
    folder. Each option is also an environment variable: --port is PACSROUTE_PORT. An option
    wins over the environment, that over --config, and that over what APP itself says.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(message)s")
    found = load(app)
    found.destinations |= destinations
    found.taps += taps
    try:
        if file is not None:
            found.config.from_file(file)
        found.config.from_environment()
        found.config.from_mapping(
            {name: value for name, value in options.items() if value not in (None, ())}
        )
    except SetupError as error:
        raise click.UsageError(str(error)) from None
    try:
        server = Server(found)
    except SetupError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(_why_not(error)) from None
    if not found.routes:
        click.echo("no handler is registered: only C-ECHO is answered", err=True)
    click.echo(f"{found.ae_title} serves")
    for route in found.routes:
        click.echo(f"  {route}")
    if not any(route.command == "echo" for route in found.routes):
        click.echo(f"  {name_of('echo'):<14} Verification")
    where = f"{server.host}:{server.port}"
    if server.tls_port == server.port:
        where += " (TLS)"
    elif server.tls_port is not None:
        where += f" and {server.tls_port} (TLS)"
    server.run(ready=lambda: click.echo(f"listening on {where}, Ctrl-C stops"))
    click.echo("stopped")


def _why_not(error: OSError) -> str:
    host, _, port = str(error.filename).rpartition(":")
    another = "choose another with --port or --tls-port"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken: stop what listens there, or {another}"
    if error.errno == errno.EACCES:
        return f"port {port} is for root only: {another}, above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: choose another with --host"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
