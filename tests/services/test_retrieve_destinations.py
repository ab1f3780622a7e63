"""The destinations of C-MOVE: unknown, unreachable, partly willing, lost midway."""

import contextlib
import socket
import threading

import pytest
from support.datasets import made, uid
from support.names import CT, EXPLICIT, IMPLICIT, MR, WAIT
from support.retrieval import Requestor, counts, receiving, serving

from pacsroute import (
    App,
    Association,
    Dispatcher,
    Failure,
    Instance,
    Peer,
)
from pacsroute.dimse import commands
from pacsroute.errors import AssociationError
from pacsroute.net.channel import Channel


def test_move_originator_reaches_the_destination():
    asked = []

    def move(request):
        asked.append(request)
        return [made(1)]

    with receiving() as destination:

        def where(ae_title, request):
            asked.append((ae_title, request.move_destination, request.calling_ae, request.level))
            return Peer("127.0.0.1", destination.port)

        with (
            serving(move, lambda app: app.destination(where)) as server,
            Requestor(server.port, calling="WORKSTATION", called="TITLE") as peer,
        ):
            peer.move("DEST", message_id=77)
            pending, final, failed, _ = peer.all()
            peer.release()
        ((store, _),) = destination.received
    assert (final.status, counts(final), failed) == (0, (None, 1, 0, 0), [])
    assert [counts(one) for one in pending] == [(0, 1, 0, 0)]
    assert asked[0] == ("DEST", "DEST", "WORKSTATION", "STUDY")
    assert asked[1].move_destination == "DEST"
    assert (store.move_originator_ae, store.move_originator_message_id) == ("WORKSTATION", 77)
    assert (store.calling_ae, store.called_ae) == ("TITLE", "DEST")


@pytest.mark.parametrize("missing", ["sop_class", "transfer_syntax"])
def test_instance_without_uids_is_not_proposed(missing):
    hints = {"sop_class": CT, "sop_instance": uid(1), "transfer_syntax": EXPLICIT, missing: ""}

    def handler(request):
        return [Instance(b"anything", **hints), made(2)]

    proposed = []

    def prepare(app):
        app.after_association(lambda association, _: proposed.extend(association.proposed))

    with receiving(prepare=prepare) as destination:
        with serving(handler, DEST=destination.port) as server, Requestor(server.port) as raw:
            raw.move("DEST")
            _, final, failed, _ = raw.all()
            raw.release()
    assert (final.status, counts(final), failed) == (0xB000, (None, 1, 1, 0), [uid(1)])
    assert set(proposed) == {CT}


def test_destination_with_another_called_ae_title():
    with receiving() as destination:
        peer = Peer("127.0.0.1", destination.port, "REAL")
        with serving(lambda request: [made(1)], DEST=peer) as server:
            with Requestor(server.port) as raw:
                raw.move()
                assert raw.all()[1].status == 0
                raw.release()
        assert destination.received[0][0].called_ae == "REAL"


def test_unknown_move_destination_is_refused():
    reached = []
    with serving(reached.append) as server, Requestor(server.port) as peer:
        peer.move("NOWHERE")
        pending, final, failed, _ = peer.all()
        assert (pending, final.status, failed) == ([], 0xA801, [])
        assert counts(final) == (None, None, None, None)
        peer.release()
    assert reached == []


@pytest.mark.parametrize(
    ("raised", "status"), [(Failure(0xA801, "not today"), 0xA801), (KeyError("x"), 0xC000)]
)
def test_a_destination_function_that_raises(raised, status):
    def where(ae_title, request):
        raise raised

    with serving(lambda request: [made(1)], lambda app: app.destination(where)) as server:
        with Requestor(server.port) as peer:
            peer.move()
            assert peer.all()[1].status == status
            peer.release()


def test_a_destination_that_is_down(nobody):
    with serving(lambda request: [made(n) for n in range(3)], DEST=nobody) as server:
        with Requestor(server.port) as peer:
            peer.move()
            pending, final, failed, _ = peer.all()
            assert [counts(one) for one in pending] == [(2, 0, 1, 0), (1, 0, 2, 0), (0, 0, 3, 0)]
            assert (final.status, counts(final)) == (0xA702, (None, 0, 3, 0))
            assert failed == [uid(0), uid(1), uid(2)]
            peer.release()


@pytest.mark.parametrize("host", ["no host", "x" * 70 + ".example"])
def test_destination_with_an_invalid_address(host):
    with serving(lambda request: [made(1)], DEST=Peer(host, 104)) as server:
        with Requestor(server.port) as peer:
            peer.move()
            _, final, failed, _ = peer.all()
            assert (final.status, failed) == (0xA702, [uid(1)])
            peer.release()


def test_a_destination_that_rejects(nobody):
    with serving(lambda request: [made(1)]) as server:
        with App().serve(port=0, max_associations=0, grace=1) as full:
            server.app.destinations["DEST"] = Peer("127.0.0.1", full.port)
            with Requestor(server.port) as peer:
                peer.move()
                assert peer.all()[1].status == 0xA702
                peer.release()


def test_zero_matches_are_a_success_without_an_association(nobody):
    with serving(lambda request: [], DEST=nobody) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.move()
            pending, final, failed, _ = peer.all()
            assert (pending, final.status, failed) == ([], 0, [])
            assert counts(final) == (None, 0, 0, 0)
            peer.get()
            assert peer.all()[1].status == 0
            peer.release()


def test_a_destination_that_takes_half_of_the_classes():
    def handler(request):
        return [made(number, (CT, MR)[number % 2]) for number in range(6)]

    with receiving(None, CT) as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port) as peer:
            peer.move()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (final.status, counts(final)) == (0xB000, (None, 3, 3, 0))
    assert failed == [uid(1), uid(3), uid(5)]
    assert [one.sop_instance for one, _ in destination.received] == [uid(0), uid(2), uid(4)]


@pytest.mark.parametrize("stays", [False, True], ids=["dies", "aborts"])
def test_a_destination_that_goes_after_three_of_ten(stays):
    """One that is gone gets no more; one that only aborts is asked for a new association."""
    app, received = App("DEST"), []
    app.store(lambda request: received.append(request.sop_instance))
    listener = socket.create_server(("127.0.0.1", 0))

    def destination():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if not stays:
                listener.close()
            with Association.accept(sock, app) as association:
                dispatcher = Dispatcher(app, association)
                with contextlib.suppress(AssociationError):
                    for _ in range(3):
                        dispatcher.receive_and_dispatch()
                    association.abort()
            if not stays or len(received) == 10:
                listener.close()
                return

    thread = threading.Thread(target=destination)
    thread.start()

    def handler(request):
        return [made(number) for number in range(10)]

    with serving(handler, DEST=listener.getsockname()[1]) as server:
        with Requestor(server.port) as peer:
            peer.move()
            _, final, failed, _ = peer.all()
            peer.release()
    thread.join(WAIT)
    assert not thread.is_alive()
    if stays:
        assert (final.status, counts(final), failed) == (0, (None, 10, 0, 0), [])
        assert len(received) == 10
    else:
        assert (final.status, counts(final)) == (0xB000, (None, 3, 7, 0))
        assert failed == [uid(number) for number in range(3, 10)]


def test_a_requestor_that_goes_is_not_taken_for_a_destination_that_goes(caplog):
    class Last(Instance):
        """An instance during whose conversion the requestor goes."""

        def open_as(self, *args, **options):
            asked[0].association.abort()
            return super().open_as(*args, **options)

    asked, ended = [], threading.Event()

    def handler(request):
        asked.append(request)
        return [made(0), Last(made(1)), made(2)]

    def hooks(app):
        app.after_association(lambda association, error: ended.set())

    with receiving() as destination:
        with serving(handler, hooks, DEST=destination.port) as server:
            with Requestor(server.port) as peer:
                peer.move()
                assert ended.wait(WAIT)
        received = [request.sop_instance for request, _ in destination.received]
    assert received == [uid(0), uid(1)]
    assert "broke" not in caplog.text


def test_a_destination_that_answers_with_something_else():
    """A C-ECHO-RSP is no answer to a C-STORE; the first instance fails, and the rest with it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def destination():
        sock, _ = listener.accept()
        app = App()
        app.store(lambda request: None)
        with Association.accept(sock, app) as association, contextlib.suppress(AssociationError):
            message = association.receive()
            association.send(
                message.context_id,
                commands.CEchoRSP(message_id_responded_to=message.command.message_id),
            )
            association.receive()

    thread = threading.Thread(target=destination)
    thread.start()
    with serving(lambda r: [made(1), made(2)], DEST=listener.getsockname()[1]) as server:
        with Requestor(server.port) as peer:
            peer.move()
            thread.join(WAIT)
            listener.close()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (final.status, failed) == (0xA702, [uid(1), uid(2)])


def test_more_classes_than_an_association_has_contexts():
    """Of 128 contexts each class needs two: the seventy are split over associations."""
    proposed = []

    def store(request):
        proposed.append(request.association.proposed)

    classes = [f"1.2.826.0.3.{number}" for number in range(70)]

    def handler(request):
        request.count = 71
        for number, sop_class in enumerate([*classes, classes[0]]):
            yield made(number, sop_class)

    with receiving(store) as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port) as peer:
            peer.move()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (final.status, counts(final), failed) == (0, (None, 71, 0, 0), [])
    assert max(map(len, proposed)) == 128
    assert len(proposed[-1]) < 20


@pytest.mark.parametrize("service", [list, iter])
def test_list_of_instances_needs_one_association(service):
    """Some workstations take the end of it for the end of the study."""
    kept = []
    hints = [(CT, IMPLICIT), (CT, EXPLICIT), (MR, IMPLICIT), (CT, IMPLICIT), ("", "")]

    def handler(request):
        instances = (
            Instance(made(n, kind or MR), sop_class=kind or None, transfer_syntax=syntax or None)
            for n, (kind, syntax) in enumerate(hints)
        )
        return service(instances)

    with receiving(lambda request: kept.append(request.association)) as destination:
        with serving(handler, DEST=destination.port) as server, Requestor(server.port) as peer:
            peer.move()
            assert peer.all()[1].completed == len(hints)
            peer.release()
    assert len({id(association) for association in kept}) == 1


def test_instances_of_the_same_kind_share_an_association():
    associations = set()

    def store(request):
        associations.add(id(request.association))
        kept.append(request.association)

    kept = []
    with receiving(store) as destination:
        with serving(lambda r: [made(n) for n in range(20)], DEST=destination.port) as server:
            with Requestor(server.port) as peer:
                peer.move()
                assert peer.all()[1].completed == 20
                peer.release()
    assert len(associations) == 1


@pytest.mark.parametrize("poison", [[2], [0], [0, 1, 4, 5], [5]], ids=str)
def test_a_move_goes_on_after_instances_that_make_the_destination_abort(poison):
    names, received = [uid(number) for number in poison], []

    def store(request):
        if request.sop_instance in names:
            request.association.abort()
            return 0xC000
        received.append(request.sop_instance)
        return None

    def handler(request):
        return [made(number) for number in range(6)]

    app = App("DEST")
    app.store(store)
    with app.serve(port=0, grace=1) as destination:
        with serving(handler, DEST=destination.port) as server, Requestor(server.port) as peer:
            peer.move()
            _, final, failed, _ = peer.all()
            peer.release()
    good = [uid(number) for number in range(6) if number not in poison]
    assert (failed, received) == (names, good)
    assert (final.status, counts(final)) == (0xB000, (None, len(good), len(poison), 0))


def test_a_destination_to_which_nothing_gets_through_is_given_up():
    associations = set()

    def store(request):
        associations.add(request.association.id)
        request.association.abort()
        return 0xC000

    app = App("DEST")
    app.store(store)
    with app.serve(port=0, grace=1) as destination:
        with serving(lambda r: [made(n) for n in range(30)], DEST=destination.port) as server:
            with Requestor(server.port) as peer:
                peer.move()
                _, final, failed, _ = peer.all()
                peer.release()
    assert (final.status, len(failed)) == (0xA702, 30)
    assert len(associations) == 10


def test_a_destination_that_opens_its_port_after_it_has_asked():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opened = []

    def later():
        opened.append(app.serve(port=port, grace=1).__enter__())

    app = App("DEST")
    app.store(lambda request: None)
    timer = threading.Timer(0.3, later)
    with serving(lambda request: [made(1)], DEST=port) as server, Requestor(server.port) as peer:
        timer.start()
        peer.move()
        _, final, _, _ = peer.all()
        peer.release()
    timer.join()
    opened[0].stop()
    assert (final.status, counts(final)) == (0, (None, 1, 0, 0))


def test_the_response_of_a_destination_is_polled_for_as_the_requestor_is(monkeypatch):
    polls, original = [], Channel._receive

    def received(channel, *flags):
        if channel.role == "requestor":
            polls.append(channel._alone())
        return original(channel, *flags)

    monkeypatch.setattr(Channel, "_receive", received)
    with receiving() as destination:
        with serving(lambda request: [made(0)], DEST=destination.port) as server:
            with Requestor(server.port) as peer:
                peer.move()
                assert peer.all()[1].status == 0
                peer.release()
    assert polls
    assert set(polls) == {True}  # the server has one association
