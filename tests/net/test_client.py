"""The client: what it asks of pacsroute itself, of DCMTK, and of peers that misbehave."""

import contextlib
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time

import pydicom
import pytest
from pydicom.dataset import Dataset
from support.datasets import made, uid
from support.dcmtk import dcmtk_tool
from support.names import CT, EXPLICIT, IMPLICIT, WAIT
from support.raw_peer import RawPeer
from support.samples import FILES, SAMPLES, body

import pacsroute
from pacsroute import (
    App,
    Association,
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    DataSetError,
    Dispatcher,
    Failure,
    Instance,
    NotAccepted,
    Peer,
    Progress,
    ProtocolError,
    ReadFailed,
    RequestFailed,
    Status,
    uids,
)
from pacsroute.dataset.encode import encode
from pacsroute.dimse import commands, messages
from pacsroute.instances import part10
from pacsroute.net import outbox, transport
from pacsroute.upper_layer import pdu
from pacsroute.upper_layer.pdu import UserIdentity

STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}


class Listening:
    """Serves an app, and tells what becomes of each association.

    `ended` has, for each that is over, how: None where it was released.
    """

    def __init__(self, app, serve=None):
        self.app = app
        self.associations = []
        self.ended = queue.Queue()
        self._serve = serve or (lambda association: Dispatcher(app, association).run())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            sock, _ = self._listener.accept()
            if self._stopped:
                sock.close()
                return
            thread = threading.Thread(target=self._run, args=(sock,))
            self._threads.append(thread)
            thread.start()

    _stopped = False

    def _run(self, sock):
        how = None
        try:
            with Association.accept(sock, self.app) as association:
                self.associations.append(association)
                self._serve(association)
        except AssociationError as error:
            how = error
        self.ended.put(how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopped = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        for association in self.associations:
            association.stop()
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        self._listener.close()

    def client(self, **options):
        return pacsroute.connect("127.0.0.1", self.port, **options)


@pytest.fixture
def listening():
    with contextlib.ExitStack() as stack:
        yield lambda app, serve=None: stack.enter_context(Listening(app, serve))


@contextlib.contextmanager
def answering(*answers):
    """Answer requests for associations with PDUs or nothing; yield the port and the requests."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            for answer in answers:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(WAIT)
                    head = sock.recv(6, socket.MSG_WAITALL)
                    rest = sock.recv(struct.unpack(">2xI", head)[0], socket.MSG_WAITALL)
                    asked.append(pdu.decode(head + rest))
                    if answer is not None:
                        sock.sendall(pdu.encode(answer))
                        sock.recv(100)

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(WAIT)
        assert not thread.is_alive()


@pytest.fixture
def archive():
    """Return an app with all five services; what it stores, it has."""
    app = App("ARCHIVE")
    app.state.stored = {}
    app.state.asked = []

    @app.store
    def store(request):
        with request.instance.open() as file:
            app.state.stored[request.sop_instance] = (request, file.read())

    @app.find
    def find(request):
        app.state.asked.append(request.identifier)
        for number in range(3):
            yield {"PatientID": f"P{number}", "StudyInstanceUID": uid(number)}

    @app.get
    @app.move
    def retrieve(request):
        app.state.asked.append(request)
        request.count = 5
        for number in range(5):
            yield made(number)

    return app


# ------------------------------------------------------------------------------ associations


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((1, 1, 3), "calling AE title 'ME': have it registered"),
        ((1, 1, 7), "called AE title 'PACS' is not its own"),
        ((2, 3, 1), "congested: try again later (for now; source 3, reason 1)"),
        ((1, 1, 9), "a reason of its own (for good; source 1, reason 9)"),
    ],
)
def test_a_rejection_says_who_and_why(answer, words):
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
        (pdu.ReleaseRP(), "aborted"),
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


def test_an_ae_title_that_is_none_leaves_no_socket_open():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = pacsroute.connect("127.0.0.1", listener.getsockname()[1], called_ae="X" * 17)
        with pytest.raises(ValueError, match="16"):
            client.echo()
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(WAIT)
            assert sock.recv(1) == b""


def test_what_has_no_sop_class_is_not_sent_anywhere():
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


def test_nobody_there():
    with socket.socket() as bound:  # and so nobody else's meanwhile
        bound.bind(("127.0.0.1", 0))
        with pacsroute.connect("127.0.0.1", bound.getsockname()[1]) as client:
            with pytest.raises(AssociationAborted, match="is it on, and the port right"):
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


def test_it_associates_when_first_asked_and_releases_at_the_end(listening):
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
def test_who_waits_for_a_silent_peer_learns_at_once_that_the_client_is_closed(in_memory, listening):
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
        with pytest.raises(AssociationAborted, match="no message came for 1 s"):
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
        with pytest.raises(AssociationAborted, match=r"no answer came for 0\.5 s"):
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


# ------------------------------------------------------------------------------ store


def test_what_can_be_stored(listening, archive, sample):
    path = sample("CT_small.dcm")
    sources = [path, str(path), path.read_bytes(), Instance(path), Instance(path.read_bytes())]
    peer = listening(archive)
    with peer.client(calling_ae="ME") as client:
        for source in sources:
            archive.state.stored.clear()
            assert client.store(source).code == 0
            ((request, data),) = archive.state.stored.values()
            assert data == body(path)
            assert (request.transfer_syntax, request.calling_ae) == (EXPLICIT, "ME")
            assert (request.move_originator_ae, request.move_originator_message_id) == (None, None)
        assert client.store(pydicom.dcmread(path)).code == 0
        ((request, _),) = archive.state.stored.values()
        assert request.dataset == pydicom.dcmread(path)
    assert len(peer.associations) == 1


@pytest.mark.parametrize(
    ("name", "syntaxes"),
    [
        ("MR_small_RLE.dcm", [EXPLICIT]),
        ("MR_small_bigendian.dcm", [IMPLICIT]),
        ("image_dfl.dcm", [IMPLICIT]),
        ("MR_small_implicit.dcm", [EXPLICIT]),
    ],
)
def test_what_the_peer_wants_otherwise_is_converted(name, syntaxes, listening, sample):
    app, stored = App(), []

    @app.store(transfer_syntaxes=syntaxes)
    def store(request):
        stored.append((request.transfer_syntax, request.dataset, request.dataset.pixel_array))

    peer = listening(app)
    with peer.client() as client:
        client.store(sample(name))
    ((syntax, ds, pixels),) = stored
    original = pydicom.dcmread(sample(name))
    assert syntax in (*syntaxes, IMPLICIT)
    assert ds.PatientName == original.PatientName
    assert (pixels == original.pixel_array).all()


def test_statuses_of_a_store(listening):
    app, statuses = App(), [0xB007, 0xA700, 0x0122, 0]

    @app.store
    def store(request):
        raise Failure(statuses.pop(0), "why") if statuses[0] else statuses.pop(0) or KeyError

    app.routes[0].handler.__doc__ = None
    peer = listening(app)
    with peer.client() as client:
        assert client.store(made(1)) == Status(0xB007, "why")
        for code in (0xA700, 0x0122):
            with pytest.raises(
                RequestFailed, match=f"C-STORE of {uid(1)}: 0x{code:04X} why"
            ) as raised:
                client.store(made(1))
            assert raised.value.status == (code, "why")
    assert len(peer.associations) == 1


def test_a_source_that_is_none(listening, archive, tmp_path):
    peer = listening(archive)
    with peer.client() as client:
        with pytest.raises(FileNotFoundError):
            client.store(tmp_path / "nothing.dcm")
        with pytest.raises(DataSetError, match="Part 10"):
            client.store(b"not DICOM" * 100)
        with pytest.raises(TypeError):
            client.store(7)
        assert client.store(made(1)).code == 0


class Breaking(Instance):
    """An instance that can be read for a while."""

    def __init__(self, source, error):
        super().__init__(source)
        self._error = error

    def open(self):
        whole, error = super().open(), self._error

        class File:
            def tell(self):
                return whole.tell()

            def seek(self, *where):
                return whole.seek(*where)

            def readinto(self, buffer):
                if whole.tell() > 300_000:
                    if error is None:
                        return 0
                    raise error
                return whole.readinto(buffer)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                whole.close()

        return File()


@pytest.mark.parametrize("size", [9, 10, 200_001, 2_000_001])
@pytest.mark.parametrize("kind", ["file", "bytes"])
def test_an_odd_data_set_is_made_even(kind, size, listening, tmp_path):
    data = b"\x08\0\x60\0CS\2\0CT".ljust(size, b"\x01")[:size]
    path = tmp_path / "odd.dcm"
    path.write_bytes(part10.head(CT, "1.2.3", EXPLICIT) + data)
    app = App("ARCHIVE")
    app.store(lambda request: request.save(tmp_path / "archive") and None)
    hints = {"sop_class": CT, "sop_instance": "1.2.3", "transfer_syntax": EXPLICIT}
    peer = listening(app)
    with peer.client() as client:
        client.store(Instance(path if kind == "file" else data, **hints))
    stored = (tmp_path / "archive" / "1.2.3.dcm").read_bytes()
    assert stored.endswith(data + b"\0" * (size % 2))


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (None, ReadFailed),
        (OSError("disk"), ReadFailed),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_instance_that_breaks_off_while_it_is_sent(error, raised, listening, archive, tmp_path):
    """Half of a message is on its way: the association cannot be used again."""
    ds = made(1)
    ds.add_new("PixelData", "OW", bytes(3_000_000))
    instance = Breaking(Instance(ds).save(tmp_path), error)
    peer = listening(archive)
    with peer.client() as client:
        with pytest.raises(raised):
            client.store(instance)
        assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)
        assert client.store(made(2)).code == 0
    assert set(archive.state.stored) == {uid(2)}


def large(number):
    """Return what is one PDU, and its end."""
    ds = made(number)
    ds.add_new("PixelData", "OW", bytes(400_000))
    return ds


@pytest.mark.parametrize("kind", ["file", "data set"])
def test_a_peer_with_small_pdus_has_few_of_them_made_at_a_time(
    kind, listening, archive, monkeypatch, tmp_path
):
    """It may not take them, and each of two bytes is a hundred times as much memory."""
    send_all, most = transport.send_all, []

    def noted(sock, buffers, deadline):
        most.append(len(buffers))
        send_all(sock, buffers, deadline)

    monkeypatch.setattr(transport, "send_all", noted)
    for module in (messages, outbox):
        monkeypatch.setattr(module, "PIECES", 16)
    archive.config.maximum_length = 4096
    source = large(1) if kind == "data set" else Instance(large(1)).save(tmp_path)
    with listening(archive).client() as client:
        assert client.store(source).code == 0
    assert archive.state.stored[uid(1)][0].dataset.PixelData == large(1).PixelData
    assert 2 * 16 <= max(most) <= 2 * 16 + 2


def test_an_abort_is_no_part_of_what_another_thread_sends(listening, archive, monkeypatch):
    """It would be stored, as ten bytes in the middle of the pixels."""
    send_all, half, more = transport.send_all, threading.Event(), threading.Event()

    def slowly(sock, buffers, deadline):
        data = b"".join(buffers)
        if len(data) > 400_000:
            send_all(sock, [data[:200_000]], deadline)
            half.set()
            while not more.wait(0.01) and not transport.readable(sock, 0):
                pass
            data = data[200_000:]
        send_all(sock, [data], deadline)
        if data.startswith(pdu.encode(pdu.Abort(0))[:1]):
            more.set()

    monkeypatch.setattr(transport, "send_all", slowly)
    peer = listening(archive)
    client = peer.client()

    def store():
        with pytest.raises(AssociationError):
            client.store(large(1))

    storing = threading.Thread(target=store)
    storing.start()
    assert half.wait(WAIT)
    client.close()
    storing.join(WAIT)
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)
    assert not archive.state.stored


def test_an_abort_is_no_part_of_what_was_interrupted(listening, archive, monkeypatch):
    send_all = transport.send_all

    def interrupted(sock, buffers, deadline):
        data = b"".join(buffers)
        send_all(sock, [data[:-10] if len(data) > 400_000 else data], deadline)
        if len(data) > 400_000:
            raise KeyboardInterrupt

    monkeypatch.setattr(transport, "send_all", interrupted)
    peer = listening(archive)
    with peer.client() as client, pytest.raises(KeyboardInterrupt):
        client.store(large(1))
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)
    assert not archive.state.stored


# ------------------------------------------------------------------------------ find


def result(generator):
    """Return what a generator yields, and what it returns."""
    found = []
    while True:
        try:
            found.append(next(generator))
        except StopIteration as stop:
            return found, stop.value


def test_find(listening, archive):
    peer = listening(archive)
    keys = {
        "QueryRetrieveLevel": "STUDY",
        "PatientName": "Müller*",
        "PatientID": None,
        "StudyInstanceUID": "",
        "StudyDate": "20200101-",
    }
    with peer.client() as client:
        for sop_class in ("StudyRoot", "PatientRoot", uids.sop_class("StudyRoot", "find")):
            found, status = result(client.find(keys, sop_class))
            assert [row.PatientID for row in found] == ["P0", "P1", "P2"]
            assert (found[0].RetrieveAETitle, status) == ("ARCHIVE", Status(0))
        ds = Dataset()
        ds.QueryRetrieveLevel, ds.PatientName = "STUDY", "DOE^*"
        assert len(list(client.find(ds))) == 3
    asked = archive.state.asked[0]
    assert asked.PatientName == "Müller*"
    assert (asked.PatientID, asked.StudyDate) == ("", "20200101-")
    assert archive.state.asked[-1].PatientName == "DOE^*"


def test_a_find_that_fails(listening):
    app = App()

    @app.find
    def find(request):
        yield {"PatientID": "1"}
        raise Failure(0xA700, "no more")

    peer = listening(app)
    with peer.client() as client:
        found = client.find({"PatientID": ""})
        assert next(found).PatientID == "1"
        with pytest.raises(RequestFailed, match="C-FIND: 0xA700 no more"):
            next(found)
        assert client.find({"PatientID": ""})
    assert len(peer.associations) == 1


def test_an_answer_that_is_too_long_is_no_shorter_one(listening):
    app = App("ARCHIVE")
    app.find(lambda request: [{"PatientID": "1", "TextValue": "x" * 5_000}])
    app.n_get("MPPS")(lambda request: {"PatientID": "1", "TextValue": "x" * 5_000})
    peer = listening(app)
    with peer.client(app=App(max_identifier_length=4_096)) as client:
        with pytest.raises(DataSetError, match="longer than max_identifier_length, 4096 bytes"):
            list(client.find({**STUDY, "PatientID": "", "TextValue": ""}))
        with pytest.raises(DataSetError, match="longer than max_identifier_length"):
            client.n_get("MPPS", "1.2.3")
        assert client.echo().code == 0


@pytest.mark.parametrize("service", ["find", "get", "move"])
def test_an_iterator_that_is_closed_cancels(service, listening):
    """And the association is free again, for the next request."""
    app, ended = App("ARCHIVE"), queue.Queue()
    destination = App("DEST")
    destination.store(lambda request: None)

    def handler(request):
        request.count = 10_000_000
        try:
            for number in range(10_000_000):
                yield {"PatientID": "1"} if service == "find" else made(number)
        finally:
            ended.put(request.cancelled)

    getattr(app, service)(handler)
    with destination.serve(port=0, grace=1) as server:
        app.destinations["DEST"] = Peer("127.0.0.1", server.port)
        peer = listening(app)
        with peer.client() as client:
            more = ("DEST",) if service == "move" else ()
            for _ in range(2):
                for number, _ in enumerate(getattr(client, service)(STUDY, *more)):
                    if number == 3:
                        break
                assert ended.get(timeout=WAIT) is True
            assert len(peer.associations) == 1
        assert peer.ended.get(timeout=WAIT) is None


def test_an_iterator_that_is_left_open_does_not_keep_a_script_from_ending(listening, archive):
    """No thread begins at that time, which an orderly cancel would need."""
    peer = listening(archive)
    script = f"""
import pacsroute
client = pacsroute.connect("127.0.0.1", {peer.port})
rows = client.find({{"PatientID": ""}})
next(rows)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=WAIT)
    assert isinstance(peer.ended.get(timeout=WAIT), AssociationAborted)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_peer_that_is_silent_after_a_cancel_is_not_waited_for(in_memory, listening, monkeypatch):
    monkeypatch.setattr("pacsroute.net.answers._AFTER_CANCEL", 0.1)
    app, hold, held = App("ARCHIVE"), threading.Event(), threading.Event()

    @app.find
    def find(request):
        yield {"PatientID": "1"}
        hold.wait(WAIT)
        held.set()

    peer = None if in_memory else listening(app)
    with app.test_client() if in_memory else peer.client() as client:
        rows = client.find({"PatientID": ""})
        next(rows)
        rows.close()
        assert not held.is_set()
        hold.set()
        assert client.echo() == Status(0)
    if peer is not None:  # the second one may be released before the handler of the first ends
        ends = [peer.ended.get(timeout=WAIT) for _ in range(2)]
        assert {type(end) for end in ends} == {AssociationAborted, type(None)}


# ------------------------------------------------------------------------------ get, move


def test_attributes_without_an_element_are_no_data_set(listening):
    app, announced = App(), []
    app.n_action("StorageCommitment")(lambda request: None)

    def serve(association):
        while True:
            message = association.receive()
            announced.append(message.command.has_data_set)
            Dispatcher(app, association).dispatch(message)

    with listening(app, serve).client() as client:
        for information in (None, {}, {"TransactionUID": "1.2"}):
            client.n_action("StorageCommitment", "StorageCommitmentPushModel", 1, information)
    assert announced == [False, False, True]


def test_get(listening, archive, tmp_path):
    peer = listening(archive)
    with peer.client(called_ae="ARCHIVE") as client:
        found, status = result(client.get(STUDY))
        assert status == Status(0)
        assert [one.sop_instance for one in found] == [uid(number) for number in range(5)]
        assert {one.sop_class for one in found} == {CT}
        assert found[3].dataset.PatientID == "P"
        path = found[3].save(tmp_path)
    assert pydicom.dcmread(path).SOPInstanceUID == uid(3)
    assert archive.state.asked[0].level == "STUDY"
    assert len(peer.associations) == 1


def test_get_in_the_syntaxes_that_are_stored(listening, sample):
    names = ["CT_small.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "MR_small.dcm"]
    app = App()
    app.get(lambda request: [sample(name) for name in names])
    peer = listening(app)
    with peer.client() as client:
        found = list(
            client.get(
                STUDY,
                storage=["CTImageStorage", "MRImageStorage", "SecondaryCaptureImageStorage"],
                transfer_syntaxes=["ExplicitVRLittleEndian", "JPEG2000", "RLELossless"],
            )
        )
    for name, one in zip(names, found, strict=True):
        assert (one.sop_class, one.sop_instance, one.transfer_syntax) == SAMPLES[name]
        with one.open() as file:
            assert file.read() == body(sample(name))


def test_get_of_what_cannot_come(listening, sample):
    """What failed is told, with what came: a warning, or a failure where nothing did."""
    app = App()
    app.get(lambda request: [sample(name) for name in request.identifier.PatientID.split(",")])
    peer = listening(app)
    keys = {"QueryRetrieveLevel": "PATIENT"}
    with peer.client() as client:
        names = ("CT_small.dcm", "MR_small.dcm")
        some = client.get(
            {**keys, "PatientID": ",".join(names)}, "PatientRoot", storage=["CTImageStorage"]
        )
        found, status = result(some)
        assert (len(found), status.code) == (1, 0xB000)
        none = client.get(
            {**keys, "PatientID": names[1]}, "PatientRoot", storage=["CTImageStorage"]
        )
        with pytest.raises(RequestFailed, match="0xA702") as raised:
            list(none)
    assert raised.value.progress == Progress(0, 0, 1, 0, (SAMPLES[names[1]][1],))


def test_no_role_is_used_for_what_it_was_not_asked_for(listening, archive):
    """A peer that sends instances may not be sent some on the same association."""
    peer = listening(archive)
    with peer.client() as client:
        list(client.get(STUDY, storage=["CTImageStorage"]))
        client.store(made(1))
    roles = [{(one.scu, one.scp) for one in a.contexts.values()} for a in peer.associations]
    assert roles == [{(True, False), (True, True)}, {(True, False)}]


def test_an_instance_that_was_asked_for_reaches_no_handler(listening, archive):
    """Neither while it is fetched, nor after that."""

    def serve(association):
        for number in (1, 2):
            context, command, _ = association.receive()
            request = commands.CStoreRQ(
                message_id=number, affected_sop_class=CT, affected_sop_instance=uid(number)
            )
            done = commands.CGetRSP(message_id_responded_to=command.message_id, status=0)
            store = next(c for c in association.contexts.values() if c.abstract_syntax == CT)
            data = encode(made(number), store.transfer_syntax)
            association.send(store.id, request, data)
            association.receive(response_to=number)
            association.send(context, done)
            association.send(store.id, request, data)
        association.receive()

    theirs = App("THEIRS")
    theirs.get(lambda request: [])
    peer = listening(theirs, serve)
    with peer.client(app=archive) as client:
        for _ in range(2):
            assert list(client.get(STUDY, storage=["CTImageStorage"]))
    assert archive.state.stored == {}


def test_what_is_no_such_instance_is_refused_and_the_others_come(listening):
    statuses = []

    def serve(association):
        message = association.receive()
        for name in ("../../1.2", "", uid(7), uid(1)):
            command = commands.CStoreRQ(
                message_id=100, affected_sop_class=CT, affected_sop_instance=name
            )
            (context,) = (one for one in association.contexts.values() if one.scp)
            association.send(context.id, command, encode(made(1), EXPLICIT))
            statuses.append(association.receive(response_to=100).command.status)
        Dispatcher(app, association).dispatch(message)
        Dispatcher(app, association).run()

    app = App()
    app.get(lambda request: [])
    with listening(app, serve).client() as client:
        fetched = list(client.get(STUDY, storage=[CT], transfer_syntaxes=[EXPLICIT]))
    assert [instance.sop_instance for instance in fetched] == [uid(1)]
    assert statuses == [0x0117, 0x0117, 0xA900, 0]


def test_an_instance_is_acknowledged_after_the_loop_body(listening):
    """And not at all where the body is left by an exception."""
    answers, done = queue.Queue(), threading.Event()

    def serve(association):
        while True:
            message = association.receive()
            asked = message.command
            for number in range(2):
                context = next(
                    one for one in association.contexts.values() if one.abstract_syntax == CT
                )
                command = commands.CStoreRQ(
                    message_id=100 + number,
                    affected_sop_class=CT,
                    affected_sop_instance=uid(number),
                )
                association.send(context.id, command, encode(made(number), EXPLICIT))
                answer = association.receive(response_to=100 + number).command
                answers.put((answer.status, done.is_set(), association.cancelled(asked.message_id)))
                done.clear()
            status = 0xFE00 if association.cancelled(asked.message_id) else 0
            final = commands.CGetRSP(message_id_responded_to=asked.message_id, status=status)
            association.send(message.context_id, final)

    app = App()
    app.get(lambda request: [])
    peer = listening(app, serve)
    with peer.client() as client:
        fetched = client.get(STUDY, storage=[CT], transfer_syntaxes=[EXPLICIT])
        for number, instance in enumerate(fetched):
            assert instance.sop_instance == uid(number)
            assert answers.qsize() == number  # the earlier ones have been acknowledged
            done.set()
        assert [answers.get(timeout=WAIT)[:2] for _ in range(2)] == [(0, True), (0, True)]
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            for _ in client.get(STUDY, storage=[CT], transfer_syntaxes=[EXPLICIT]):
                1 / 0
        statuses = [answers.get(timeout=WAIT) for _ in range(2)]
        assert [one[0] for one in statuses] == [0xA700, 0xA700]
        assert statuses[1][2]  # cancelled


def test_move(listening, archive):
    destination, received = App("DEST"), []
    destination.store(received.append)
    with destination.serve(port=0, grace=1) as server:
        archive.destinations["DEST"] = Peer("127.0.0.1", server.port)
        peer = listening(archive)
        with peer.client(calling_ae="ME") as client:
            progress, status = result(client.move(STUDY, "DEST"))
    assert status == Status(0)
    assert progress == [*(Progress(4 - n, n + 1) for n in range(5)), Progress(0, 5)]
    assert [one.sop_instance for one in received] == [uid(n) for n in range(5)]
    assert {one.move_originator_ae for one in received} == {"ME"}


def test_a_move_that_fails(listening, archive):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        archive.destinations["DOWN"] = Peer("127.0.0.1", listener.getsockname()[1])
    peer = listening(archive)
    with peer.client() as client:
        with pytest.raises(RequestFailed, match="0xA801 Refused: move destination unknown"):
            list(client.move(STUDY, "NOBODY"))
        with pytest.raises(RequestFailed, match="0xA702") as raised:
            list(client.move(STUDY, "DOWN"))
    assert raised.value.progress == Progress(0, 0, 5, 0, tuple(uid(n) for n in range(5)))
    assert len(peer.associations) == 1


@pytest.mark.parametrize("service", ["echo", "store", "find"])
def test_what_the_peer_asks_meanwhile_the_app_answers(service, listening):
    echoed, statuses = [], []

    def serve(association):
        message = association.receive()
        contexts = {one.abstract_syntax: one.id for one in association.contexts.values()}
        association.send(
            contexts[uids.VERIFICATION],
            commands.CEchoRQ(message_id=9, affected_sop_class=uids.VERIFICATION),
        )
        statuses.append(association.receive(response_to=9).command.status)
        Dispatcher(peer.app, association).dispatch(message)
        Dispatcher(peer.app, association).run()

    theirs, ours = App(), App("OURS")
    theirs.store(lambda request: None)
    theirs.find(lambda request: [])
    peer = listening(theirs, serve)
    ours.echo(lambda request: echoed.append(request.message_id))
    with peer.client(app=ours, timeout=WAIT) as client:
        client._pool._contexts[uids.VERIFICATION, (IMPLICIT,)] = None  # as after an echo
        ask = {"echo": client.echo, "store": lambda: client.store(made(1))}
        assert ask.get(service, lambda: list(client.find(STUDY)))() in (Status(0), [])
    assert (echoed, statuses) == ([9], [0])


def test_a_peer_that_we_have_asked_reaches_no_handler(listening, archive):
    """Nobody has let it in: neither `allow` nor `authenticate` knows of it."""
    statuses = []

    def serve(association):
        message = association.receive()
        request = commands.CFindRQ(
            message_id=9, affected_sop_class=message.command.affected_sop_class
        )
        association.send(message.context_id, request, bytes(message.data))
        statuses.append(association.receive(response_to=9).command.status)
        Dispatcher(peer.app, association).dispatch(message)
        Dispatcher(peer.app, association).run()

    theirs = App("THEIRS")
    theirs.find(lambda request: [])
    peer = listening(theirs, serve)
    with peer.client(app=archive) as client:
        assert list(client.find(STUDY)) == []
    assert (archive.state.asked, statuses) == ([], [0x0122])


def test_a_peer_that_was_asked_for_no_instances_fills_no_spool(listening, archive):
    statuses, taken = [], []

    def serve(association):
        message = association.receive()
        request = commands.CStoreRQ(
            message_id=9, affected_sop_class=CT, affected_sop_instance=uid(1)
        )
        association.send(message.context_id, request, bytes(1_000_000))
        statuses.append(association.receive(response_to=9).command.status)
        Dispatcher(peer.app, association).dispatch(message)
        Dispatcher(peer.app, association).run()

    take = archive.room.take
    archive.room.take = lambda count: taken.append(count) or take(count)
    peer = listening(App(), serve)
    with peer.client(app=archive) as client:
        assert client.echo().code == 0
    assert (statuses, taken, archive.state.stored) == ([0x0122], [], {})


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


def test_a_failure_elsewhere_is_not_passed_on(listening):
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


# ------------------------------------------------------------------------------ DCMTK


def started(tool, *arguments):
    """Start one of DCMTK's servers, and wait until it listens on the port that is its last."""
    path = dcmtk_tool(tool)
    process = subprocess.Popen(
        [path, *map(str, arguments)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, EOFError), RawPeer(arguments[-1]) as peer:
            if isinstance(peer.answer, pdu.AssociateAC):  # not of all who ask for no title
                peer.release()
            break
        time.sleep(0.01)
    return process


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def storescp(tmp_path):
    folder, port = tmp_path / "storescp", free_port()
    folder.mkdir()
    process = started("storescp", "-od", folder, "+xa", "+B", "-aet", "DEST", port)
    yield port, folder
    process.kill()
    process.wait()


@pytest.fixture
def dcmqrscp(tmp_path, storescp):
    folder, port = tmp_path / "dcmqrscp", free_port()
    folder.mkdir()
    (tmp_path / "dcmqrscp.cfg").write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
dest = (DEST, localhost, {storescp[0]})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {folder} RW (100, 100mb) ANY
AETable END
"""
    )
    process = started("dcmqrscp", "-c", tmp_path / "dcmqrscp.cfg", port)
    yield port
    process.kill()
    process.wait()


def test_storescp(storescp, sample):
    port, folder = storescp
    names = ["CT_small.dcm", "693_J2KI.dcm", "MR_small_RLE.dcm", "rtplan.dcm", "image_dfl.dcm"]
    with pacsroute.connect("127.0.0.1", port, called_ae="DEST") as client:
        assert client.echo().code == 0
        for name in names:
            assert client.store(sample(name)).code == 0
        with pytest.raises(NotAccepted, match="Study Root"):
            list(client.find({"PatientID": ""}))
        assert client.echo().code == 0
    found = {pydicom.dcmread(path).SOPInstanceUID: body(path) for path in folder.iterdir()}
    for name in names:
        expected = body(sample(name))
        assert found[SAMPLES[name][1]] == expected + b"\0" * (len(expected) & 1)


def test_dcmqrscp(dcmqrscp, storescp):
    names = ["CT_small.dcm", "MR_small.dcm", "test-SR.dcm", "examples_overlay.dcm"]
    originals = {SAMPLES[name][1]: pydicom.dcmread(FILES / name) for name in names}
    keys = {
        "QueryRetrieveLevel": "STUDY",
        "StudyInstanceUID": "",
        "PatientID": "",
        "PatientName": "",
    }
    with pacsroute.connect("127.0.0.1", dcmqrscp, called_ae="QRSCP") as client:
        assert client.echo().code == 0
        for name in names:
            assert client.store(FILES / name).code == 0
        found, status = result(client.find(keys))
        assert status.code == 0
        assert {row.StudyInstanceUID for row in found} == {
            ds.StudyInstanceUID for ds in originals.values()
        }
        ct = pydicom.dcmread(FILES / "CT_small.dcm")
        (row,) = client.find({**keys, "PatientID": ct.PatientID})
        assert row.PatientName == ct.PatientName

        for instance, original in originals.items():
            study = {
                "QueryRetrieveLevel": "STUDY",
                "StudyInstanceUID": original.StudyInstanceUID,
            }
            fetched, status = result(client.get(study))
            assert status.code == 0
            (got,) = (one for one in fetched if one.sop_instance == instance)
            assert got.dataset.SOPInstanceUID == original.SOPInstanceUID
            assert got.dataset.get("PixelData") == original.get("PixelData")
            progress, status = result(client.move(study, "DEST"))
            assert status.code == 0
            assert progress[-1].completed == len(fetched)
        with pytest.raises(RequestFailed, match="0xA801"):
            list(client.move(study, "NOBODY"))
    assert {pydicom.dcmread(path).SOPInstanceUID for path in storescp[1].iterdir()} == set(
        originals
    )


def test_cancelling_dcmqrscp(dcmqrscp):
    keys = {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": "", "StudyInstanceUID": ""}
    with pacsroute.connect("127.0.0.1", dcmqrscp, called_ae="QRSCP") as client:
        for number in range(30):
            ds = made(number)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.4"
            client.store(ds)
        keys |= {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}
        for _ in range(3):
            found = client.find(keys)
            assert "SOPInstanceUID" in next(found)
            found.close()
            for instance in client.get(STUDY):
                assert instance.dataset.StudyInstanceUID == "1.2.3"
                break
        assert client.echo().code == 0
