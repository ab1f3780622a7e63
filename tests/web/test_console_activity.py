"""What the console keeps of an app at work: counts by the minute, and the last failures."""

from types import SimpleNamespace

import pytest

from pacsroute import Status
from pacsroute.web.console import charts
from pacsroute.web.console.activity import KEPT, Activity
from pacsroute.web.console.rates import Rates, together


class Clock:
    seconds = 6000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def peer(title="CT1"):
    return SimpleNamespace(
        calling_ae=title,
        called_ae="ARCHIVE",
        remote_address="10.0.0.7",
        peer_certificate=None,
        contexts={1: None},
    )


def test_minutes_pass_and_an_hour_later_are_forgotten(clock):
    rates = Rates(clock)
    rates.add("C-ECHO", 2)
    clock.seconds += 60
    rates.add("C-ECHO", 3)
    minute, counts = rates.all()
    assert (minute, counts["C-ECHO"][-2:]) == (101, [2, 3])
    clock.seconds += 59 * 60
    assert sum(rates.all()[1]["C-ECHO"]) == 3
    clock.seconds += 1e6
    assert sum(rates.all()[1]["C-ECHO"]) == 0


def test_a_clock_that_is_set_back_loses_no_count(clock):
    rates = Rates(clock)
    clock.seconds -= 3600
    rates.add("C-ECHO")
    assert rates.all()[1]["C-ECHO"][-1] == 1


def test_counts_of_several_processes_are_added_minute_by_minute(clock):
    one, other = Rates(clock), Rates(clock)
    one.add("C-ECHO", 1)
    before = one.all()
    clock.seconds += 60
    other.add("C-ECHO", 10)
    assert together([before, other.all()])["C-ECHO"][-2:] == [1, 10]


def test_the_tallest_bar_fills_its_chart_and_the_least_can_be_seen():
    counts = together([Rates().all()])
    counts["C-ECHO"][0], counts["C-ECHO"][59] = 1, 1000
    found = {chart.title: chart for chart in charts.charts(counts)}
    assert found["C-ECHO"].bars == "M0 38h3v2h-3zM236 0h3v40h-3z"
    assert (found["C-ECHO"].total, found["C-ECHO"].most) == ("1,001", "1,000")
    assert "DICOMweb" not in found
    assert not found["Failures"].is_bad


def test_failures_are_bounded_and_the_oldest_go_first(clock):
    activity = Activity(clock)
    for number in range(KEPT + 10):
        activity.unsuccessful(peer(f"CT{number}"), "C-STORE", "", Status(0xA700))
    activity.unsuccessful(peer("CT10"), "C-STORE", "", Status(0xA700))
    troubles = activity.snapshot()["troubles"]
    assert len(troubles) == KEPT
    assert (troubles[0]["calling_ae"], troubles[-1]["calling_ae"]) == ("CT11", "CT10")
    assert troubles[-1]["count"] == 2


def test_warnings_and_cancels_are_no_failures_but_lost_suboperations_are(clock):
    activity = Activity(clock)
    for command, code in [("C-STORE", 0xB000), ("C-FIND", 0xFE00), ("C-GET", 0xFE00)]:
        activity.unsuccessful(peer(), command, "", Status(code))
    assert activity.snapshot()["troubles"] == []
    activity.unsuccessful(peer(), "C-MOVE", "", Status(0xB000))
    assert len(activity.snapshot()["troubles"]) == 1


def test_requests_of_an_association_are_counted_also_when_it_ends_before_anybody_looks(clock):
    activity, one = Activity(clock), peer()
    traffic = activity.accepted(one)
    traffic.take("C-FIND", 10)
    traffic.take("N-ACTION", 5)
    (shown,) = activity.snapshot()["associations"]
    assert (shown["requests"], shown["received"], shown["asked"]) == (2, 15, "N-ACTION")
    assert not shown["busy"]
    traffic.take("C-FIND", 1)
    activity.ended(one, None)
    snapshot = activity.snapshot()
    assert snapshot["associations"] == []
    _, counts = snapshot["rates"]
    assert (counts["C-FIND"][-1], counts["N-services"][-1], counts["received"][-1]) == (2, 1, 16)


def test_how_long_something_takes_is_seen_by_those_who_look_again(clock):
    activity, one = Activity(clock), peer()
    traffic = activity.accepted(one)
    traffic.take("C-STORE", 10)
    one.is_answering = True
    activity.settle()
    began = clock.seconds
    clock.seconds += 90
    (shown,) = activity.snapshot()["associations"]
    assert (shown["busy"], shown["asked_since"]) == (True, began)
    assert activity.snapshot()["rates"][1]["C-STORE"][-2:] == [1, 0]
    one.is_answering = False
    assert not activity.snapshot()["associations"][0]["busy"]


def test_what_peers_say_is_cut_and_cannot_steer_a_terminal(clock):
    activity = Activity(clock)
    activity.unsuccessful(peer("A\x1b[2J"), "C-STORE", "", Status(0xA700, "x" * 5000))
    (trouble,) = activity.snapshot()["troubles"]
    assert trouble["calling_ae"] == "A?[2J"
    assert len(trouble["comment"]) <= 300
