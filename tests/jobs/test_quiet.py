"""Quiet series: a period for each, ended by time, by what was expected, or left open."""

import threading

import pytest

from pacsroute.jobs import schema
from pacsroute.jobs.collected import collected
from pacsroute.jobs.database import SQLite
from pacsroute.jobs.functions import Functions, completing
from pacsroute.jobs.owners import LonelyOwner
from pacsroute.jobs.queue import Queue
from pacsroute.jobs.quiet import Arrival, Quiet
from pacsroute.jobs.rows import NewJob


class Bench:
    """One quiet function, with a clock that a test sets."""

    def __init__(self, level="SERIES"):
        self.seconds = 1_000_000.0
        self.database = SQLite(None)
        self.database.write(lambda transaction: schema.create(transaction, SQLite.identity))
        self.queue = Queue(self.database, LonelyOwner(), lambda: self.seconds)
        self.queue.enter()
        self.quiet = Quiet(self.queue, "complete()", level, 60.0)
        self.ended, self.given_up, self.raises = [], [], []
        call = completing(self.queue, self.quiet, self.complete)
        self.worker = Functions(
            self.queue, call, (1.0, 5.0), lambda job, error: self.given_up.append(job.key)
        )

    def complete(self, series):
        self.ended.append(series)
        if self.raises:
            raise self.raises.pop()
        if (jobs := collected()) is not None:
            jobs.append(NewJob("analyse()", "analyse", {"uid": series.uid}))

    def comes(self, sop_instance, series="1.1", study="1", called_ae="ROUTER", calling_ae="CT"):
        arrival = Arrival(sop_instance, series, study, calling_ae, called_ae)
        self.database.write(lambda transaction: self.quiet.arrived(transaction, arrival))
        return self.quiet.key(arrival)

    def passes(self, seconds):
        self.seconds += seconds
        self.worker.work("complete()", threading.Event())

    def enqueued(self):
        return [job.arguments["uid"] for job in self.queue.jobs() if job.function == "analyse"]


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.database.close()


def test_a_series_is_complete_when_nothing_has_come_for_the_time(bench):
    bench.comes("1.1.1")
    bench.passes(50)
    bench.comes("1.1.2")
    bench.passes(59)
    assert bench.ended == []
    bench.passes(1)
    (series,) = bench.ended
    assert (series.uid, series.study, series.count) == ("1.1", "1", 2)
    assert (series.calling_ae, series.called_ae) == ("CT", "ROUTER")
    assert (series.last - series.first).total_seconds() == 50
    assert (series.again, series.reason) == (False, "quiet")
    assert bench.enqueued() == ["1.1"]
    bench.passes(1000)
    assert len(bench.ended) == 1


def test_an_instance_that_comes_twice_counts_once(bench):
    bench.comes("1.1.1")
    bench.comes("1.1.1")
    bench.passes(60)
    assert bench.ended[0].count == 1


def test_series_of_a_study_have_a_period_each(bench):
    bench.comes("1.1.1")
    bench.passes(30)
    bench.comes("1.2.1", series="1.2")
    bench.passes(30)
    assert [series.uid for series in bench.ended] == ["1.1"]
    bench.passes(30)
    assert [series.uid for series in bench.ended] == ["1.1", "1.2"]


def test_a_study_has_one_period_for_all_its_series():
    bench = Bench("STUDY")
    bench.comes("1.1.1")
    bench.passes(30)
    bench.comes("1.2.1", series="1.2")
    bench.passes(59)
    assert bench.ended == []
    bench.passes(1)
    assert [(series.uid, series.count) for series in bench.ended] == [("1", 2)]
    bench.database.close()


def test_the_same_series_sent_to_two_titles_is_two(bench):
    bench.comes("1.1.1", called_ae="ONE")
    bench.comes("1.1.1", called_ae="TWO")
    bench.passes(60)
    assert sorted(series.called_ae for series in bench.ended) == ["ONE", "TWO"]


def test_late_instances_make_another_period_that_says_so(bench):
    bench.comes("1.1.1")
    bench.passes(60)
    bench.comes("1.1.2")
    bench.passes(60)
    assert [(series.count, series.again) for series in bench.ended] == [(1, False), (1, True)]
    assert bench.enqueued() == ["1.1", "1.1"]


def test_what_comes_while_the_function_runs_belongs_to_the_next_period(bench):
    def complete(series):
        if not bench.ended:
            bench.seconds += 1
            bench.comes("1.1.2")
        bench.ended.append(series)

    bench.worker._call = completing(bench.queue, bench.quiet, complete)
    bench.comes("1.1.1")
    bench.passes(60)
    bench.passes(60)
    assert [(series.count, series.again) for series in bench.ended] == [(1, False), (1, True)]


def test_a_function_that_raises_runs_again_and_enqueues_once(bench):
    bench.raises = [ValueError("first")]
    bench.comes("1.1.1")
    bench.passes(60)
    assert bench.enqueued() == []
    bench.passes(1)
    assert len(bench.ended) == 2
    assert bench.ended[0] == bench.ended[1]
    assert bench.enqueued() == ["1.1"]


def test_a_function_that_always_raises_is_given_up_and_kept(bench):
    bench.raises = [ValueError("again")] * 3
    bench.comes("1.1.1")
    for seconds in (60, 1, 5):
        bench.passes(seconds)
    assert bench.given_up == ["ROUTER 1.1"]
    (job,) = bench.queue.jobs()
    assert (job.failed, job.error) == (True, "ValueError")


def test_a_period_is_whole_again_after_nobody_has_listened(bench):
    bench.comes("1.1.1")
    bench.seconds += 3600  # the process was down
    bench.database.write(bench.quiet.begin_anew)
    bench.passes(59)
    assert bench.ended == []
    bench.passes(1)
    assert len(bench.ended) == 1


def test_a_period_does_not_end_while_more_is_on_its_way(bench):
    key = bench.comes("1.1.1")
    bench.seconds += 59
    for _ in range(30):
        bench.database.write(lambda transaction: bench.quiet.hold(transaction, [key]))
        bench.passes(1)
    assert bench.ended == []
    bench.passes(3)
    assert len(bench.ended) == 1


def test_a_period_ends_when_all_that_is_expected_has_come(bench):
    key = bench.comes("1.1.1")
    assert bench.quiet.expect(key, ["1.1.1", "1.1.2"], "mpps")
    bench.passes(1)
    assert bench.ended == []
    bench.comes("1.1.2")
    bench.passes(0)
    (series,) = bench.ended
    assert (series.expected, series.missing, series.reason) == (("1.1.1", "1.1.2"), (), "mpps")


def test_a_period_whose_instances_stay_away_ends_with_what_is_missing(bench):
    key = bench.comes("1.1.1")
    bench.quiet.expect(key, ["1.1.1", "1.1.2"], "mpps")
    bench.passes(60)
    assert bench.ended[0].missing == ("1.1.2",)


def test_a_period_can_be_ended_at_once(bench):
    key = bench.comes("1.1.1")
    assert bench.quiet.expect(key, None, "discontinued")
    bench.passes(0)
    assert bench.ended[0].reason == "discontinued"
    assert not bench.quiet.expect("ROUTER 9.9", None, "discontinued")


def test_what_was_expected_of_one_period_is_not_of_the_next(bench):
    key = bench.comes("1.1.1")
    bench.quiet.expect(key, ["1.1.1"], "mpps")
    bench.passes(0)
    bench.comes("1.1.2")
    bench.passes(60)
    assert (bench.ended[1].expected, bench.ended[1].reason) == ((), "quiet")
