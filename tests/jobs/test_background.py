"""Functions of `@app.background`: each runs in one process, whatever becomes of that."""

import contextlib
import os
import signal
import time

import pytest
from support.names import WAIT
from support.postgresql import server
from support.processes import Running

pytestmark = pytest.mark.slow

APP = """
import os
from pacsroute import App

app = App("ARCHIVE", jobs=os.environ["QUEUE"])

@app.background
def tidy(stop):
    with open("told", "a") as file:
        print("begins", os.getpid(), file=file)
    stop.wait()
    with open("told", "a") as file:
        print("ends", os.getpid(), file=file)
"""


def told(folder):
    file = folder / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(what, int(pid)) for what, pid in map(str.split, lines)]


def until(condition, running=None):
    deadline = time.monotonic() + 2 * WAIT
    while not condition():
        assert time.monotonic() < deadline, running and running.lines
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def serving(folder, *options, where="jobs.db"):
    return Running(folder, "run", "app.py", "--port", "0", *options, QUEUE=where)


def test_a_worker_that_is_killed_is_followed_by_another_one(folder):
    with serving(folder, "--workers", "2"):
        until(lambda: told(folder))
        ((_, first),) = told(folder)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(told(folder)) == 2)
        what, second = told(folder)[1]
    assert what == "begins"
    assert second != first


def test_workers_that_overlap_run_it_one_after_the_other(folder):
    with serving(folder, "--workers", "2") as running:
        until(lambda: told(folder))
        running.signal(signal.SIGHUP)
        until(lambda: len(told(folder)) == 3)
    (begins, first), ends, (again, second) = told(folder)
    assert (begins, ends, again) == ("begins", ("ends", first), "begins")
    assert second != first


def test_a_stopped_process_keeps_its_place_on_one_machine(folder):
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(serving(folder)) for _ in range(2)]
        for process in processes:
            process.port()
        until(lambda: told(folder))
        ((_, first),) = told(folder)
        os.kill(first, signal.SIGSTOP)
        time.sleep(4)  # two looks of the other one
        assert told(folder) == [("begins", first)]
        os.kill(first, signal.SIGCONT)


def test_a_stopped_process_loses_its_place_to_another_machine_and_ends_when_it_is_back(folder):
    with server() as database, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(serving(folder, where=database.url())).port()
        until(lambda: told(folder))
        ((_, first),) = told(folder)
        os.kill(first, signal.SIGSTOP)
        until(lambda: len(told(folder)) == 2)
        _, second = told(folder)[1]
        os.kill(first, signal.SIGCONT)
        until(lambda: ("ends", first) in told(folder))
    assert second != first
