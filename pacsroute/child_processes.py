"""Child processes: separate programs that never outlive the process that started them.

They are never forks: a fork has the threads' locks, the sockets and the memory of its parent.
They inherit one socket and no other open file. From the environment, which also contains
secrets, they get only the variables that a program needs to find its libraries.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from queue import SimpleQueue
from typing import TYPE_CHECKING

from pacsroute.thread_pool import DaemonPool

if TYPE_CHECKING:
    import subprocess

_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
# One thread: each thread of a library reserves memory, and a child has little.
_THREADS = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PR_SET_PDEATHSIG = 1

# By process: a fork, such as a gunicorn worker, has none of its parent's threads.
_starters: dict[int, DaemonPool] = {}


def start_child(
    module: str, channel: socket.socket, *, trusted: bool = False
) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` as a child that ends with this process.

    Linux ends a child with the thread that started it, so a single thread starts all children
    and lives as long as the process.

    Parameters
    ----------
    module : str
        The program. It first calls `begin_child`, which returns its end of the channel.
    channel : socket.socket
        The socket that it inherits.
    trusted : bool
        Whether it runs the user's own code, and handles no data of peers: then it gets the
        environment, the folder and the output of this process.

    Raises
    ------
    OSError
        If it cannot be started.
    """
    starter = _starters.setdefault(os.getpid(), DaemonPool("pacsroute-children", 1))
    started: SimpleQueue[subprocess.Popen[bytes] | BaseException] = SimpleQueue()

    def start() -> None:
        try:
            started.put(_popen(module, channel, trusted=trusted))
        except BaseException as error:  # noqa: BLE001 - the one who waits raises it
            started.put(error)

    starter.submit(start)
    child = started.get()
    if isinstance(child, BaseException):
        raise child
    return child


def _popen(module: str, channel: socket.socket, *, trusted: bool) -> subprocess.Popen[bytes]:
    import subprocess  # noqa: PLC0415 - when the first one is needed

    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path if folder)
    number = channel.fileno()
    if trusted:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(number), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            pass_fds=(number,),
            process_group=0,
        )
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-m", module, str(number), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment | _THREADS | {"PYTHONPATH": path},
        pass_fds=(number,),
        process_group=0,  # Ctrl-C in the terminal is for the parent, which ends its children
    )


def begin_child(*, trusted: bool = False) -> socket.socket:
    """Bind this process to the life of its parent; return its end of the channel."""
    number, parent = map(int, sys.argv[1:3])
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - only in a child

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died first
            os._exit(0)
    if sys.platform == "linux" and not trusted:
        # If memory runs out, the system kills this process instead of the server.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    if not trusted:
        os.nice(10)  # threads that answer peers come first
    return socket.socket(fileno=number)
