"""The class `App`; the only module here that reaches the upper layers."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from pacsroute import uids
from pacsroute.config import RESPONSE_TIMEOUT
from pacsroute.dataset import late
from pacsroute.errors import AssociationError, SetupError
from pacsroute.framework.base import BaseApp, Listening, ServerView
from pacsroute.framework.routes import Route
from pacsroute.framework.work import (
    RETRY,
    BackgroundFunction,
    BackgroundHandler,
    GaveUpHandler,
    Job,
    Level,
    QuietFunction,
    QuietHandler,
    is_there,
)

if TYPE_CHECKING:
    from socket import socket

    import click
    from pydicom import Dataset

    from pacsroute.framework.requests import NEventReportRequest, Peer
    from pacsroute.instances.instance import Instance
    from pacsroute.jobs.quiet import Reason
    from pacsroute.jobs.work import Work
    from pacsroute.net.client import Client
    from pacsroute.net.server import Server
    from pacsroute.settings import ServerSettings, Settings
    from pacsroute.testing import TestClient
    from pacsroute.upper_layer.pdu import UserIdentity
    from pacsroute.web.site import Site

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def _extra_web() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise SetupError(
            f"DICOMweb and app.web need {error.name}: pip install 'pacsroute[web]'"
        ) from None


def _web_server(listener: socket, app: BaseApp, server: ServerView) -> Listening:
    """Make the server for the port of the setting ``web_port``."""
    with _extra_web():
        from pacsroute.web.server import WebServer  # noqa: PLC0415 - upstairs, only when asked

    return WebServer(listener, app, server)


class App(BaseApp):
    """A DICOM application: an AE title and the handlers behind it.

    Parameters
    ----------
    ae_title : str
        Its AE title, 1 to 16 characters. Other called AE titles are answered, too, unless
        ``require_called_ae=True``.
    **settings
        Any setting of `pacsroute.Config`, such as ``spool``: the folder for large data sets while
        they arrive. On the archive's file system it makes saving a rename.

    Attributes
    ----------
    config : Config
        The settings.
    state : types.SimpleNamespace
        A place for objects that handlers share.
    destinations : mapping of str to Peer
        The peers of AE titles that no `destination` function knows. Values are checked
        when they are set: an AE title, and a `Peer` with a host and a port.

    serving : bool
        Whether it serves peers, or is about to: false in a shell, a test client, or a command.

    Raises
    ------
    SetupError
        If a setting is unknown, or its value is not valid.

    Examples
    --------
    >>> from pacsroute import EchoRequest
    >>> app = App("ARCHIVE")
    >>> @app.echo
    ... def verify(request): ...
    >>> app.handle(EchoRequest(app=app)).status.code
    0
    """

    def __init__(self, ae_title: str = "PACSROUTE", **settings: Unpack[Settings]) -> None:
        super().__init__(ae_title, **settings)
        self.listeners["web_port"] = _web_server

    @functools.cached_property
    def web(self) -> Site:
        """The app over HTTP: a Flask application that includes DICOMweb.

        Add your own routes to it. It is also the WSGI application for another server, such as
        gunicorn; each of its processes enters the lifespan with its first request.

        Raises
        ------
        SetupError
            If the extra ``web`` is not installed.

        Examples
        --------
        >>> app = App()
        >>> @app.web.get("/hello")
        ... def hello():
        ...     return "hello"
        >>> app.web.test_client().get("/hello").text
        'hello'
        """
        with _extra_web():
            from pacsroute.web.site import Site  # noqa: PLC0415 - upstairs, only when asked

        return Site(self)

    @functools.cached_property
    def cli(self) -> click.Group:
        """Commands of the app, for ``pacsroute NAME``: a click group.

        A command that needs the lifespan enters it, ``with app.running():``.

        Examples
        --------
        >>> import click
        >>> app = App()
        >>> @app.cli.command()
        ... @click.argument("folder")
        ... def reindex(folder):
        ...     "Read all files of FOLDER into the index."
        >>> list(app.cli.commands)
        ['reindex']
        """
        import click  # noqa: PLC0415 - only for apps with commands

        return click.Group()

    # ------------------------------------------------------------- durable work

    @functools.cached_property
    def work(self) -> Work:
        """The queue of deliveries, of jobs, and of series that may be complete."""
        from pacsroute.jobs.work import Work  # noqa: PLC0415 - only for apps with jobs

        return Work(self, self.connect)

    @property
    def work_under_way(self) -> Work | None:
        """The queue of jobs, if it is in use."""
        return self.__dict__.get("work")

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        if self.declared or self.config.jobs is not None:
            self.work.start()
        elif is_there(self.config):
            with contextlib.suppress(SetupError):  # another app's queue, in the same folder
                self.work.start()
        try:
            yield
        finally:
            if (work := self.work_under_way) is not None:  # `forward` may have opened it since
                work.stop()

    def forward(
        self,
        what: Instance | Dataset | str | os.PathLike[str],
        to: str,
        *,
        key: str | None = None,
        commit: bool = False,
        delete: bool = False,
        priority: int | None = None,
        calling_ae: str | None = None,
    ) -> None:
        """Queue an instance for a destination; it is on the disk when this returns.

        It is delivered at least once, also after restarts and crashes. The queue waits for a
        destination that cannot be reached or is full, without delaying others. A refused instance
        is tried again, then given up: kept, listed, and passed to the functions of `gave_up`.

        Parameters
        ----------
        what : Instance, pydicom.Dataset or path
            The instance to send. The queue keeps a hard link or a copy of it, so later changes of
            the file have no effect. An instance that `request.save` put into a `Folder` or
            `Objects` of `pacsroute.storage` is sent from there, and must stay until delivered.
        to : str
            The AE title of the destination, as `destination` or `destinations` knows it.
        key : str, optional
            One delivery waits for each key: a later one replaces it. By default, the SOP Instance
            UID is the key.
        commit : bool
            Whether the delivery ends only when the destination has committed to the instance (PS3.4
            Annex J); call `commitment` for that.
        delete : bool
            Whether the file, or the object in a storage, is removed after its delivery or
            commitment.
        priority : int, optional
            0 medium, 1 high, 2 low: a higher one overtakes within its lane (PS3.7 §9.3.1.1). By
            default, that of the C-STORE whose handler forwards it; else medium.
        calling_ae : str, optional
            The calling AE title, for a transparent router; by default, that of the app.

        Raises
        ------
        Failure
            With 0xA700 if the queue cannot be written.

        Examples
        --------
        ::

            @app.store
            def store(request):
                app.forward(request.save("queue"), to="PACS")
        """
        self.work.forward(
            what,
            to,
            key=key,
            commit=commit,
            delete=delete,
            priority=priority,
            calling_ae=calling_ae,
        )

    def commitment(self, *, timeout: float = 86_400.0) -> None:
        """Accept reports of storage commitment, for which `forward` asks with ``commit=True``.

        It adds a route for N-EVENT-REPORT of the Storage Commitment Push Model (PS3.4 §J.3.3). Your
        own handler replaces it, and calls `answer_commitment`.

        Parameters
        ----------
        timeout : float
            Seconds to wait for a report. Then commitment is requested once more, and given up.

        Examples
        --------
        >>> app = App("ROUTER", jobs="jobs.db")
        >>> app.commitment(timeout=3600)
        >>> [str(route) for route in app.routes]
        ['N-EVENT-REPORT Storage Commitment Push Model SOP Class -> App.answer_commitment']
        """
        self._still_open("commitment")
        if not timeout > 0:
            raise SetupError("app.commitment: timeout= must be a number of seconds above 0")
        uid = uids.sop_class("StorageCommitment", "n_event_report")
        routed = self.declared.commit_timeout is not None
        self.declared.commit_timeout = timeout
        if not routed:
            what = ("n_event_report", uid, None, (), False, self.answer_commitment)
            self.add_route(Route(*what, scopes=(self,), default=True))

    def answer_commitment(self, request: NEventReportRequest) -> None:
        """Answer a report of storage commitment, as the default route of `commitment` does."""
        self.work.report(request.event_information)

    def complete(
        self,
        uid: str,
        expected: Iterable[str] | None = None,
        *,
        called_ae: str | None = None,
        reason: Reason = "mpps",
    ) -> bool:
        """End the period of a series or study for the functions of `quiet`.

        Call it when more is known, such as in the handler of an MPPS.

        Parameters
        ----------
        uid : str
            Its Series or Study Instance UID.
        expected : iterable of str, optional
            The SOP Instance UIDs that belong to it: the period ends when all of them have arrived.
            Without them, it ends immediately.
        called_ae : str, optional
            The AE title that it was sent to; by default, that of the app.
        reason : str
            ``mpps``, ``commitment`` or ``discontinued``.

        Returns
        -------
        bool
            False if no instance of it has arrived, or it is complete already.
        """
        return self.work.complete(uid, expected, called_ae=called_ae, reason=reason)

    @overload
    def job(self, function: Callable[P, R], /) -> Job[P, R]: ...
    @overload
    def job(
        self,
        function: None = None,
        /,
        *,
        retry: Sequence[float] = RETRY,
        timeout: float | None = None,
        process: bool = False,
        places: int = 1,
    ) -> Callable[[Callable[P, R]], Job[P, R]]: ...
    def job(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        retry: Sequence[float] = RETRY,
        timeout: float | None = None,
        process: bool = False,
        places: int = 1,
    ) -> Any:
        """Make calls of a function durable: ``function.later(…)`` puts one into the queue.

        A call runs at least once: it should do no harm if it runs twice.

        Parameters
        ----------
        retry : sequence of float
            Seconds after which a failed call is tried again; then it is given up.
        timeout : float, optional
            Seconds after which its process is killed and the call fails. Requires `process`.
        process : bool
            Whether each call runs in its own process, so that a crash, a hang or a leak affects
            nothing else. The process imports the app's file, and enters its lifespan.
        places : int
            The number of calls that may run at the same time, in all processes.

        Returns
        -------
        Job
            It is called like the function, and has `later`.

        Examples
        --------
        >>> app = App()
        >>> @app.job(retry=[1, 60])
        ... def analyse(uid):
        ...     return f"analysed {uid}"
        >>> analyse("1.2.3")
        'analysed 1.2.3'
        """

        def decorate(function: Callable[P, R]) -> Job[P, R]:
            self._still_open("job")
            job = Job(function, self, retry=retry, timeout=timeout, process=process, places=places)
            self.declared.add_job(job)
            return job

        return decorate if function is None else decorate(function)

    def quiet(
        self, level: Level = "SERIES", *, after: float = 60.0, retry: Sequence[float] = RETRY
    ) -> Callable[[QuietHandler], QuietHandler]:
        """Register a function for series of which nothing has arrived for a while.

        This is a guess: nothing in DICOM says that a series is complete. The function is called
        again, with `again` true, if more arrives later.

        Parameters
        ----------
        level : str
            ``SERIES``, or ``STUDY`` for all series of a study together.
        after : float
            Seconds without a new instance. Only time in which the app serves counts.
        retry : sequence of float
            Seconds after which it is called again if it fails.

        Examples
        --------
        >>> app = App()
        >>> @app.quiet("SERIES", after=30)
        ... def complete(series):
        ...     print(series.uid, series.count)
        """

        def decorate(function: QuietHandler) -> QuietHandler:
            self._still_open("quiet")
            name = getattr(function, "__name__", "")
            self.declared.add_quiet(QuietFunction(function, name, level, after, tuple(retry)))
            return function

        return decorate

    def background(self, function: BackgroundHandler) -> BackgroundHandler:
        """Register a function that runs on a thread while the app serves, in one process only.

        It is called with a `threading.Event`, which is set when it must end. If it raises, it is
        restarted.

        Examples
        --------
        >>> app = App()
        >>> @app.background
        ... def tidy(stop):
        ...     while not stop.wait(3600):
        ...         print("once an hour")
        """
        self._still_open("background")
        name = getattr(function, "__name__", "")
        self.declared.add_background(BackgroundFunction(function, name))
        return function

    def gave_up(self, function: GaveUpHandler) -> GaveUpHandler:
        """Register a function for jobs that were given up after their retries.

        It is called with the job (`id`, `lane`, `function`, `arguments`) and the exception. The job
        is kept until it is retried or dropped.

        Examples
        --------
        >>> app = App()
        >>> @app.gave_up
        ... def tell(job, error):
        ...     print(job.id, job.function, error)
        """
        self._still_open("gave_up")
        self.declared.add_gave_up(function)
        return function

    # ------------------------------------------------------------- doors to the upper floors

    def serve(
        self,
        host: str | None = None,
        port: int | None = None,
        **settings: Unpack[ServerSettings],
    ) -> Server:
        """Return a server of this app that listens already; use it with ``with``.

        Parameters
        ----------
        host, port : str and int, optional
            The address, instead of that in `config`; port 0 picks a free one, see the server's
            `port`.
        **settings
            As in `pacsroute.Server`.

        Examples
        --------
        >>> with App().serve(port=0) as server:
        ...     server.port > 0
        True
        """
        from pacsroute.net.server import Server  # noqa: PLC0415 - upstairs, only when asked

        return Server(self, host, port, **settings)

    def connect(
        self,
        ae_title: str,
        *,
        calling_ae: str | None = None,
        user: str | tuple[str, str] | UserIdentity | None = None,
        timeout: float = RESPONSE_TIMEOUT,
    ) -> Client:
        """Return a client of an AE title, which is resolved as in a C-MOVE.

        The app's handlers answer requests of the peer: C-ECHO, N-EVENT-REPORT, and requests for
        which the peer has the SCU role.

        Parameters
        ----------
        ae_title : str
            An AE title that `destination` or `destinations` knows.
        calling_ae : str, optional
            The calling AE title, if it is not that of the app.
        user, timeout
            As in `pacsroute.connect`.

        Raises
        ------
        AssociationError
            If that title is unknown.

        Examples
        --------
        >>> from pacsroute import Peer
        >>> app, pacs = App("GATEWAY"), App("PACS")
        >>> with pacs.serve(port=0) as server:
        ...     app.destinations["PACS"] = Peer("127.0.0.1", server.port)
        ...     with app.connect("PACS") as client:
        ...         client.echo().category
        'Success'
        """
        late.load()  # several threads may use clients
        from pacsroute.net.client import Client  # noqa: PLC0415 - upstairs, only when asked
        from pacsroute.net.connecting import client_of  # noqa: PLC0415

        peer = self.resolve(ae_title, called_ae=calling_ae or "")
        if peer is None:
            raise AssociationError(
                f"the address of {ae_title!r} is unknown: return it from @app.destination, or pass "
                f"--destination {ae_title}=HOST:PORT"
            )
        title = calling_ae or self.ae_title
        opener = self.reach.opener(ae_title)
        if opener is not None:
            return Client(opener, called_ae=ae_title, calling_ae=title, user=user, app=self)
        peer = peer._replace(ae_title=peer.ae_title or ae_title)
        return client_of(peer, title, user=user, timeout=timeout, app=self)

    def client_of(self, peer: Peer, calling_ae: str) -> Client:
        """Return a client of a resolved peer, for a C-MOVE to a URL."""
        from pacsroute.net.connecting import client_of  # noqa: PLC0415 - upstairs, only when asked

        return client_of(peer, calling_ae, app=self)

    def test_client(
        self,
        *,
        calling_ae: str = "TEST",
        called_ae: str | None = None,
        user: Any = None,
        identity: str | tuple[str, str] | UserIdentity | None = None,
        peers: Mapping[str, App] | None = None,
    ) -> TestClient:
        """Return a client of this app in memory, for tests; use it with ``with``.

        Parameters
        ----------
        calling_ae, called_ae : str
            The AE titles of the association; that of the app is called by default.
        user : object, optional
            The value of `request.user`, without calling `authenticate`.
        identity : str, (str, str) or UserIdentity, optional
            The identity that `authenticate` gets, as the `user` of `pacsroute.connect`.
        peers : mapping of str to App, optional
            The apps that a C-MOVE and `connect` reach, by AE title.

        Examples
        --------
        >>> app = App()
        >>> with app.test_client() as client:
        ...     client.echo().category
        'Success'
        """
        from pacsroute.testing import TestClient  # noqa: PLC0415 - upstairs, only when asked

        return TestClient(
            self,
            calling_ae=calling_ae,
            called_ae=called_ae,
            user=user,
            identity=identity,
            peers=peers,
        )

    def run(
        self,
        host: str | None = None,
        port: int | None = None,
        **settings: Unpack[ServerSettings],
    ) -> None:
        """Serve until SIGINT or SIGTERM, as ``pacsroute run`` does; for the end of a script.

        It prints the services and the address, and logs to stderr unless the script has set up
        logging. If it cannot serve, it exits with an error message. ``pacsroute run`` can serve a
        file that calls this at import; it skips the call.

        Parameters
        ----------
        host, port, **settings
            As for `serve`.
        """
        from pacsroute.foreground import run  # noqa: PLC0415 - upstairs, only when asked

        run(self, host, port, settings)
