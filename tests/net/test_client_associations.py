"""The client's associations: when it makes, renews, shares, and ends them."""

import queue
import socket
import threading

import pytest
from pydicom.dataset import Dataset
from support.datasets import made, uid
from support.listening import answering
from support.names import CT, STUDY, WAIT

import pacsroute
from pacsroute import (
    App,
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    DataSetError,
    Dispatcher,
    NotAccepted,
    Peer,
    ProtocolError,
    RequestFailed,
    Status,
    uids,
)
from pacsroute.dimse import commands
from pacsroute.upper_layer import pdu
from pacsroute.upper_layer.pdu import UserIdentity


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((1, 1, 3), "calling AE title 'ME': register it there"),
        ((1, 1, 7), "called AE title 'PACS' is not the peer's"),
        ((2, 3, 1), "congested: try again later (transient; source 3, reason 1)"),
        ((1, 1, 9), "a reason of its own (permanent; source 1, reason 9)"),
    ],
)
def test_rejection_names_source_and_reason(answer, words):
    with answering(pdu.AssociateRJ(*answer)) as (port, _):
        client = pacsroute.connect("127.0.0.1", port, called_ae="PACS", calling_ae="ME")
        with client, pytest.raises(AssociationRejected) as raised:
            client.echo()
    assert f"PACS at 127.0.0.1:{port} rejected: " in str(raised.value)
    assert words in str(raised.value)
    error = raised.value
    assert (error.result, error.source, error.reason) == answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "closed the connection"),
        (pdu.Abort(2, 1), "aborted"),
        (pdu.ReleaseRP(), "an invalid answer: unexpected: A-RELEASE-RP"),
        (
            pdu.AssociateAC("PACS", "ME", (), pdu.UserInformation(4, "1.2.3.4")),
            "a maximum length of 4",
        ),
    ],
)
def test_a_peer_that_does_not_answer_a_request_for_an_association(answer, words):
    with answering(answer) as (port, _):
        with pacsroute.connect("127.0.0.1", port, called_ae="PACS") as client:
            with pytest.raises(AssociationAborted, match=words) as raised:
                client.echo()
    assert f"PACS at 127.0.0.1:{port}" in str(raised.value)


def test_a_peer_that_says_nothing_is_given_up_in_the_time_that_was_given():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pacsroute.connect("127.0.0.1", port, timeout=0.1) as client:
            with pytest.raises(AssociationAborted, match="did not answer in time"):
                client.echo()  # which has 30 s without it, more than a test


def test_invalid_ae_title_leaves_no_socket_open():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = pacsroute.connect("127.0.0.1", listener.getsockname()[1], called_ae="X" * 17)
        with pytest.raises(ValueError, match="16"):
            client.echo()
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(WAIT)
            assert sock.recv(1) == b""


def test_instance_without_a_sop_class_is_not_sent():
    app = App()
    app.store(lambda request: None)
    with app.test_client() as client, pytest.raises(DataSetError, match="no SOP Class UID"):
        client.store(Dataset())


@pytest.mark.parametrize("command", ["get", "move"])
def test_a_retrieved_instance_without_a_sop_class_says_so(caplog, command):
    app, ds = App(), Dataset()
    ds.SOPInstanceUID = "1.2.3"
    getattr(app, command)(lambda request: [ds])
    destination = () if command == "get" else ("DEST",)
    with app.test_client(peers={"DEST": App("DEST")}) as client, pytest.raises(RequestFailed):
        list(getattr(client, command)(STUDY, *destination))
    assert "1.2.3 failed: 0xA702 it has no SOP Class UID" in caplog.text


def test_connection_refused_is_an_association_error():
    with socket.socket() as bound:  # and so nobody else's meanwhile
        bound.bind(("127.0.0.1", 0))
        with pacsroute.connect("127.0.0.1", bound.getsockname()[1]) as client:
            with pytest.raises(AssociationAborted, match="check the address"):
                client.echo()


@pytest.mark.parametrize(
    ("user", "sent"),
    [
        ("alice", UserIdentity(1, False, b"alice")),
        (("alice", "secret"), UserIdentity(2, False, b"alice", b"secret")),
        (UserIdentity(5, True, b"a.b.c"), UserIdentity(5, True, b"a.b.c")),
        (None, None),
    ],
)
def test_the_user_identity_is_sent(user, sent):
    with answering(pdu.AssociateRJ(1, 1, 1)) as (port, asked):
        client = pacsroute.connect("127.0.0.1", port, user=user, calling_ae="ME", called_ae="YOU")
        with pytest.raises(AssociationRejected):
            client.echo()
    assert asked[0].user_information.user_identity == sent
    assert (asked[0].calling_ae, asked[0].called_ae) == ("ME", "YOU")


def test_client_associates_at_the_first_request_and_releases_at_the_end(listening):
    peer = listening(App())
    with peer.client(calling_ae="ME", called_ae="YOU") as client:
        assert peer.associations == []
        for _ in range(3):
            assert client.echo() == Status(0)
    assert peer.ended.get(timeout=WAIT) is None
    (association,) = peer.associations
    assert (association.calling_ae, association.called_ae) == ("ME", "YOU")
    with pytest.raises(AssociationError, match="closed"):
        client.echo()


def test_an_exception_that_leaves_the_with_block_aborts(listening):
    peer = listening(App())
    with pytest.raises(KeyError), peer.client() as client:  # noqa: PT012
        client.echo()
        raise KeyError
    how = peer.ended.get(timeout=WAIT)
    assert isinstance(how, AssociationAborted)
    assert how.source == 0


def test_a_request_under_way_is_aborted_at_the_end(listening, archive):
    peer = listening(archive)
    with peer.client() as client:
        found = client.find({"PatientID": ""})
        assert next(found).PatientID == "P0"
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)
    with pytest.raises(AssociationError):
        list(found)


@pytest.mark.parametrize("in_memory", [False, True])
def test_closing_the_client_wakes_a_thread_that_waits_for_a_silent_peer(in_memory, listening):
    app, asked, hold = App("ARCHIVE"), threading.Event(), threading.Event()
    raised = queue.Queue()

    @app.echo
    def echo(request):
        asked.set()
        hold.wait(WAIT)

    def wait(client):
        try:
            client.echo()
        except AssociationError as error:
            raised.put(error)

    peer = None if in_memory else listening(app)
    with app.test_client() if in_memory else peer.client() as client:
        threading.Thread(target=wait, args=(client,)).start()
        assert asked.wait(WAIT)
        client.close()
        assert isinstance(raised.get(timeout=WAIT / 2), AssociationAborted)
        hold.set()


def test_an_iterator_that_is_collected_while_the_client_is_busy(listening, archive):
    """The collector may come in the middle of anything, on any thread."""
    peer = listening(archive)

    def work(client):
        rows = client.find({"PatientID": ""})
        next(rows)
        with client._pool._lock:
            del rows
        assert client.echo() == Status(0)

    with peer.client() as client:
        thread = threading.Thread(target=work, args=(client,), daemon=True)
        thread.start()
        thread.join(WAIT)
        assert not thread.is_alive()


def test_an_association_is_made_anew_when_a_context_is_missing(listening, archive):
    peer = listening(archive)
    with peer.client() as client:
        client.echo()
        client.store(made(1))
        assert peer.ended.get(timeout=WAIT) is None  # released, for want of a context
        client.echo()
        client.store(made(2))
        assert len(peer.associations) == 2
        assert set(peer.associations[1].proposed) == {uids.VERIFICATION, CT}
        list(client.get(STUDY))
        list(client.get(STUDY))
        assert len(peer.associations) == 3


def test_more_contexts_than_there_are(listening, archive):
    """What was proposed long ago is left out."""
    peer = listening(archive)
    with peer.client() as client:
        for number in range(70):
            client.store(made(number, f"1.2.826.0.3.{number}"))
        assert len(peer.associations) == 70
        assert max(len(one.proposed) for one in peer.associations) == 128
    assert len(archive.state.stored) == 70


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_peer_that_closed_an_idle_association(how, listening):
    closing, closed = threading.Event(), threading.Event()

    def serve(association):
        dispatcher = Dispatcher(peer.app, association)
        dispatcher.receive_and_dispatch()
        if len(peer.associations) == 1:
            assert closing.wait(WAIT)
            if how == "close":
                association._channel._socket.close()
            else:
                association.abort()
            closed.set()
            raise AssociationError
        dispatcher.run()

    peer = listening(App(), serve)
    with peer.client() as client:
        client.echo()
        closing.set()
        assert closed.wait(WAIT)
        client.echo()
        assert len(peer.associations) == 2


def test_a_peer_that_has_sent_nonsense_meanwhile(listening):
    """The next request associates anew, and the socket is closed."""
    sending, sent = threading.Event(), threading.Event()

    def serve(association):
        Dispatcher(peer.app, association).receive_and_dispatch()
        if len(peer.associations) == 1:
            assert sending.wait(WAIT)
            association._channel._socket.sendall(
                pdu.encode(pdu.PDataTF((pdu.PDV(99, True, True, b""),)))
            )
            sent.set()
        association.receive()

    peer = listening(App(), serve)
    with peer.client() as client:
        client.echo()
        sending.set()
        assert sent.wait(WAIT)
        assert client.echo() == Status(0)
        assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)
        assert len(peer.associations) == 2


def test_a_client_that_is_closed_while_it_associates(listening):
    peer = listening(App())
    client = peer.client()
    opener = client._pool._opener

    def slowly(request, app):
        association = opener(request, app)
        client.close()
        return association

    client._pool._opener = slowly
    with pytest.raises(AssociationError, match="the client is closed"):
        client.echo()
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)


def test_a_peer_that_dies_in_the_middle(listening):
    def serve(association):
        if len(peer.associations) == 1:
            association.receive()
            association.abort()
        else:
            Dispatcher(peer.app, association).run()

    peer = listening(App(), serve)
    with peer.client() as client:
        with pytest.raises(AssociationAborted):
            client.echo()
        assert client.echo().code == 0


def test_a_peer_that_never_answers(listening):
    def serve(association):
        association.receive()
        association.receive()

    peer = listening(App(), serve)
    with peer.client(timeout=1) as client:  # in which it has to associate, too
        with pytest.raises(AssociationAborted, match="no message received for 1 s"):
            client.echo()
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)


@pytest.mark.parametrize("what", ["echo", "event", "response"])
def test_a_peer_that_sends_anything_but_the_answer(what, listening):
    def serve(association):
        context, command, _ = association.receive()
        event = commands.NEventReportRQ(
            message_id=9,
            affected_sop_class=uids.VERIFICATION,
            affected_sop_instance="1.2",
            event_type=1,
        )
        other = {
            "echo": commands.CEchoRQ(message_id=9, affected_sop_class=uids.VERIFICATION),
            "event": event,
            "response": commands.CEchoRSP(message_id_responded_to=command.message_id + 1, status=0),
        }
        while True:
            association.send(context, other[what])
            if what != "response":
                association.receive()

    peer = listening(App(), serve)
    with peer.client(timeout=0.5) as client:
        with pytest.raises(AssociationAborted, match=r"no answer received for 0\.5 s"):
            client.echo()
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)


def test_a_peer_that_takes_nothing(listening):
    hold = threading.Event()
    peer = listening(App(), lambda association: hold.wait(WAIT))
    peer.app.store(lambda request: None)
    ds = made(1)
    ds.add_new("PixelData", "OW", bytes(50_000_000))
    with peer.client(timeout=0.5) as client:
        try:
            with pytest.raises(AssociationAborted, match="sending failed"):
                client.store(ds)
            assert peer.ended.empty()
        finally:
            hold.set()


@pytest.mark.parametrize("service", ["echo", "store", "find", "get", "move", "n_get"])
def test_a_response_to_something_else(service, listening, sample):
    def serve(association):
        context, command, _ = association.receive()
        kind = commands.CFindRSP if service == "echo" else commands.CEchoRSP
        association.send(context, kind(message_id_responded_to=command.message_id, status=0))
        association.receive()

    app = App()
    app.store(lambda request: None)
    app.n_get("MPPS")(lambda request: {})
    for decorator in (app.find, app.get, app.move):
        decorator(lambda request: [])
    calls = {
        "echo": lambda client: client.echo(),
        "store": lambda client: client.store(sample("CT_small.dcm")),
        "find": lambda client: list(client.find(STUDY)),
        "get": lambda client: list(client.get(STUDY)),
        "move": lambda client: list(client.move(STUDY, "DEST")),
        "n_get": lambda client: client.n_get("MPPS", "1.2.3"),
    }
    peer = listening(app, serve)
    with peer.client() as client, pytest.raises(ProtocolError, match="was answered with"):
        calls[service](client)
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)


def test_a_service_that_the_peer_does_not_have(listening):
    peer = listening(App())
    with peer.client(called_ae="PACS") as client:
        for ask in (
            lambda: list(client.find({"PatientID": ""})),
            lambda: list(client.get(STUDY)),
            lambda: list(client.move(STUDY, "X")),
            lambda: client.store(made(1)),
        ):
            with pytest.raises(NotAccepted, match=r"PACS does not accept"):
                ask()
        assert client.echo().code == 0


def test_threads_share_a_client(listening):
    app, both = App(), threading.Barrier(2)
    app.echo(lambda request: both.wait(WAIT) and None)
    peer = listening(app)
    results = []
    with peer.client() as client:
        threads = [threading.Thread(target=lambda: results.append(client.echo())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert results == [Status(0), Status(0)]
    assert len(peer.associations) == 2
    assert [peer.ended.get(timeout=WAIT) for _ in range(2)] == [None, None]


def test_many_threads_with_many_requests(listening, archive):
    peer = listening(archive)
    failed = []

    def work(number):
        try:
            for i in range(10):
                client.store(made(100 * number + i))
                assert len(list(client.find({"PatientID": ""}))) == 3
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    with peer.client() as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * WAIT)
    assert failed == []
    assert len(archive.state.stored) == 60


def test_a_request_within_another(listening, archive):
    peer = listening(archive)
    with peer.client() as client:
        for number, row in enumerate(client.find({"PatientID": ""})):
            assert row.PatientID == f"P{number}"
            assert client.store(made(number)).code == 0
            assert client.echo().code == 0
    assert set(archive.state.stored) == {uid(0), uid(1), uid(2)}
    assert [one for one in iter(lambda: peer.ended.get(timeout=WAIT), None) if one] == []


# ------------------------------------------------------------------------------ App.connect


@pytest.mark.parametrize("way", ["function", "table"])
def test_an_app_connects_to_its_destinations(way, listening, archive):
    peer, app = listening(archive), App("OURS")
    if way == "table":
        app.destinations["PACS"] = Peer("127.0.0.1", peer.port)
    else:

        @app.destination
        def destination(ae_title, request):
            assert request is None
            return Peer("127.0.0.1", peer.port, "REAL") if ae_title == "PACS" else None

    with app.connect("PACS") as client:
        assert client.echo().code == 0
        assert client.store(made(1)).code == 0
    association = peer.associations[0]
    assert association.calling_ae == "OURS"
    assert association.called_ae == ("PACS" if way == "table" else "REAL")
    with pytest.raises(AssociationError, match=r"--destination ELSEWHERE=HOST:PORT"):
        app.connect("ELSEWHERE")


def test_failure_of_a_request_elsewhere_is_not_passed_on(listening):
    refusing = App()
    refusing.store(lambda request: 0xA700)
    behind, app = listening(refusing), App()
    app.destinations["BEHIND"] = Peer("127.0.0.1", behind.port)

    @app.store
    def store(request):
        with app.connect("BEHIND") as client:
            client.store(request.instance)

    front = listening(app)
    with front.client() as client, pytest.raises(RequestFailed, match="RequestFailed") as raised:
        client.store(made(1))
    assert raised.value.status.code == 0xC000
