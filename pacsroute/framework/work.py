"""The durable work that an app declares; `pacsroute.jobs` stores and runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
)

from pacsroute.errors import SetupError
from pacsroute.framework.checks import check_callable

if TYPE_CHECKING:
    import threading

    from pydicom import Dataset

    from pacsroute.config import Config
    from pacsroute.framework.peer import PeerView
    from pacsroute.framework.requests import StoreRequest

QuietHandler = TypeVar("QuietHandler", bound="Callable[[Any], object]")
BackgroundHandler = TypeVar("BackgroundHandler", bound="Callable[[threading.Event], object]")
GaveUpHandler = TypeVar("GaveUpHandler", bound="Callable[[Any, Any], object]")
P = ParamSpec("P")
R = TypeVar("R")
Level = Literal["SERIES", "STUDY"]

current_priority: ContextVar[int] = ContextVar("priority", default=0)
"""The priority of the C-STORE whose handler is running (PS3.7 §9.3.1.1)."""

RETRY = (1.0, 5.0, 30.0, 300.0)
"""The default delays in seconds before a function that raised is retried."""


def where(config: Config) -> str:
    """Return the place of an app's queue: its setting, the spool, or the current folder."""
    return config.jobs or os.path.join(config.spool or "", "jobs.db")


def is_there(config: Config) -> bool:
    """Return whether the queue of an app exists already."""
    return os.path.isfile(where(config))


class Lane(NamedTuple):
    """The state of a lane of the queue; times in seconds."""

    name: str
    waiting: int
    running: int
    failed: int
    oldest: float | None
    paused: bool
    reason: str
    retry_in: float


class JobView(NamedTuple):
    """A job for display, without its arguments, which may be patient data; times in seconds.

    Parameters
    ----------
    id : int
        Its number.
    state : str
        ``waiting``, ``running``, or ``failed``: given up, and kept until it is retried.
    lane : str
        The AE title of its destination, or the name of its function and ``()``.
    key : str or None
        A later job with the same key replaces it. For a delivery: the calling AE title and the SOP
        Instance UID.
    age : float
        The time since it was queued.
    due_in : float
        The time until it may run; 0 if it may now.
    attempts : int
        The number of failed attempts.
    error : str
        The error of the last attempt, without patient data.
    """

    id: int
    state: str
    lane: str
    key: str | None
    age: float
    due_in: float
    attempts: int
    error: str


class WorkControl(Protocol):
    """The view and control of a queue for people; its changes affect all processes.

    All methods raise an `OSError` if the queue cannot be used.
    """

    def lanes(self) -> list[Lane]:
        """Return the state of each lane."""

    def jobs(self, lane: str | None = None, most: int | None = 1000) -> list[JobView]:
        """Return jobs, the oldest first.

        Parameters
        ----------
        lane : str, optional
            Only those of this lane.
        most : int or None
            The maximum number of jobs; None for all.
        """

    def retry(self, number: int) -> bool:
        """Retry a failed job, or run a waiting one at once; False if there is no such job."""

    def drop(self, number: int) -> bool:
        """Remove a waiting or failed job for good; False if there is no such job."""

    def pause(self, lane: str) -> bool:
        """Stop a lane until `resume`; running jobs end. False if there is no such lane."""

    def resume(self, lane: str) -> bool:
        """Resume a lane that is paused or rests; False if there is no such lane."""


class Together(Protocol):
    """Jobs that are committed with other changes; see `WorkQueue.together`."""

    def put_in(self, execute: Callable[[str, Mapping[str, Any]], Any]) -> None:
        """Queue the collected jobs in a transaction of the caller's database.

        Parameters
        ----------
        execute : callable
            Runs a statement with named values in psycopg's style, and returns its cursor. If the
            transaction is retried, this may be called again.
        """

    def committed(self) -> None:
        """Start the jobs: the transaction was committed."""


class WorkQueue(Protocol):
    """The queue that stores the durable work of an app."""

    def is_in(self, url: str) -> bool:
        """Return whether the queue is in the database of a URL."""

    def together(self) -> AbstractContextManager[Together]:
        """Collect the jobs that this thread queues, to commit them with other changes.

        Jobs that are not committed at the end of the block are dropped.
        """

    @property
    def control(self) -> WorkControl | None:
        """The view of the queue for people; None until there is a queue.

        A console uses it as ``app.work_under_way.control``.
        """

    def lanes(self) -> list[Lane]:
        """Return the state of each lane; an empty list if there is no queue yet."""

    def obstacle(self) -> str:
        """Return why nothing can be queued now; an empty text if the queue works."""

    def later(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        key: str | None,
        delay: float,
    ) -> None:
        """Put a call of a job's function into the queue."""

    def associated(self, calling_ae: str) -> None:
        """Note that a peer is reachable: instances may be waiting for it."""

    def receiving(self, association: PeerView) -> None:
        """Note that an association is receiving a C-STORE."""

    def answered(self, association: PeerView) -> None:
        """Note that a C-STORE of an association has been answered."""

    def report(self, information: Dataset) -> None:
        """Process a report of storage commitment."""

    def stored(self, request: StoreRequest) -> None:
        """Note an instance that a handler has stored, before Success is sent."""


class Job(Generic[P, R]):
    """A function whose calls can be made later, durably; made by `App.job`.

    It is called like the function; `later` puts a call into the queue.
    """

    def __init__(
        self,
        function: Callable[P, R],
        app: Any,
        *,
        retry: Sequence[float],
        timeout: float | None,
        process: bool,
        places: int,
    ) -> None:
        self.function = function
        self.name = function.__name__
        self.retry = tuple(retry)
        self.timeout = timeout
        self.process = process
        self.places = places
        self.app = app
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Job({self.name})"

    def later(self, *args: Any, key: str | None = None, delay: float = 0.0, **kwargs: Any) -> None:
        """Put a call into the queue; it is on the disk before this returns.

        It runs at least once, also after restarts and crashes, and possibly more than once.

        Parameters
        ----------
        *args, **kwargs
            The arguments of the function, as JSON values such as text, numbers and lists.
        key : str, optional
            One call waits for each key: a later one replaces it, with its arguments and time.
        delay : float
            Seconds until it may run.

        Raises
        ------
        TypeError
            If an argument cannot be encoded as JSON.
        Failure
            With 0xA700 if the queue cannot be written.
        """
        self.app.work.later(self.name, args, kwargs, key=key, delay=delay)


@dataclass(frozen=True)
class QuietFunction:
    """A function for series or studies of which nothing has arrived for some seconds."""

    function: Callable[[Any], object]
    name: str
    level: Level
    after: float
    retry: tuple[float, ...]


@dataclass(frozen=True)
class BackgroundFunction:
    """A function that runs while the app serves, in only one of its processes."""

    function: Callable[[threading.Event], object]
    name: str


@dataclass
class Declared:
    """An app's functions of durable work, by name. Jobs refer to them by name.

    So a queue survives an upgrade: jobs of a removed function stay in it.
    """

    jobs: dict[str, Job[Any, Any]] = field(default_factory=dict)
    quiet: dict[str, QuietFunction] = field(default_factory=dict)
    background: dict[str, BackgroundFunction] = field(default_factory=dict)
    gave_up: list[Callable[[Any, Any], object]] = field(default_factory=list)
    commit_timeout: float | None = None  # seconds for a report of storage commitment

    def __bool__(self) -> bool:
        return bool(self.jobs or self.quiet or self.background or self.commit_timeout)

    def add_job(self, job: Job[Any, Any]) -> None:
        """Add a function of `@app.job`."""
        _check(self, "job", job.function)
        if job.timeout is not None and not job.process:
            raise SetupError(
                f"@app.job {job.name}: timeout= needs process=True, since a thread cannot be ended"
            )
        if job.places < 1:
            raise SetupError(f"@app.job {job.name}: places= must be 1 or more")
        self.jobs[job.name] = job

    def add_quiet(self, quiet: QuietFunction) -> None:
        """Add a function of `@app.quiet`."""
        _check(self, "quiet", quiet.function, ("series",))
        if quiet.level not in ("SERIES", "STUDY"):
            raise SetupError(f'@app.quiet {quiet.name}: use "SERIES" or "STUDY"')
        if quiet.after <= 0:
            raise SetupError(f"@app.quiet {quiet.name}: after= must be a number of seconds above 0")
        self.quiet[quiet.name] = quiet

    def add_background(self, background: BackgroundFunction) -> None:
        """Add a function of `@app.background`."""
        _check(self, "background", background.function, ("stop",))
        self.background[background.name] = background

    def add_gave_up(self, function: Callable[[Any, Any], object]) -> None:
        """Add a function of `@app.gave_up`."""
        check_callable("gave_up", function, ("job", "error"))
        self.gave_up.append(function)


def _check(
    declared: Declared,
    decorator: str,
    function: Callable[..., object],
    arguments: tuple[str, ...] | None = None,
) -> None:
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise SetupError(f"@app.{decorator} needs a function with a name: jobs belong to it")
    if arguments is not None:
        check_callable(decorator, function, arguments)
    for names in (declared.jobs, declared.quiet, declared.background):
        if name in names:
            raise SetupError(f"@app.{decorator}: there is a function {name} already")
