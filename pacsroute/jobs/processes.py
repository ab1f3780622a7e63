"""Call functions in separate processes, which end with the serving process."""

from __future__ import annotations

import dataclasses
import json
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from typing import Any

from pacsroute.child_processes import start_child
from pacsroute.framework.base import BaseApp
from pacsroute.framework.work import Job as JobFunction
from pacsroute.instances.decoding.channel import hear, tell
from pacsroute.jobs.functions import Call, Interrupted, ProcessFailed
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import Job

_PROGRAM = "pacsroute.cli.job_process"
_TICK = 0.25  # seconds between checks for a timeout or the stop of the app
_START = 120.0  # seconds within which the process must load the app and start its lifespan
_GRACE = 5.0  # seconds that a call has to finish when the app stops


def in_process(queue: Queue, function: JobFunction[Any, Any], app: BaseApp) -> Call:
    """Return the runner that calls a function in a separate process and records its end."""

    def call(job: Job, stop: threading.Event) -> object:
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as file:
            with theirs:
                process = start_child(_PROGRAM, theirs, trusted=True)
            try:
                file.write(json.dumps(_described(function, app, job)).encode())
                file.seek(0)
                tell(ours, {}, [file.fileno()])
                _wait(ours, _START, stop)
                answer = hear(ours)[0]  # the function starts, or the file could not be loaded
                if "error" not in answer:
                    tell(ours, {})
                    _wait(ours, function.timeout, stop)
                    answer = hear(ours)[0]
            except (EOFError, OSError):
                raise ProcessFailed(_end(process.wait())) from None
            finally:
                process.kill()
                process.wait()
        if "error" in answer:
            raise ProcessFailed(answer["error"])
        return queue.done(job)

    return call


def _described(function: JobFunction[Any, Any], app: BaseApp, job: Job) -> dict[str, Any]:
    """Return the data for the process: the function's location, its arguments, the settings."""
    module = function.function.__module__
    peers = {
        title: (peer.host, peer.port, peer.ae_title)
        for title, peer in app.destinations.items()
        if peer.tls is None
    }
    return {
        "module": module,
        "file": getattr(sys.modules.get(module), "__file__", None),
        "function": function.name,
        "timeout": function.timeout,
        "settings": dataclasses.asdict(app.config),
        "destinations": peers,
        **job.arguments,
    }


def _wait(channel: socket.socket, timeout: float | None, stop: threading.Event) -> None:
    """Wait for an answer until the function times out or the app stops."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    deadline = None if timeout is None else time.monotonic() + timeout
    stopping: float | None = None
    while not poll.poll(_TICK * 1000):
        now = time.monotonic()
        if deadline is not None and now > deadline:
            raise ProcessFailed(f"it took more than {timeout:g} s")
        if stop.is_set():
            stopping = stopping or now
            if now - stopping > _GRACE:
                raise Interrupted


def _end(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        return f"its process was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was killed by signal {-status}"
