"""project-name stores instances of modalities, and answers queries and retrievals.

Files and index are in the folder ``archive`` of the working directory.
"""

import click

from pacsroute import App, Archive, Failure

app = App("PROJECT-TITLE")
archive = Archive("archive")


@archive.accept
def accept(request, dataset):
    """Refuse instances that could not be found again; add your own rules here."""
    if not dataset.get("PatientID"):
        raise Failure(0xA900, "PatientID is missing")


app.register_blueprint(archive)


@app.cli.command()
def count():
    """Print how many instances are stored."""
    with app.running():
        click.echo(archive.count())
