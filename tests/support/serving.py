"""``pacsroute run`` in a process of its own."""

import re
import signal
import subprocess
import sys

import pytest
from support.names import WAIT
from support.processes import ended, environment
from support.raw_peer import RawPeer

APP = """
from pacsroute import App

app = App("HELLO")

@app.store
def store(request): ...

@app.find("Worklist", calling_ae="CT1")
def worklist(request):
    return []
"""


def command(*arguments):
    return [sys.executable, "-m", "pacsroute", "run", *arguments]


def fails(folder, *arguments, **values):
    """Run a command that is to fail; return what it said."""
    done = ended(command("--port", "0", *arguments), folder, **values)
    assert done.returncode not in (0, None)
    assert done.stdout == ""
    return done.stderr


class Serving:
    """A server in a process of its own; its lines until it listens are in `lines`."""

    def __init__(self, folder, *arguments, start=None, **values):
        self.process = subprocess.Popen(
            start or command("--port", "0", *arguments),
            cwd=folder,
            env=environment(**values),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = []
        self.port = 0

    def __enter__(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            found = re.match(r"listening on 127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                with RawPeer(self.port) as peer:  # answered once its signals are heard too
                    peer.echo()
                    peer.release()
                return self
        self.__exit__()
        pytest.fail(f"it never listened: {self.lines}")

    def __exit__(self, *exception):
        self.process.kill()
        self.process.communicate()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        rest, errors = self.process.communicate(timeout=WAIT)
        return self.process.returncode, rest, errors
