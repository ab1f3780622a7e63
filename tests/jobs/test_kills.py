"""Kills while instances come and go: none is lost, few come twice, each series ends once.

A sender counts an instance as sent when it has its Success, and sends it again until then, as
modalities do. Then the destination has to get it, whoever was killed meanwhile.
"""

import collections
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.names import WAIT
from support.postgresql import server
from support.processes import Running, pacsroute
from support.samples import FILES

from pacsroute import Instance, PacsrouteError, connect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes there"),
]

SERIES, INSTANCES, KILLS = 8, 15, 3  # eight senders, a series each

ROUTER = """
import os
from pacsroute import App

app = App("ROUTER", jobs=os.environ["QUEUE"], spool="spool")

@app.store
def store(request):
    app.forward(request.instance, to="PACS")

@app.quiet("SERIES", after=3.0)
def complete(series):
    ended.later(series.uid, series.count, series.again)

@app.job
def ended(uid, count, again):
    with open("ended", "a") as file:
        print(uid, count, again, file=file)
"""
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
"""
PACS = """
from pacsroute import App

app = App("PACS")

@app.store
def store(request):
    with open("came", "a") as file:
        print(request.sop_instance, file=file)
"""


class Program:
    """A command that is killed and started again, at the same port."""

    def __init__(self, folder, file, text, *options, **environment):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        (folder / file).write_text(text)
        self._folder, self._environment = folder, environment
        self._arguments = ("run", file, "--port", str(self.port), *options)
        self.running = None
        self.kills = 0

    def start(self):
        self.running = Running(self._folder, *self._arguments, **self._environment)
        self.running.port()

    def kill(self):
        """Kill the first process, and start another one."""
        self.kills += 1
        self.running.signal(signal.SIGKILL)
        self.running.__exit__()
        self.start()

    def kill_worker(self):
        """Kill one of the workers; the arbiter starts another one."""
        self.kills += 1
        father = self.running.process.pid
        children = Path(f"/proc/{father}/task/{father}/children").read_text().split()
        os.kill(int(children[self.kills % len(children)]), signal.SIGKILL)

    def stop(self):
        if self.running is not None:
            self.running.__exit__()


def instances(series):
    for number in range(INSTANCES):
        dataset = Instance(FILES / "CT_small.dcm").dataset
        dataset.SeriesInstanceUID = f"1.2.3.{series}"
        dataset.SOPInstanceUID = f"1.2.3.{series}.{number}"
        yield Instance(dataset)


def send(port, series, sent, deadline):
    """Send a series as a modality does that never gives up."""
    waiting = list(instances(series))
    while waiting and time.monotonic() < deadline:
        with (
            contextlib.suppress(PacsrouteError, OSError),
            connect("127.0.0.1", port, called_ae="ROUTER", timeout=10) as client,
        ):
            while waiting:
                client.store(waiting[0])
                sent.append(waiting.pop(0).sop_instance)
                time.sleep(0.02)
        time.sleep(0.1)


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def is_empty(folder, environment):
    _, said, _ = pacsroute(folder, "jobs", "router.py", "--json", **environment)
    return '"jobs": []' in said


@pytest.fixture(scope="module")
def postgresql():
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def queue(request, tmp_path):
    if request.param == "sqlite":
        return "jobs.db"
    running = request.getfixturevalue("postgresql")
    name = f"test_{os.urandom(4).hex()}"
    subprocess.run(
        ["psql", "--quiet", "--command", f"CREATE DATABASE {name}", running.url()],
        check=True,
        timeout=WAIT,
    )
    return running.url(name)


@pytest.mark.parametrize(
    ("victim", "options"),
    [
        ("router", ()),
        ("destination", ()),
        ("worker", ("--workers", "2")),
        ("arbiter", ("--workers", "2")),
        ("destination", ("--workers", "2")),
    ],
    ids=["router", "destination", "worker of two", "arbiter", "destination of two workers"],
)
@pytest.mark.timeout(300)
def test_nothing_is_lost_and_each_series_ends_once(tmp_path, queue, victim, options):
    environment = {"QUEUE": queue}
    pacs = Program(tmp_path, "pacs.py", PACS)
    to = ("--destination", f"PACS=127.0.0.1:{pacs.port}")
    router = Program(tmp_path, "router.py", ROUTER, *to, *options, **environment)
    kill = {
        "router": router.kill,
        "arbiter": router.kill,
        "worker": router.kill_worker,
        "destination": pacs.kill,
    }[victim]
    sent = []
    try:
        pacs.start()
        router.start()
        deadline = time.monotonic() + 4 * WAIT
        senders = [
            threading.Thread(target=send, args=(router.port, series, sent, deadline))
            for series in range(SERIES)
        ]
        for sender in senders:
            sender.start()
        for number in range(KILLS):
            while len(sent) < (number + 1) * SERIES * INSTANCES // (KILLS + 2):
                assert time.monotonic() < deadline, router.running.lines
                time.sleep(0.01)
            kill()
        for sender in senders:
            sender.join()
        assert len(sent) == SERIES * INSTANCES
        while set(lines(tmp_path / "came")) != set(sent) or not is_empty(tmp_path, environment):
            assert time.monotonic() < deadline, router.running.lines
            time.sleep(0.2)
    finally:
        router.stop()
        pacs.stop()
    # What a sender repeats, since its Success was lost with the router, is delivered again.
    repeats = len(lines(tmp_path / "came")) - len(sent)
    assert repeats <= KILLS * (1 + (SERIES if victim != "destination" else 0))
    told = [line.split() for line in lines(tmp_path / "ended")]
    first = collections.Counter(uid for uid, _, again in told if again == "False")
    assert first == {f"1.2.3.{series}": 1 for series in range(SERIES)}
    assert len(set(map(tuple, told))) == len(told)


def test_a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing_else(tmp_path):
    environment = {"QUEUE": "jobs.db"}
    pacs = Program(tmp_path, "pacs.py", PACS)
    to = ("--destination", f"PACS=127.0.0.1:{pacs.port}")
    router = Program(tmp_path, "router.py", FULL + ROUTER, *to, **environment)
    sent, refused = [], {}
    try:
        router.start()
        with connect("127.0.0.1", router.port, called_ae="ROUTER") as client:
            for series in range(40):
                for instance in instances(series):
                    try:
                        client.store(instance)
                        sent.append(instance.sop_instance)
                    except PacsrouteError as error:
                        refused[instance.sop_instance] = error.status.code
                if refused:
                    break
        router.running.signal(signal.SIGKILL)
        router.stop()
        (tmp_path / "router.py").write_text(ROUTER)  # there is room again
        router.start()
        pacs.start()
        deadline = time.monotonic() + WAIT
        while not set(sent) <= set(lines(tmp_path / "came")):
            assert time.monotonic() < deadline, router.running.lines
            time.sleep(0.2)
    finally:
        router.stop()
        pacs.stop()
    assert sent
    assert set(refused.values()) == {0xA700}
    # It may have been queued before its period could not be noted: the sender sends it again.
    assert set(lines(tmp_path / "came")) - set(sent) <= set(refused)
