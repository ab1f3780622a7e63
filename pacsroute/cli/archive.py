"""``pacsroute archive``: check that the files and index of an archive agree, and repair them."""

from __future__ import annotations

from datetime import datetime

import click

from pacsroute.archive.blueprint import Archive
from pacsroute.cli.loading import load
from pacsroute.cli.progress import counting


@click.group()
def archive() -> None:
    """Check and repair the archives of an app.

    The app may be running.
    """


@archive.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
def check(app: str | None) -> None:
    """List differences between the files and indexes of APP's archives.

    \b
    missing      the index has it, but there is no file
    unknown      there is a file, but the index does not have it
    quarantined  it contradicts stored instances: a person must decide
    unswept      nothing is removed from a bucket until `reindex` has run

    It changes nothing. The exit code is 1 if there are differences.
    """  # noqa: D301 - click's mark is a backspace
    count = 0
    for one in _archives_of(app):
        with counting("{:,} files checked") as tell:
            for finding in one.check(tell):
                count += 1
                tell(None)
                click.echo("  ".join(part for part in finding if part))
    if count:
        raise SystemExit(1)
    click.echo("files and index agree")


@archive.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Add only files written since then, and remove nothing.",
)
def reindex(app: str | None, since: datetime | None) -> None:
    """Add unknown files to the index, for example after restoring a backup.

    Without --since, rows without a file are removed from the index.
    """
    for one in _archives_of(app):
        with counting("{:,} files checked") as tell:
            count = one.reindex(since, tell)
        click.echo(f"{one.where}: {count} instances added to the index")


def _archives_of(spec: str | None) -> list[Archive]:
    app = load(spec)
    scopes = dict.fromkeys(scope for family, _ in app.families for scope in family)
    found = [scope for scope in scopes if isinstance(scope, Archive)]
    if not found:
        raise click.UsageError(f"{app.ae_title} has no Archive")
    return found
