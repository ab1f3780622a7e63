"""``pacsroute jobs``: the waiting and failed jobs of an app."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from pacsroute.app import App
from pacsroute.cli.loading import configure, load
from pacsroute.errors import SetupError
from pacsroute.framework.work import JobView, Lane, WorkControl, where
from pacsroute.jobs.opening import is_url, shown
from pacsroute.trace.layout import printable

_MOST = 1000  # maximum jobs in the list
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
@click.option("--retry", type=int, multiple=True, metavar="ID", help="Try a job again now.")
@click.option("--drop", type=int, multiple=True, metavar="ID", help="Remove a job.")
@click.option("--pause", multiple=True, metavar="LANE", help="Stop a lane until it is resumed.")
@click.option("--resume", multiple=True, metavar="LANE", help="Start a paused lane again.")
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
    """List the jobs of APP; retry, drop or pause them.

    Without options, the waiting and the failed jobs are listed. APP is named as in pacsroute run.
    It need not be running; processes that serve it apply the changes.
    """
    found = load(app)
    configure(found.config, file)
    place = where(found.config)
    try:
        control = _control_of(found, place)
        changes = [
            *_each(retry, control.retry, "job {} is tried again", _no_job),
            *_each(drop, control.drop, "job {} dropped", _no_job),
            *_each(pause, control.pause, "lane {} paused", _no_lane(control)),
            *_each(resume, control.resume, "lane {} resumed", _no_lane(control)),
        ]
        if as_json:
            click.echo(json.dumps(_as_json(control), indent=2))
        elif not changes:
            for line in _lines(control, shutil.get_terminal_size((0, 0)).columns):
                click.echo(line)
    except SetupError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"the queue {shown(place)}: {error}") from None
    finally:
        found.work.close()


def _control_of(app: App, place: str) -> WorkControl:
    """Return the control of an app's queue, which must exist."""
    if not is_url(place) and not Path(place).is_file():
        raise click.ClickException(
            f"there is no job queue {place}: no job was queued yet, or it is in another folder"
        )
    return app.work.open()


def _each(
    names: Iterable[Any],
    change: Callable[[Any], bool],
    done: str,
    missing: Callable[[Any], str],
) -> list[str]:
    """Change the named jobs and lanes, and print the changes; an unknown one is an error."""
    said = []
    for name in names:
        if not change(name):
            raise click.ClickException(missing(name))
        said.append(done.format(name))
        click.echo(said[-1], err=True)
    return said


def _no_job(number: int) -> str:
    return (
        f"there is no waiting or failed job {number}: without options, the command lists the jobs"
    )


def _no_lane(control: WorkControl) -> Callable[[str], str]:
    def say(name: str) -> str:
        known = ", ".join(lane.name for lane in control.lanes())
        return f"there is no lane {name}: the lanes are {known or '(none yet)'}"

    return say


def _as_json(control: WorkControl) -> dict[str, Any]:
    """Return lanes and jobs without the arguments, which may be patient data."""
    return {
        "lanes": [lane._asdict() for lane in control.lanes()],
        "jobs": [
            {
                "id": job.id,
                "state": _state(job),
                "lane": job.lane,
                "key": job.key,
                "age": round(job.age, 3),
                "attempts": job.attempts,
                "error": job.error,
            }
            for job in control.jobs(most=None)
        ],
    }


def _lines(control: WorkControl, width: int) -> Iterable[str]:
    """Yield a line for each lane, and one for each job, or several where it is too long."""
    lanes = control.lanes()
    if not lanes:
        yield "the queue is empty: no job was queued yet"
    for lane in lanes:
        yield from _in_parts(f"{lane.name}: ", _lane_parts(lane), ", ", width)
    rows = [
        ((str(job.id), _state(job), job.lane, age(job.age), str(job.attempts)), job)
        for job in control.jobs(most=_MOST)
    ]
    if not rows:
        return
    yield ""
    heading = ("id", "state", "lane", "age", "tries")
    columns = zip(heading, *(row for row, _ in rows), strict=True)
    widths = [max(map(len, column)) for column in columns]
    yield "  ".join((*map(str.ljust, heading, widths), "key, error"))
    for row, job in rows:
        start = "  ".join((*map(str.ljust, row, widths), ""))
        yield from _in_parts(start, map(printable, filter(None, (job.key, job.error))), "; ", width)
    if len(rows) == _MOST:
        yield f"These are the first {_MOST}; --json lists all."


def _in_parts(start: str, parts: Iterable[str], mark: str, width: int) -> Iterable[str]:
    """Yield a line of some parts; if it is too long, further lines that are indented."""
    line = start
    for number, part in enumerate(parts):
        text = f"{mark}{part}" if number else part
        if width and len(line) + len(text) > width:
            yield f"{line}{mark if number else ''}".rstrip()
            line = f"    {part}"
        else:
            line += text
    yield line.rstrip()


def _lane_parts(lane: Lane) -> list[str]:
    parts = [f"{lane.waiting} waiting", f"{lane.running} running", f"{lane.failed} failed"]
    if lane.oldest is not None and lane.waiting:
        parts.append(f"oldest {age(lane.oldest)}")
    if lane.paused:
        parts.append(f"paused ({printable(lane.reason)})" if lane.reason else "paused")
    elif lane.retry_in:
        parts.append(f"tried again in {age(lane.retry_in)}")
        if lane.reason:
            parts[-1] += f" ({printable(lane.reason)})"
    return parts


def _state(job: JobView) -> str:
    return f"in {age(job.due_in)}" if job.due_in else job.state


def age(seconds: float) -> str:
    """Return a duration in a readable form.

    Examples
    --------
    >>> age(59), age(60), age(7_200), age(200_000)
    ('59 s', '1 min', '2 h', '2 d')
    """
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
