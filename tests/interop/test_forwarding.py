"""Forwarding to programs of others: DCMTK's storescp as it fails, and Orthanc, which commits."""

import contextlib
import json
import socket
import subprocess
import time

import pytest
from support.names import WAIT
from support.programs import program
from support.samples import FILES

from pacsroute import App, Instance, Peer
from pacsroute.jobs import commitment, delivery


def until(condition, what):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(folder, port, *arguments):
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    ) as process:
        try:
            deadline = time.monotonic() + WAIT
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def storescp(folder, port, *options):
    folder.mkdir(exist_ok=True)
    with running(
        folder, port, program("storescp"), *options, "+uf", "-od", folder, str(port)
    ) as process:
        yield process


def saved(number, folder):
    dataset = Instance(FILES / "CT_small.dcm").dataset
    dataset.SOPInstanceUID = f"1.2.3.{number}"
    return Instance(dataset).save(folder)


@pytest.fixture
def router(tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "rest", lambda failures: 0.05)
    monkeypatch.setattr("pacsroute.jobs.work.GATHER", 0.2)
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    app.commitment()
    return app


def lane(app, name="PACS"):
    return next(one for one in app.work.lanes() if one.name == name)


@pytest.mark.parametrize(
    "options", [("--refuse",), ("--abort-after",), ("--abort-during",)], ids=lambda one: one[0]
)
def test_a_storescp_that_fails_gets_everything_when_it_is_well(router, tmp_path, options):
    port, came = free_port(), tmp_path / "came"
    router.destinations["PACS"] = Peer("127.0.0.1", port, "STORESCP")
    with router.serve(port=0):
        with storescp(came, port, *options):
            for number in range(5):
                router.forward(saved(number, tmp_path), to="PACS")
            until(lambda: lane(router).retry_in > 0, router.work.lanes)
        with storescp(came, port):
            until(lambda: router.work.opened.queue.jobs() == [], router.work.opened.queue.jobs)
    assert len(list(came.iterdir())) >= 5


@pytest.mark.parametrize("option", ["--sleep-during", "--sleep-after"])
def test_a_storescp_that_is_slow_holds_up_no_other_lane(router, tmp_path, option):
    slow, quick = free_port(), free_port()
    router.destinations["SLOW"] = Peer("127.0.0.1", slow, "STORESCP")
    router.destinations["PACS"] = Peer("127.0.0.1", quick, "STORESCP")
    with (
        router.serve(port=0),
        storescp(tmp_path / "slow", slow, option, "30"),
        storescp(tmp_path / "quick", quick),
    ):
        for number in range(5):
            path = saved(number, tmp_path)
            router.forward(path, to="SLOW")
            router.forward(path, to="PACS")
        until(lambda: lane(router).waiting + lane(router).running == 0, router.work.lanes)
        assert lane(router, "SLOW").running + lane(router, "SLOW").waiting >= 4
        assert len(list((tmp_path / "quick").iterdir())) == 5
        router.work.opened.queue.pause("SLOW")


@pytest.mark.slow
def test_orthanc_commits_to_what_it_was_sent(router, tmp_path):
    port, folder = free_port(), tmp_path / "orthanc"
    folder.mkdir()
    paths = [saved(number, tmp_path) for number in range(10)]
    with router.serve(port=0) as server:
        configuration = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpServerEnabled": False,
            "DicomAet": "ORTHANC",
            "DicomPort": port,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {
                "router": {
                    "AET": "ROUTER",
                    "Host": "127.0.0.1",
                    "Port": server.port,
                    "AllowStorageCommitment": True,
                }
            },
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        router.destinations["ORTHANC"] = Peer("127.0.0.1", port)
        with running(folder, port, program("Orthanc"), str(folder / "orthanc.json")):
            for path in paths:
                router.forward(path, to="ORTHANC", commit=True, delete=True)
            queue = router.work.opened.queue
            until(lambda: queue.jobs() == [], queue.jobs)
            assert lane(router, commitment.lane_of("ORTHANC")).waiting == 0
    assert not any(path.exists() for path in paths)
