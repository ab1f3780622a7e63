"""The sub-operations of C-GET and C-MOVE: counts, statuses, C-CANCEL, handlers, Pending."""

import logging
import threading
import time

import pytest
from pynetdicom import AE, evt
from support.datasets import made, uid
from support.names import CT, EXPLICIT, GET, MOVE, WAIT
from support.raw_peer import RawPeer
from support.retrieval import CANCEL, PENDING, Requestor, counts, receiving, serving

from pacsroute import (
    Failure,
    Peer,
)
from pacsroute.dimse import commands
from pacsroute.services import retrieve

# ------------------------------------------------------------------------------ counts, cancel


def test_counts_and_statuses_of_a_get():
    def handler(request):
        return [made(number) for number in range(4)]

    answered = [0, 0xB000, 0xA700, 0x0122]
    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get(message_id=9)
        pending, final, failed, came = peer.all(lambda number, command: answered[number])
        assert [counts(one) for one in pending] == [
            (3, 1, 0, 0), (2, 1, 0, 1), (1, 1, 1, 1), (0, 1, 2, 1)
        ]  # fmt: skip
        assert (final.status, counts(final)) == (0xB000, (None, 1, 2, 1))
        assert failed == [uid(2), uid(3)]
        assert {one.message_id_responded_to for one in (*pending, final)} == {9}
        assert len({command.message_id for command, _ in came}) == 4
        for each, status in ((0xB000, 0xB000), (0xA700, 0xA702), (0, 0)):
            peer.get()
            _, final, failed, _ = peer.all(lambda number, command, each=each: each)
            assert final.status == status
            assert len(failed) == (4 if each == 0xA700 else 0)
        peer.release()


def test_a_handler_that_returns_success_hides_no_failure():
    def handler(request):
        request.count = 2
        yield made(0)
        yield made(1)
        return 0

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        for answered, status in (([0, 0], 0), ([0, 0xA700], 0xB000), ([0xA700] * 2, 0xA702)):
            peer.get()
            _, final, *_ = peer.all(lambda number, command, answered=answered: answered[number])
            assert final.status == status
        peer.release()


def test_failing_handler_still_lists_failed_instances():
    def handler(request):
        request.count = 3
        yield made(0)
        yield made(1)
        raise Failure(0xC001, "no more")

    answered = [0, 0xA700]
    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, failed, _ = peer.all(lambda number, command: answered[number])
        peer.release()
    assert (final.status, counts(final), failed) == (0xC001, (None, 1, 1, 0), [uid(1)])


@pytest.mark.parametrize("status", [None, 0])
def test_missing_instances_of_a_count_are_logged(status, caplog):
    def handler(request):
        request.count = 3
        yield made(0)
        return status

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        assert peer.all()[1].status == 0
        peer.release()
    assert "the handler yielded 2 fewer than its count says" in caplog.text


def test_thousands_of_failures_do_not_fill_the_log(caplog):
    def handler(request):
        return [made(number) for number in range(200)]

    with serving(handler) as server, Requestor(server.port) as peer:
        peer.get()
        _, final, failed, _ = peer.all(lambda number, command: 0)
        assert final.status == 0xA702
        assert len(failed) == 200
        peer.release()
    lines = [one for one in caplog.records if one.levelno >= logging.WARNING]
    told = [one.getMessage() for one in lines if uid(0)[:-1] in one.getMessage()]
    assert len(told) == 20
    ends = [line.endswith("; further ones are logged at DEBUG") for line in told]
    assert ends == [False] * 19 + [True]


def test_path_of_an_unreadable_file_is_logged_at_debug_only(tmp_path, caplog):
    path = tmp_path / "DOE^JOHN.dcm"
    caplog.set_level(logging.DEBUG)
    with serving(lambda request: [path]) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            assert peer.all()[1].status == 0xA702
            peer.release()
    levels = {record.levelno for record in caplog.records if path.name in record.getMessage()}
    assert levels == {logging.DEBUG}


@pytest.mark.parametrize(
    ("asked_for", "priority"),
    [(commands.LOW, commands.LOW), (commands.HIGH, commands.HIGH), (7, commands.MEDIUM)],
)
def test_sub_operations_have_the_priority_of_the_request(asked_for, priority):
    arrived = []
    ae = AE("DEST")
    ae.add_supported_context(CT)
    handlers = [(evt.EVT_C_STORE, lambda event: arrived.append(event.request.Priority) or 0)]
    destination = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        with serving(lambda request: [made(0)]) as server:
            server.app.destinations["DEST"] = Peer("127.0.0.1", destination.server_address[1])
            with Requestor(server.port, (CT, EXPLICIT)) as peer:
                asked = {"affected_sop_class": GET, "priority": asked_for}
                peer._ask(1, commands.CGetRQ(**asked), 1, {})
                *_, came = peer.all()
                assert [command.priority for command, _ in came] == [priority]
                asked |= {"affected_sop_class": MOVE, "move_destination": "DEST"}
                peer._ask(3, commands.CMoveRQ(**asked), 2, {})
                assert peer.all()[1].status == 0
                peer.release()
    finally:
        destination.shutdown()
    assert arrived == [priority]


def test_cancel_of_a_get():
    closed = threading.Event()

    def handler(request):
        request.count = 10
        try:
            for number in range(10):
                yield made(number)
        finally:
            closed.set()

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get(message_id=7)

        def third(number, command):
            if number == 2:
                peer.cancel(1, 7)
            return 0xA700 if number == 1 else 0

        _, final, failed, came = peer.all(third)
        assert (final.status, counts(final), failed) == (CANCEL, (7, 2, 1, 0), [uid(1)])
        assert len(came) == 3
        assert closed.wait(WAIT)
        peer.get(message_id=7)  # the cancel was for the one before
        _, final, _, came = peer.all()
        assert (final.status, len(came)) == (0, 10)
        peer.release()


def test_cancel_of_a_move(monkeypatch):
    monkeypatch.setattr(retrieve, "_RECENT", 0)  # it would be found within a millisecond
    closed, third, cancelled = threading.Event(), threading.Event(), threading.Event()

    def handler(request):
        request.count = 10
        try:
            for number in range(10):
                yield made(number)
        finally:
            closed.set()

    def store(request):
        if request.sop_instance == uid(2):
            third.set()
            assert cancelled.wait(WAIT)

    with receiving(store) as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port) as peer:
            peer.move(message_id=7)
            assert third.wait(WAIT)
            peer.cancel(3, 7)
            cancelled.set()
            _, final, failed, _ = peer.all()
            assert (final.status, counts(final), failed) == (CANCEL, (7, 3, 0, 0), [])
            assert closed.wait(WAIT)
            assert len(destination.received) == 3
            peer.release()


def test_a_cancel_is_not_looked_for_right_after_a_read():
    began, cancelled, seen = threading.Event(), threading.Event(), []

    def handler(request):
        began.set()
        assert cancelled.wait(WAIT)
        seen.extend(request.association.cancelled(7, max_age) for max_age in (1000, 0, 1000))
        return []

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get(message_id=7)
        assert began.wait(WAIT)
        peer.cancel(1, 7)
        cancelled.set()
        peer.all()
        peer.release()
    assert seen == [False, True, True]


@pytest.mark.parametrize("first", [0, 2])
def test_a_handler_that_ends_because_it_was_cancelled(first):
    sent = threading.Event()

    def handler(request):
        request.count = 5
        for number in range(first):
            yield made(number)
        sent.set()
        deadline = time.monotonic() + WAIT
        while not request.cancelled and time.monotonic() < deadline:
            threading.Event().wait(0.005)

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        answers = peer.answers()
        for _ in range(2 * first):
            next(answers)
        assert sent.wait(WAIT)
        peer.cancel(1)
        final = list(answers)[-1][0]
        assert final.status == CANCEL
        assert final.completed == first
        peer.release()


def test_a_requestor_that_vanishes_closes_the_generator():
    closed = threading.Event()

    def handler(request):
        request.count = 1000
        try:
            for number in range(1000):
                yield made(number)
        finally:
            closed.set()

    with serving(handler) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            peer.receive()
        assert closed.wait(WAIT)
        with RawPeer(server.port) as peer:
            assert peer.echo() == 0


# ------------------------------------------------------------------------------ handlers


def broken_at_once(request):
    raise RuntimeError("DOE^JOHN")
    yield


def broken_later(request):
    request.count = 5
    yield made(0)
    yield made(1)
    raise RuntimeError("DOE^JOHN")


def refusing(request):
    request.count = 5
    yield made(0)
    raise Failure(0xA701, "too many")


def ending(request):
    yield made(0)
    return 0xB000


@pytest.mark.parametrize(
    ("handler", "status", "completed"),
    [
        (broken_at_once, 0xC000, 0),
        (broken_later, 0xC000, 2),
        (refusing, 0xA701, 1),
        (ending, 0xB000, 1),
        (lambda request: [made(0), 7], 0xC000, 1),
        (lambda request: None, 0xC000, 0),
        (lambda request: "a path", 0xC000, 0),
    ],
)
def test_ends_of_a_retrieve_handler(handler, status, completed):
    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        for _ in range(2):  # the association lives on
            peer.get()
            _, final, failed, came = peer.all()
            assert (final.status, final.completed, failed) == (status, completed, [])
            assert "DOE" not in (final.error_comment or "")
            assert len(came) == completed
        peer.release()


class Walk:
    """A handler that is a class."""

    closed = 0

    def __init__(self, request):
        self.request = request

    def __len__(self):
        return 3

    def __iter__(self):
        for number in range(3):
            yield made(number)

    def close(self):
        Walk.closed += 1


def counted(request):
    request.count = 3
    for number in range(3):
        yield made(number)


def drained(request):
    for number in range(3):
        yield made(number)


@pytest.mark.parametrize(
    "handler",
    [Walk, counted, drained, lambda request: [made(n) for n in range(3)]],
    ids=["class", "count", "drained", "list"],
)
def test_retrieve_handlers_of_every_kind(handler):
    Walk.closed = 0
    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        pending, final, failed, came = peer.all()
        peer.release()
    assert [counts(one) for one in pending] == [(2, 1, 0, 0), (1, 2, 0, 0), (0, 3, 0, 0)]
    assert (final.status, counts(final), failed) == (0, (None, 3, 0, 0), [])
    assert [command.affected_sop_instance for command, _ in came] == [uid(n) for n in range(3)]
    assert Walk.closed == (handler is Walk)


def test_large_data_sets_of_a_drained_generator():
    def handler(request):
        for number in range(3):
            ds = made(number)
            ds.PixelData = bytes([number]) * 300_000
            ds["PixelData"].VR = "OW"
            yield ds

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, _, came = peer.all()
        peer.release()
    assert counts(final) == (None, 3, 0, 0)
    assert [data[-300_000:] == bytes([n]) * 300_000 for n, (_, data) in enumerate(came)] == [
        True
    ] * 3


@pytest.mark.parametrize(("count", "left"), [(-1, [0, 0, 0]), (2, [1, 0, 0]), (70_000, None)])
def test_wrong_count_of_a_handler(count, left, monkeypatch):
    monkeypatch.setattr("pacsroute.net.outbox._PULSE", 0.01)

    def handler(request):
        request.count = count
        for number in range(3):
            yield made(number)

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()

        def slow(number, command):
            peer.receive()  # a Pending of the helper, with the count before
            return 0

        pending, final, _, came = peer.all(slow if count < 0 else lambda number, command: 0)
        peer.release()
    assert len(came) == 3
    assert (final.status, counts(final)) == (0, (None, 3, 0, 0))
    assert {one.remaining for one in pending} <= set(left or [0xFFFF])


# ------------------------------------------------------------------------------ Pending


def test_slow_generator_causes_pending_responses(monkeypatch):
    monkeypatch.setattr("pacsroute.net.outbox._PULSE", 0.01)
    seen = [threading.Event(), threading.Event()]

    def handler(request):
        assert seen[0].wait(WAIT)
        request.count = 2
        yield made(0)
        assert seen[1].wait(WAIT)
        yield made(1)

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        answers = peer.answers()
        for _ in range(3):
            command, _ = next(answers)
            assert (command.status, counts(command)) == (PENDING, (0, 0, 0, 0))
        seen[0].set()
        while command.completed != 1:
            command = next(c for c, _ in answers if isinstance(c, commands.CGetRSP))
        for _ in range(3):
            command, _ = next(answers)
            assert (command.status, counts(command)) == (PENDING, (1, 1, 0, 0))
        seen[1].set()
        assert counts(list(answers)[-1][0]) == (None, 2, 0, 0)
        peer.release()


def test_slow_destination_causes_pending_responses(monkeypatch):
    monkeypatch.setattr("pacsroute.net.outbox._PULSE", 0.01)
    seen = threading.Event()

    def store(request):
        assert seen.wait(WAIT)

    with receiving(store) as destination:
        with serving(lambda r: [made(1)], DEST=destination.port) as server:
            with Requestor(server.port) as peer:
                peer.move()
                answers = peer.answers()
                told = [next(answers)[0] for _ in range(4)]
                assert [one.status for one in told] == [PENDING] * 4
                assert counts(told[-1]) == (1, 0, 0, 0)
                seen.set()
                assert counts(list(answers)[-1][0]) == (None, 1, 0, 0)
                peer.release()


def test_pending_interval_reduces_pending_responses():
    def prepare(app):
        app.get(pending_interval=1000)(lambda r: [made(n) for n in range(20)])

    with serving(prepare=prepare) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            pending, final, _, came = peer.all()
            peer.release()
    assert (len(pending), final.completed, len(came)) == (0, 20, 20)
