"""A cluster of real servers: two nodes, HAProxy, PostgreSQL and a bucket of Swift."""

import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest
from support.archives import found, image
from support.balancers import line
from support.certificates import gone
from support.guides import blocks
from support.names import WAIT
from support.places import GUIDES, ROOT
from support.processes import Running
from support.programs import missing, program
from support.raw_peer import RawPeer

from pacsroute import PacsrouteError, connect
from pacsroute.config import SETTINGS
from pacsroute.storage import Objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SENDERS = 8
PATIENCE = 120  # seconds for which a sender tries to get on


def _module():
    path = ROOT / "examples" / "cluster" / "try_out.py"
    spec = importlib.util.spec_from_file_location("try_out", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cluster():
    for name in ("haproxy", "swift-proxy-server", "memcached"):
        if shutil.which(name) is None:
            missing(name)
    # Not a folder of pytest's: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="pacs-") as folder:
        os.chmod(folder, 0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PACSROUTE_DRAIN", "4")
            running = _module().Cluster(Path(folder))
        for name, value in running.variables.items():
            patch.setenv(name, value)
        try:
            with running:
                yield running
        finally:
            patch.undo()


class Senders:
    """Modalities that send until they hold Success for each of their instances."""

    def __init__(self, port, numbers, at_once=25):
        self.failures = []
        self.acknowledged = []
        self._port = port
        self._at_once = at_once
        self._threads = [
            threading.Thread(target=self._send, args=[numbers[start::SENDERS]], daemon=True)
            for start in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, numbers):
        waiting, deadline = list(numbers), time.monotonic() + PATIENCE
        while waiting and time.monotonic() < deadline:
            try:
                with connect("127.0.0.1", self._port, timeout=30) as client:
                    for number in waiting[: self._at_once]:
                        client.store(instance(number))
                        waiting.remove(number)
                        self.acknowledged.append(number)
                        deadline = time.monotonic() + PATIENCE
            except (PacsrouteError, OSError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.2)  # as a modality does before it tries again

    def until(self, count):
        """Wait until so many are acknowledged."""
        deadline = time.monotonic() + PATIENCE
        while len(self.acknowledged) < count:
            assert time.monotonic() < deadline, self.failures[-5:]
            time.sleep(0.01)

    def join(self):
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()


def instance(number):
    return image(
        number,
        study=f"1.1.{number % 40}",
        series=f"1.2.{number % 40}",
        PixelData=bytes([number % 251]) * 8_192,
        BitsAllocated=8,
    )


def rows(cluster, sql, *parameters):
    with psycopg.connect(cluster.database.url) as db:
        return db.execute(sql, parameters).fetchall()


def paths_in(cluster, *tables):
    union = " UNION ".join(f"SELECT path FROM {table}" for table in tables)
    return {path for (path,) in rows(cluster, union)}


@pytest.mark.parametrize("count", [400, 2_000])
def test_nothing_acknowledged_is_lost_whatever_fails(cluster, count):
    """Each node is killed, the database stops, and the bucket refuses, while eight send."""
    first = count * 10
    numbers = range(first, first + count)
    senders = Senders(cluster.port, numbers)
    for share, node in ((0.15, "A"), (0.35, "B")):
        senders.until(share * count)
        cluster.nodes[node].kill()
        cluster.nodes[node].start(wait=False)
    senders.until(0.55 * count)
    cluster.database.stop()
    cluster.database.start()
    senders.until(0.75 * count)
    cluster.bucket.refuse()
    deadline, failed = time.monotonic() + PATIENCE, len(senders.failures)
    while len(senders.failures) == failed:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.bucket.resume()
    senders.join()

    assert sorted(senders.acknowledged) == list(numbers), senders.failures[-5:]
    assert any("0xA700" in one for one in senders.failures)
    uids = [f"1.3.{number}" for number in numbers]
    ours = "SELECT SOPInstanceUID, path FROM image WHERE SOPInstanceUID = ANY(%s)"
    told = rows(cluster, ours, uids)
    assert len(told) == count, "nothing twice"
    assert {uid for uid, _ in told} == set(uids)

    storage = Objects("s3://pacs/archive")
    there = {key for key in storage.list() if not key.startswith(".")}
    paths = {path for _, path in told}
    assert paths <= there, "no row without an object"
    without = there - paths_in(cluster, "image")
    assert without <= paths_in(cluster, "attempt", "leaving"), "each is a failed attempt"
    with connect("127.0.0.1", cluster.port) as client:
        for uid, path in random.sample(told, 50):
            number = int(uid.rpartition(".")[2])
            with storage.open(path) as file:
                assert bytes([number % 251]) * 8_192 in file.read()
        some = found(client, StudyInstanceUID="1.1.7", PatientID="777")
        assert {int(row.SOPInstanceUID.rpartition(".")[2]) for row in some} >= {
            number for number in numbers if number % 40 == 7
        }
    done = subprocess.run(
        [sys.executable, "-m", "pacsroute", "archive", "check", ROOT / "examples/cluster/app.py"],
        capture_output=True,
        text=True,
        timeout=4 * WAIT,
        check=False,
    )
    assert done.stdout == "files and index agree\n", done.stderr


def _ups(cluster, name):
    """Return how often the balancer has found a node to be up again."""
    return cluster.balancer.log.read_text().count(f"Server dicom/{name.lower()} is UP")


def test_upgrade_of_each_node_in_turn_loses_no_association(cluster):
    # A balancer that starts takes each node for up, whatever other tests have done to them.
    cluster.balancer.kill()
    cluster.balancer.start()
    senders = Senders(cluster.port, range(400), at_once=3)
    senders.until(40)
    for name, node in cluster.nodes.items():
        before, ups = len(senders.acknowledged), _ups(cluster, name)
        node.process.send_signal(signal.SIGTERM)  # it drains, and the balancer takes it out
        node.process.wait(WAIT)
        node.start()
        deadline = time.monotonic() + WAIT
        while _ups(cluster, name) == ups:  # the balancer takes it in after some checks
            assert time.monotonic() < deadline
            time.sleep(0.05)
        senders.until(min(400, before + 40))
    senders.join()
    assert senders.failures == []
    assert sorted(senders.acknowledged) == list(range(400))


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_nodes_see_the_address_of_the_peer(cluster, tmp_path, version):
    module = _module()
    text = (ROOT / "examples" / "cluster" / "haproxy.cfg").read_text()
    file = tmp_path / "haproxy.cfg"
    file.write_text(text.replace("send-proxy-v2", version))
    port, web_port = module.free_port(), module.free_port()
    places = cluster.places | {"DICOM": f"127.0.0.1:{port}", "WEB": f"127.0.0.1:{web_port}"}
    balancer = module.Program(tmp_path, "haproxy", port, "haproxy", "-db", "-f", file, **places)
    host = {"send-proxy": "127.0.0.7", "send-proxy-v2": "127.0.0.8"}[version]
    try:
        balancer.start()
        sock = socket.create_connection(("127.0.0.1", port), WAIT, (host, 0))
        with RawPeer(port, sock=sock) as peer:
            assert peer.echo() == 0
            peer.release()
    finally:
        balancer.kill()
    log = "".join(node.log.read_text() for node in cluster.nodes.values())
    assert f"associated from {host} as" in log
    assert "PROXY header" not in log, "health checks leave no line"


def test_header_that_does_not_come_from_the_balancer_is_refused(cluster):
    node, why = cluster.nodes["A"], "127.0.0.9: the connection is closed: it is not in proxy_from"
    with socket.create_connection(("127.0.0.1", node.port), WAIT, ("127.0.0.9", 0)) as sock:
        sock.sendall(line("127.0.0.1"))
        assert gone(sock)
    assert why in node.log.read_text()


# ------------------------------------------------------------- what the guide shows


def _blocks(language):
    return [one.text for one in blocks(GUIDES / "cluster.md") if one.language == language]


def _anywhere(text):
    """Return a line of output without its ports and its folder."""
    return re.sub(r"/\S*/pacs-\S+|:\d+", "@", text)


def test_script_starts_the_cluster_as_the_guide_says_and_ends_all_of_it(cluster):
    script = ROOT / "examples" / "cluster" / "try_out.py"
    with Running(ROOT, script=str(script)) as running:
        printed = [
            running.until("DICOM at"),
            running.until("DICOMweb at"),
            running.until("nodes A"),
            running.until("Ctrl-C stops"),
        ]
        folder = re.search(r"logs in (\S+)", printed[2].string)[1]
        _, shown = _blocks("text")
        for example, found in zip(shown.splitlines(), printed, strict=True):
            assert _anywhere(example) == _anywhere(found.string)
        running.signal(signal.SIGINT)
        assert running.ended() == 0
    assert not Path(folder).exists()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert folder not in listed.stdout


def test_files_of_the_example_are_valid(cluster, tmp_path):
    folder = ROOT / "examples" / "cluster"
    command = ["haproxy", "-c", "-f", str(folder / "haproxy.cfg")]
    subprocess.run(command, env=os.environ | cluster.places, check=True, capture_output=True)
    text = (folder / "archive@.service").read_text()
    command = "/opt/archive/venv/bin/pacsroute"
    assert command in text
    unit = tmp_path / "archive@.service"
    unit.write_text(text.replace(command, sys.executable))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", str(tmp_path / "archive@a.service")],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr
    for name in re.findall(r"PACSROUTE_(\w+)=", text + "".join(_blocks("ini"))):
        assert name.lower() in SETTINGS, name
    for block in _blocks("sh"):
        subprocess.run(["bash", "-n", "-c", block], check=True)
