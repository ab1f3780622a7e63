"""Deliveries: what a destination's answers mean for an instance, and for the others."""

import contextlib
import shutil
import threading
import time

import pytest
from support.names import WAIT
from support.samples import FILES

from pacsroute import App, AssociationError, Failure, Instance, connect
from pacsroute.jobs import delivery, schema
from pacsroute.jobs.database import SQLite
from pacsroute.jobs.delivery import Delivery, Outlet, Verdict, judge, rest
from pacsroute.jobs.files import Files
from pacsroute.jobs.forwarding import delivery as delivery_job
from pacsroute.jobs.owners import LockedOwner, LonelyOwner
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.runner import Runner
from pacsroute.status import Status

pytestmark = pytest.mark.slow

SAMPLE = FILES / "CT_small.dcm"


class Router:
    """A queue with a runner that delivers; what it gives up is in `given_up`."""

    def __init__(self, folder):
        self.ports, self.deliveries, self.timeout = {}, {}, 30.0
        self.given_up, self.seconds, self.categories = [], 0.0, []
        self.database = SQLite(folder / "jobs.db")
        self.database.write(lambda transaction: schema.create(transaction, SQLite.identity))
        self.queue = Queue(self.database, LonelyOwner(), lambda: time.monotonic() + self.seconds)
        self.files = Files(folder / "files", lambda: LockedOwner(folder / "files"))
        self.runner = Runner(self.queue, self.worker_of)

    def worker_of(self, lane):
        outlet = Outlet(
            self.connect,
            delivered=self.delivered,
            gave_up=lambda job, said: self.given_up.append((job.arguments["sop_instance"], said)),
        )
        return self.deliveries.setdefault(lane, Delivery(self.queue, self.files, outlet))

    def delivered(self, category, job):
        self.categories.append(category)
        assert self.queue.done(job)
        self.files.remove(job.arguments["file"])

    def connect(self, title, calling_ae):
        if title not in self.ports:
            raise AssociationError(f"nobody knows {title}")
        return connect(
            "127.0.0.1",
            self.ports[title],
            called_ae=title,
            calling_ae=calling_ae,
            timeout=self.timeout,
        )

    def forward(self, to):
        instance = Instance(SAMPLE)
        self._put(to, instance)
        self.runner.wake()

    def forward_many(self, to, count):
        for number in range(count):
            instance = Instance(dataset := Instance(SAMPLE).dataset)
            dataset.SOPInstanceUID = f"1.2.3.{number}"
            self._put(to, instance)
        self.runner.wake()

    def _put(self, to, instance):
        file = self.files.keep(instance)
        job = delivery_job(instance, file, to, calling_ae="ROUTER", node="")
        self.queue.put([job._replace(key=None)])

    def until(self, condition):
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline, self.queue.jobs()
            time.sleep(0.005)


@pytest.fixture
def router(tmp_path):
    router = Router(tmp_path)
    router.runner.start()
    yield router
    router.runner.stop()
    router.files.close()
    router.database.close()


@contextlib.contextmanager
def destination(router, title, store):
    app = App(title)
    app.store(store)
    with app.serve(port=0) as server:
        router.ports[title] = server.port
        yield server


def answers(*results):
    """Return a handler that answers one thing after the other, the last one for ever."""
    came = []

    def store(request):
        came.append(request.sop_instance)
        result = results[min(len(came), len(results)) - 1]
        if isinstance(result, BaseException):
            raise result
        return result

    return store, came


def lane(router, name):
    return next(one for one in router.queue.lanes() if one.name == name)


def test_what_was_delivered_is_gone_with_its_file(router):
    store, came = answers(None)
    with destination(router, "PACS", store):
        router.forward("PACS")
        router.until(lambda: router.queue.jobs() == [])
        router.until(lambda: list(router.files.folder.glob("*.dcm")) == [])
    assert came == ["1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"]
    assert SAMPLE.exists()


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_is_a_delivery(router, status):
    store, came = answers(status)
    with destination(router, "PACS", store):
        router.forward("PACS")
        router.until(lambda: router.queue.jobs() == [])
    assert len(came) == 1
    assert router.given_up == []


def test_what_arrives_is_counted_with_its_category(router):
    store, _ = answers(None, 0xB000)
    with destination(router, "PACS", store):
        router.forward_many("PACS", 2)
        router.until(lambda: router.queue.jobs() == [])
    assert router.categories == ["Success", "Warning"]


def test_many_instances_go_over_one_association(router):
    associations, stored = set(), []

    def store(request):
        associations.add(id(request.association))
        stored.append(request.association)  # so that no other one has its address

    with destination(router, "PACS", store):
        router.forward_many("PACS", 50)
        router.until(lambda: router.queue.jobs() == [])
    assert len(stored) == 50
    assert len(associations) == 1


def test_a_class_that_the_peer_does_not_accept_is_the_instances_own(router, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY", ())
    app = App("PACS")
    app.store(sop_class="MRImageStorage")(lambda request: None)
    with app.serve(port=0) as server:
        router.ports["PACS"] = server.port
        router.forward("PACS")
        router.until(lambda: router.given_up)
        assert lane(router, "PACS").retry_in == 0
    assert "does not accept CT Image Storage" in router.given_up[0][1]


def test_a_full_peer_uses_up_no_attempt(router, monkeypatch):
    monkeypatch.setattr(delivery, "rest", lambda failures: 0.01)
    store, came = answers(*[Failure(0xA700, "full")] * 12, None)
    with destination(router, "PACS", store):
        router.forward("PACS")
        router.until(lambda: router.queue.jobs() == [])
    assert len(came) == 13
    assert router.given_up == []


def test_a_refusal_is_the_instances_own_and_ends_in_giving_it_up(router, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY", (0.01, 0.01))
    store, came = answers(Failure(0xC000, "no"))
    with destination(router, "PACS", store):
        router.forward("PACS")
        router.until(lambda: router.given_up)
    assert len(came) == 3
    (job,) = router.queue.jobs()
    assert job.failed
    assert job.attempts == 3
    assert job.error.startswith("0xC000")
    assert router.files.path(job.arguments["file"]).exists()  # kept until somebody drops it


def test_a_refused_instance_holds_no_other_up(router):
    def store(request):
        came.append(request.sop_instance)
        if request.sop_instance == "1.2.3.1":
            raise Failure(0xA900, "not this one")

    came = []
    with destination(router, "PACS", store):
        router.forward_many("PACS", 4)
        router.until(lambda: len(router.queue.jobs()) == 1)
    assert came == [f"1.2.3.{number}" for number in range(4)]
    (left,) = router.queue.jobs()
    assert (left.attempts, left.failed) == (1, False)


def test_a_peer_that_forbids_it_pauses_its_lane(router):
    store, came = answers(Failure(0x0124, "not you"), None)
    with destination(router, "PACS", store):
        router.forward("PACS")
        router.until(lambda: lane(router, "PACS").paused)
        assert lane(router, "PACS").reason.startswith("0x0124")
        assert router.queue.resume("PACS")
        router.runner.wake()
        router.until(lambda: router.queue.jobs() == [])
    assert len(came) == 2


def test_an_absent_peer_is_waited_for_and_holds_no_other_lane_up(router, monkeypatch):
    monkeypatch.setattr(delivery, "rest", lambda failures: 0.05)
    store, _ = answers(None)
    router.forward("AWAY")
    with destination(router, "PACS", store):
        router.forward("PACS")
        router.until(lambda: lane(router, "PACS").waiting == 0)
    router.until(lambda: router.queue.failures("AWAY") > 2)
    (job,) = router.queue.jobs()
    assert (job.attempts, job.failed) == (0, False)
    with destination(router, "AWAY", store):
        router.until(lambda: router.queue.jobs() == [])
    assert router.queue.failures("AWAY") == 0


def test_an_instance_that_makes_the_peer_abort_is_set_aside_and_the_rest_arrives(
    router, monkeypatch
):
    monkeypatch.setattr(delivery, "RETRY", ())

    def store(request):
        if request.sop_instance == "1.2.3.2":
            request.association.abort()
        else:
            came.append(request.sop_instance)

    came = []
    with destination(router, "PACS", store):
        router.forward_many("PACS", 5)
        router.until(lambda: router.given_up and len(router.queue.jobs()) == 1)
    assert sorted(came) == ["1.2.3.0", "1.2.3.1", "1.2.3.3", "1.2.3.4"]
    assert [name for name, _ in router.given_up] == ["1.2.3.2"]


def test_an_instance_on_which_the_peer_hangs_is_set_aside_and_the_rest_arrives(router, monkeypatch):
    """The peer has one place: while it hangs, it does not even answer an echo."""
    monkeypatch.setattr(delivery, "RETRY", ())
    monkeypatch.setattr(delivery, "_HANGS", 0.1)
    monkeypatch.setattr(delivery, "rest", lambda failures: 0.2)
    router.timeout = 0.5
    over, came = threading.Event(), []

    def store(request):
        if request.sop_instance in ("1.2.3.0", "1.2.3.1", "1.2.3.2", "1.2.3.4"):
            over.wait(1.0)
        else:
            came.append(request.sop_instance)

    app = App("PACS", max_associations=1)
    app.store(store)
    with app.serve(port=0) as server:
        router.ports["PACS"] = server.port
        router.forward_many("PACS", 6)
        router.until(lambda: len(came) == 2 and len(router.given_up) == 4)
        over.set()
    assert sorted(came) == ["1.2.3.3", "1.2.3.5"]
    assert {said for _, said in router.given_up} == {"no message received for 0.5 s"}


def test_many_instances_in_a_row_that_make_the_peer_abort_hold_up_nobody(router, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY", ())
    monkeypatch.setattr(delivery, "rest", lambda failures: 0.05)

    def store(request):
        if int(request.sop_instance.rpartition(".")[2]) < 7:
            request.association.abort()
        else:
            came.append(request.sop_instance)

    came = []
    with destination(router, "PACS", store):
        router.forward_many("PACS", 9)
        router.until(lambda: len(came) == 2)
        assert router.queue.failures("PACS") <= 4
        router.until(lambda: len(router.given_up) == 7)
    assert {name for name, _ in router.given_up} == {f"1.2.3.{number}" for number in range(7)}


def test_a_peer_that_aborts_everything_is_taken_for_ill_and_nothing_is_given_up(
    router, monkeypatch
):
    monkeypatch.setattr(delivery, "RETRY", ())
    monkeypatch.setattr(delivery, "rest", lambda failures: 0.01)
    healthy = threading.Event()

    def store(request):
        if not healthy.is_set():
            request.association.abort()

    with destination(router, "PACS", store):
        router.forward_many("PACS", 6)
        router.until(lambda: router.queue.failures("PACS") > 2)
        healthy.set()
        router.until(lambda: router.queue.jobs() == [])
    assert router.given_up == []


def test_an_instance_that_alone_makes_the_peer_abort_uses_up_its_attempts(router, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY", (0.01,))
    with destination(router, "PACS", lambda request: request.association.abort()):
        router.forward("PACS")
        router.until(lambda: router.given_up)
    (job,) = router.queue.jobs()
    assert (job.attempts, job.failed) == (2, True)


def test_a_file_that_cannot_be_read_is_the_instances_own(router, monkeypatch):
    monkeypatch.setattr(delivery, "RETRY", ())
    store, came = answers(None)
    router.forward("PACS")
    for entry in router.files.folder.glob("*.dcm"):
        entry.unlink()
    with destination(router, "PACS", store):
        router.until(lambda: router.given_up)
        router.forward("PACS")
        router.until(lambda: len(router.queue.jobs()) == 1)
    assert len(came) == 1
    assert router.given_up[0][1] == "it cannot be read: FileNotFoundError"


def test_what_is_kept_stays_as_it_was_when_its_file_is_replaced(tmp_path):
    source = tmp_path / "one.dcm"
    shutil.copy(SAMPLE, source)
    files = Files(tmp_path / "files", LonelyOwner)
    name = files.keep(Instance(source))
    (tmp_path / "new").write_bytes(b"another")
    (tmp_path / "new").replace(source)
    assert files.path(name).read_bytes() == SAMPLE.read_bytes()


def test_a_sweep_removes_what_no_job_refers_to_once_its_process_has_ended(tmp_path):
    owners = [LockedOwner(tmp_path) for _ in range(2)]
    ended, alive = (Files(tmp_path, lambda one=one: one) for one in owners)
    known, left = (ended.keep(Instance(SAMPLE)) for _ in range(2))
    new = alive.keep(Instance(SAMPLE))  # it is to be put into the queue
    assert alive.sweep(lambda: {known}) == 0
    ended.close()
    assert alive.sweep(lambda: {known}) == 1
    assert [alive.path(name).exists() for name in (known, left, new)] == [True, False, True]
    alive.close()


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0x0000, Verdict.DELIVERED),
        (0xB000, Verdict.DELIVERED),
        (0xB007, Verdict.DELIVERED),
        (0xA700, Verdict.RESTS),
        (0xA7FF, Verdict.RESTS),
        (0x0124, Verdict.PAUSED),
        (0xA900, Verdict.REFUSED),
        (0xC123, Verdict.REFUSED),
        (0x0110, Verdict.REFUSED),
        (0x0122, Verdict.REFUSED),
    ],
)
def test_verdicts_of_statuses(code, verdict):
    assert judge(Status(code)).verdict is verdict


def test_a_lane_never_rests_longer_than_a_minute():
    assert [rest(failures) for failures in (0, 1, 5, 6, 10_000)] == [1, 2, 32, 60, 60]
