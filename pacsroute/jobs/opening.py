"""Open the queue of an app: its database and files, with this process as an owner."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pacsroute.errors import SetupError
from pacsroute.jobs import schema
from pacsroute.jobs.database import SQLite, Transaction
from pacsroute.jobs.files import Files
from pacsroute.jobs.owners import LeasedOwner, LockedOwner, LonelyOwner
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import Job

_LOCK = 50_412_010  # the lock for creating the tables: an arbitrary number
_SCHEMES = ("postgresql://", "postgres://")


class Opened(NamedTuple):
    """An open queue, with its files and runners.

    Parameters
    ----------
    queue, files : Queue and Files
        The jobs, and the instances to deliver.
    close : callable
        Closes the queue.
    """

    queue: Queue
    files: Files
    close: Callable[[], None]


def is_url(where: str) -> bool:
    """Return whether a queue is in PostgreSQL."""
    return where.startswith(_SCHEMES)


def shown(where: str) -> str:
    """Return the location of a queue, without the password of its URL.

    Examples
    --------
    >>> shown("postgresql://pacs:secret@db/jobs"), shown("jobs.db")
    ('postgresql://db/jobs', 'jobs.db')
    """
    if not is_url(where):
        return where
    scheme, _, rest = where.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def open_queue(where: str, folder: Path, ae_title: str) -> Opened:
    """Open the queue of an app, and create it if it does not exist.

    Parameters
    ----------
    where : str
        The SQLite file, or the URL of a PostgreSQL database.
    folder : Path
        The folder for instances if `where` is a URL.
    ae_title : str
        The app's AE title: a queue belongs to one app.

    Raises
    ------
    SetupError
        If the queue belongs to another app, or the extra ``postgres`` is missing.
    OSError
        If it cannot be opened.
    """
    if is_url(where):
        return _postgresql(where, folder, ae_title)
    path = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".files")
    with contextlib.ExitStack() as opened:
        owner = LockedOwner(beside)
        opened.callback(owner.close)
        database = SQLite(path)
        opened.callback(database.close)
        files = Files(beside, lambda: owner)
        offset = [0.0]
        queue = Queue(database, owner, lambda: time.monotonic() + offset[0], _remover(files))
        entered = database.write(lambda transaction: _enter(transaction, queue, ae_title, where))
        offset[0] = database.write(lambda transaction: _offset(transaction, anew=entered.alone))
        parts = opened.pop_all()
    for job in entered.replaced:
        files.remove(job.arguments.get("file"))
    queue.enter()

    def close() -> None:
        queue.leave()
        parts.close()

    return Opened(queue, files, close)


class MadeTime:
    """A clock that moves only on demand, for tests."""

    def __init__(self) -> None:
        self.seconds = time.time()

    def __call__(self) -> float:
        return self.seconds


def open_in_memory(folder: Path, now: MadeTime) -> Opened:
    """Open an empty queue in memory, for tests."""
    database = SQLite(None)
    database.write(lambda transaction: schema.create(transaction, database.identity))
    files = Files(folder, LonelyOwner)
    queue = Queue(database, LonelyOwner(), now, _remover(files))
    queue.enter()
    return Opened(queue, files, database.close)


def _postgresql(where: str, folder: Path, ae_title: str) -> Opened:
    try:
        module = import_module("pacsroute.jobs.postgres")
    except ModuleNotFoundError as error:
        raise SetupError(
            f"jobs in PostgreSQL need {error.name}: pip install 'pacsroute[postgres]'"
        ) from None
    database: Any = module.PostgreSQL(where)
    files = Files(folder, lambda: LockedOwner(folder))  # a lease would expire too late
    queue = Queue(database, LeasedOwner(), database.now, _remover(files))
    try:
        entered = database.write(
            lambda transaction: _enter(transaction, queue, ae_title, shown(where))
        )
    except BaseException:
        database.close()
        raise
    for job in entered.replaced:
        files.remove(job.arguments.get("file"))
    queue.enter()

    def close() -> None:
        queue.leave()
        database.close()
        files.close()

    return Opened(queue, files, close)


def _remover(files: Files) -> Callable[[Job], object]:
    """Return the function that removes the file of a replaced job."""
    return lambda job: files.remove(job.arguments.get("file"))


class _Entered(NamedTuple):
    """Whether this is the only process that uses a queue, and the jobs that newer ones replaced."""

    alone: bool
    replaced: list[Job]


def _enter(transaction: Transaction, queue: Queue, ae_title: str, where: str) -> _Entered:
    """Create the tables, check which app owns them, and release the jobs of dead processes."""
    if not queue.database.shared or not _is_made(transaction):
        schema.create(transaction, queue.database.identity)
    transaction.run(
        "INSERT INTO jobs_meta (name, value) VALUES ('app', :title) ON CONFLICT (name) DO NOTHING",
        title=ae_title,
    )
    ((title,),) = transaction.run("SELECT value FROM jobs_meta WHERE name = 'app'")
    if title != ae_title:
        raise SetupError(f"the queue {where} belongs to {title}: give {ae_title} one of its own")
    dead = queue.owner.dead(transaction.run("SELECT id, seen FROM jobs_owners"), queue.now())
    replaced = queue.bury(transaction, dead)
    return _Entered(not transaction.run("SELECT 1 FROM jobs_owners"), replaced)


def _is_made(transaction: Transaction) -> bool:
    """Return whether PostgreSQL has the tables; only one process at a time may create them.

    Otherwise, creating them could deadlock with the transactions of other processes.
    """
    transaction.run("SELECT pg_advisory_xact_lock(:lock)", lock=_LOCK)
    ((there,),) = transaction.run("SELECT to_regclass('jobs_commitments') IS NOT NULL")
    return bool(there)


def _offset(transaction: Transaction, *, anew: bool) -> float:
    """Return the offset of the monotonic clock from the time of day, equal for all processes.

    So setting the machine's clock neither ends a period nor delays a job. If the time of day is
    before the end of the last run, time continues from there; otherwise jobs might wait for years.
    """
    if anew:
        ((newest,),) = transaction.run("SELECT MAX(created) FROM jobs")
        begins = max(time.time(), newest or 0.0)
        transaction.run(
            "INSERT INTO jobs_meta (name, value) VALUES ('offset', :offset) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            offset=repr(begins - time.monotonic()),
        )
    ((offset,),) = transaction.run("SELECT value FROM jobs_meta WHERE name = 'offset'")
    return float(offset)
