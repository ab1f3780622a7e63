"""Processes of one archive: one is killed and others go on, whatever each has under way."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.archives import only_folder, uids_in
from support.names import WAIT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="it has no workers"),
]

# Stores instances, each when it is told to on its input: with "die" it is killed within the next.
WORKER = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from support.archives import image
from pacsroute import App, Archive, Instance
from pacsroute.archive import storing

app = App("ARCHIVE")
archive = Archive(sys.argv[2], min_free=0, index=sys.argv[3])
app.register_blueprint(archive)
place = sys.argv[4]

def around(owner, name):
    function = getattr(owner, name)
    def wrapped(*args, **options):
        if doomed and place == f"before {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **options)
        if doomed and place == f"after {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapped)

doomed = False
with app.running():
    for name in ("receive", "place", "settle"):
        around(type(archive._files), name)
    around(storing, "admit")
    print("ready", flush=True)
    for line in sys.stdin:
        what, number = line.split()
        doomed = what == "die"
        archive.add(Instance(image(int(number))))
        print(f"1.3.{number}", flush=True)
"""
PLACES = [
    f"{when} {what}"
    for what in ("receive", "place", "admit", "settle")
    for when in ("before", "after")
]


class Worker:
    def __init__(self, make, place=""):
        tests = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, tests, make.where, make.index, place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def store(self, number):
        self._tell(f"store {number}")
        assert self.process.stdout.readline() == f"1.3.{number}\n"

    def die(self, number):
        self._tell(f"die {number}")
        assert self.process.wait(WAIT) == -signal.SIGKILL
        self.process.stdout.close()
        self.process.stdin.close()

    def _tell(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self):
        self.process.communicate(timeout=WAIT)
        assert self.process.returncode == 0


@only_folder
@pytest.mark.parametrize("place", PLACES)
def test_worker_that_is_killed_takes_nothing_from_the_others(make, place):
    """What it had under way is settled by the next that starts, while others store."""
    lives, dies = Worker(make), Worker(make, place)
    lives.store(1)
    dies.store(2)
    dies.die(3)
    lives.store(4)
    next_one = Worker(make)  # in its place
    next_one.store(5)
    lives.store(6)
    app = make()
    with app.test_client() as client:
        there = uids_in(client)
        acknowledged = {f"1.3.{number}" for number in (1, 2, 4, 5, 6)}
        assert acknowledged <= there <= acknowledged | {"1.3.3"}
        assert ("1.3.3" in there) == (place != "before receive")
        assert list(app.state.archive.check()) == []
        lives.store(7)
    next_one.end()
    lives.end()
    with make().test_client() as client:
        assert uids_in(client) == there | {"1.3.7"}
        own = [
            one for one in (make.folder / "archive" / ".incoming").iterdir() if any(one.iterdir())
        ]
        assert own == []
