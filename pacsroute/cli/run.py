"""``pacsroute run``: serve an app."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from pacsroute.app import App
from pacsroute.cli.loading import configure, load
from pacsroute.cli.numbers import WholeNumber
from pacsroute.cli.observing import observes
from pacsroute.config import SECTIONS, SETTINGS, Config
from pacsroute.foreground import explained, serve, set_up
from pacsroute.framework.requests import Peer
from pacsroute.logs import LineHandler
from pacsroute.net.server import Server
from pacsroute.upper_layer.tap import TapFactory

if TYPE_CHECKING:
    from pacsroute.trace.http import HttpExchange


def _destinations(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, Peer]:
    found = {}
    for text in texts:
        title, _, address = text.partition("=")
        host, _, port = address.rpartition(":")
        if not (title and host and port.isdecimal() and 0 < int(port) < 65536):
            raise click.BadParameter(
                f"{text!r} is not AE=HOST:PORT, such as WORKSTATION=10.0.0.7:104"
            )
        found[title] = Peer(host.strip("[]"), int(port))
    return found


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting; `Config` checks the values."""
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


class _Sectioned(click.Command):
    """A command whose help lists the settings under headings, after its other options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        heading = ""
        for param in self.get_params(ctx):
            heading = SECTIONS.get(param.name or "", heading)
            place = heading if param.name in SETTINGS else "Options"
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                sections.setdefault(place, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


@click.command(cls=_Sectioned)
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False),
    envvar="PACSROUTE_CONFIG",
    help="A TOML file of settings, named like the options, with underscores.",
)
@click.option(
    "--destination",
    "destinations",
    multiple=True,
    metavar="AE=HOST:PORT",
    callback=_destinations,
    envvar="PACSROUTE_DESTINATION",
    help="The address of an AE title for C-MOVE; may be given several times.",
)
@click.option(
    "--workers",
    type=WholeNumber(1),
    metavar="NUMBER",
    envvar="PACSROUTE_WORKERS",
    help="Serve in this many processes; the limits are for each of them.",
)
@click.option(
    "--user",
    envvar="PACSROUTE_RUN_USER",
    help="The user that the workers run as; only root can set it.",
)
@click.option(
    "--group", envvar="PACSROUTE_RUN_GROUP", help="The workers' group; by default that of --user."
)
@click.option(
    "--reload",
    is_flag=True,
    envvar="PACSROUTE_RELOAD",
    help="Restart when a file of the app is saved; for development.",
)
@_setting_options
@observes(err=False, http=True)
def run(
    app: str | None,
    file: str | None,
    destinations: dict[str, Peer],
    taps: list[TapFactory],
    http_taps: list[Callable[[HttpExchange], object]],
    workers: int | None,
    user: str | None,
    group: str | None,
    reload: bool,
    **options: Any,
) -> None:
    """Serve APP until Ctrl-C.

    APP is module:app, path/to/file.py, module:create_app(), or nothing for app.py in this
    folder. Each option is also an environment variable: --port is PACSROUTE_PORT. Options override
    the environment, which overrides --config, which overrides the settings of APP.

    With --workers, SIGTERM stops gracefully and Ctrl-C immediately; SIGHUP replaces the workers
    with new ones, which load APP again; SIGTTIN adds a worker and SIGTTOU removes one.
    """
    log = LineHandler()
    logging.basicConfig(handlers=[log])

    def settle(config: Config) -> None:
        configure(config, file, options)
        set_up(log, config, "%(asctime)s %(process)d" if workers else "%(asctime)s")

    def load_app() -> App:
        found = load(app)
        found.destinations |= destinations
        found.taps += taps
        found.http_taps += http_taps
        settle(found.config)
        return found

    settle(Config())  # for log messages before the app is loaded
    if workers and reload:
        raise click.UsageError(
            "--workers and --reload exclude each other: to reload workers, send SIGHUP"
        )
    if (user and not workers) or (group and not user):
        raise click.UsageError("--group needs --user, and --user needs --workers")
    if workers:
        with _extra("workers"):
            from pacsroute.cli.workers import run_workers  # noqa: PLC0415 - only where gunicorn is
        run_workers(load_app, workers, user, group)
    elif reload:
        with _extra("reload"):
            from pacsroute.cli.reload import run_reloading  # noqa: PLC0415 - where watchfiles is
        run_reloading(load_app, app)
    else:
        with explained():
            server = Server(load_app())
        serve(server)


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say what to install if an import fails."""
    if os.name != "posix":
        raise click.ClickException(f"--{name} needs to fork processes, which this system cannot do")
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"--{name} needs {error.name}: pip install 'pacsroute[{name}]'"
        ) from None
