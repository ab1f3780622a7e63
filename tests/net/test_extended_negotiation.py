"""Extended negotiation, related general classes, and operations that overlap."""

import queue
import socket
import threading
import time

import pytest
from support.names import ALL_STUDIES, CT, FIND, GET, IMPLICIT, WAIT
from support.raw_peer import RawPeer
from support.unharmed import until

from pacsroute import (
    App,
    Association,
    AssociationAborted,
    AssociationError,
    AssociationReleased,
    Dispatcher,
    SetupError,
    uids,
)
from pacsroute.dimse import commands
from pacsroute.upper_layer import extended, pdu

DATA = bytes.fromhex("0800050000000000")


class Negotiator(RawPeer):
    """A raw peer that negotiates more than contexts."""

    def __init__(self, port, contexts, **information):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        proposed = tuple(
            pdu.PresentationContext(2 * i + 1, abstract, (IMPLICIT,))
            for i, abstract in enumerate(contexts)
        )
        user = pdu.UserInformation(16_384, "1.2.3.4", **information)
        self.socket.sendall(pdu.encode(pdu.AssociateRQ("ANY", "RAW", proposed, user)))
        self.answer = self.read_pdu()


def test_find_negotiates_the_options_of_both_sides():
    app, seen = App(), []

    @app.find("StudyRoot", extended=["relational", "fuzzy"])
    def find(request):
        seen.append(dict(request.extended))
        return []

    offered = pdu.ExtendedNegotiation(FIND, bytes([1, 1, 0]))
    other = pdu.ExtendedNegotiation(CT, bytes([2]))
    with app.serve(port=0, grace=1) as server:
        with Negotiator(server.port, [FIND], extended=(offered, other)) as peer:
            answered = peer.answer.user_information.extended
            assert answered == (pdu.ExtendedNegotiation(FIND, bytes([1, 0, 0])),)
            peer.find(ALL_STUDIES, FIND)
            assert peer.receive()[0].status == 0
    assert seen == [{"relational": 1, "date_time": 0, "fuzzy": 0}]


def test_no_more_bytes_are_answered_than_are_known():
    app = App()
    app.get("StudyRoot", extended=["enhanced_multi_frame"])(lambda request: [])
    offered = pdu.ExtendedNegotiation(GET, bytes([1, 1, 1, 1]))
    with app.serve(port=0, grace=1) as server:
        with Negotiator(server.port, [GET], extended=(offered,)) as peer:
            (answered,) = peer.answer.user_information.extended
            assert answered.information == bytes([0, 1])


def test_storage_says_its_own_level():
    app, seen = App(), []

    @app.store(extended={"level": 2, "coercion": 1})
    def store(request):
        seen.append(dict(request.extended))

    offered = pdu.ExtendedNegotiation(CT, bytes([3, 0, 0, 0, 2]))
    with app.serve(port=0, grace=1) as server:
        with Negotiator(server.port, [CT], extended=(offered,)) as peer:
            (answered,) = peer.answer.user_information.extended
            assert answered.information == bytes([2, 0, 0, 0, 1])
            assert peer.store(DATA, CT, "1.2.3").status == 0
    assert seen == [{"level": 2, "signature": 0, "coercion": 1}]


def test_storage_answers_its_last_reserved_byte_too():
    answered = extended.answer("store", extended.supported("store", {"level": 2}), bytes(7))
    assert answered == bytes([2, 0, 0, 0, 0, 0])


def test_the_reserved_bytes_of_a_worklist_are_always_one():
    app, seen = App(), []

    @app.find("Worklist", extended=["fuzzy"])
    def find(request):
        seen.append(request.extended["fuzzy"])
        return []

    with app.serve(port=0, grace=1) as server:
        for fuzzy in (1, 0):
            offered = pdu.ExtendedNegotiation(uids.WORKLIST, bytes([1, 1, fuzzy, 1]))
            with Negotiator(server.port, [uids.WORKLIST], extended=(offered,)) as peer:
                (answered,) = peer.answer.user_information.extended
                assert answered.information == bytes([1, 1, fuzzy, 0])
                peer.find(ALL_STUDIES, uids.WORKLIST)
                assert peer.receive()[0].status == 0
    assert seen == [1, 0]


def test_route_without_extended_negotiation_answers_none():
    app = App()
    app.find(lambda request: [])
    offered = pdu.ExtendedNegotiation(FIND, bytes([1]))
    with app.serve(port=0, grace=1) as server:
        with Negotiator(server.port, [FIND], extended=(offered,)) as peer:
            assert peer.answer.user_information.extended == ()


@pytest.mark.parametrize(
    ("command", "what", "message"),
    [
        ("find", ["relation"], "has no 'relation'"),
        ("find", "relational", "a list of names"),
        ("store", {"levels": 1}, "has no 'levels'"),
        ("get", ["fuzzy"], "has no 'fuzzy'"),
    ],
)
def test_unknown_extended_option_is_a_set_up_error(command, what, message):
    with pytest.raises(SetupError, match=message):
        extended.supported(command, what)


def test_a_related_general_class_is_served_in_its_place():
    app, seen, hooked = App(), [], []
    app.store("CTImageStorage")(lambda request: seen.append((request.sop_class, request.general)))
    app.after_request(lambda request, status, error: hooked.append(status.code))
    special = "1.2.826.0.1.3680043.9.1"
    common = pdu.CommonExtendedNegotiation(special, "1.2.840.10008.4.2", (CT,))
    with app.serve(port=0, grace=1) as server:
        for roles in ((), (pdu.RoleSelection(special, True, True),)):
            negotiated = {"common_extended": (common,), "roles": roles}
            with Negotiator(server.port, [special], **negotiated) as peer:
                assert peer.answer.contexts[0].result == 0
                granted = peer.answer.user_information.roles
                assert granted == tuple(role._replace(scp=False) for role in roles)
                assert peer.store(DATA, special, "1.2.3").status == 0
                peer.release()
        with Negotiator(server.port, [special]) as peer:
            assert peer.answer.contexts[0].result == 3
    assert seen == [(special, CT)] * 2
    assert hooked == [0, 0]


# ------------------------------------------------------------------- overlapping operations


def test_operations_overlap_where_both_sides_want_it():
    app = App(outstanding=4)
    begun, go_on = threading.Event(), threading.Event()

    @app.find
    def find(request):
        begun.set()
        go_on.wait(WAIT)
        yield {"PatientID": "1"}

    window = {"asynchronous_operations": (0, 1)}
    with app.serve(port=0, grace=1) as server:
        with Negotiator(server.port, [FIND, uids.VERIFICATION], **window) as peer:
            assert peer.answer.user_information.asynchronous_operations == (4, 1)
            peer.find(ALL_STUDIES, FIND, 1, 7)
            assert begun.wait(WAIT)
            assert peer.echo(3, 8) == 0  # while the query is being answered
            go_on.set()
            assert [peer.receive()[0].status for _ in range(2)] == [0xFF00, 0]
            peer.release()


def test_a_cancel_reaches_one_of_several_operations():
    app = App(outstanding=2)
    both = threading.Barrier(3)

    @app.find
    def find(request):
        both.wait(WAIT)
        if request.message_id == 2:
            deadline = time.monotonic() + WAIT
            while not request.cancelled and time.monotonic() < deadline:
                time.sleep(0.001)
        yield {"PatientID": str(request.message_id)}

    window = {"asynchronous_operations": (2, 1)}
    with app.serve(port=0, grace=1) as server:
        with Negotiator(server.port, [FIND, uids.VERIFICATION], **window) as peer:
            for message_id in (1, 2):
                peer.find(ALL_STUDIES, FIND, 1, message_id)
            both.wait(WAIT)
            peer.send(1, commands.CCancelRQ(message_id_responded_to=2))
            statuses = {}
            while len(statuses) < 2:
                command, _ = peer.receive()
                if command.status not in (0xFF00, 0xFF01):
                    statuses[command.message_id_responded_to] = command.status
    assert statuses == {1: 0, 2: 0xFE00}


def test_sub_operations_of_overlapping_gets_are_distinguished(sample):
    app = App(outstanding=2)
    app.get(lambda request: [sample("CT_small.dcm")] * 3)
    roles = (pdu.RoleSelection(CT, True, True),)
    window = {"asynchronous_operations": (2, 1), "roles": roles}
    key = b"\x20\0\x0d\0\x04\0\0\x001.2\0"
    with app.serve(port=0, grace=1) as server:
        with Negotiator(server.port, [GET, CT], **window) as peer:
            for message_id in (1, 2):
                command = commands.CGetRQ(message_id=message_id, affected_sop_class=GET)
                peer.send(1, command, ALL_STUDIES[:14] + key)
            final, stored = {}, 0
            while len(final) < 2:
                command, _ = peer.receive()
                if isinstance(command, commands.CStoreRQ):
                    stored += 1
                    peer.send(
                        3,
                        commands.CStoreRSP(
                            message_id_responded_to=command.message_id, affected_sop_class=CT
                        ),
                    )
                elif command.status != 0xFF00:
                    final[command.message_id_responded_to] = (command.status, command.completed)
    assert (final, stored) == ({1: (0, 3), 2: (0, 3)}, 6)


def test_one_thread_that_receives_and_dispatches_gets_the_responses_of_its_own(sample):
    app = App(outstanding=2, idle_timeout=WAIT)
    app.get(lambda request: [sample("CT_small.dcm")])
    ended = queue.Queue()

    def serve(listener):
        with Association.accept(listener.accept()[0], app) as association:
            try:
                while True:
                    Dispatcher(app, association).receive_and_dispatch()
            except AssociationError as error:
                ended.put(error)

    window = {"asynchronous_operations": (2, 1), "roles": (pdu.RoleSelection(CT, True, True),)}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with Negotiator(listener.getsockname()[1], [GET, CT], **window) as peer:
            key = b"\x20\0\x0d\0\x04\0\0\x001.2\0"
            command = commands.CGetRQ(message_id=1, affected_sop_class=GET)
            peer.send(1, command, ALL_STUDIES[:14] + key)
            assert isinstance(peer.receive()[0], commands.CStoreRQ)
            peer.send(3, commands.CStoreRSP(message_id_responded_to=1, affected_sop_class=CT))
            statuses = (peer.receive()[0].status for _ in range(WAIT))
            assert next(status for status in statuses if status != 0xFF00) == 0
            peer.release()
    assert isinstance(ended.get(timeout=WAIT), AssociationReleased)


def test_a_peer_that_oversteps_its_window_is_aborted():
    app, hold = App(outstanding=2), threading.Event()
    app.echo(lambda request: hold.wait(WAIT))
    with app.serve(port=0, grace=1) as server:
        window = {"asynchronous_operations": (2, 1)}
        with Negotiator(server.port, [uids.VERIFICATION], **window) as peer:
            for number in range(1, 20):
                command = commands.CEchoRQ(message_id=number, affected_sop_class=uids.VERIFICATION)
                peer.send(1, command)
            assert isinstance(peer.read_pdu(), pdu.Abort)
            hold.set()


def test_a_peer_that_stays_when_an_operation_has_aborted_it():
    """It has no longer than any other, though another thread reads than that which aborted."""
    app = App(outstanding=2, artim=0.1)

    @app.echo
    def echo(request):
        raise KeyboardInterrupt

    with app.serve(port=0, grace=1, max_associations=1) as server:
        with Negotiator(server.port, [uids.VERIFICATION], asynchronous_operations=(2, 1)) as peer:
            command = commands.CEchoRQ(message_id=1, affected_sop_class=uids.VERIFICATION)
            peer.send(1, command)
            assert isinstance(peer.read_pdu(), pdu.Abort)
            assert until(lambda: not server.obstacle())


def test_end_of_association_wakes_a_thread_that_waits_for_a_response():
    ours, theirs = socket.socketpair()
    ended = queue.Queue()
    with theirs, Association(ours, App()) as association:
        association.window = 2
        association._inbox.read_here()

        def wait():
            try:
                association.receive(response_to=1)
            except AssociationAborted as error:
                ended.put(error)

        threading.Thread(target=wait, daemon=True).start()
        assert until(lambda: association._inbox._arrived._waiters)
        association.abort(2)
        assert ended.get(timeout=WAIT).source == 2


def test_operations_do_not_overlap_by_default():
    with App().serve(port=0, grace=1) as server:
        window = {"asynchronous_operations": (8, 8)}
        with Negotiator(server.port, [uids.VERIFICATION], **window) as peer:
            assert peer.answer.user_information.asynchronous_operations is None
