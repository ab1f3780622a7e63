"""``pacsroute run --reload``: a new process for each saved file, on the same port.

This process never loads the app. It forks a child that loads and serves it; when a file is saved,
it ends that child and forks the next. The first child that listens hands over its socket, and this
process keeps it for later children, so that peers that connect meanwhile wait and are answered.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

import click
from watchfiles import Change, PythonFilter, watch

from pacsroute.app import App
from pacsroute.config import Config
from pacsroute.foreground import explained, serve
from pacsroute.net.listening import Listener, listen
from pacsroute.net.server import Server

_TICK = 100  # milliseconds between checks for a message of the child
_PATIENCE = 3.0  # seconds that a child has to end
_MISUSED = 2  # the exit code for a wrong command line, which saving a file cannot fix
_wanted = PythonFilter(extra_extensions=[".toml"])


def run_reloading(load_app: Callable[[], App], spec: str | None) -> None:
    """Serve until SIGINT or SIGTERM; restart whenever a file is saved.

    Parameters
    ----------
    load_app : callable
        Loads the app; called in its own process.
    spec : str or None
        The name of the app on the command line.
    """

    def serve_once(session: Session) -> None:
        try:
            app = load_app()
        finally:
            session.tell()
        with explained():
            # A programmer who saves a file does not want to wait for a workstation to release.
            server = Server(app, listeners=session.listen(app.config), grace=0, drain=0)
        serve(server, ready=session.tell)

    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    supervisor = _Supervisor(_first_folders(spec), stop)
    while not stop.is_set():
        supervisor.run(serve_once)


class Session:
    """The data that a child has from its parent process.

    Parameters
    ----------
    channel : socket
        The channel for its messages to the parent.
    listeners : dict of str to Listener
        The sockets on which an earlier child listened.
    """

    def __init__(self, channel: socket.socket, listeners: dict[str, Listener]) -> None:
        self._listeners = listeners
        self._channel = channel

    def listen(self, config: Config) -> dict[str, socket.socket]:
        """Listen as set, reusing earlier sockets for unchanged addresses."""
        before, self._listeners = self._listeners, listen(config, self._listeners)
        for name, listener in before.items():
            if self._listeners.get(name) is not listener:
                listener.socket.close()
        self.tell()
        return {name: listener.socket for name, listener in self._listeners.items()}

    def tell(self) -> None:
        """Report the folders of imported modules, and the listening sockets."""
        listeners = self._listeners.items()
        told = {
            "folders": sorted(_imported()),
            "listeners": [(name, one.host, one.port) for name, one in listeners],
        }
        descriptors = [one.socket.fileno() for _, one in listeners]
        socket.send_fds(self._channel, [json.dumps(told).encode()], descriptors)


class _Supervisor:
    def __init__(self, folders: set[str], stop: threading.Event) -> None:
        self._folders = folders
        self._stop = stop
        self._listeners: dict[str, Listener] = {}
        self._running = False

    def run(self, serve: Callable[[Session], object]) -> None:
        """Serve in a child until a file is saved or this process must stop."""
        since = time.time()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs:
            ours.setblocking(False)
            child = multiprocessing.get_context("fork").Process(
                target=_child, args=(serve, Session(theirs, self._listeners))
            )
            child.start()
            self._running = True
            try:
                while not (self._saved(since, child, ours) or self._stop.is_set()):
                    pass
            finally:
                child.terminate()
                child.join(_PATIENCE)
                child.kill()
                child.join()
                self._hear(ours)

    def _saved(self, since: float, child: BaseProcess, channel: socket.socket) -> bool:
        """Wait for a file to be saved; return False early if there are more folders to watch."""
        watched, seen = _present(self._folders), frozenset[tuple[str, int]]()
        for changes in watch(
            *dict(watched),
            watch_filter=_wanted,
            stop_event=self._stop,
            rust_timeout=_TICK,
            yield_on_timeout=True,
            recursive=False,
        ):
            saved = [path for _, path in changes] or _newer(dict(watched - seen), since)
            seen = watched
            if saved:
                click.echo(f"{os.path.relpath(min(saved))} is saved: restarting")
                return True
            if self._running and not child.is_alive():
                self._running = False
                if child.exitcode == _MISUSED:
                    raise click.exceptions.Exit(_MISUSED)
                click.echo("the app has ended: waiting for a file to be saved", err=True)
            self._hear(channel)
            if watched != _present(self._folders):
                break
        return False

    def _hear(self, channel: socket.socket) -> None:
        """Take the report of the child."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(channel, 1 << 18, 8)
                told = json.loads(data)
                self._folders |= set(told["folders"])
                for listener in self._listeners.values():
                    listener.socket.close()
                self._listeners = {
                    name: Listener(host, port, socket.socket(fileno=descriptor))
                    for (name, host, port), descriptor in zip(
                        told["listeners"], descriptors, strict=True
                    )
                }


def _child(serve: Callable[[Session], object], session: Session) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # If a file is saved twice within a second, Python would use the first compiled version.
    sys.dont_write_bytecode = True
    # multiprocessing has closed it, and `breakpoint()` in a handler wants it.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    try:
        serve(session)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(1)


def _first_folders(spec: str | None) -> set[str]:
    """Return the folder of the app, if its name shows it."""
    source = (spec or "app.py").partition(":")[0]
    is_path = source.endswith(".py")
    folders = [Path(source).parent] if is_path else Path(*source.split(".")).parents
    return {str(path.resolve()) for path in (Path.cwd(), *folders) if path.is_dir()}


def _imported() -> set[str]:
    """Return the folders of the modules that are imported, without those that are installed."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(file).parent for file in files if file}
    standard = Path(sysconfig.get_path("stdlib"))
    return {
        str(path)
        for path in paths
        if not path.is_relative_to(standard)
        and not {"site-packages", "dist-packages"} & set(path.parts)
    }


def _present(folders: Iterable[str]) -> frozenset[tuple[str, int]]:
    """Return the existing folders with their inodes, which a new folder of that name changes."""
    found = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            found.add((folder, os.stat(folder).st_ino))
    return frozenset(found)


def _newer(folders: Iterable[str], since: float) -> list[str]:
    """Return the files that were saved before their folders were watched."""
    found = []
    now = time.time()  # a time in the future means nothing
    for folder in folders:
        with contextlib.suppress(OSError):  # it may be gone by now
            found += [
                entry.path
                for entry in os.scandir(folder)
                if _wanted(Change.modified, entry.path) and since < entry.stat().st_mtime <= now
            ]
    return found
