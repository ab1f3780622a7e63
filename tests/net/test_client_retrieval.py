"""C-FIND, C-GET and C-MOVE of the client."""

import queue
import socket
import subprocess
import sys
import threading

import pydicom
import pytest
from pydicom.dataset import Dataset
from support.answers import result
from support.datasets import made, uid
from support.names import CT, EXPLICIT, IMPLICIT, STUDY, WAIT
from support.samples import SAMPLES, body

from pacsroute import (
    App,
    AssociationAborted,
    DataSetError,
    Dispatcher,
    Failure,
    Peer,
    Progress,
    RequestFailed,
    Status,
    uids,
)
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands
from pacsroute.services.transfer import FETCHED, contexts_to_fetch


def test_client_find(listening, archive):
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


# ------------------------------------------------------------------------------ C-GET and C-MOVE


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


def test_client_get(listening, archive, tmp_path):
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


@pytest.mark.parametrize("classes", [1, 3, 20, 100])
def test_contexts_of_a_get_fit_an_association(classes):
    contexts = contexts_to_fetch([f"1.2.{number}" for number in range(classes)], FETCHED)
    assert len(contexts) <= 127
    assert len({sop_class for sop_class, _ in contexts}) == classes
    native = [syntaxes for _, syntaxes in contexts if set(syntaxes) & set(FETCHED[:2])]
    assert any(len(syntaxes) <= 2 for syntaxes in native) == (classes < 64)


def test_usual_images_may_come_native_and_compressed():
    contexts = contexts_to_fetch(None, FETCHED)
    assert len(contexts) == 127
    by_class = {}
    for sop_class, syntaxes in contexts:
        by_class.setdefault(uids.written(sop_class), []).append(syntaxes)
    assert [len(by_class[name]) for name in ("CTImageStorage", "RTPlanStorage")] == [2, 1]
    assert by_class["VideoEndoscopicImageStorage"][1][0] == uids.transfer_syntax("MPEG4HP41")
    native = contexts_to_fetch(None, FETCHED[:2])
    assert len({sop_class for sop_class, _ in native}) == len(native) == 127


def test_get_of_instances_that_cannot_be_sent(listening, sample):
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


def test_role_is_used_for_its_class_only(listening, archive):
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


def test_unrequested_instance_is_refused_and_the_others_arrive(listening):
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


def test_client_move(listening, archive):
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
def test_app_answers_requests_of_the_peer_during_a_move(service, listening):
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


def test_called_peer_reaches_no_handler(listening, archive):
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
