"""The turns of HTTP requests: how many work at once, and what they leave to associations."""

import threading
from types import SimpleNamespace

import pytest
from support.names import WAIT

from pacsroute import App, connect
from pacsroute.net.at_work import ASSOCIATIONS
from pacsroute.web import turns
from pacsroute.web.turns import Turn, Turns


class Clock:
    """A clock of a thread that works; associations read, or not, while it sleeps."""

    def __init__(self, are_at_work):
        self.now, self.slept, self._are_at_work = 100.0, [], are_at_work

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        ASSOCIATIONS.seen = self._are_at_work


@pytest.fixture
def clock(monkeypatch, request):
    clock = Clock(request.param)
    time = SimpleNamespace(
        monotonic=lambda: clock.now, thread_time=lambda: clock.worked, sleep=clock.sleep
    )
    clock.worked = 0.0
    monkeypatch.setattr(turns, "time", time)
    yield clock
    ASSOCIATIONS.seen = False


@pytest.mark.parametrize("clock", [True], indirect=True)
def test_http_leaves_as_much_time_as_it_takes(clock):
    ASSOCIATIONS.seen = True
    many = Turns(16)
    with Turn(many):
        clock.worked += 0.003
    with Turn(many):
        clock.worked += 0.004
    assert clock.slept == []  # they wait for their peers
    ASSOCIATIONS.seen = True
    with Turn(many):
        assert sum(clock.slept) == pytest.approx(0.007)


@pytest.mark.parametrize("clock", [True], indirect=True)
def test_a_long_turn_is_interrupted(clock):
    many = Turns(16)
    with Turn(many) as turn:
        turn.pause()
        clock.worked += 0.006
        turn.pause()
        assert clock.slept == []  # no association is at work
        ASSOCIATIONS.seen = True
        turn.pause()  # from now on it counts
        clock.worked += 0.006
        turn.pause()
        assert sum(clock.slept) > 0.005


@pytest.mark.parametrize("clock", [False], indirect=True)
def test_time_that_no_association_uses_is_not_left_to_them(clock):
    ASSOCIATIONS.seen = True
    many = Turns(16)
    with Turn(many):
        clock.worked += 0.009
    ASSOCIATIONS.seen = True
    with Turn(many):
        assert len(clock.slept) == 1
        clock.worked += 0.009
    clock.now += 1
    with Turn(many):
        assert len(clock.slept) == 1


def test_one_works_at_a_time_while_associations_are_at_work(monkeypatch):
    monkeypatch.setattr(turns, "_PATIENCE", WAIT)
    many, order, begun = Turns(16), [], threading.Event()

    def second():
        begun.set()
        with Turn(many):
            order.append("second")

    ASSOCIATIONS.seen = True
    thread = threading.Thread(target=second)
    with Turn(many):
        thread.start()
        assert begun.wait(WAIT)
        thread.join(0.2)
        order.append("first")
    thread.join(WAIT)
    assert order == ["first", "second"]


def test_a_turn_that_waits_for_something_holds_up_nobody(monkeypatch):
    many, is_over = Turns(16), threading.Event()
    monkeypatch.setattr(turns, "_LATELY", WAIT)

    def second():
        with Turn(many):
            is_over.set()

    ASSOCIATIONS.seen = True
    with Turn(many):
        threading.Thread(target=second).start()
        assert is_over.wait(WAIT)


def test_an_association_is_seen_at_work():
    with App("ARCHIVE").serve(port=0) as server, connect("127.0.0.1", server.port) as client:
        client.echo()
        ASSOCIATIONS.seen = False
        client.echo()
        assert ASSOCIATIONS.seen
