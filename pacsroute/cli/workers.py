"""``pacsroute run --workers``: several processes that serve, under gunicorn's arbiter.

The arbiter never loads the app: each worker does, so that SIGHUP loads changes.

All workers accept from one listening socket. The kernel wakes the processes in `accept` in turn,
which spreads associations evenly: 8 associations on two workers were always 4 and 4. With
SO_REUSEPORT and a socket for each worker they were 3 and 5 on average, and a worker that stops
drops its waiting peers.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import multiprocessing
import os
import pwd
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from mmap import mmap
from multiprocessing.connection import Connection
from socket import socket
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import click
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from pacsroute.app import App
from pacsroute.config import Config
from pacsroute.foreground import (
    address,
    announce,
    announce_monitor,
    announce_web,
    explained,
    lifespan_of,
)
from pacsroute.net.listening import addresses, listen
from pacsroute.net.server import Server, check_spool
from pacsroute.services.dispatcher import get_ready
from pacsroute.tls import configured

logger = logging.getLogger("pacsroute")

_HEARTBEAT = 1.0
_SILENCE = 30  # seconds without a heartbeat after which a worker is killed
_AFTERWARDS = 30  # seconds for `request.after` and lifespans, once associations have ended
_PAUSE = 1.0  # seconds before replacing a worker that cannot start
_TICK = 0.1  # seconds between checks that new workers serve
_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
T = TypeVar("T")


def run_workers(
    load_app: Callable[[], App], count: int, user: str | None, group: str | None
) -> None:
    """Serve with a number of workers until SIGTERM, which is graceful, SIGINT or SIGQUIT.

    Parameters
    ----------
    load_app : callable
        Loads the app; called in each worker.
    count : int
        How many workers there are.
    user, group : str or None
        Their account, if it is not that of this process.
    """
    account = Account.of(user, group) if user else None
    get_ready()  # once for all workers, while root can still read every file
    first: Config | None = None

    def look() -> Config:
        app = load_app()
        with explained():
            configured(app.config)
            check_spool(app.config.spool)
        if first is not None and addresses(app.config) != addresses(first):
            raise click.ClickException("changing the host or port requires a restart")
        announce(app)
        return app.config

    def make(listeners: dict[str, socket]) -> Server:
        with explained():
            return Server(load_app(), listeners=listeners, neighbours=shared.get("console"))

    first = try_out(look, account)
    with explained():
        listeners = {name: one.socket for name, one in listen(first).items()}
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    shared: dict[str, str] = {}
    if "metrics_port" in ports:
        announce_monitor(first.metrics_host, ports["metrics_port"])
        if _COUNTS not in os.environ:
            os.environ[_COUNTS] = shared["counts"] = _share(account)
        _get_monitor_ready()
    if "web_port" in ports:
        shared["console"] = _share(account)
        announce_web(first, ports["web_port"])
    host, tls_port = listeners["port"].getsockname()[0], ports.get("tls_port", ports["port"])
    where = address(host, ports["port"], tls_port if first.tls_certificate else None)
    click.echo(f"listening on {where} with {count} workers, Ctrl-C stops")
    folders = list(shared.values())
    Supervisor(make, look, listeners, count, account, folders, first.drain + first.grace).run()


def _share(account: Account | None) -> str:
    """Make a folder for the workers only."""
    folder = tempfile.mkdtemp(prefix="pacsroute-")
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    return folder


def _get_monitor_ready() -> None:
    """Import the HTTP servers: the workers' user may not be able to read them."""
    import_module("pacsroute.net.monitor")
    with contextlib.suppress(ModuleNotFoundError):  # the workers report it
        import_module("pacsroute.net.metrics")


def _ended(folders: Iterable[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo("stopped")


def _uncount(worker: Worker) -> None:
    """Remove an ended worker from the counts of open associations and requests."""
    if _COUNTS in os.environ:
        with contextlib.suppress(ModuleNotFoundError):
            from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

            mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


class Account(NamedTuple):
    """The account of the workers, if root has started them."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, user: str, group: str | None) -> Account:
        """Return the account of a user; by default, with the user's own group.

        Raises
        ------
        click.UsageError
            If the account does not exist, or this process does not run as root.
        """
        try:
            uid, gid = pwd.getpwnam(user)[2:4]
        except KeyError:
            raise click.UsageError(f"--user: there is no user {user!r}") from None
        try:
            gid = gid if group is None else grp.getgrnam(group).gr_gid
        except KeyError:
            raise click.UsageError(f"--group: there is no group {group!r}") from None
        if os.geteuid() != 0:
            raise click.UsageError("only root can use --user")
        return cls(user, uid, gid)

    def take(self) -> None:
        """Switch this process to the account, with its groups and none of root's."""
        os.initgroups(self.name, self.gid)  # gunicorn does either this or the next
        os.setgid(self.gid)
        os.setuid(self.uid)


def try_out(look: Callable[[], T], account: Account | None) -> T:
    """Return the result of a function in another process: this one loads nothing.

    Raises
    ------
    click.exceptions.Exit
        If it fails; the other process has reported the error.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_look, args=(look, account, sender))
    child.start()
    sender.close()
    try:
        with receiver:
            result: T = receiver.recv()
    except EOFError:
        child.join()
        raise click.exceptions.Exit(child.exitcode or 1) from None
    child.join()
    return result


def _look(look: Callable[[], Any], account: Account | None, sender: Connection) -> None:
    for number in Arbiter.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if account is not None:
        account.take()
    try:
        sender.send(look())
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


class Supervisor(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """Keeps a number of workers that serve.

    Parameters
    ----------
    make : callable
        Loads the app, and returns its server on the sockets that it is called with, by name.
    look : callable
        Loads the app, to see whether it can be.
    listeners : dict of str to socket
        The listening sockets of the workers, by the names of the ports' settings.
    count : int
        How many workers there are.
    account : Account or None
        Their account, if it is not that of this process.
    folders : list of str
        Their shared folders, which are removed at the end.
    time : float
        Seconds for a worker to drain when all stop, and to end its associations.
    """

    def __init__(
        self,
        make: Callable[[dict[str, socket]], Server],
        look: Callable[[], Any],
        listeners: dict[str, socket],
        count: int,
        account: Account | None,
        folders: list[str],
        time: float,
    ) -> None:
        self.make = make
        self.look = look
        self.account = account
        self.names = tuple(listeners)  # gunicorn keeps the sockets in the order of "bind"
        self.stops = mmap(-1, 1)  # shared with the workers: 1 when all are to stop
        self._settings = {
            "bind": [f"fd://{listener.detach()}" for listener in listeners.values()],
            "workers": count,
            "worker_class": DicomWorker,
            "logger_class": Log,
            "timeout": _SILENCE,
            "graceful_timeout": int(time) + _AFTERWARDS,
            "on_exit": lambda arbiter: _ended(folders),
            "child_exit": lambda arbiter, worker: _uncount(worker),
            "control_socket_disable": True,
        }
        if account is not None:
            self._settings |= {
                "user": account.uid,  # the owner of the heartbeat file
                "group": account.gid,
                "post_fork": lambda arbiter, worker: account.take(),
            }
        super().__init__()

    def load_config(self) -> None:
        """Hand our settings to gunicorn, as far as its version has them."""
        for name, value in self._settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until SIGTERM, which is graceful, or SIGINT or SIGQUIT, which are quick."""
        DicomArbiter(self).run()


class _NotReplacedError(Exception):
    """Old workers go on, since new ones could not start."""


class DicomArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter, which keeps the running workers if new ones cannot be loaded."""

    _reloading = False

    def handle_hup(self) -> None:
        """Replace the workers with new ones, which load the app again."""
        try:
            try_out(self.app.look, self.app.account)
        except click.exceptions.Exit:
            logger.error("the app cannot be loaded any more: the old workers keep serving")
        else:
            logger.info("reloading: new workers begin, the old ones finish")
            self._reloading = True
            try:
                super().handle_hup()
            except _NotReplacedError:
                logger.error("new workers cannot start: the old ones keep serving")
            finally:
                self._reloading = False

    def manage_workers(self) -> None:
        """End no worker before its replacement serves."""
        begun = len(self.WORKERS)
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while len(self.WORKERS) > self.num_workers and time.monotonic() < deadline:
            if all(map(_serves, list(self.WORKERS.values()))):
                break
            time.sleep(_TICK)
            self.reap_workers()
        failed = len(self.WORKERS) < begun
        super().manage_workers()
        if failed and self._reloading:  # else gunicorn would wait for the old ones to end
            raise _NotReplacedError

    def stop(self, graceful: bool = True) -> None:
        """Stop, even while workers fail to start."""
        if graceful:
            self.app.stops[0] = 1
        while True:
            with contextlib.suppress(HaltServer):
                super().stop(graceful)
                return

    def handle_usr2(self) -> None:
        """Do nothing: the command line would have to listen on its port once more."""
        logger.warning("SIGUSR2 does nothing here; SIGHUP loads the app again")


def _serves(worker: Worker) -> bool:
    """Return whether a worker has reached a stage, by its file."""
    return os.fstat(worker.tmp.fileno()).st_size > 0


class Log(glogging.Logger):  # type: ignore[misc]
    """gunicorn's messages in our log; its routine messages are at debug level."""

    def setup(self, cfg: Any) -> None:
        """Send all messages to our own log."""
        self.cfg = cfg
        self.error_log = logging.getLogger("pacsroute.arbiter")

    def info(self, msg: str, *args: Any, **options: Any) -> None:
        """Log something for debugging."""
        self.debug(msg, *args, **options)


class DicomWorker(Worker):  # type: ignore[misc]
    """One process that serves; it reports to its arbiter once a second."""

    server: Server | None = None

    def load_wsgi(self) -> None:
        """Load nothing yet, and no WSGI app at all."""

    def run(self) -> None:
        """Load the app and serve it until a signal of the arbiter's."""
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            sockets = [listener.sock for listener in self.sockets]
            self.server = self.app.make(dict(zip(self.app.names, sockets, strict=True)))
            with lifespan_of(self.server.app), self.server:
                os.write(self.tmp.fileno(), b"serves")
                self.notify()  # its timestamp was the heartbeat
                logger.info("worker %d serves", os.getpid())
                while self.alive and os.getppid() == self.ppid:
                    if select.select(self.PIPE[:1], [], [], _HEARTBEAT)[0]:
                        os.read(self.PIPE[0], 4096)  # there was a signal
                if self.app.stops[0]:  # all workers stop, and not only this one
                    self.server.drain()
            logger.info("worker %d has ended", os.getpid())
        except Exception as error:
            if isinstance(error, click.ClickException):
                error.show()
            else:
                logger.exception("worker %d failed", os.getpid())
            if self.age <= self.cfg.workers:  # it never worked: this ends the arbiter
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
            time.sleep(_PAUSE)
            sys.exit(1)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stop without a grace period; SIGTERM, which may come repeatedly, keeps it."""
        self.alive = False
        if self.server is not None:
            self.server.hurry()

    def _beat(self) -> None:
        while True:
            self.notify()
            time.sleep(_HEARTBEAT)
