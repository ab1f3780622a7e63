"""``pacsroute conformance``: the DICOM Conformance Statement of an app."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from pacsroute.cli.loading import configure, load
from pacsroute.conformance import BLANK, statement


@click.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write or replace; by default the statement is printed.",
)
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False),
    envvar="PACSROUTE_CONFIG",
    help="A TOML file with settings, as for pacsroute run.",
)
@click.option(
    "--date",
    is_flag=False,
    flag_value="today",
    metavar="[DATE]",
    help="Date of the document; --date alone means today. By default there is no date.",
)
def conformance(app: str | None, output: Path | None, file: str | None, date: str | None) -> None:
    """Write the DICOM Conformance Statement of APP, as Markdown.

    It has the sections of PS3.2 Annex N, filled from the routes and settings of APP, including
    those of the environment. Sections that only the vendor can write are marked "To be completed".
    APP is named as in pacsroute run.
    """
    found = load(app)
    configure(found.config, file)
    if date == "today":
        date = datetime.date.today().isoformat()
    text = statement(found, date)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror}") from None
    click.echo(f"{output}: {text.count(BLANK)} places must be completed")
