"""The ``pacsroute`` command."""

from __future__ import annotations

from importlib import import_module

import click
from click.exceptions import Exit

from pacsroute.cli.custom import Commands, choose_app
from pacsroute.cli.homes import HOMES
from pacsroute.errors import nearest


class _Commands(Commands):
    """Commands that are imported when they are asked for: not all need pydicom to start."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = HOMES.get(cmd_name)
        if home is not None and cmd_name not in self.commands:
            try:
                self.add_command(getattr(import_module(f"pacsroute.cli.{home}"), cmd_name))
            except KeyboardInterrupt:  # click would exit with 1
                raise Exit(130) from None
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if near := nearest(args[0], HOMES, 0.6):
                raise click.UsageError(f"{error.message.rstrip('.')}{near}", ctx) from None
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--app",
    is_eager=True,
    expose_value=False,
    callback=choose_app,
    metavar="APP",
    help="The app, as module:app or path/to/file.py; its own commands are then available, too. "
    "By default PACSROUTE_APP, else app.py in this folder.",
)
@click.version_option(package_name="pacsroute")
def main() -> None:
    """Flask for DICOM: serve an app of decorated functions, or send requests to a peer.

    \b
    Exit codes of echo, store, find, get and move:
      0    success
      1    some instances failed
      2    wrong usage
      3    no association: unreachable, rejected, not accepted, or aborted
      4    the peer answered with a failure
      130  Ctrl-C: cancelled and released; a second Ctrl-C does not wait

    Their options for the peer can be environment variables: PACSROUTE_CALLING_AE sets
    --calling-ae.
    """  # noqa: D301 - click's mark is a backspace
