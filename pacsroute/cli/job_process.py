"""The program of a job with ``process=True``: it calls one function of the user's file."""

from __future__ import annotations

import importlib
import importlib.util
import json
import resource
import socket
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pacsroute.child_processes import begin_child
from pacsroute.foreground import loading
from pacsroute.framework.requests import Peer
from pacsroute.framework.work import Job
from pacsroute.instances.decoding.channel import hear, tell

_MAIN = "__pacsroute_main__"  # the name of a script here, so that its main guard is false
_BEYOND = 60  # seconds of CPU time beyond the timeout, in case the server is gone


def main() -> None:
    """Run the job of the server."""
    channel = begin_child(trusted=True)
    _, (file,) = hear(channel)
    with open(file, "rb") as described:
        call = json.load(described)
    if call["timeout"] is not None:
        seconds = int(call["timeout"]) + _BEYOND
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        _run(call, lambda: _announce(channel))
    except BaseException as error:  # noqa: BLE001 - whatever the user's function does
        traceback.print_exc()
        tell(channel, {"error": type(error).__name__})  # its text may contain patient data
    else:
        tell(channel, {"done": True})


def _announce(channel: socket.socket) -> None:
    """Report the start of the function: the server counts its time from now on."""
    tell(channel, {"begun": True})
    hear(channel)


def _run(call: dict[str, Any], begin: Callable[[], object]) -> None:
    with loading():
        module = _imported(call["module"], call["file"])
    job = getattr(module, call["function"], None)
    if not isinstance(job, Job):
        raise LookupError(f"{module.__name__} has no job {call['function']}")
    job.app.config.from_mapping(call["settings"])
    for title, place in call["destinations"].items():
        job.app.destinations.setdefault(title, Peer(*place))
    with job.app.running():
        begin()
        job.function(*call["args"], **call["kwargs"])


def _imported(name: str, file: str | None) -> ModuleType:
    if name != "__main__":
        return importlib.import_module(name)
    assert file is not None
    found = importlib.util.spec_from_file_location(_MAIN, file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[_MAIN] = module
    found.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
