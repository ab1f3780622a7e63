"""Recordings of other people's software, made here and now, and played back to apps."""

import logging
import re
import socket
import threading

import pydicom
import pytest
from support.names import EXPLICIT, FIND
from support.places import CAPTURES
from support.raw_peer import RawPeer
from support.samples import FILES

import pacsroute
from pacsroute import App, Failure, Peer, uids
from pacsroute.testing import replay
from pacsroute.trace.conversation import UnreadableFile
from pacsroute.trace.recording import Recorder, recorder
from pacsroute.upper_layer import pdu
from pacsroute.upper_layer.tap import Link

NAMES = ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm"]
STUDY = "1.2.826.0.1.3680043.8.498.1"


def archive(title="ARCHIVE", **answers):
    """Return an app whose answers are the same each time."""
    app = App(title)
    app.state.stored = []

    @app.store
    def store(request):
        app.state.stored.append(request.sop_instance)
        return answers.get("store")

    @app.find("StudyRoot")
    def find(request):
        for number in range(answers.get("rows", 3)):
            yield {
                "PatientName": answers.get("name", "Doe^John"),
                "PatientID": str(number),
                "StudyInstanceUID": f"{STUDY}.{number}",
            }

    @app.get("StudyRoot")
    @app.move("StudyRoot")
    def retrieve(request):
        return [FILES / name for name in answers.get("files", NAMES)]

    return app


@pytest.fixture
def record(tmp_path):
    """Return a function: serve an app, have a peer talk to its port, return the recordings."""

    def run(app, talk):
        folder = tmp_path / "recordings"
        before = set(folder.glob("*"))
        app.taps[:] = [recorder(folder)]
        with app.serve(port=0, grace=1) as server:
            talk(server.port)
        app.taps.clear()
        app.state.stored.clear()
        return sorted(set(folder.iterdir()) - before)

    return run


def succeeds(done):
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------- DCMTK


def test_replay_of_echoscu(record, dcmtk):
    (path,) = record(archive(), lambda port: succeeds(dcmtk("echoscu", "127.0.0.1", port)))
    assert replay(path, archive()) == []


def test_replay_of_storescu(record, dcmtk):
    def talk(port):
        succeeds(dcmtk("storescu", "127.0.0.1", port, *(FILES / name for name in NAMES)))

    (path,) = record(archive(), talk)
    app = archive()
    assert replay(path, app) == []
    assert app.state.stored == [
        pydicom.dcmread(FILES / name, stop_before_pixels=True).SOPInstanceUID for name in NAMES
    ]


KEYS = ["-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName", "-k", "StudyInstanceUID"]


def test_replay_of_findscu(record, dcmtk):
    (path,) = record(
        archive(), lambda port: succeeds(dcmtk("findscu", "-S", *KEYS, "127.0.0.1", port))
    )
    assert replay(path, archive()) == []


def test_replay_of_findscu_that_cancels(record, dcmtk):
    def talk(port):
        succeeds(dcmtk("findscu", "-S", "--cancel", 2, *KEYS, "127.0.0.1", port))

    app = App()
    app.state.stored = []

    @app.find("StudyRoot")
    def find(request):
        while not request.cancelled:
            yield {"PatientName": "Doe^John"}

    (path,) = record(app, talk)
    assert replay(path, app) == []
    (difference, *_) = replay(path, archive(rows=1))
    assert difference.where.startswith("C-FIND-RSP 1")


GET = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]


def test_replay_of_getscu(record, dcmtk, tmp_path):
    got = tmp_path / "got"
    got.mkdir()

    def talk(port):
        succeeds(dcmtk("getscu", "-S", *GET, "-od", got, "127.0.0.1", port))

    (path,) = record(archive(), talk)
    assert len(list(got.iterdir())) == len(NAMES)
    assert replay(path, archive()) == []
    differences = replay(path, archive(files=NAMES[:1]))
    assert {difference.where.split(",")[0] for difference in differences} == {
        "C-STORE-RQ",
        "C-GET-RSP 1",
    }


def test_replay_of_movescu(record, dcmtk):
    """The association to the destination is played in memory, whoever was there."""
    destination, app = archive("DEST"), archive()
    with destination.serve(port=0, grace=1) as server:
        app.destinations["DEST"] = Peer("127.0.0.1", server.port)

        def talk(port):
            succeeds(dcmtk("movescu", "-S", "-aem", "DEST", *GET, "127.0.0.1", port))

        paths = record(app, talk)
    assert len(destination.state.stored) == len(NAMES)
    (path,) = (one for one in paths if b'"role": "acceptor"' in one.read_bytes())
    assert replay(path, archive()) == []
    other = archive("DEST")
    assert replay(path, archive(), peers={"DEST": other}) == []
    assert len(other.state.stored) == len(NAMES)
    # What we have sent to the destination is what a requestor sent, too.
    for sent in paths:
        if sent != path:
            assert replay(sent, archive("DEST")) == []


# ------------------------------------------------------------- pynetdicom


@pytest.fixture
def pynetdicom():
    library = pytest.importorskip("pynetdicom")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    return library


def test_replay_of_pynetdicom(record, pynetdicom):
    def talk(port):
        entity = pynetdicom.AE("PYNETDICOM")
        entity.add_requested_context(uids.VERIFICATION)
        entity.add_requested_context(FIND)
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2")
        association = entity.associate("127.0.0.1", port)
        assert association.is_established
        assert association.send_c_echo().Status == 0
        identifier = pydicom.Dataset()
        identifier.QueryRetrieveLevel, identifier.PatientName = "STUDY", ""
        assert len(list(association.send_c_find(identifier, FIND))) == 4
        assert association.send_c_store(FILES / "CT_small.dcm").Status == 0
        association.release()

    (path,) = record(archive(), talk)
    app = archive()
    assert replay(path, app) == []
    assert len(app.state.stored) == 1


# ------------------------------------------------------------- differences


@pytest.fixture
def query(record):
    """Return the recording of a query of ours."""

    def talk(port):
        with pacsroute.connect("127.0.0.1", port, calling_ae="CT1") as client:
            keys = {"QueryRetrieveLevel": "STUDY", "PatientName": "", "StudyInstanceUID": ""}
            assert len(list(client.find(keys))) == 3

    (path,) = record(archive(), talk)
    return path


def test_replay_reports_differences_and_masks_values(query):
    differences = replay(query, archive(name="Roe^Jane"))
    assert [str(difference) for difference in differences] == [
        f"C-FIND-RSP 1, pending, number {number}, data set, PatientName: "
        "masked, 8 characters recorded, another, masked, 8 characters now"
        for number in (1, 2, 3)
    ]
    differences = replay(query, archive(name="Roe^Jane"), values=True)
    assert "Doe^John recorded, Roe^Jane now" in str(differences[0])
    assert replay(query, archive(name="Roe^Jane"), ignore=["PatientName"]) == []


def test_answers_that_are_missing_or_too_many(query):
    (missing,) = replay(query, archive(rows=2))
    assert missing == (
        "C-FIND-RSP 1, pending, number 3",
        "0xFF00 Pending",
        "nothing",
    )
    (more,) = replay(query, archive(rows=4))
    assert more.recorded == "nothing"


def test_replay_compares_statuses_and_comments(query):
    app = App()

    @app.find("StudyRoot")
    def find(request):
        raise Failure(0xA900, "not today")

    differences = replay(query, app)
    assert (
        "C-FIND-RSP 1, Status",
        "0x0000 Success",
        "0xA900 Error: data set or identifier does not match SOP class",
    ) in differences
    assert "C-FIND-RSP 1, ErrorComment" in [difference.where for difference in differences]
    ignoring = replay(query, app, ignore=["ErrorComment"])
    assert len(ignoring) == len(differences) - 1


def test_replay_reports_only_the_context_that_is_no_longer_accepted(query):
    (difference,) = replay(query, App())
    assert difference.where.startswith("context 1, Study Root")
    assert difference.replayed == "not accepted"


def test_replay_of_a_rejection(query):
    (difference,) = replay(query, App(allow=["CT9"]))
    assert difference.where == "the answer"
    assert difference.recorded == "accepted"
    assert difference.replayed.startswith("rejected")


def test_replay_runs_the_apps_hooks_and_lifespan(query):
    seen = []
    app = archive()

    @app.lifespan
    def resources(app):
        seen.append("begin")
        yield
        seen.append("end")

    @app.before_association
    def who(association):
        seen.append((association.calling_ae, association.remote_address))

    assert replay(query, app) == []
    assert seen == ["begin", ("CT1", "127.0.0.1"), "end"]


def test_overlapping_operations(record):
    both = threading.Barrier(2)
    served = App(outstanding=2)

    @served.find("StudyRoot")
    def find(request):
        both.wait(30)  # neither is answered before the other is asked
        return [{"PatientID": str(request.message_id)}]

    served.state.stored = []

    def overlap(port):
        information = pdu.UserInformation(16_384, asynchronous_operations=(2, 1))
        request = pdu.AssociateRQ(
            "ANY", "RAW", (pdu.PresentationContext(1, FIND, (EXPLICIT,)),), information
        )
        peer = object.__new__(RawPeer)
        peer.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        with peer:
            peer.socket.sendall(pdu.encode(request))
            peer.answer = peer.read_pdu()
            key = b"\x10\x00\x20\x00LO\0\0"
            peer.find(key, FIND, message_id=1)
            peer.find(key, FIND, message_id=2)
            for _ in range(4):
                peer.receive()
            peer.release()

    (path,) = record(served, overlap)
    assert replay(path, served) == []


def test_message_ids_of_our_requests_may_differ(record, dcmtk, tmp_path):
    """A foreign server numbers its C-STORE requests as it likes; the responses follow ours."""
    got = tmp_path / "got"
    got.mkdir()
    (path,) = record(
        archive(),
        lambda port: succeeds(dcmtk("getscu", "-S", *GET, "-od", got, "127.0.0.1", port)),
    )
    app = archive()

    @app.before_association
    def count_on(association):
        for _ in range(40):
            next(association.numbers)

    assert replay(path, app) == []


# ------------------------------------------------------------- files


def test_a_recording_that_was_cut_is_played_as_far_as_it_goes(query, tmp_path):
    whole = query.read_bytes()
    cut = tmp_path / "cut.rec"
    for end in range(whole.index(b"}\n") + 2, len(whole), 97):
        cut.write_bytes(whole[:end])
        try:
            differences = replay(cut, archive())
        except UnreadableFile:
            continue
        assert all(difference.replayed != "nothing" for difference in differences)


def test_replay_refuses_a_file_without_an_association(tmp_path):
    path = tmp_path / "empty.rec"
    tap = Recorder(tmp_path, Link("acceptor", "", ""))
    tap.received(b"GET / HTTP/1.1\r\n")
    tap.closed()
    (path,) = tmp_path.iterdir()
    with pytest.raises(UnreadableFile, match="no association"):
        replay(path, App())


def test_replay_copes_with_an_unreadable_address(query, tmp_path):
    odd = tmp_path / "odd.rec"
    odd.write_bytes(re.sub(rb'"peer": "[^"]*"', b'"peer": "some:where"', query.read_bytes()))
    assert replay(odd, archive()) == []


def test_garbage_after_the_negotiation_is_played_as_it_came(record):
    def talk(port):
        with RawPeer(port) as peer:
            peer.socket.sendall(b"\xff" * 40)
            assert peer.read_pdu() == pdu.Abort(2, 1)

    (path,) = record(archive(), talk)
    assert replay(path, archive()) == []


def test_a_capture_of_another_network():
    app = App("ARCHIVE")
    kept = {}

    @app.store
    def store(request):
        kept[request.sop_instance] = request.dataset

    @app.find("StudyRoot")
    def find(request):
        for ds in kept.values():
            yield {
                "PatientName": ds.PatientName,
                "StudyInstanceUID": ds.StudyInstanceUID,
                "StudyDate": ds.StudyDate,
            }

    @app.get("StudyRoot")
    def get(request):
        return list(kept.values())

    assert replay(CAPTURES / "dcmtk.pcap", app) == []
    assert list(kept) == ["1.2.3.4.5.6"]
    (difference, *_) = replay(CAPTURES / "dcmtk.pcap", App())
    assert difference.where.startswith("association 1, context 1")
