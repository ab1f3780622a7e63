"""The server: one thread for each association, from accept to handler.

A few threads wait in `accept`; the thread that accepts a peer also serves it, then waits again.
Starting a thread for each peer would cost more than a short association. A peer on the same machine
also gets its responses faster: 1.8 times as many echoes and 2 times as many associations a second
as with a new thread each. The thread of the last association polls for a moment before it waits: a
peer that associates for each message comes back at once, and finds a thread that is awake.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Unpack

from pacsroute.config import check_own
from pacsroute.errors import SetupError
from pacsroute.framework.base import BaseApp, ListenerFactory, Listening, ServerView
from pacsroute.instances.atomic_files import try_out
from pacsroute.net import transport
from pacsroute.net.association import Association
from pacsroute.net.listening import addresses, listen
from pacsroute.net.places import REFUSALS, Places, Stay
from pacsroute.net.proxied import Balancers
from pacsroute.net.serving import serve
from pacsroute.thread_pool import DaemonPool
from pacsroute.tls import TLS, configured
from pacsroute.upper_layer.pdu import AssociateRJ

if TYPE_CHECKING:
    from pacsroute.settings import ServerSettings

logger = logging.getLogger("pacsroute")

_AFTER_THREADS = 4
_STOP_TICK = 0.05
_SIGNAL_TICK = 0.1
_ACCEPT_TICK = 0.25  # seconds between checks of a shared listener for a stop
_SPARE = 4  # threads that wait for a peer, on each port; more of them end
_HURRY = 1.0  # seconds for a peer that is served by the last waiting thread
_AGAIN = 60.0  # seconds before a continuing failure is logged again


@dataclass(eq=False)
class _Door:
    """A DICOM port, and the number of threads that wait there, guarded by the server's lock."""

    listener: socket.socket
    tls: TLS | None = None
    spare: int = 0

    def look_out(self) -> None:
        """Poll briefly for a peer, because waking up costs more than a short association.

        Other programs get the CPU meanwhile if they need it, and another thread may get the peer.
        """
        waiting, deadline = self.spare, time.monotonic() + transport.SOON
        while self.spare >= waiting and not transport.readable(self.listener, 0):
            if time.monotonic() > deadline:
                break
            transport.yield_cpu()


class Server:
    """A DICOM server for an app; it listens as soon as it is created.

    Parameters
    ----------
    app : App
        The app whose handlers answer.
    host, port : str and int, optional
        The address, instead of that in the app's settings; port 0 picks a free one.
    listeners : mapping of str to socket, optional
        Listening sockets by the name of the port's setting, such as ``tls_port``; other processes
        may accept from them, too.
    neighbours : str, optional
        A folder that these processes share.
    **settings
        Settings of `pacsroute.Config` instead of the app's: those for listening, TLS, times, and
        numbers of associations.

    Attributes
    ----------
    host, port : str and int
        The address on which it listens.
    tls_port : int or None
        The port for TLS; it is `port` if the settings name no other.
    metrics_port : int or None
        The port for health and metrics over HTTP, if any.
    web_port : int or None
        The port for DICOMweb, if any.

    Raises
    ------
    OSError
        If it cannot listen there.
    SetupError
        If the TLS files or the spool cannot be used, or a setting belongs to the app.

    Examples
    --------
    >>> from pacsroute import App
    >>> with Server(App(), port=0) as server:
    ...     server.port > 0
    True
    """

    def __init__(
        self,
        app: BaseApp,
        host: str | None = None,
        port: int | None = None,
        *,
        listeners: Mapping[str, socket.socket] | None = None,
        neighbours: str | None = None,
        **settings: Unpack[ServerSettings],
    ) -> None:
        self.app = app
        self.neighbours = neighbours
        given = {"host": host, "port": port} | settings
        chosen = {name: value for name, value in given.items() if value is not None}
        check_own(chosen)
        self.config = app.config.replace(**chosen)
        tls = configured(self.config)
        check_spool(app.config.spool)
        self._shared = listeners is not None
        if listeners is None:
            listeners = {name: one.socket for name, one in listen(self.config).items()}
        elif listeners.keys() != addresses(self.config).keys():
            raise SetupError("the listeners do not match the ports in the settings")
        ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
        self.host, self.port = listeners["port"].getsockname()[0], ports["port"]
        self.metrics_port: int | None = ports.get("metrics_port")
        self.web_port: int | None = ports.get("web_port")
        self.tls_port: int | None = ports.get("tls_port", self.port) if tls else None
        self._doors = [
            _Door(listeners[name], tls if ports[name] == self.tls_port else None)
            for name in ("port", "tls_port")
            if name in listeners
        ]
        try:
            self._monitors = self._beside(listeners, {"metrics_port": _monitor})
            self._sites = self._beside(listeners, app.listeners)
        except BaseException:
            for listener in listeners.values():
                listener.close()
            raise
        # Shared by the accepting threads and the one that stops the server; the lock guards them.
        self._threads: dict[threading.Thread, Association | None] = {}
        self._places = Places(self.config)
        self._balancers = Balancers(self.config.proxy_from)
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}
        self._stop = threading.Event()
        self._over = False  # the grace period has ended
        self._hurried = False
        self._draining = False
        self._signalled = False
        self._running = contextlib.ExitStack()
        self._after: DaemonPool | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start accepting associations, in the app's lifespan."""
        for one in self._monitors:
            one.start()
        try:
            self._running.enter_context(self.app.serving_peers())
            for one in self._sites:
                one.start()
        except BaseException:
            _close(self._doors)
            _stop_all(self._sites)
            self._running.close()
            _stop_all(self._monitors)
            raise
        if self._shared:
            for door in self._doors:
                door.listener.setblocking(True)
                transport.set_up(door.listener, _ACCEPT_TICK, 0)
        self._after = DaemonPool("pacsroute-after", _AFTER_THREADS)
        with self._lock:
            for door in self._doors:
                for _ in range(_SPARE):
                    self._begin(door)

    def stop(self) -> None:
        """Stop: no new associations, a grace period for the running ones, then A-ABORT.

        Waiting functions of `request.after` run to their end, and the app's lifespan ends last,
        even if a second Ctrl-C interrupts the rest.
        """
        try:
            self._wind_down()
        finally:
            try:
                self._running.close()
            finally:
                _stop_all(self._monitors)

    def _beside(
        self, listeners: Mapping[str, socket.socket], makers: Mapping[str, ListenerFactory]
    ) -> list[Listening]:
        """Return the servers for ports other than DICOM's."""
        return [
            makers[name](listener, self.app, self)
            for name, listener in listeners.items()
            if name in makers
        ]

    def _wind_down(self) -> None:
        """Stop everything except for the app's lifespan, and the monitor unless others answer."""
        self._stop.set()
        sites = threading.Thread(target=_stop_all, args=(self._sites,), daemon=True)
        sites.start()  # their requests have the same grace period
        try:
            self._end_associations()
        finally:
            while sites.is_alive() and not self._hurried:
                sites.join(_STOP_TICK)
        if self._after is not None:
            self._after.drain(lambda: self._hurried)

    def _end_associations(self) -> None:
        """Accept no more associations; running ones have the grace period."""
        if self._shared:  # shutting them down would affect the other processes, too
            _stop_all(self._monitors)  # the other processes answer instead
            deadline = time.monotonic() + 2 * _ACCEPT_TICK
            while self._spare and time.monotonic() < deadline and not self._hurried:
                time.sleep(_STOP_TICK)
        else:
            for door in self._doors:
                with contextlib.suppress(OSError):
                    door.listener.shutdown(socket.SHUT_RDWR)  # wakes the threads in accept
        _close(self._doors)
        count = len(self._associations())
        if count:
            logger.info("stopping: %d associations have %g s to finish", count, self.config.grace)
        deadline = time.monotonic() + self.config.grace
        # A peer that was just accepted has no association yet.
        while self._busy() and time.monotonic() < deadline and not self._hurried:
            time.sleep(_STOP_TICK)
        self._over = True  # for associations that begin later
        for association in self._associations():
            association.stop()
        deadline = time.monotonic() + 2
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = self._associations()
        if stuck:
            logger.warning("stopped, although %d handlers have not ended", len(stuck))

    def drain(self) -> None:
        """Continue to serve for the drain time, while `obstacle` reports the coming stop.

        This lets a load balancer stop using the server before it stops.
        """
        self._draining = True
        deadline = time.monotonic() + self.config.drain
        if self.config.drain:
            logger.info("draining: the server keeps serving for %g s", self.config.drain)
        while time.monotonic() < deadline and not self._hurried:
            time.sleep(_SIGNAL_TICK)

    def hurry(self) -> None:
        """End the waits of `drain` and `stop`; a signal handler may call it."""
        self._hurried = True

    def run(self, ready: Callable[[], object] | None = None) -> None:
        """Serve until SIGINT or SIGTERM; a second one cuts the grace period short.

        Parameters
        ----------
        ready : callable, optional
            Called once the server accepts associations.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in signals}
        try:
            with self:
                if ready is not None:
                    ready()
                # Short waits, because a signal that another thread receives does not end a wait.
                while not self._signalled:
                    time.sleep(_SIGNAL_TICK)
                self.drain()
        finally:
            self._signalled = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop `run`. The main thread may hold any lock here, so this does not use an Event."""
        if self._signalled:
            self.hurry()
        self._signalled = True

    def obstacle(self) -> str:
        """Return the reason why the server is not ready, or an empty text."""
        if self._stop.is_set():
            return "it is stopping"
        if self._draining:
            return "it is draining"
        if self._after is None:
            return "it is starting"
        if self._places.associations >= self.config.max_associations:
            return f"max_associations reached, {self.config.max_associations} associations"
        work = self.app.work_under_way
        return (work.obstacle() if work is not None else "") or self.app.unready()

    @property
    def associations(self) -> int:
        """The number of associations."""
        return self._places.associations

    @property
    def _spare(self) -> int:
        return sum(door.spare for door in self._doors)

    def _busy(self) -> int:
        """Return how many threads serve a peer."""
        with self._lock:
            return len(self._threads) - self._spare

    def _associations(self) -> list[Association]:
        with self._lock:
            return [association for association in self._threads.values() if association]

    def _begin(self, door: _Door) -> bool:
        """Start a thread that waits for a peer, under the lock; return whether it started."""
        thread = threading.Thread(target=self._work, args=(door,), name="pacsroute", daemon=True)
        self._threads[thread] = None
        door.spare += 1
        try:
            thread.start()
        except RuntimeError as error:
            del self._threads[thread]
            door.spare -= 1
            self._complain("no thread for the next association", error)
            return False
        return True

    def _complain(self, what: str, why: object) -> None:
        """Log a repeated failure at a limited rate; the caller holds the lock."""
        now = time.monotonic()
        if now - self._logged.get(what, -_AGAIN) >= _AGAIN:
            self._logged[what] = now
            logger.error("%s: %s", what, why)

    def _work(self, door: _Door) -> None:
        """Accept and serve one peer after another, while few other threads wait."""
        thread, waits = threading.current_thread(), True
        try:
            while waits and (accepted := self._accept(door)) is not None:
                with self._lock:
                    door.spare -= 1
                    waits = False
                    last = not door.spare and self._is_last(door)
                host = None
                try:
                    host = self._host(*accepted)
                    if host is not None:
                        self._serve(thread, accepted[0], host, door.tls, last=last)
                except BaseException:  # perhaps out of memory; serve the next peer anyway
                    logger.exception("a peer could not be served")
                    accepted[0].close()
                finally:
                    if host is not None:
                        self._places.disconnect(host)
                    with self._lock:
                        self._threads[thread] = None
                        waits = door.spare < _SPARE
                        door.spare += waits
        finally:
            with self._lock:
                door.spare -= waits
                del self._threads[thread]

    def _is_last(self, door: _Door) -> bool:
        """Start another thread, under the lock; return whether there is none, but should be."""
        busy = len(self._threads) - self._spare
        return busy < self.config.max_associations + REFUSALS and not self._begin(door)

    def _accept(self, door: _Door) -> tuple[socket.socket, str] | None:
        """Wait for a peer; return its socket and host, or None when the server stops."""
        if not self._places.associations:
            door.look_out()
        while not self._stop.is_set():
            try:
                sock, address = door.listener.accept()
            except BlockingIOError:  # the tick of a shared listener
                continue
            except OSError as error:
                if not self._stop.is_set():
                    # Out of descriptors, or the peer has gone: wait, and go on.
                    with self._lock:
                        self._complain("accept failed", error.strerror)
                    self._stop.wait(0.1)
                continue
            if self._balancers or self._places.connect(address[0]):
                return sock, address[0]
            sock.close()
        return None

    def _host(self, sock: socket.socket, host: str) -> str | None:
        """Return the host of a peer; behind a load balancer, the one it reports.

        None means to close the connection: it has no peer, or the peer has too many.
        """
        if not self._balancers:
            return host
        source = self._balancers.source(sock, host)
        if source is not None and source.host and self._places.connect(source.host):
            return source.host
        sock.close()
        return None

    def _defer(self, function: Callable[[], object]) -> None:
        assert self._after is not None
        try:
            self._after.submit(function)
        except RuntimeError:  # no thread is available, or the server has stopped
            function()

    def _serve(
        self,
        thread: threading.Thread,
        sock: socket.socket,
        host: str,
        tls: TLS | None,
        *,
        last: bool,
    ) -> None:
        """Serve a peer; if no other thread waits, turn it away, so that others can connect."""
        config = self.config.replace(artim=min(self.config.artim, _HURRY)) if last else self.config
        stay = Stay(self._places, host, AssociateRJ(2, 3, 1) if last else None)
        association = Association(
            sock,
            self.app,
            host,
            defer=self._defer,
            tls=tls.server() if tls else None,
            config=config,
            alone=self._places.has_one,
            vacate=stay.end,
        )
        with self._lock:
            self._threads[thread] = association
            if self._over:  # this peer was accepted just before the stop
                association.stop()
        try:
            serve(self.app, association, stay.begin)
        finally:
            stay.end()  # before waiting for the peer to close
            association.dispose()


def _stop_all(listening: list[Listening]) -> None:
    while listening:
        listening.pop().stop()


def _monitor(listener: socket.socket, app: BaseApp, server: ServerView) -> Listening:
    from pacsroute.net.monitor import Monitor  # noqa: PLC0415 - with its HTTP, if asked for

    return Monitor(listener, app, server.obstacle)


def _close(doors: Iterable[_Door]) -> None:
    for door in doors:
        door.listener.close()


def check_spool(spool: str | None) -> None:
    """Refuse a spool folder that is not writable."""
    if spool is not None:
        try:
            try_out(spool)
        except OSError as error:
            why = error.strerror or error
            raise SetupError(f"the spool {spool} cannot be used: {why}") from None
