"""The ``pacsroute`` command."""

from __future__ import annotations

import click

from pacsroute.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pacsroute")
def main() -> None:
    """Flask for DICOM: serve an app of decorated functions."""


main.add_command(run)
