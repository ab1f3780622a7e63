"""The queue of jobs: what waits, what is under way, and whose it is."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.postgresql import server

from pacsroute.jobs import schema
from pacsroute.jobs.database import SQLite, with_percent
from pacsroute.jobs.owners import LEASE, LeasedOwner, LockedOwner, LonelyOwner
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.rows import NewJob

ROOT = Path(__file__).parents[2]


class Time:
    """A clock that a test sets."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def opened(path):
    database = SQLite(path)
    database.write(lambda transaction: schema.create(transaction, database.identity))
    return database


@pytest.fixture
def now():
    return Time()


@pytest.fixture(scope="module")
def postgresql():
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def process(request, tmp_path, now):
    """Return what opens one queue as another process has it, and a way to end that process."""
    opened_here, gone = [], []
    if request.param == "postgresql":
        postgres = pytest.importorskip("pacsroute.jobs.postgres")
        running = request.getfixturevalue("postgresql")
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(running.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")

    def open_queue():
        if request.param == "sqlite":
            database, owner = opened(tmp_path / "jobs.db"), LockedOwner(tmp_path / "owners")
        else:
            database, owner = postgres.PostgreSQL(running.url(), name), LeasedOwner()
            owner.node = "here"
            database.write(lambda transaction: schema.create(transaction, database.identity))
        opened_here.append((database, owner))
        queue = Queue(database, owner, now, lambda job: gone.append(job.arguments["name"]))
        queue.enter()
        return queue

    def end(queue):
        if request.param == "sqlite":
            queue.owner.close()
        else:
            now.seconds += LEASE + 1

    open_queue.end, open_queue.gone = end, gone
    yield open_queue
    for database, owner in opened_here:
        owner.close()
        database.close()


@pytest.fixture
def queue(process):
    return process()


@pytest.fixture
def another(process):
    """Return the queue as another process has it."""
    return process()


def job(name, lane="PACS", **options):
    return NewJob(lane, "deliver", {"name": name}, **options)


def names(jobs):
    return [one.arguments["name"] for one in jobs]


# ------------------------------------------------------------- order


def test_jobs_of_a_lane_come_in_the_order_in_which_they_were_put(queue):
    queue.put([job("a"), job("b")])
    queue.put([job("c"), job("elsewhere", lane="OTHER")])
    assert names(queue.claim("PACS", 10)) == ["a", "b", "c"]
    assert names(queue.claim("OTHER", 10)) == ["elsewhere"]
    assert queue.claim("PACS", 10) == []


def test_a_higher_priority_overtakes_within_the_lane(queue):
    queue.put([job("a"), job("urgent", priority=1), job("b"), job("late", priority=-1)])
    assert names(queue.claim("PACS", 10)) == ["urgent", "a", "b", "late"]


def test_instances_of_a_study_stay_together(queue):
    for name, study in (("1", "x"), ("2", "y"), ("3", "x"), ("4", ""), ("5", "y"), ("6", "x")):
        queue.put([job(name, study=study)])
    assert names(queue.claim("PACS", 10)) == ["1", "3", "6", "2", "5", "4"]


def test_a_job_with_a_delay_waits_for_its_time(queue, now):
    queue.put([job("later", delay=60), job("now")])
    assert names(queue.claim("PACS", 10)) == ["now"]
    now.seconds += 59
    assert queue.ready() == []
    now.seconds += 2
    assert queue.ready() == ["PACS"]
    assert names(queue.claim("PACS", 10)) == ["later"]


@given(
    st.lists(
        st.tuples(st.integers(-1, 1), st.sampled_from(["", "x", "y"])), min_size=1, max_size=12
    )
)
def test_the_order_is_that_of_priority_then_study_then_arrival(entries):
    database = opened(None)
    queue = Queue(database, LonelyOwner(), Time())
    queue.enter()
    first = {}
    expected = []
    for number, (priority, study) in enumerate(entries):
        queue.put([job(number, priority=priority, study=study)])
        turn = first.setdefault(study, number) if study else number
        expected.append((-priority, turn, number))
    claimed = []
    while jobs := queue.claim("PACS", 3):
        claimed += names(jobs)
    assert claimed == [number for *_, number in sorted(expected)]
    database.close()


# ------------------------------------------------------------- keys


def test_a_key_has_one_waiting_job_with_the_newest_arguments_and_time(queue, now):
    queue.put([job("old", key="k", delay=10)])
    queue.put([job("new", key="k", delay=60)])
    now.seconds += 30
    assert queue.claim("PACS", 10) == []
    now.seconds += 31
    assert names(queue.claim("PACS", 10)) == ["new"]


def test_what_is_put_again_with_a_higher_priority_overtakes(queue):
    queue.put([job("a", key="a"), job("b", key="b")])
    queue.put([job("urgent", key="b", priority=1)])
    queue.put([job("low", key="b", priority=-1)])
    assert names(queue.claim("PACS", 10)) == ["low", "a"]


def test_what_was_replaced_is_told(queue, another, process):
    """Its file goes with it: put again, put back, given back, retried, taken from the dead."""
    queue.put([job("put again", key="k")])
    queue.put([job("put back", key="k")])
    (one,) = queue.claim("PACS", 1)
    queue.put([job("retried", key="k")])
    queue.put_back(one, tried=True)
    (one,) = queue.claim("PACS", 1)
    queue.give_up(one, "no")
    queue.put([job("released", key="k")])
    assert queue.retry(one.id)
    queue.claim("PACS", 1)
    queue.put([job("of the dead", key="k")])
    queue.release("PACS")
    another.claim("PACS", 1)
    queue.put([job("newest", key="k")])
    process.end(another)
    queue.reap()
    assert process.gone == ["put again", "put back", "retried", "released", "of the dead"]
    assert names(queue.claim("PACS", 10)) == ["newest"]


@pytest.mark.parametrize("how", ["put again", "put back"])
def test_a_newer_version_takes_over_what_is_to_be_removed(queue, how):
    def version(name, uid="1.2"):
        arguments = {"name": name, "sop_instance": uid, "delete": [name]}
        return NewJob("PACS", "deliver", arguments, key="k")

    queue.put([version("a", "9.9")])
    queue.put([version("b")])
    if how == "put back":
        (one,) = queue.claim("PACS", 1)
        queue.put([version("c")])
        queue.put_back(one, tried=True)
    else:
        queue.put([version("c")])
    (newest,) = queue.claim("PACS", 10)
    assert newest.arguments["name"] == "c"
    assert sorted(newest.arguments["delete"]) == ["b", "c"]


def test_a_key_that_is_under_way_can_wait_again(queue):
    queue.put([job("first", key="k")])
    (first,) = queue.claim("PACS", 10)
    queue.put([job("second", key="k")])
    (second,) = queue.claim("PACS", 10)
    assert names([first, second]) == ["first", "second"]


def test_what_is_put_back_gives_way_to_a_newer_one_of_its_key(queue):
    queue.put([job("old", key="k")])
    (old,) = queue.claim("PACS", 10)
    queue.put([job("new", key="k")])
    assert queue.put_back(old, tried=True)
    assert names(queue.claim("PACS", 10)) == ["new"]
    assert queue.claim("PACS", 10) == []


def test_two_under_way_with_one_key_both_go_back_as_the_newer_one(queue, another, process):
    queue.put([job("old", key="k")])
    another.claim("PACS", 1)
    queue.put([job("new", key="k")])
    another.claim("PACS", 1)
    process.end(another)
    assert queue.reap() == [another.owner.id]
    assert names(queue.claim("PACS", 10)) == ["new"]


# ------------------------------------------------------------- ends


def test_a_job_that_is_done_is_gone(queue):
    queue.put([job("a")])
    (one,) = queue.claim("PACS", 1)
    assert queue.done(one)
    assert queue.jobs() == []
    assert not queue.done(one)


def test_what_was_tried_counts_and_what_the_peer_put_off_does_not(queue):
    queue.put([job("a")])
    for tried, attempts in ((False, 0), (True, 1), (False, 1), (True, 2)):
        (one,) = queue.claim("PACS", 1)
        assert queue.put_back(one, error="full", tried=tried)
        (shown,) = queue.jobs()
        assert (shown.attempts, shown.error) == (attempts, "full")


def test_what_is_given_up_is_kept_and_can_be_tried_again(queue):
    (number,) = queue.put([job("a")])
    (one,) = queue.claim("PACS", 1)
    assert queue.give_up(one, "refused")
    assert queue.claim("PACS", 1) == []
    (lane,) = queue.lanes()
    assert (lane.waiting, lane.running, lane.failed) == (0, 0, 1)
    assert queue.retry(number)
    (again,) = queue.claim("PACS", 1)
    assert again.attempts == 0
    assert not queue.retry(number)  # it is under way


def test_a_failed_job_is_not_tried_again_beside_a_newer_one_of_its_key(queue):
    (number,) = queue.put([job("old", key="k")])
    (old,) = queue.claim("PACS", 1)
    queue.give_up(old, "refused")
    queue.put([job("new", key="k")])
    assert queue.retry(number)
    assert names(queue.claim("PACS", 10)) == ["new"]


def test_a_job_under_way_cannot_be_dropped(queue):
    (number,) = queue.put([job("a")])
    (one,) = queue.claim("PACS", 1)
    assert queue.drop(number) is None
    queue.put_back(one, tried=False)
    assert queue.drop(number).arguments == {"name": "a"}
    assert queue.jobs() == []


def test_arguments_that_have_no_json_are_refused_before_anything_is_put(queue):
    with pytest.raises(TypeError):
        queue.put([job("a"), NewJob("PACS", "deliver", {"name": object()})])
    assert queue.jobs() == []


# ------------------------------------------------------------- lanes


def test_a_paused_lane_gives_nothing_until_it_is_resumed(queue):
    queue.put([job("a")])
    assert queue.pause("PACS", "not authorized")
    assert queue.ready() == []
    assert queue.claim("PACS", 1) == []
    (lane,) = queue.lanes()
    assert (lane.paused, lane.reason) == (True, "not authorized")
    assert queue.resume("PACS")
    assert names(queue.claim("PACS", 1)) == ["a"]
    assert not queue.pause("NOWHERE")


def test_a_lane_that_rests_is_ready_after_its_time_or_when_it_is_woken(queue, now):
    queue.put([job("a"), job("b")])
    queue.back_off("PACS", 30, "nobody answers")
    assert queue.failures("PACS") == 1
    assert queue.lanes()[0].reason == "nobody answers"
    assert queue.claim("PACS", 1) == []
    now.seconds += 31
    assert names(queue.claim("PACS", 1)) == ["a"]
    queue.back_off("PACS", 30)
    queue.wake("PACS")
    assert queue.failures("PACS") == 0
    assert queue.lanes()[0].reason == ""
    assert names(queue.claim("PACS", 1)) == ["b"]


def test_the_places_of_a_lane_are_those_of_all_processes(queue, another):
    assert queue.take_place("PACS", 1) == 0
    assert another.take_place("PACS", 1) is None
    assert another.take_place("PACS", 2) == 1
    queue.leave_place("PACS", 0)
    assert another.take_place("PACS", 1) == 0


def test_a_lane_tells_how_old_its_oldest_job_is(queue, now):
    queue.put([job("a")])
    now.seconds += 90
    queue.put([job("b")])
    (lane,) = queue.lanes()
    assert (lane.waiting, lane.oldest) == (2, 90.0)


# ------------------------------------------------------------- owners


def test_only_the_owner_of_a_job_can_end_it(queue, another):
    queue.put([job("a")])
    (one,) = queue.claim("PACS", 1)
    assert not another.done(one)
    assert not another.put_back(one, tried=True)
    assert not another.give_up(one, "no")
    assert queue.done(one)


def test_jobs_and_places_of_a_living_process_stay_its_own(queue, another):
    queue.put([job("a")])
    another.claim("PACS", 1)
    another.take_place("PACS", 1)
    assert queue.reap() == []
    assert queue.claim("PACS", 1) == []
    assert queue.take_place("PACS", 1) is None


def test_jobs_of_a_process_that_was_killed_wait_again_at_once(tmp_path, now):
    queue = Queue(opened(tmp_path / "jobs.db"), LockedOwner(tmp_path / "owners"), now)
    queue.enter()
    queue.put([job("a")])
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pacsroute.jobs.database import SQLite\n"
        "from pacsroute.jobs.owners import LockedOwner\n"
        "from pacsroute.jobs.queue import Queue\n"
        "folder = Path(sys.argv[1])\n"
        "owner = LockedOwner(folder / 'owners')\n"
        "queue = Queue(SQLite(folder / 'jobs.db'), owner, lambda: 1000.0)\n"
        "queue.enter()\n"
        "assert queue.claim('PACS', 1) and queue.take_place('PACS', 1) == 0\n"
        "print(owner.id, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        owner = process.stdout.readline().strip()
        assert queue.reap() == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert queue.reap() == [owner]
    assert names(queue.claim("PACS", 1)) == ["a"]
    assert queue.take_place("PACS", 1) == 0
    queue.owner.close()
    queue.database.close()


def test_an_owner_that_leaves_gives_back_what_it_has(queue, another):
    queue.put([job("a")])
    another.claim("PACS", 1)
    another.leave()
    assert names(queue.claim("PACS", 1)) == ["a"]


def test_what_an_error_has_kept_from_being_given_back_is_released(queue, another):
    queue.put([job("a"), job("other", lane="OTHER")])
    assert queue.take_place("PACS", 1) == 0
    queue.claim("PACS", 1)
    queue.claim("OTHER", 1)
    queue.release("PACS")
    assert another.take_place("PACS", 1) == 0
    assert names(another.claim("PACS", 1)) == ["a"]
    assert another.claim("OTHER", 1) == []


def test_only_processes_that_do_jobs_count_as_serving(queue, another, process):
    assert queue.serve()  # the other one has a shell, say
    assert not another.serve()
    queue.leave()
    process.end(another)
    assert process().serve()


def test_a_process_that_was_taken_for_dead_finds_that_its_jobs_are_not_its_own(queue, another, now):
    if not queue.database.shared:
        pytest.skip("who holds its lock is never taken for dead")
    queue.put([job("a"), job("b")])
    (stopped,) = queue.claim("PACS", 1)
    before = queue.owner.id
    now.seconds += LEASE + 1
    another.enter()
    assert another.reap() == [before]
    queue._seen -= LEASE  # as after SIGSTOP and SIGCONT
    assert not queue.is_ours(stopped)
    assert queue.owner.id != before
    assert not queue.done(stopped)
    assert not queue.give_up(stopped, "no")
    assert names(another.claim("PACS", 2)) == ["a", "b"]
    assert another.reap() == []  # it lives, as another owner


# ------------------------------------------------------------- the database


def test_threads_that_put_at_the_same_time_lose_nothing(queue):
    def put(number):
        for index in range(25):
            queue.put([job(f"{number}-{index}")])

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names(queue.claim("PACS", 1000)))) == 100


def test_work_that_fails_takes_none_with_it_that_shares_its_commit(tmp_path):
    """Two threads wait while a third one commits, so that they are committed together."""
    database = opened(tmp_path / "jobs.db")
    begun, go_on = threading.Event(), threading.Event()
    results = {}

    def first(transaction):
        begun.set()
        go_on.wait(30)

    def insert(transaction):
        transaction.run("INSERT INTO jobs_meta VALUES ('kept', '1')")

    def fail(transaction):
        transaction.run("INSERT INTO jobs_meta VALUES ('lost', '1')")
        raise ZeroDivisionError

    def write(name, work):
        try:
            results[name] = database.write(work)
        except ZeroDivisionError as error:
            results[name] = error

    both_wait = threading.Event()

    class Waiting(deque):
        def append(self, job):
            super().append(job)
            if len(self) == 2:
                both_wait.set()

    threads = [threading.Thread(target=write, args=("first", first))]
    threads[0].start()
    assert begun.wait(30)
    database._commits._jobs = Waiting()
    for name, work in (("insert", insert), ("fail", fail)):
        threads.append(threading.Thread(target=write, args=(name, work)))
        threads[-1].start()
    assert both_wait.wait(30)
    go_on.set()
    for thread in threads:
        thread.join()
    assert isinstance(results["fail"], ZeroDivisionError)
    assert database.read("SELECT name FROM jobs_meta") == [("kept",)]
    database.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    database = opened(tmp_path / "jobs.db")

    def work(transaction):
        transaction.run("INSERT INTO jobs_meta VALUES ('a', '1')")
        transaction.run("INSERT INTO jobs_meta VALUES ('a', '2')")

    with pytest.raises(Exception, match="UNIQUE"):
        database.write(work)
    assert database.read("SELECT * FROM jobs_meta") == []
    database.close()


@given(st.text("ab:'= ", max_size=12))
def test_names_of_values_are_found_and_casts_are_not(text):
    assert with_percent(f"{text}::text").endswith("::text")
    assert with_percent("a = :one AND b = :two_three") == "a = %(one)s AND b = %(two_three)s"


def test_the_log_has_its_usual_length_from_the_start_and_nothing_in_it(tmp_path):
    """A flush that has to note a new length of the file takes twice as long."""
    database = opened(tmp_path / "jobs.db")
    log = tmp_path / "jobs.db-wal"
    before = log.stat().st_size
    queue = Queue(database, LonelyOwner(), Time())
    for number in range(50):
        queue.put([job(number)])
    assert log.stat().st_size == before >= 4_000_000
    tables = database.read("SELECT name FROM sqlite_master WHERE type = 'table'")
    assert ("room",) not in tables
    database.close()
    assert (tmp_path / "jobs.db").stat().st_size < 200_000
