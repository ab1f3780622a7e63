"""The commands of an app: ``pacsroute [--app APP] NAME``."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import click

from pacsroute.app import App
from pacsroute.cli.loading import load


class Commands(click.Group):
    """The commands of pacsroute, and after them those that the app has in `App.cli`.

    The app is loaded only for the help and for a name that is not a command of pacsroute.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command of pacsroute's own, else one of the app's."""
        own = super().get_command(ctx, cmd_name)
        spec = _spec()
        if own is not None or spec is None:
            return own
        try:
            return load(spec).cli.get_command(ctx, cmd_name)
        except click.ClickException as error:
            raise click.UsageError(
                f"pacsroute has no command {cmd_name!r}, and the app's own commands could not be "
                f"loaded: {error.message}"
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into the help, and below it that of the app's."""
        super().format_commands(ctx, formatter)
        spec = _spec()
        app = spec and _app_for_help(spec, formatter)
        if not app:
            return
        found = {name: app.cli.get_command(ctx, name) for name in app.cli.list_commands(ctx)}
        room = formatter.width - 6 - max(map(len, found), default=0)
        rows = [
            (name, command.get_short_help_str(room))
            for name, command in found.items()
            if command is not None and not command.hidden and name not in self.commands
        ]
        if rows:
            with formatter.section(f"Commands of {app.ae_title}, {spec}"):
                formatter.write_dl(rows)


def choose_app(ctx: click.Context, option: click.Parameter, spec: str | None) -> str | None:
    """Make every command use the app of ``--app``."""
    if spec is not None:
        os.environ["PACSROUTE_APP"] = spec
    return spec


def _spec() -> str | None:
    return os.environ.get("PACSROUTE_APP") or ("app.py" if Path("app.py").is_file() else None)


def _app_for_help(spec: str, formatter: click.HelpFormatter) -> App | None:
    """Return the app; if it cannot be loaded, say so in one line of the help."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return load(spec)
    except click.ClickException as error:
        lines = [line for line in said.getvalue().split("\n") if line.strip()]
        why = lines[-1] if lines else error.message
    with formatter.section(f"Commands of {spec}"):
        formatter.write_text(f"It could not be loaded: {why}")
    return None
