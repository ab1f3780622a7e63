"""``pacsroute shell``: an interactive Python with the app in it."""

from __future__ import annotations

import code
import sys
from types import TracebackType
from typing import Any

import click
import pydicom

import pacsroute
from pacsroute.cli.loading import load
from pacsroute.errors import PacsrouteError
from pacsroute.foreground import lifespan_of
from pacsroute.testing import TestClient


@click.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
def shell(app: str | None) -> None:
    """Open a Python prompt with APP and a client of it.

    APP is named as in `pacsroute run`. Its lifespan is active, as when it serves, and the client
    speaks to it in memory. IPython is used if it is installed.
    """
    found = load(app)
    # The shell can put jobs into the app's queue, but runs none.
    with lifespan_of(found), TestClient(found, calling_ae="SHELL", jobs=False) as client:
        names = {
            "app": found,
            "client": client,
            "pacsroute": pacsroute,
            "Dataset": pydicom.Dataset,
        }
        banner = (
            f"pacsroute shell of {found.ae_title}, within its lifespan\n"
            "  app        the app: app.routes, app.state, app.connect('AE')\n"
            "  client     speaks to it in memory: client.echo(), list(client.find({...}))\n"
            "  pacsroute  the package; Dataset is pydicom's"
        )
        if not (sys.stdin.isatty() and _ipython(banner, names)):
            _plain(banner, names)


def _ipython(banner: str, names: dict[str, Any]) -> bool:
    try:
        from IPython import start_ipython  # noqa: PLC0415 - only where it is installed
        from traitlets.config import Config  # noqa: PLC0415
    except ImportError:
        return False
    config = Config()
    config.TerminalInteractiveShell.banner1 = f"{banner}\n"
    start_ipython(argv=[], user_ns=names, config=config)
    return True


def _plain(banner: str, names: dict[str, Any]) -> None:
    # Start a session like `python`: with history, and completion of these names instead of the
    # module's.
    sys.excepthook = _show
    start = getattr(sys, "__interactivehook__", None)
    if start is not None and sys.stdin.isatty():
        start()
        try:
            import readline  # noqa: PLC0415 - not on every system
            import rlcompleter  # noqa: PLC0415
        except ImportError:
            pass
        else:
            readline.set_completer(rlcompleter.Completer(names).complete)
    code.interact(banner, local=names, exitmsg="")


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show a helpful error as a line, without frames of pacsroute."""
    if isinstance(error, (PacsrouteError, OSError)):
        click.echo(f"{kind.__name__}: {error}", err=True)
    else:
        sys.__excepthook__(kind, error, trace)
