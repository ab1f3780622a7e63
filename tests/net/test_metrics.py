"""What a server tells over HTTP: its metrics, and whether it is alive and ready."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client import REGISTRY, Counter
from prometheus_client.parser import text_string_to_metric_families
from support.names import CT, EXPLICIT, WAIT
from support.processes import Running
from support.raw_peer import RawPeer
from support.serving import Serving, fails
from support.unharmed import until

import pacsroute
from pacsroute import App, AssociationRejected, Failure, Peer, uids
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands
from pacsroute.net import monitor
from pacsroute.upper_layer import pdu

LABELS = (
    "command",
    "sop_class",
    "category",
    "lane",
    "status",
    "reason",
    "how",
    "le",
    "implementation",
)
PRIVATE = "1.2.3.4.5.6.7"
VERIFICATION = (uids.VERIFICATION, uids.IMPLICIT_VR_LITTLE_ENDIAN)
APP = "from pacsroute import App\n\napp = App('WATCHED')\n"


def ask(port, path, method="GET"):
    """Return the status and the body of an answer over HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scrape(port):
    """Return the values of all of our samples, by name and the values of the labels."""
    status, body = ask(port, "/metrics")
    assert status == 200
    return {
        " ".join(
            (
                sample.name.removeprefix("pacsroute_"),
                *(sample.labels[name] for name in LABELS if name in sample.labels),
            )
        ): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def awaited(port, expected):
    """Return the samples once some have their values: a thing is counted when it is done."""
    deadline = time.monotonic() + WAIT
    while True:
        samples = scrape(port)
        found = {name: samples.get(name) for name in expected}
        if found == expected:
            return samples
        assert time.monotonic() < deadline, found


@pytest.fixture
def served():
    """Return a function that serves an app with a port for its metrics."""
    servers = []

    def start(app, **settings):
        server = app.serve(port=0, metrics_port=0, grace=1, **settings)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def app(tmp_path):
    app = App("WATCHED", spool=tmp_path / "spool")

    @app.store
    def store(request):
        request.save(tmp_path, durable=False)

    return app


def test_the_lanes_of_the_queue_are_told(served, tmp_path):
    app = App("WATCHED", jobs=str(tmp_path / "jobs.db"))

    @app.job
    def analyse(uid): ...

    server = served(app)
    for number in range(3):
        analyse.later(str(number), delay=3600)
    _, body = ask(server.metrics_port, "/metrics")
    told = dict(
        line.rsplit(" ", 1) for line in body.splitlines() if line.startswith("pacsroute_jobs_")
    )
    assert told.pop('pacsroute_jobs_oldest_seconds{lane="analyse()"}') != "0.0"
    assert told == {
        'pacsroute_jobs_waiting{lane="analyse()"}': "3.0",
        'pacsroute_jobs_running{lane="analyse()"}': "0.0",
        'pacsroute_jobs_failed{lane="analyse()"}': "0.0",
    }


def test_what_destinations_take_is_counted(served, tmp_path, sample):
    app, pacs, came = App("WATCHED", jobs=str(tmp_path / "jobs.db")), App("PACS"), threading.Event()
    pacs.after_request(lambda request, status, error: came.set())
    pacs.store(lambda request: 0xB000)
    server = served(app)
    with pacs.serve(port=0) as archive:
        app.destinations["PACS"] = Peer("127.0.0.1", archive.port)
        app.forward(sample("CT_small.dcm"), to="PACS")
        assert came.wait(WAIT)
        wanted = 'pacsroute_jobs_delivered_total{category="Warning",lane="PACS"} 1.0'
        assert until(lambda: wanted in ask(server.metrics_port, "/metrics")[1])


def test_requests_of_dcmtk_are_counted(served, app, dcmtk, sample, tmp_path):
    server = served(app)
    at = ("127.0.0.1", server.port)
    assert dcmtk("echoscu", "--repeat", 3, *at).returncode == 0
    assert dcmtk("storescu", *at, sample("CT_small.dcm")).returncode == 0
    (saved,) = tmp_path.glob("*.dcm")
    samples = awaited(server.metrics_port, {"associations_ended_total released": 2})
    assert samples["associations_accepted_total"] == 2
    assert samples["associations_open"] == 0
    assert samples["requests_total C-ECHO Verification SOP Class Success 0x0000"] == 3
    assert samples["requests_total C-STORE CT Image Storage Success 0x0000"] == 1
    assert samples["request_duration_seconds_count C-ECHO"] == 3
    assert 0 < samples["request_duration_seconds_sum C-STORE"] < WAIT
    assert samples["requests_in_flight C-ECHO"] == samples["requests_in_flight C-STORE"] == 0
    assert 0 < saved.stat().st_size - samples["received_bytes_total C-STORE"] < 1000  # its header
    assert "received_bytes_total C-ECHO" not in samples
    assert any(name.startswith("python_info") for name in samples)


def test_rejections_have_a_reason(served, app, raw_peer, dcmtk):
    numbers = itertools.count()

    @app.before_association
    def busy(association):
        if association.calling_ae == "RAW":
            raise AssociationRejected(2, 3, 200 + next(numbers))

    server = served(app, max_associations_per_ae=2)
    app.config.require_called_ae = True
    at = ("127.0.0.1", server.port)
    assert dcmtk("echoscu", "-aec", "NOBODY", *at).returncode != 0
    app.config.require_called_ae = False
    for _ in range(2):
        with raw_peer(server.port) as peer:
            assert isinstance(peer.answer, pdu.AssociateRJ)
    with (
        pacsroute.connect("127.0.0.1", server.port, calling_ae="ONE") as one,
        pacsroute.connect("127.0.0.1", server.port, calling_ae="ONE") as another,
    ):
        one.echo()
        another.echo()
        assert dcmtk("echoscu", "-aet", "ONE", *at).returncode != 0
    samples = scrape(server.metrics_port)
    rejected = {name: value for name, value in samples.items() if "rejected_total" in name}
    assert rejected == {
        "associations_rejected_total called AE title not recognized": 1,
        "associations_rejected_total other": 2,
        "associations_rejected_total local limit exceeded": 1,
    }
    assert samples["associations_accepted_total"] == 2


def test_associations_end_in_three_ways(served, app, raw_peer, dcmtk):
    server = served(app)
    assert dcmtk("echoscu", "--abort", "127.0.0.1", server.port).returncode == 0
    with raw_peer(server.port) as peer:
        awaited(server.metrics_port, {"associations_open": 1})
        assert peer.echo() == 0
    with raw_peer(server.port) as peer:
        peer.release()
    awaited(
        server.metrics_port,
        {
            "associations_open": 0,
            "associations_ended_total aborted": 1,
            "associations_ended_total lost": 1,
            "associations_ended_total released": 1,
        },
    )


def test_labels_are_bounded_whatever_peers_send(served, raw_peer):
    app = App()
    statuses = iter([0xC000, 0xB123, 0xB124, 0xC999])

    @app.store
    def store(request):
        if request.sop_class == CT:
            raise ValueError("Doe^John")
        raise Failure(next(statuses))

    server = served(app)
    contexts = [(CT, EXPLICIT), (PRIVATE, EXPLICIT), VERIFICATION]
    with raw_peer(server.port, contexts) as peer:
        instance = encode({"PatientName": "Doe^John"}, EXPLICIT)
        assert peer.store(instance, CT, "1.2.3").status == 0xC000
        for _ in range(4):
            peer.store(instance, PRIVATE, "1.2.3", context_id=3)
        peer.store(instance, CT, "1.2.3", context_id=3)  # not the class of its context
        unknown = commands.UnknownRQ(message_id=9)
        unknown.received_field = 0x0777
        peer.send(5, unknown)
        assert peer.receive()[0].status == 0x0211
    counts = {
        "requests_total C-STORE CT Image Storage Failure 0xC000": 1,
        "requests_total C-STORE other Failure 0xC000": 1,
        "requests_total C-STORE other Warning other": 2,
        "requests_total C-STORE other Failure other": 1,
        "requests_total C-STORE other Failure 0x0122": 1,
        "requests_total UNKNOWN Verification SOP Class Failure 0x0211": 1,
    }
    samples = awaited(server.metrics_port, counts)
    assert {name for name in samples if name.startswith("requests_total")} == set(counts)


def test_gauges_show_operations_under_way(served, raw_peer, tmp_path):
    app = App(spool=tmp_path)
    entered, go_on = threading.Event(), threading.Event()

    @app.store
    def store(request):
        entered.set()
        assert go_on.wait(WAIT)

    server = served(app)
    instance = encode({"PixelData": bytes(2_400_000)}, EXPLICIT)
    with raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        answer = threading.Thread(target=peer.store, args=(instance, CT, "1.2.3"))
        answer.start()
        assert entered.wait(WAIT)
        samples = scrape(server.metrics_port)
        assert samples["requests_in_flight C-STORE"] == 1
        assert samples["spool_bytes"] == len(instance)
        assert samples["received_bytes_total C-STORE"] == len(instance)
        assert samples["associations_open"] == 1
        assert "request_duration_seconds_count C-STORE" not in samples
        go_on.set()
        answer.join()
        peer.release()
    awaited(server.metrics_port, {"requests_in_flight C-STORE": 0, "spool_bytes": 0})


def test_a_peer_that_goes_before_it_is_answered_counts(served, raw_peer):
    app = App()
    gone = threading.Event()

    @app.find("StudyRoot")
    def find(request):
        assert gone.wait(WAIT)
        while True:
            yield {"PatientID": "1"}

    server = served(app)
    study = uids.sop_class("StudyRoot", "find")
    with raw_peer(server.port, [(study, EXPLICIT)]) as peer:
        peer.find(encode({"PatientID": ""}, EXPLICIT), study)
        awaited(server.metrics_port, {"requests_in_flight C-FIND": 1})
    gone.set()
    samples = awaited(server.metrics_port, {"requests_in_flight C-FIND": 0})
    (name,) = (name for name in samples if name.startswith("requests_total C-FIND"))
    assert name.split()[-1] in ("Unanswered", "0xFE00")


def test_sub_operations_and_bytes_sent(served, sample):
    app = App()
    path = sample("CT_small.dcm")

    @app.find("StudyRoot")
    def find(request):
        yield {"PatientID": "1"}

    @app.get("StudyRoot")
    def get(request):
        request.count = 2
        yield path
        yield path.parent / "there is no such file.dcm"

    server = served(app)
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2", "PatientID": ""}
    with pacsroute.connect("127.0.0.1", server.port) as client:
        assert len(list(client.find(keys))) == 1
        (instance,) = client.get(keys)
        samples = scrape(server.metrics_port)
        with instance.open() as file:
            assert samples["sent_bytes_total C-STORE"] == len(file.read())
    assert samples["sub_operations_total C-GET Success"] == 1
    assert samples["sub_operations_total C-GET Failure"] == 1
    assert samples["sent_bytes_total C-FIND"] > 0
    assert samples["received_bytes_total C-GET"] > 0


def test_counters_of_the_app_are_exported(served, app):
    rooms = Counter("rooms", "Rooms that were looked into.")
    try:
        rooms.inc(7)
        assert scrape(served(app).metrics_port)["rooms_total"] == 7
    finally:
        REGISTRY.unregister(rooms)


# ------------------------------------------------------------- health


def test_ready_from_the_lifespan_to_the_stop(served, raw_peer):
    app = App()
    begun, go_on = threading.Event(), threading.Event()

    @app.lifespan
    def resources(app):
        begun.set()
        assert go_on.wait(WAIT)
        yield

    server = app.serve(port=0, metrics_port=0, max_associations=1, grace=WAIT)
    starting = threading.Thread(target=server.start)
    stopping = threading.Thread(target=server.stop)
    starting.start()
    try:
        port = server.metrics_port
        assert begun.wait(WAIT)
        assert ask(port, "/health") == (200, "alive\n")
        assert ask(port, "/ready") == (503, "it is starting\n")
        go_on.set()
        starting.join()
        assert ask(port, "/ready?verbose=1") == (200, "ready\n")
        with raw_peer(server.port) as peer:
            full = 503, "max_associations reached, 1 associations\n"
            assert ask(port, "/ready") == full
            with raw_peer(server.port) as another:
                assert isinstance(another.answer, pdu.AssociateRJ)
            stopping.start()
            while (answer := ask(port, "/ready")) == full:
                pass
            assert answer == (503, "it is stopping\n")
            assert ask(port, "/health")[0] == 200
            peer.release()
    finally:
        go_on.set()
        if stopping.ident is None:
            stopping.start()
        stopping.join()
    with pytest.raises(OSError):
        ask(port, "/health")


def test_a_lifespan_that_fails_leaves_nothing_behind():
    app = App()

    @app.lifespan
    def resources(app):
        raise ValueError("no index")
        yield

    server = app.serve(port=0, metrics_port=0)
    with pytest.raises(ValueError, match="no index"):
        server.start()
    with pytest.raises(OSError):
        ask(server.metrics_port, "/health")


def test_monitor_refuses_other_http_requests(served, app):
    port = served(app).metrics_port
    assert ask(port, "/")[0] == 404
    assert ask(port, "/health", "HEAD") == (200, "")
    assert ask(port, "/health", "POST")[0] == 501
    with pytest.raises(OSError):
        ask(port, "/" + "x" * monitor._HEAD)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n"])
def test_slow_http_client_is_dropped(served, app, monkeypatch, sent):
    monkeypatch.setattr(monitor, "_PATIENCE", 0.1)
    port = served(app).metrics_port
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as client:
        client.sendall(sent)
        assert b"200 OK" not in client.recv(1000)


def answering():
    """Return how many threads have a client over HTTP."""
    names = [thread.name for thread in threading.enumerate()]
    return sum("process_request_thread" in name for name in names)


def test_slow_http_clients_do_not_block_others(served, app, monkeypatch):
    monkeypatch.setattr(monitor, "_PATIENCE", 10 * WAIT)  # it is not what ends them
    port = served(app).metrics_port
    clients = [socket.create_connection(("127.0.0.1", port), WAIT) for _ in range(60)]
    try:
        for client in clients:
            client.sendall(b"GET /hea")
        assert ask(port, "/health")[0] == 200
        assert clients[0].recv(1) == b""
        assert until(lambda: answering() <= monitor._CLIENTS)
    finally:
        for client in clients:
            client.close()


def test_without_the_extra_health_answers_and_metrics_name_the_extra(
    app, served, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "pacsroute.net.metrics", raising=False)
    port = served(app).metrics_port
    assert "/metrics needs prometheus_client: pip install 'pacsroute[metrics]'" in caplog.text
    assert ask(port, "/health")[0] == ask(port, "/ready")[0] == 200
    assert ask(port, "/metrics") == (501, "pip install 'pacsroute[metrics]'\n")


def test_metrics_cost_nothing_unless_asked_for():
    code = (
        "import sys\nfrom pacsroute import App\n"
        "with App().serve(port=0) as server:\n"
        "    assert server.metrics_port is None\n"
        "    assert 'prometheus_client' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WAIT)


# ------------------------------------------------------------- the command


def watched(serving):
    (line,) = (line for line in serving.lines if line.startswith("/metrics"))
    return int(line.rpartition(":")[2])


def test_run_prints_the_address_of_the_metrics(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with Serving(tmp_path, "--metrics-port", "0") as serving:
        port = watched(serving)
        assert ask(port, "/ready") == (200, "ready\n")
        assert awaited(port, {"associations_ended_total released": 1})["associations_open"] == 0
        assert serving.stop()[0] == 0


def test_a_port_that_is_taken_is_named(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fails(tmp_path, "--metrics-port", str(port))
    assert f"port {port} is in use" in said
    assert "--metrics-port" in said
    assert "--metrics-host" in fails(tmp_path, "--metrics-port", "0", "--metrics-host", "192.0.2.1")


def test_processes_with_a_folder_in_common_are_counted_together(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "shared").mkdir()
    values = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")}
    with (
        Serving(tmp_path, "--metrics-port", "0", **values) as one,
        Serving(tmp_path, "--metrics-port", "0", **values) as another,
    ):
        for serving in (one, another):
            samples = awaited(watched(serving), {"associations_ended_total released": 2})
            assert samples["requests_total C-ECHO Verification SOP Class Success 0x0000"] == 2
            assert samples["associations_open"] == samples["spool_bytes"] == 0


def test_workers_are_counted_together_and_answer_at_one_port(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "tmp").mkdir()
    arguments = ("run", "--port", "0", "--metrics-port", "0", "--workers", "2")
    with (
        Running(tmp_path, *arguments, TMPDIR=str(tmp_path / "tmp")) as running,
        contextlib.ExitStack() as stack,
    ):
        port = int(running.until(r"/ready at http://127\.0\.0\.1:(\d+)")[1])
        peers_port = running.port()
        pids = [int(found[1]) for found in running.all(r"worker (\d+) serves", 2)]
        assert ask(port, "/ready") == (200, "ready\n")
        peers = [stack.enter_context(RawPeer(peers_port)) for _ in range(8)]
        for peer in peers:
            assert peer.echo() == 0
        samples = awaited(port, {"associations_open": 8, "requests_in_flight C-ECHO": 0})
        assert samples["requests_total C-ECHO Verification SOP Class Success 0x0000"] == 8
        os.kill(pids[0], signal.SIGKILL)
        running.until(r"worker \d+ serves")
        left = 0
        for peer in peers:
            with contextlib.suppress(OSError, EOFError):
                left += peer.echo() == 0
        samples = awaited(port, {"associations_open": left})
        assert samples["associations_accepted_total"] == 8
        running.signal(signal.SIGTERM)
        for peer in peers:
            peer.socket.close()
        assert running.ended() == 0
    assert list((tmp_path / "tmp").glob("pacsroute-*")) == []


def test_a_file_that_is_saved_leaves_the_port_for_metrics_as_it_is(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with Running(tmp_path, "run", "--port", "0", "--metrics-port", "0", "--reload") as running:
        port = int(running.until(r"/ready at http://127\.0\.0\.1:(\d+)")[1])
        running.port()
        (tmp_path / "app.py").write_text(APP + "# saved\n")
        assert int(running.until(r"/ready at http://127\.0\.0\.1:(\d+)")[1]) == port
        running.port()
        assert ask(port, "/ready")[0] == 200
