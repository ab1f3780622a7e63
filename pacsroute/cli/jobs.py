"""``pacsroute jobs``: what waits in the queue of an app, and what has failed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from pacsroute.app import App
from pacsroute.cli.loading import configure, load
from pacsroute.errors import SetupError
from pacsroute.framework.work import Lane, where
from pacsroute.jobs.opening import is_url, shown
from pacsroute.jobs.queue import Job, Queue
from pacsroute.trace.layout import printable

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


@click.command()
@click.argument("app", required=False, envvar="PACSROUTE_APP")
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False),
    envvar="PACSROUTE_CONFIG",
    help="A TOML file with settings, as for pacsroute run.",
)
@click.option("--retry", type=int, multiple=True, metavar="ID", help="Try a job again at once.")
@click.option("--drop", type=int, multiple=True, metavar="ID", help="Remove a job for good.")
@click.option("--pause", multiple=True, metavar="LANE", help="Stop a lane until it is resumed.")
@click.option("--resume", multiple=True, metavar="LANE", help="Let a lane go on.")
@click.option("--json", "as_json", is_flag=True, help="Print lanes and jobs as JSON.")
def jobs(
    app: str | None,
    file: str | None,
    retry: tuple[int, ...],
    drop: tuple[int, ...],
    pause: tuple[str, ...],
    resume: tuple[str, ...],
    as_json: bool,
) -> None:
    """List what waits in the queue of APP, and what has failed; change some of it.

    APP is named as in pacsroute run. It need not be running: what is changed here holds for the
    processes that serve it, too.
    """
    found = load(app)
    configure(found.config, file)
    queue = _queue_of(found)
    try:
        changes = [
            *_each(retry, queue.retry, "job {} is tried again", "no job {} waits or has failed"),
            *_each(drop, lambda job: _dropped(found, job), "job {} dropped", "no job {} to drop"),
            *_each(pause, queue.pause, "lane {} paused", "there is no lane {!r}"),
            *_each(resume, queue.resume, "lane {} resumed", "there is no lane {!r}"),
        ]
        if as_json:
            click.echo(json.dumps(_as_json(queue), indent=2))
        elif not changes:
            for line in _lines(queue):
                click.echo(line)
    finally:
        found.work.close()


def _queue_of(app: App) -> Queue:
    """Return the queue of an app, which has to be there."""
    place = where(app.config)
    if not is_url(place) and not Path(place).is_file():
        raise click.ClickException(f"there is no queue {place!r}: nothing was put into it yet")
    try:
        return app.work.opened.queue
    except SetupError as error:
        raise click.ClickException(str(error)) from None
    except (OSError, sqlite3.Error) as error:
        raise click.ClickException(f"{shown(place)}: {error}") from None


def _each(
    names: Iterable[Any], change: Callable[[Any], object], done: str, missing: str
) -> list[str]:
    """Change what is named, and say so; what is not there ends the command."""
    said = []
    for name in names:
        if not change(name):
            raise click.ClickException(missing.format(name))
        said.append(done.format(name))
        click.echo(said[-1], err=True)
    return said


def _dropped(app: App, number: int) -> bool:
    opened = app.work.opened
    job = opened.queue.drop(number)
    if job is not None and "file" in job.arguments:
        opened.files.remove(job.arguments["file"])
    return job is not None


def _as_json(queue: Queue) -> dict[str, Any]:
    """Return lanes and jobs without the arguments, which may be patient data."""
    now = queue.now()
    return {
        "lanes": [lane._asdict() for lane in queue.lanes()],
        "jobs": [
            {
                "id": job.id,
                "state": _state(job, now),
                "lane": job.lane,
                "key": job.key,
                "age": round(now - job.created, 3),
                "attempts": job.attempts,
                "error": job.error,
            }
            for job in queue.jobs(most=None)
        ],
    }


def _lines(queue: Queue) -> Iterable[str]:
    lanes = queue.lanes()
    if not lanes:
        yield "nothing was put into the queue yet"
    yield from map(_lane_line, lanes)
    now = queue.now()
    rows = [
        (str(job.id), _state(job, now), job.lane, age(now - job.created), str(job.attempts), job)
        for job in queue.jobs()
    ]
    if not rows:
        return
    yield ""
    heading = ("id", "state", "lane", "age", "tries")
    widths = [
        max(len(heading[column]), *(len(row[column]) for row in rows))
        for column in range(len(heading))
    ]
    yield "  ".join(map(str.ljust, (*heading, "key, error"), (*widths, 0))).rstrip()
    for *cells, job in rows:
        said = "; ".join(filter(None, (job.key, job.error)))
        yield "  ".join(map(str.ljust, (*cells, printable(said)), (*widths, 0))).rstrip()


def _lane_line(lane: Lane) -> str:
    parts = [f"{lane.waiting} waiting", f"{lane.running} running", f"{lane.failed} failed"]
    if lane.oldest is not None and lane.waiting:
        parts.append(f"oldest {age(lane.oldest)}")
    if lane.paused:
        parts.append(f"paused ({lane.reason})" if lane.reason else "paused")
    elif lane.retry_in:
        parts.append(f"tried again in {age(lane.retry_in)}")
        if lane.reason:
            parts[-1] += f" ({printable(lane.reason)})"
    return f"{lane.name}: {', '.join(parts)}"


def _state(job: Job, now: float) -> str:
    if job.failed:
        return "failed"
    if job.owner is not None:
        return "running"
    return "waiting" if job.due <= now else f"in {age(job.due - now)}"


def age(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> age(59), age(60), age(7_200), age(200_000)
    ('59 s', '1 min', '2 h', '2 d')
    """
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
