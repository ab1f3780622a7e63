"""The ``pacsroute`` command."""

from __future__ import annotations

import click

from pacsroute.cli.clients import echo, find, get, move
from pacsroute.cli.conformance import conformance
from pacsroute.cli.custom import Commands, choose_app
from pacsroute.cli.new import new
from pacsroute.cli.routes import routes
from pacsroute.cli.run import run
from pacsroute.cli.sending import store
from pacsroute.cli.shell import shell
from pacsroute.cli.tracing import explain, replay


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--app",
    is_eager=True,
    expose_value=False,
    callback=choose_app,
    metavar="APP",
    help="The app of the commands that work with one, and of those that it has itself: "
    "module:app or path/to/file.py. Else PACSROUTE_APP, or app.py in this folder.",
)
@click.version_option(package_name="pacsroute")
def main() -> None:
    """Flask for DICOM: serve an app of decorated functions, or ask a peer for its services.

    \b
    echo, store, find, get and move end with
      0    all right
      1    some instances failed
      2    the command line is not understood
      3    no association: unreachable, rejected, not accepted, or aborted
      4    the peer answered with a failure
      130  Ctrl-C: cancelled and released; a second one does not wait

    Each of their options for the peer is an environment variable, too: --calling-ae is
    PACSROUTE_CALLING_AE.
    """  # noqa: D301 - click's mark is a backspace


for _command in (
    run,
    routes,
    conformance,
    shell,
    new,
    echo,
    store,
    find,
    get,
    move,
    explain,
    replay,
):
    main.add_command(_command)
