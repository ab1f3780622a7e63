"""The result of `App.forward`: a kept instance, and a job that delivers it.

The job stores where its instance is kept (``file``), and which files to remove after delivery
(``delete``): the original file, and those of older versions of the instance that it replaces.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pacsroute.errors import DataSetError, Failure
from pacsroute.instances.instance import Instance
from pacsroute.jobs.files import Files, Place, original_of, remove_original
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import Job, NewJob

FORWARD = "forward"
"""The function of the jobs that deliver."""

_PRIORITIES = {0: 0, 1: 1, 2: -1}  # medium, high, low (PS3.7 §9.3.1.1)
_HINTS = ("sop_class", "sop_instance", "transfer_syntax")


def delivery(
    instance: Instance,
    file: Place,
    to: str,
    *,
    calling_ae: str,
    node: str,
    key: str | None = None,
    commit: bool = False,
    delete: bool = False,
    priority: int = 0,
) -> NewJob:
    """Return the job that delivers an instance.

    Parameters
    ----------
    instance : Instance
        The instance to deliver.
    file : Place
        The place of the kept instance, from `Files.keep`.
    node : str
        The only machine that can read the file.
    to, calling_ae, key, commit, delete, priority
        As for `App.forward`.
    """
    original = original_of(instance) if delete else None
    arguments = {
        "file": file,
        **{name: getattr(instance, name) for name in _HINTS},
        "calling_ae": calling_ae,
        "delete": [] if original is None else [original],
        "commit": commit,
    }
    return NewJob(
        to,
        FORWARD,
        arguments,
        key=key or f"{calling_ae} {instance.sop_instance}",
        study=_study_of(instance),
        node=node if _is_local(file) else "",
        priority=_PRIORITIES.get(priority, 0),
    )


def instance_of(job: Job, files: Files) -> Instance:
    """Return the instance of a job, without opening it.

    Raises
    ------
    OSError
        If its storage cannot be opened.
    """
    known = {name: job.arguments[name] for name in _HINTS}
    return Instance(files.source(job.arguments["file"]), **known)


def is_delivered(job: Job) -> bool:
    """Return whether a process died after delivery, while it removed the file."""
    return "delivered" in job.arguments


def end(job: Job, queue: Queue, files: Files) -> None:
    """Remove the files of a finished delivery, then the job.

    The files are removed first, so that none is left once the job is removed. An instance sent
    from its original place, such as a storage, is marked as delivered before that.
    """
    originals: list[Place] = job.arguments["delete"]
    kept: Place = job.arguments["file"]
    if kept in originals and not queue.amend(job, delivered=True):
        return  # another process has taken it over
    for original in originals:
        remove_original(original)
    if queue.done(job):
        files.remove(kept)


def _is_local(file: Place) -> bool:
    return isinstance(file, str) or file[0].startswith("file:")


def _study_of(instance: Instance) -> str:
    """Return the Study Instance UID of an instance; empty if it cannot be read."""
    with suppress(DataSetError, Failure, OSError):
        return str(instance.dataset.get("StudyInstanceUID") or "")
    return ""


def names_of_files(jobs: list[Job]) -> set[Any]:
    """Return the files in the queue's folder that the jobs refer to."""
    files = (job.arguments.get("file") for job in jobs)
    return {file for file in files if isinstance(file, str)}
