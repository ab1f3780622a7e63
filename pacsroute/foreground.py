"""The messages of a server in the terminal."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from pacsroute.config import Config
from pacsroute.errors import SetupError
from pacsroute.framework.base import BaseApp
from pacsroute.framework.routes import name_of
from pacsroute.logs import JSONFormatter, LineFormatter, LineHandler
from pacsroute.net.server import Server
from pacsroute.services.dispatcher import get_ready

if TYPE_CHECKING:
    from pacsroute.settings import ServerSettings

logger = logging.getLogger("pacsroute")

_NO_TERMINAL = 100  # characters of a line in a file


_LOADING = ContextVar("loading", default=False)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Make `App.run` do nothing while the command loads a user's file."""
    token = _LOADING.set(True)
    try:
        yield
    finally:
        _LOADING.reset(token)


def run(app: BaseApp, host: str | None, port: int | None, settings: ServerSettings) -> None:
    """Implement `App.run`: serve from a script, as the command does."""
    if _LOADING.get():
        logger.warning("app.run() is ignored: the command serves the app")
        return
    if not logging.getLogger().hasHandlers():  # otherwise the script has set up logging
        log = LineHandler()
        logging.basicConfig(handlers=[log])
        set_up(log, app.config)
    try:
        with explained():
            server = Server(app, host, port, **settings)
        serve(server)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def set_up(log: logging.Handler, config: Config, line: str = "%(asctime)s") -> None:
    """Set up the log from the settings; each line begins with `line`."""
    is_json = config.log_format == "json"
    plain = LineFormatter(f"{line} %(levelname)-7s %(message)s")
    log.setFormatter(JSONFormatter() if is_json else plain)
    logging.captureWarnings(is_json)
    logging.getLogger().setLevel(config.log_level.upper())


def serve(server: Server, ready: Callable[[], object] = lambda: None) -> None:
    """Serve until Ctrl-C, and print the services and the address."""
    announce(server.app)
    if server.metrics_port is not None:
        announce_monitor(server.config.metrics_host, server.metrics_port)
    if server.web_port is not None:
        announce_web(server.config, server.web_port)
    elif server.config.web_viewer is not None:
        logger.warning("web_viewer is served only with --web-port")
    where = address(server.host, server.port, server.tls_port)

    def listening() -> None:
        click.echo(f"listening on {where}, Ctrl-C stops")
        ready()
        get_ready()

    with lifespan_of(server.app):
        server.run(listening)
    click.echo("stopped")


@contextlib.contextmanager
def lifespan_of(app: BaseApp) -> Iterator[None]:
    """If a lifespan raises, print its traceback in the user's file and exit with a message."""
    try:
        yield
    except SetupError as error:
        raise click.ClickException(str(error)) from None
    except Exception as error:  # noqa: BLE001 - whatever the user's file does
        show_from_users_file(error, error.__traceback__)
        raise click.ClickException(f"{app.ae_title} has ended: see the traceback above") from None


def announce(app: BaseApp) -> None:
    """Print the services of an app."""
    if not app.routes:
        logger.warning("no handler is registered: only C-ECHO is answered")
    click.echo(f"{app.ae_title} serves")
    lines = [str(route) for route in app.routes]
    if not any(route.command == "echo" for route in app.routes):
        lines.append(f"{name_of('echo'):<14} Verification")
    for line in lines:
        click.echo(_wrapped(line))


def _wrapped(line: str) -> str:
    """Return the line of a route, indented, within the width of the terminal."""
    return textwrap.fill(
        line,
        shutil.get_terminal_size((_NO_TERMINAL, 24)).columns,
        initial_indent=" " * 2,
        subsequent_indent=" " * 17,
        break_long_words=False,
        break_on_hyphens=False,
    )


def announce_monitor(host: str, port: int) -> None:
    """Print the URL of the metrics and health checks."""
    click.echo(f"/metrics, /health and /ready at http://{_bracketed(host)}:{port}")


def announce_web(config: Config, port: int) -> None:
    """Print the URLs of DICOMweb and the console."""
    scheme = "https" if config.web_certificate else "http"
    site = f"{scheme}://{_bracketed(config.web_host)}:{port}"
    click.echo(f"DICOMweb at {site}{config.web_root}")
    click.echo(f"console at {site}/console")


def address(host: str, port: int, tls_port: int | None) -> str:
    """Return the server's address, for people.

    Examples
    --------
    >>> address("127.0.0.1", 11112, 2762)
    '127.0.0.1:11112 and 2762 (TLS)'
    """
    host = _bracketed(host)
    if tls_port is None:
        return f"{host}:{port}"
    return f"{host}:{port} (TLS)" if tls_port == port else f"{host}:{port} and {tls_port} (TLS)"


def _bracketed(host: str) -> str:
    """Return a host as it is written before a port (RFC 3986 §3.2.2)."""
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Print one line that says why a server cannot be made."""
    try:
        yield
    except SetupError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(_why_not(error)) from None


def _why_not(error: OSError) -> str:
    host, _, port = str(error.filename).rpartition(":")
    another = "choose another with --port, --tls-port, --metrics-port or --web-port"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: stop the program that listens on it, or {another}"
    if error.errno == errno.EACCES:
        return f"only root may listen on port {port}: {another}, above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        another = "choose another with --host, --metrics-host or --web-host"
        return f"{host} is not an address of this machine: {another}"
    return f"cannot listen on {_bracketed(host)}:{port}: {error.strerror or error}"


def show_from_users_file(error: BaseException, otherwise: TracebackType | None = None) -> None:
    """Print an exception with its traceback from the user's file on, or with `otherwise`."""
    frames = error.__traceback__
    while frames is not None and is_ours(frames):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames or otherwise)


def is_ours(frame: TracebackType) -> bool:
    """Return whether a frame of a traceback belongs to pacsroute, not to the user."""
    name = frame.tb_frame.f_code.co_filename
    package = str(Path(__file__).parent)
    between = name in (contextlib.__file__, "<string>")  # lifespans; dataclasses
    return name.startswith(package) or "importlib" in name or between
