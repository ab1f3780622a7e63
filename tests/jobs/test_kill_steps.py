"""A router that is killed before, in and after each step that a job takes: nothing is lost.

The router kills itself, once, where the test says; another one is started, or an arbiter does so.
The sender sends again what was not acknowledged, as modalities do. Then all of it has to be
delivered, its files gone, and each series complete exactly once.
"""

import collections
import contextlib
import os
import socket
import subprocess
import threading
import time

import pytest
from support.names import WAIT
from support.postgresql import server
from support.processes import Running
from support.samples import FILES

from pacsroute import App, Instance, PacsrouteError, connect
from pacsroute.jobs.opening import open_queue

pytestmark = pytest.mark.slow

ROUTER = """
import functools, importlib, os, signal, uuid
from pathlib import Path
from pacsroute import App
from pacsroute.jobs import owners, queue, runner

owners.LEASE = queue.LEASE = 1.0
runner._BEAT = 0.2
for name in ("pacsroute.jobs.commitment", "pacsroute.jobs.work"):
    importlib.import_module(name).GATHER = 0.2

app = App("ROUTER", jobs=os.environ["QUEUE"], spool="spool")
app.commitment(timeout=2)

@app.store
def store(request):
    app.forward(request.save("queue"), to="PACS", delete=True, commit="commit" in os.environ)

@app.quiet("SERIES", after=1.0)
def complete(series):
    step("complete", "before")
    ended.later(series.uid, series.count, uuid.uuid4().hex, series.again)
    step("complete", "after")

@app.job(retry=[0.1])
def ended(*told):
    step("ended", "before")
    with open("ended", "a") as file:
        print(*told, file=file)
    step("ended", "after")

def step(name, when):
    if os.environ.get("STEP") == f"{when} {name}":
        try:
            os.close(os.open("died", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), 9)

def stepped(name, function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        step(name, "before")
        result = function(*args, **kwargs)
        step(name, "after")
        return result
    return call

if "." in os.environ.get("STEP", ""):
    name = os.environ["STEP"].split()[1]
    room, *path = name.split(".")
    holder = importlib.import_module(f"pacsroute.jobs.{room}")
    for part in path[:-1]:
        holder = getattr(holder, part)
    setattr(holder, path[-1], stepped(name, getattr(holder, path[-1])))
"""

# Each is a function: what is called within a transaction is in it, before and after.
DELIVERY = [
    *("files.Files.keep", "files.sync"),
    *("queue.Queue.put", "queue.Queue.put_in", "queue.Queue.was_put"),
    *("work.Work.stored", "quiet.Quiet.arrived"),
    *("queue.Queue.take_place", "queue.Queue.claim", "delivery.attempt", "delivery.judge"),
    *("work.end", "forwarding.remove_original", "queue.Queue.done", "files.Files.remove"),
    *(
        "complete",
        "queue.Queue.finish",
        "quiet.Quiet.completed",
        "ended",
        "queue.Queue.leave_place",
    ),
]
COMMITMENT = [
    *("queue.Queue.move", "commitment._note", "commitment.Commitments._ask"),
    *("commitment.Commitments._asked", "commitment._set", "work.report", "commitment.end"),
]
STEPS = [
    (f"{when} {name}", options)
    for names, options in ((DELIVERY, {}), (COMMITMENT, {"commit": "yes"}))
    for name in names
    for when in ("before", "after")
]
INSTANCES = 3
SERIES = "1.2.3"


@pytest.fixture(scope="module")
def postgresql():
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    running = request.getfixturevalue("postgresql")
    name = f"test_{os.urandom(4).hex()}"
    command = ["psql", "--quiet", "--command", f"CREATE DATABASE {name}", running.url()]
    subprocess.run(command, check=True, timeout=WAIT)
    return running.url(name)


@pytest.fixture
def pacs():
    app = App("PACS")
    app.state.came = collections.Counter()

    @app.store
    def store(request):
        app.state.came[request.sop_instance] += 1

    @app.n_action("StorageCommitment", action_type=1)
    def commit(request):
        asked = request.action_information
        kept = {"TransactionUID": asked.TransactionUID}
        kept["ReferencedSOPSequence"] = asked.ReferencedSOPSequence
        request.report(1, kept)

    with app.serve(port=0) as server:
        yield app, server.port


class Router:
    """A router that is started again when it has killed itself."""

    def __init__(self, folder, port, workers, **environment):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        (folder / "router.py").write_text(ROUTER)
        self._start = lambda: Running(
            folder,
            *("run", "router.py", "--port", str(self.port), *workers),
            *("--destination", f"PACS=127.0.0.1:{port}"),
            **environment,
        )
        self.starts = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._over.is_set():
            self.starts += 1
            with self._start() as self.running:
                while self.running.process.poll() is None and not self._over.wait(0.05):
                    pass

    def stop(self):
        self._over.set()
        self._thread.join()


def until(condition, what):
    deadline = time.monotonic() + 2 * WAIT
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def send(port):
    """Send a series; return how many instances were sent again, since no Success came."""
    left, again = [], 0
    for number in range(INSTANCES):
        dataset = Instance(FILES / "CT_small.dcm").dataset
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = SERIES, f"{SERIES}.{number}"
        left.append(Instance(dataset))
    deadline = time.monotonic() + 2 * WAIT
    while left:
        assert time.monotonic() < deadline
        under_way = False
        with (
            contextlib.suppress(PacsrouteError, OSError),
            connect("127.0.0.1", port, called_ae="ROUTER", timeout=10) as client,
        ):
            client.echo()
            while left:
                under_way = True
                client.store(left[0])
                left.pop(0)
            under_way = False
        again += under_way
        time.sleep(0.05)
    return again


def told(folder):
    file = folder / "ended"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def jobs_at(where, folder):
    opened = open_queue(where, folder / "spool" / "jobs.files", "ROUTER")
    try:
        return opened.queue.jobs()
    finally:
        opened.close()


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one process", "two workers"])
@pytest.mark.parametrize(("step", "options"), STEPS, ids=[step for step, _ in STEPS])
def test_a_router_that_is_killed_at_a_step_loses_nothing(
    tmp_path, where, pacs, step, options, workers
):
    app, port = pacs
    router = Router(tmp_path, port, workers, STEP=step, QUEUE=where, **options)
    kept = (tmp_path / "jobs.db.files", tmp_path / "spool" / "jobs.files")
    try:
        again = send(router.port)
        until(lambda: len(app.state.came) == INSTANCES, lambda: router.running.lines)
        until(lambda: told(tmp_path), lambda: router.running.lines)
        until(lambda: jobs_at(where, tmp_path) == [], lambda: jobs_at(where, tmp_path))
        until(
            lambda: not [path for folder in kept for path in folder.glob("*.dcm")],
            lambda: [sorted(folder.iterdir()) for folder in kept if folder.exists()],
        )
    finally:
        router.stop()
    assert (tmp_path / "died").exists()
    assert router.starts >= (1 if workers else 2)
    assert not list((tmp_path / "queue").glob("*.dcm"))  # `delete=True`
    assert app.state.came.total() <= INSTANCES + 1 + again
    jobs = {tuple(line) for line in told(tmp_path)}  # one of them may have run twice
    assert sum(line[3] == "False" for line in jobs) == 1
    assert len(jobs) <= 1 + again  # late ones make a period of their own
