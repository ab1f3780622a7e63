"""Commands that run in processes of their own, and what they say while they do."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading

import pytest
from support.names import WAIT
from support.places import ROOT


def environment(**values):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PACSROUTE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **values}


def ended(arguments, folder=None, text_in=None, **values):
    """Run a process to its end, with these environment variables; return what it printed."""
    return subprocess.run(
        arguments,
        cwd=folder,
        env=environment(**values),
        input=text_in,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


def pacsroute(folder, *arguments, text_in="", **values):
    """Run a command to its end; return its exit code, its output and its errors."""
    done = ended([sys.executable, "-m", "pacsroute", *arguments], folder, text_in, **values)
    return done.returncode, done.stdout, done.stderr


def without(module, folder, *arguments):
    """Run a command where a module is missing; return its exit code and its errors."""
    script = f"import sys; sys.modules['{module}'] = None\nfrom pacsroute.cli import main\nmain()"
    done = ended([sys.executable, "-c", script, *arguments], folder)
    return done.returncode, done.stderr


class Running:
    """A ``pacsroute`` command under way; its lines can be waited for, in their order."""

    def __init__(self, folder, *arguments, script=None, python=sys.executable, **values):
        program = ["-m", "pacsroute"] if script is None else [script]
        if python != sys.executable:  # it has a pacsroute of its own
            values = {"PYTHONPATH": "", **values}
        self.process = subprocess.Popen(
            [python, *program, *arguments],
            cwd=folder,
            env=environment(**values),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its children end with it, whatever happens
        )
        self.lines = []
        self._coming = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def _next(self, pattern):
        try:
            line = self._coming.get(timeout=WAIT)
        except queue.Empty:
            line = None
        if line is None:
            pytest.fail(f"no line {pattern!r} in {self.lines}")
        self.lines.append(line)
        return line

    def until(self, pattern):
        """Wait for a line that is still to come; return its match."""
        while not (found := re.search(pattern, self._next(pattern))):
            pass
        return found

    def all(self, pattern, count):
        """Wait until there are so many such lines, from the start on; return their matches."""
        while len(found := [m for line in self.lines if (m := re.search(pattern, line))]) < count:
            self._next(pattern)
        return found

    def port(self):
        return int(self.until(r"listening on 127\.0\.0\.1:(\d+)")[1])

    def signal(self, number):
        self.process.send_signal(number)

    def ended(self):
        """Wait for its end; return its exit code. All it has said is in `lines`."""
        code = self.process.wait(WAIT)
        while (line := self._coming.get(timeout=WAIT)) is not None:
            self.lines.append(line)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
