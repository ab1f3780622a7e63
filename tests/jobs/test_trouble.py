"""The queue in trouble: a database that fails, a clock that jumps, a process that was stopped."""

import http.client
import threading
import time

import pytest
from support.names import CT, EXPLICIT, WAIT
from support.postgresql import server
from support.raw_peer import RawPeer
from support.samples import FILES

from pacsroute import App, Archive, Failure, Instance, Peer, RequestFailed, connect
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands
from pacsroute.dimse.messages import fragment
from pacsroute.framework.work import BackgroundFunction
from pacsroute.jobs import opening, runner, schema
from pacsroute.jobs.background import Background
from pacsroute.jobs.database import DatabaseFailed, SQLite
from pacsroute.jobs.owners import LonelyOwner
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import NewJob
from pacsroute.jobs.runner import Runner

pytestmark = pytest.mark.slow

SAMPLE = FILES / "CT_small.dcm"


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def queue(tmp_path):
    database = SQLite(tmp_path / "jobs.db")
    database.write(lambda transaction: schema.create(transaction, SQLite.identity))
    yield Queue(database, LonelyOwner(), time.monotonic)
    database.close()


class Shaky:
    """Does jobs; the first time the database fails before one is done, and its place stays."""

    places = 1

    def __init__(self, queue):
        self.queue = queue
        self.done = []

    def work(self, lane, stop):
        for job in self.queue.claim(lane, 10):
            self.done.append(job.arguments["name"])
            if len(self.done) == 1:
                leave, self.queue.leave_place = self.queue.leave_place, self.fails
                self.leave = leave
                raise DatabaseFailed("disk I/O error")
            self.queue.done(job)

    def fails(self, lane, place):
        self.queue.leave_place = self.leave
        raise DatabaseFailed("disk I/O error")


def test_jobs_and_places_that_a_failing_database_has_kept_wait_again(queue, monkeypatch):
    monkeypatch.setattr(runner, "_BEAT", 0.05)
    worker = Shaky(queue)
    running = Runner(queue, lambda lane: worker)
    queue.put([NewJob("PACS", "deliver", {"name": name}) for name in ("a", "b")])
    running.start()
    until(lambda: queue.jobs() == [])
    running.stop()
    assert worker.done == ["a", "a", "b"]


def test_a_background_function_that_has_lost_its_place_ends_and_waits_for_it(queue):
    runs, others = [], Queue(queue.database, LonelyOwner(), time.monotonic)
    others.owner.id = "another"

    def tidy(stop):
        runs.append(stop)
        stop.wait()

    queue.enter()
    others.enter()
    background = Background(queue, BackgroundFunction(tidy, "tidy"))
    background.start()
    until(lambda: runs)
    queue.leave()  # as when it was taken for dead
    assert others.take_place("background tidy", 1) == 0
    queue.enter()
    background.lost()
    until(runs[0].is_set)
    assert len(runs) == 1
    others.leave()
    until(lambda: len(runs) == 2)
    background.stop(WAIT)
    assert runs[1].is_set()


def test_a_clock_that_was_set_back_before_the_start_holds_nothing_up(tmp_path, monkeypatch):
    where = str(tmp_path / "jobs.db")
    opened = opening.open_queue(where, tmp_path, "ROUTER")
    opened.queue.put([NewJob("f()", "f", {}, delay=30)])
    opened.close()
    day = time.time()
    monkeypatch.setattr(opening.time, "time", lambda: day - 40 * 365 * 86_400)
    opened = opening.open_queue(where, tmp_path, "ROUTER")
    assert 0 < opened.queue.next_due() - opened.queue.now() <= 30
    opened.close()


def test_a_clock_that_is_set_while_the_app_runs_changes_nothing(tmp_path, monkeypatch):
    opened = opening.open_queue(str(tmp_path / "jobs.db"), tmp_path, "ROUTER")
    before = opened.queue.now()
    day = time.time()
    monkeypatch.setattr(opening.time, "time", lambda: day + 365 * 86_400)
    assert 0 <= opened.queue.now() - before < WAIT
    opened.close()


def test_a_refused_store_holds_no_period_open(tmp_path):
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    ended = threading.Event()

    @app.store
    def store(request):
        if request.message_id > 1:
            raise Failure(0xC000, "no")

    @app.quiet("SERIES", after=0.3)
    def complete(series):
        ended.set()

    with app.serve(port=0) as running, connect("127.0.0.1", running.port) as client:
        client.store(SAMPLE)
        with pytest.raises(RequestFailed):
            client.store(SAMPLE)
        assert ended.wait(WAIT)  # the association is still there


def test_a_queue_that_cannot_be_written_refuses_stores_and_is_not_ready(tmp_path):
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))

    @app.store
    def store(request):
        app.forward(request.instance, to="PACS")

    def full(jobs):
        raise DatabaseFailed("database or disk is full")

    with app.serve(port=0) as running, connect("127.0.0.1", running.port) as client:
        app.forward(SAMPLE, to="PACS")
        assert running.obstacle() == ""
        app.work.opened.queue.put = full
        with pytest.raises(RequestFailed) as refused:
            client.store(SAMPLE)
        assert refused.value.status.code == 0xA700
        assert running.obstacle() == "the queue of jobs cannot be written"
        kept = [path for path in app.work.opened.files.folder.iterdir() if path.suffix == ".dcm"]
        assert len(kept) == 1


@pytest.mark.slow
def test_a_postgresql_that_is_down_refuses_stores_and_takes_them_when_it_is_back(monkeypatch):
    postgres = pytest.importorskip("pacsroute.jobs.postgres")
    monkeypatch.setattr(postgres, "_PATIENCE", 1.0)
    with server() as database:
        app = App("ROUTER", jobs=database.url())
        ran = threading.Event()

        @app.job
        def analyse(uid):
            ran.set()

        @app.store
        def store(request):
            analyse.later(request.sop_instance)

        with app.serve(port=0) as running, connect("127.0.0.1", running.port) as client:
            database.stop("immediate")
            with pytest.raises(RequestFailed) as refused:
                client.store(SAMPLE)
            assert refused.value.status.code == 0xA700
            assert running.obstacle() == "the queue of jobs cannot be written"
            database.start()

            def taken():
                try:
                    return client.store(SAMPLE).category == "Success"
                except RequestFailed:  # a connection of before
                    return False

            until(taken)
            assert ran.wait(WAIT)


def test_what_was_forwarded_before_the_app_serves_is_delivered(tmp_path):
    app, pacs, came = App("ROUTER", jobs=str(tmp_path / "jobs.db")), App("PACS"), threading.Event()
    pacs.store(lambda request: came.set())
    app.forward(SAMPLE, to="PACS")
    with pacs.serve(port=0) as archive:
        app.destinations["PACS"] = Peer("127.0.0.1", archive.port)
        with app.serve(port=0):
            assert came.wait(WAIT)


def test_a_destination_that_is_away_for_an_hour_gets_all_of_it(tmp_path, monkeypatch):
    """Time is made to pass; the lane looks for it once a minute, and uses up no attempt."""
    app, pacs, came = App("ROUTER"), App("PACS"), []
    pacs.store(lambda request: came.append(request.sop_instance))
    with app.test_client() as client:
        now = app.work.opened.queue.now
        app.forward(SAMPLE, to="PACS")
        began = now.seconds
        while now.seconds - began < 3600:
            client.run_jobs()
        (job,) = app.work.opened.queue.jobs()
        assert (job.attempts, job.failed) == (0, False)
        looks = app.work.opened.queue.failures("PACS")
        assert 60 <= looks <= 70
        with pacs.serve(port=0) as archive:
            app.destinations["PACS"] = Peer("127.0.0.1", archive.port)
            client.run_jobs()
    assert len(came) == 1


@pytest.mark.slow
def test_a_hundred_thousand_jobs_wait_without_slowing_the_others_down(queue):
    queue.enter()
    for start in range(0, 100_000, 1000):
        queue.put(
            NewJob("AWAY", "deliver", {"name": number}, key=str(number), study=str(number // 100))
            for number in range(start, start + 1000)
        )
    queue.put(NewJob("LATER", "f", {"name": number}, delay=3600) for number in range(10_000))
    queue.back_off("AWAY", 3600)

    def seconds(work):
        began = time.monotonic()
        work()
        return time.monotonic() - began

    assert queue.ready() == []
    assert min(seconds(queue.ready) for _ in range(5)) < 0.25
    put = [NewJob("PACS", "deliver", {"name": 1}, key="1", study="1")]
    assert min(seconds(lambda: queue.put(put)) for _ in range(5)) < 0.25
    assert min(seconds(lambda: queue.claim("PACS", 20)) for _ in range(5)) < 0.25
    queue.wake("AWAY")
    assert min(seconds(lambda: queue.claim("AWAY", 20)) for _ in range(5)) < 0.25
    assert seconds(queue.lanes) < 5


def test_no_period_ends_while_an_association_brings_more_of_it(tmp_path):
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    ended, counts = threading.Event(), []

    @app.store
    def store(request): ...

    @app.quiet("SERIES", after=0.5)
    def complete(series):
        counts.append(series.count)
        ended.set()

    dataset = Instance(SAMPLE).dataset
    with app.serve(port=0) as running, RawPeer(running.port, [(CT, EXPLICIT)]) as peer:
        for number in range(2):
            dataset.SOPInstanceUID = uid = f"1.2.3.{number}"
            command = commands.CStoreRQ(
                message_id=number + 1, affected_sop_class=CT, affected_sop_instance=uid
            )
            *parts, last = fragment(1, command, encode(dataset, EXPLICIT), 4096)
            for part in parts:
                peer.socket.sendall(part)
            if number:
                assert not ended.wait(3.0)  # the first one is whole, and the period must not end
            peer.socket.sendall(last)
            assert peer.receive()[0].status == 0
        assert ended.wait(WAIT)
    assert counts == [2]


def test_no_period_ends_while_an_http_request_brings_more_of_it(tmp_path):
    app = App("ROUTER", jobs=str(tmp_path / "jobs.db"))
    ended, counts = threading.Event(), []

    @app.store
    def store(request): ...

    @app.quiet("SERIES", after=0.5)
    def complete(series):
        counts.append(series.count)
        ended.set()

    def body():
        for number, size in enumerate((1000, 8_000_000)):  # the server reads large pieces
            dataset = Instance(SAMPLE).dataset
            dataset.SOPInstanceUID, dataset.PixelData = f"1.2.3.{number}", bytes(size)
            data = Instance(dataset).save(tmp_path / "sent").read_bytes()
            yield b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data[:-500]
            if number:
                ended.wait(3.0)  # the first one is whole, and the period must not end
            yield data[-500:] + b"\r\n"
        yield b"--b--\r\n"

    with app.serve(port=0, web_port=0) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.web_port, timeout=WAIT)
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        connection.request("POST", "/dicom-web/studies", body(), headers, encode_chunked=True)
        assert connection.getresponse().status == 200
        connection.close()
        assert ended.wait(WAIT)
    assert counts == [2]


@pytest.mark.slow
def test_threads_that_use_all_connections_do_not_wait_for_the_time(monkeypatch):
    postgres = pytest.importorskip("pacsroute.jobs.postgres")
    monkeypatch.setattr(postgres, "_ASKED_EACH", 0.0)
    monkeypatch.setattr(postgres, "_PATIENCE", 60.0)  # a busy disk may take seconds for a commit
    with server() as running:
        database = postgres.PostgreSQL(running.url())
        database.write(lambda transaction: schema.create(transaction, database.identity))
        queue = Queue(database, LonelyOwner(), database.now)

        def put():
            for number in range(20):
                queue.put([NewJob("PACS", "deliver", {"name": number})])

        threads = [threading.Thread(target=put) for _ in range(3 * postgres._CONNECTIONS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(queue.jobs()) == 20 * len(threads)
        assert time.monotonic() - began < postgres._PATIENCE
        database.close()


@pytest.mark.slow
def test_a_restart_within_a_lease_removes_what_was_kept_and_never_queued(tmp_path):
    pytest.importorskip("pacsroute.jobs.postgres")
    with server() as database:
        killed, again = (App("ROUTER", jobs=database.url(), spool=str(tmp_path)) for _ in range(2))
        killed.forward(SAMPLE, to="PACS")
        files = killed.work.opened.files
        files.keep(Instance(SAMPLE))  # and dies before the job is in the queue,
        files.close()  # with its locks; its lease still stands
        assert len(list(files.folder.glob("*.dcm"))) == 2
        with again.serve(port=0):
            (job,) = again.work.opened.queue.jobs()
            assert [path.name for path in files.folder.glob("*.dcm")] == [job.arguments["file"]]
        killed.work.close()


def test_a_lane_that_rests_is_tried_when_its_peer_associates(tmp_path):
    app, pacs, came = App("ROUTER", jobs=str(tmp_path / "jobs.db")), App("PACS"), threading.Event()
    pacs.store(lambda request: came.set())
    with pacs.serve(port=0) as archive, app.serve(port=0) as running:
        app.destinations["PACS"] = Peer("127.0.0.1", archive.port)
        app.forward(SAMPLE, to="PACS", key="first")
        assert came.wait(WAIT)
        queue = app.work.opened.queue
        until(lambda: queue.jobs() == [])
        queue.back_off("PACS", 3600, "away")
        came.clear()
        app.forward(SAMPLE, to="PACS")
        with connect("127.0.0.1", running.port, calling_ae="OTHER") as client:
            client.echo()
        assert not came.wait(1)
        with connect("127.0.0.1", running.port, calling_ae="PACS") as client:
            client.echo()
        assert came.wait(WAIT)


@pytest.mark.slow
def test_a_queue_shares_its_database_with_the_index_of_an_archive(tmp_path):
    pytest.importorskip("pacsroute.jobs.postgres")
    with server() as database:
        app, ended = App("ROUTER", jobs=database.url(), spool=str(tmp_path)), threading.Event()
        archive = Archive(tmp_path / "archive", index=database.url())
        app.register_blueprint(archive)

        @app.quiet("SERIES", after=1.0)
        def complete(series):
            ended.set()

        with app.serve(port=0) as running, connect("127.0.0.1", running.port) as client:
            client.store(SAMPLE)
            assert archive.count() == 1
            assert ended.wait(WAIT)
