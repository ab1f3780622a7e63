"""Durable work beside killed processes: nothing acknowledged is lost, and each series ends once."""

import signal
import socket
import time

import pytest
from support.names import WAIT
from support.processes import Running, pacsroute
from support.samples import FILES

from pacsroute import App, Instance, connect

ROUTER = """
from pathlib import Path
from pacsroute import App

app = App("ROUTER", jobs="jobs.db")

@app.store
def store(request):
    app.forward(request.instance, to="PACS")

@app.quiet("SERIES", after=1.0)
def complete(series):
    ended.later(series.uid, series.count)

@app.job
def ended(uid, count):
    with open("ended", "a") as file:
        print(uid, count, file=file)
"""


def instances(count, series):
    for number in range(count):
        dataset = Instance(FILES / "CT_small.dcm").dataset
        dataset.SeriesInstanceUID = f"1.2.3.{series}"
        dataset.SOPInstanceUID = f"1.2.3.{series}.{number}"
        yield Instance(dataset)


def until(condition, what):
    deadline = time.monotonic() + 2 * WAIT
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture
def pacs():
    """Return a destination that can be switched on and off at one port; `came` is what it has."""
    app = App("PACS")
    app.state.came = []

    @app.store
    def store(request):
        app.state.came.append(request.sop_instance)

    return app


class Reserved:
    """A port of nobody else's, where nothing listens until `free` gives it away."""

    def __init__(self):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.number = self._socket.getsockname()[1]

    def free(self):
        self._socket.close()
        return self.number


@pytest.fixture
def port():
    reserved = Reserved()
    yield reserved
    reserved.free()


def router(folder, port, *options):
    (folder / "router.py").write_text(ROUTER)
    return Running(
        folder,
        *("run", "router.py", "--port", "0", "--destination", f"PACS=127.0.0.1:{port.number}"),
        *options,
    )


def ended(folder):
    file = folder / "ended"
    return sorted(file.read_text().splitlines()) if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_a_killed_router_loses_nothing_and_ends_each_series_once(tmp_path, pacs, port, options):
    sent = []
    for series in range(3):
        with router(tmp_path, port, *options) as running:
            with connect("127.0.0.1", running.port(), called_ae="ROUTER") as client:
                for instance in instances(20, series):
                    client.store(instance)
                    sent.append(instance.sop_instance)
            running.signal(signal.SIGKILL)
    assert pacs.state.came == []
    with pacs.serve(port=port.free()), router(tmp_path, port, *options) as running:
        running.port()
        until(lambda: set(pacs.state.came) == set(sent), lambda: running.lines)
        until(lambda: len(ended(tmp_path)) >= 3, lambda: ended(tmp_path))
    assert len(pacs.state.came) <= len(sent) + 3
    assert ended(tmp_path) == [f"1.2.3.{series} 20" for series in range(3)]


@pytest.mark.slow
def test_a_destination_that_returns_gets_what_waited_without_a_restart(tmp_path, pacs, port):
    with router(tmp_path, port) as running:
        with connect("127.0.0.1", running.port(), called_ae="ROUTER") as client:
            for instance in instances(5, 0):
                client.store(instance)
        running.until("PACS is tried again")
        with pacs.serve(port=port.free()):
            until(lambda: len(pacs.state.came) == 5, lambda: running.lines)
        running.signal(signal.SIGTERM)
        assert running.ended() == 0
    code, said, _ = pacsroute(tmp_path, "jobs", "router.py")
    assert code == 0
    assert "PACS: 0 waiting, 0 running, 0 failed" in said


@pytest.mark.slow
def test_the_command_lists_and_changes_what_waits(tmp_path, port):
    with router(tmp_path, port) as running:
        with connect("127.0.0.1", running.port(), called_ae="ROUTER") as client:
            client.store(FILES / "CT_small.dcm")
        running.until("PACS is tried again")
        code, said, _ = pacsroute(tmp_path, "jobs", "router.py", "--pause", "PACS")
        code, said, _ = pacsroute(tmp_path, "jobs", "router.py")
        assert "PACS: 1 waiting" in said
        assert "paused" in said
        assert "DOE" not in said.upper()
        assert ["1", "PACS"] in [line.split()[:3:2] for line in said.splitlines()]
        code, said, errors = pacsroute(tmp_path, "jobs", "router.py", "--drop", "1")
        assert (code, errors) == (0, "job 1 dropped\n")
        code, _, errors = pacsroute(tmp_path, "jobs", "router.py", "--retry", "1")
        assert code == 1
        assert "no waiting or failed job 1" in errors
    files = [path for path in (tmp_path / "jobs.db.files").iterdir() if path.suffix == ".dcm"]
    assert files == []


def test_a_queue_of_another_app_is_a_mistake(tmp_path):
    (tmp_path / "app.py").write_text(
        "from pacsroute import App\none = App('ONE', jobs='jobs.db')\n"
        "other = App('TWO', jobs='jobs.db')\n"
    )
    App("ONE", jobs=str(tmp_path / "jobs.db")).work.opened.close()
    code, _, errors = pacsroute(tmp_path, "jobs", "app.py:other")
    assert code == 1
    assert "belongs to ONE" in errors
