"""C-GET and C-MOVE: what comes back, and what is said of what does not."""

import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, generate_uid
from pynetdicom import AE, evt
from support.dcmtk import dcmtk_tool
from support.names import BIG_ENDIAN, CT, DEFLATED, EXPLICIT, GET, IMPLICIT, MOVE, MR, WAIT
from support.places import ROOT
from support.raw_peer import RawPeer
from support.samples import FILES, SAMPLES, body

from pacsroute import (
    App,
    Association,
    Dispatcher,
    Failure,
    Instance,
    Peer,
    RequestFailed,
    connect,
    uids,
)
from pacsroute.dimse import commands
from pacsroute.errors import AssociationError
from pacsroute.upper_layer import pdu

PENDING, CANCEL = 0xFF00, 0xFE00


# ------------------------------------------------------------------------------ helpers


def uid(number):
    return f"1.2.826.0.1.{number}"


def made(number, sop_class=CT):
    """Return a small instance."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = sop_class, uid(number), "P"
    return ds


def files(folder, count, size=0):
    """Return instances in files, with all that is known of them."""
    folder.mkdir(exist_ok=True)
    found = []
    for number in range(count):
        ds = made(number)
        ds.add_new("PixelData", "OW", bytes(size))
        path = Instance(ds).save(folder, durable=False)
        found.append(
            Instance(path, sop_class=CT, sop_instance=uid(number), transfer_syntax=EXPLICIT)
        )
    return found


def encoded(implicit=True, **keys):
    """Return an identifier, as pydicom writes it."""
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.StudyInstanceUID = "1.2.3"
    for name, value in keys.items():
        setattr(ds, name, value)
        if value is None:
            delattr(ds, name)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, implicit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dataset(file, ds)
    return file.getvalue()


def decoded(data, implicit=True):
    return read_dataset(DicomBytesIO(data), implicit, True) if data else None


class Requestor(RawPeer):
    """A requestor of C-GET and C-MOVE, that has the SCP role for what comes back."""

    def __init__(self, port, *storage, syntax=IMPLICIT, calling="RAW", called="ANY"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        contexts = [(GET, syntax), (MOVE, syntax), *storage]
        proposed = tuple(
            pdu.PresentationContext(2 * i + 1, abstract, (one,))
            for i, (abstract, one) in enumerate(contexts)
        )
        roles = tuple(
            pdu.RoleSelection(one, False, True) for one in dict.fromkeys(c[0] for c in storage)
        )
        information = pdu.UserInformation(16_384, "1.2.3.4", roles=roles)
        self.socket.sendall(pdu.encode(pdu.AssociateRQ(called, calling, proposed, information)))
        self.answer = self.read_pdu()

    def get(self, message_id=1, **keys):
        self._ask(1, commands.CGetRQ(affected_sop_class=GET), message_id, keys)

    def move(self, destination="DEST", message_id=1, **keys):
        command = commands.CMoveRQ(affected_sop_class=MOVE, move_destination=destination)
        self._ask(3, command, message_id, keys)

    def _ask(self, context_id, command, message_id, keys):
        command.message_id = message_id
        self.send(context_id, command, encoded(**keys))

    def cancel(self, context_id, message_id=1):
        self.send(context_id, commands.CCancelRQ(message_id_responded_to=message_id))

    def answers(self, each=lambda number, command: 0):
        """Yield what comes until the final response; sub-operations get the status of `each`."""
        number = 0
        while True:
            command, data = self.receive()
            if isinstance(command, commands.CStoreRQ):
                context = next(c for c in self.answer.contexts if c.result == 0 and c.id >= 5)
                self.send(
                    context.id,
                    commands.CStoreRSP(
                        message_id_responded_to=command.message_id,
                        affected_sop_class=command.affected_sop_class,
                        affected_sop_instance=command.affected_sop_instance,
                        status=each(number, command),
                    ),
                )
                number += 1
                yield command, data
                continue
            yield command, data
            if command.status != PENDING:
                return

    def all(self, each=lambda number, command: 0):
        """Return the Pending responses, the final one, the failed UIDs, and what came."""
        pending, came, final, failed = [], [], None, None
        for command, data in self.answers(each):
            if isinstance(command, commands.CStoreRQ):
                came.append((command, data))
            elif command.status == PENDING:
                assert data is None
                pending.append(command)
            else:
                final, failed = command, decoded(data)
        listed = [] if failed is None else failed.FailedSOPInstanceUIDList
        return pending, final, [listed] if isinstance(listed, str) else list(listed), came


def counts(command):
    return command.remaining, command.completed, command.failed, command.warning


@contextlib.contextmanager
def serving(handler=None, **destinations):
    """Serve an app that gets and moves; what is given as a destination may be a port."""
    app = App("ARCHIVE")
    if handler is not None:
        app.get(handler)
        app.move(handler)
    app.destinations.update(
        (name, Peer("127.0.0.1", where) if isinstance(where, int) else where)
        for name, where in destinations.items()
    )
    with app.serve(port=0, grace=1) as server:
        yield server


@contextlib.contextmanager
def receiving(store=None, *sop_classes):
    """Serve an app that takes instances; `received` are the requests and their bytes."""
    app = App("DEST")
    received = []

    def take(request):
        with request.instance.open() as file:
            received.append((request, file.read()))
        return None if store is None else store(request)

    for sop_class in sop_classes or (None,):
        app.store(sop_class)(take) if sop_class else app.store(take)
    with app.serve(port=0, grace=1) as server:
        server.received = received
        yield server


@pytest.fixture
def nobody():
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return port


# ------------------------------------------------------------------------------ what is stored


CHOSEN = {}  # one of those with the same UID in the same transfer syntax
for _name, (_class, _instance, _syntax) in SAMPLES.items():
    CHOSEN.setdefault((_syntax, _instance), _name)
OF_SYNTAX = {
    syntax: [name for (one, _), name in CHOSEN.items() if one == syntax]
    for syntax in dict.fromkeys(syntax for syntax, _ in CHOSEN)
}


def key(syntax):
    """Return the Study Instance UID under which the archive has what is in a syntax."""
    return f"1.2.826.0.2.{list(OF_SYNTAX).index(syntax)}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Serve pydicom's files, as they were sent over a socket, a study for each syntax."""
    folder = tmp_path_factory.mktemp("archive")
    app = App("ARCHIVE", spool=folder / "spool")
    names = {syntax: [] for syntax in OF_SYNTAX}

    @app.store
    def store(request):
        syntax = request.transfer_syntax
        path = request.save(folder, f"{syntax}-{request.sop_instance}.dcm", durable=False)
        names[syntax].append(path)

    @app.get
    @app.move
    def retrieve(request):
        syntax = list(OF_SYNTAX)[int(request.identifier.StudyInstanceUID.split(".")[-1])]
        return names[syntax]

    with app.serve(port=0, grace=1) as server:
        server.app = app
        for syntax, chosen in OF_SYNTAX.items():
            classes = list(dict.fromkeys(SAMPLES[name][0] for name in chosen))
            with RawPeer(server.port, [(one, syntax) for one in classes]) as peer:
                for name in chosen:
                    sop_class, sop_instance, _ = SAMPLES[name]
                    context_id = 2 * classes.index(sop_class) + 1
                    data = body(FILES / name)
                    assert peer.store(data, sop_class, sop_instance, context_id).status == 0
                peer.release()
        yield server


def stored(syntax):
    return {SAMPLES[name][1]: body(FILES / name) for name in OF_SYNTAX[syntax]}


def padded(data):
    """Return a data set of even length, which is all that may travel (PS3.8 Annex E)."""
    return data + b"\0" * (len(data) & 1)


def same(found, expected):
    assert found.keys() == expected.keys()
    differing = [
        one for one in expected if found[one] not in (expected[one], padded(expected[one]))
    ]
    assert not differing


def test_all_of_the_transfer_syntaxes_are_there():
    assert len(OF_SYNTAX) == 12
    assert sum(map(len, OF_SYNTAX.values())) > 40


@pytest.fixture
def entity():
    pynetdicom = pytest.importorskip("pynetdicom")
    ended = []

    def associate(port, contexts, handlers=(), storage=()):
        one = pynetdicom.AE("PYNETDICOM")
        one.acse_timeout = one.dimse_timeout = one.network_timeout = WAIT
        for abstract, syntax in contexts:
            one.add_requested_context(abstract, syntax)
        roles = [pynetdicom.build_role(sop_class, scp_role=True) for sop_class in storage]
        association = one.associate(
            "127.0.0.1", port, evt_handlers=list(handlers), ext_neg=roles or None
        )
        ended.append(association)
        assert association.is_established
        return association

    yield associate
    for association in ended:
        if association.is_established:
            association.abort()


def study(uid):
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", uid
    return ds


@pytest.mark.parametrize("syntax", OF_SYNTAX, ids=uids.name)
def test_pynetdicom_gets_what_was_stored(syntax, archive, entity):
    from pynetdicom import evt

    received = {}

    def keep(event):
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        assert event.context.transfer_syntax == syntax
        return 0

    classes = sorted({SAMPLES[name][0] for name in OF_SYNTAX[syntax]})
    association = entity(
        archive.port,
        [(GET, IMPLICIT), *((sop_class, syntax) for sop_class in classes)],
        [(evt.EVT_C_STORE, keep)],
        classes,
    )
    statuses = [status for status, _ in association.send_c_get(study(key(syntax)), GET)]
    association.release()
    expected = stored(syntax)
    assert [status.Status for status in statuses] == [PENDING] * len(expected) + [0]
    assert statuses[-1].NumberOfCompletedSuboperations == len(expected)
    assert [s.NumberOfRemainingSuboperations for s in statuses[:-1]] == [
        *reversed(range(len(expected)))
    ]
    same(received, expected)


@pytest.mark.parametrize("syntax", OF_SYNTAX, ids=uids.name)
def test_pynetdicom_moves_what_was_stored(syntax, archive, entity):
    with receiving() as destination:
        archive.app.destinations["DEST"] = Peer("127.0.0.1", destination.port)
        association = entity(archive.port, [(MOVE, IMPLICIT)])
        moved = association.send_c_move(study(key(syntax)), "DEST", MOVE)
        statuses = [status.Status for status, _ in moved]
        association.release()
        received = {request.sop_instance: data for request, data in destination.received}
        assert {request.transfer_syntax for request, _ in destination.received} == {syntax}
    assert statuses == [PENDING] * len(received) + [0]
    same(received, stored(syntax))


# What DCMTK calls the transfer syntaxes: the option to prefer each.
OPTIONS = {
    "ExplicitVRLittleEndian": "+xe",
    "ExplicitVRBigEndian": "+xb",
    "ImplicitVRLittleEndian": "+x=",  # its +xi proposes explicit VR all the same
    "DeflatedExplicitVRLittleEndian": "+xd",
    "JPEGLosslessSV1": "+xs",
    "JPEGBaseline8Bit": "+xy",
    "JPEGExtended12Bit": "+xx",
    "JPEG2000Lossless": "+xv",
    "JPEG2000": "+xw",
    "JPEGLSLossless": "+xt",
    "JPEGLSNearLossless": "+xu",
    "RLELossless": "+xr",
}


def test_dcmtk_has_an_option_for_each_syntax():
    assert {UID(syntax).keyword for syntax in OF_SYNTAX} == set(OPTIONS)


def on_disk(folder):
    return {pydicom.dcmread(path).SOPInstanceUID: body(path) for path in folder.iterdir()}


@pytest.mark.parametrize("syntax", OF_SYNTAX, ids=uids.name)
def test_getscu_gets_what_was_stored(syntax, archive, dcmtk, tmp_path):
    done = dcmtk(
        *("getscu", "-v", "-S", "+B", OPTIONS[UID(syntax).keyword], "-od", tmp_path),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={key(syntax)}"),
        *("-aec", "ARCHIVE", "127.0.0.1", archive.port),
    )
    assert done.returncode == 0, done.stdout
    if syntax == IMPLICIT:
        assert on_disk(tmp_path).keys() == stored(syntax).keys()
    else:
        same(on_disk(tmp_path), stored(syntax))


@pytest.fixture(scope="module")
def storescp(tmp_path_factory):
    """Run DCMTK's storescp, which takes everything as it comes."""
    path = dcmtk_tool("storescp")
    with contextlib.ExitStack() as stack:

        def start(*options):
            folder = tmp_path_factory.mktemp("storescp")
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            process = subprocess.Popen(
                [path, "-od", str(folder), *options, str(port)],
                env={**os.environ, "TCP_NODELAY": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            deadline = time.monotonic() + WAIT
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), RawPeer(port) as peer:
                    peer.release()
                    break
                time.sleep(0.01)
            return port, folder

        yield start


@pytest.fixture(scope="module")
def bit_preserving(storescp):
    return storescp("+xa", "+B", "-pm")


@pytest.mark.parametrize("syntax", OF_SYNTAX, ids=uids.name)
def test_movescu_to_storescp(syntax, archive, dcmtk, bit_preserving):
    port, folder = bit_preserving
    archive.app.destinations["STORESCP"] = Peer("127.0.0.1", port)
    done = dcmtk(
        *("movescu", "-v", "-S", "-aem", "STORESCP", "-aec", "ARCHIVE"),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={key(syntax)}"),
        *("127.0.0.1", archive.port),
    )
    assert done.returncode == 0, done.stdout
    same(on_disk(folder), stored(syntax))
    for path in folder.iterdir():
        path.unlink()


def test_movescu_to_itself(dcmtk, tmp_path):
    """It takes the sub-operations on a port of its own, in the same thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    names = ["CT_small.dcm", "693_J2KI.dcm"]
    with serving(lambda request: [FILES / name for name in names], MOVESCU=port) as server:
        done = dcmtk(
            *("movescu", "-S", "-aem", "MOVESCU", "+P", port, "+xe", "-od", tmp_path),
            *("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3"),
            *("127.0.0.1", server.port),
        )
    assert done.returncode == 0, done.stdout
    found = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, tmp_path.iterdir())}
    assert len(found) == 2
    for name in names:
        ds, original = found[SAMPLES[name][1]], pydicom.dcmread(FILES / name)
        assert ds.file_meta.TransferSyntaxUID == EXPLICIT
        assert (ds.pixel_array == original.pixel_array).all()


# ------------------------------------------------------------------------------ conversions


def values(ds):
    """Return what a data set says, pixel data as its pixels."""
    return {
        element.tag: element.value
        for element in ds
        if element.keyword not in ("PixelData", "PhotometricInterpretation")
        and not element.tag.is_private  # in implicit VR their VR is lost
        and element.tag.element != 0
    }


PLANAR_CONFIGURATION = 0x00280006


def original_vr(name, tag):
    return pydicom.dcmread(FILES / name).get_item(tag).VR


def head(command, syntax):
    """Return the head of a Part 10 file, as pydicom writes it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = command.affected_sop_class
    meta.MediaStorageSOPInstanceUID = command.affected_sop_instance
    meta.TransferSyntaxUID = UID(syntax)
    file = DicomBytesIO()
    file.write(bytes(128) + b"DICM")
    write_file_meta_info(file, meta)
    return file.getvalue()


CONVERTED = [
    *("CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "rtplan.dcm", "test-SR.dcm"),
    *("SC_rgb_rle_16bit.dcm", "rtdose_rle.dcm", "MR_small_RLE.dcm", "liver_expb_1frame.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    *("waveform_ecg.dcm",),
]


@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED], ids=uids.name)
def test_what_the_requestor_cannot_take_is_converted(target):
    def handler(request):
        return [FILES / name for name in CONVERTED]

    classes = list(dict.fromkeys(SAMPLES[name][0] for name in CONVERTED))
    with serving(handler) as server, Requestor(server.port, *((c, target) for c in classes)) as raw:
        raw.get()
        _, final, failed, came = raw.all()
        raw.release()
    assert (counts(final), failed) == ((None, len(CONVERTED), 0, 0), [])
    for name, (command, data) in zip(CONVERTED, came, strict=True):
        if target == BIG_ENDIAN and name == "waveform_ecg.dcm":
            continue  # its words are swapped, as they are to be; pydicom has them as bytes
        original = pydicom.dcmread(FILES / name)
        found = pydicom.dcmread(DicomBytesIO(head(command, target) + data))
        assert found.file_meta.TransferSyntaxUID == target
        assert found.SOPInstanceUID == original.SOPInstanceUID
        ours, theirs = values(found), values(original)
        differing = {tag for tag in theirs if ours.pop(tag, None) != theirs[tag]}
        # What is UN there is not swapped (PS3.5 §6.2.2), which pydicom does not know.
        unknown = {tag for tag in differing if original_vr(name, tag) == "UN"}
        assert (differing - unknown <= {PLANAR_CONFIGURATION}, ours) == (True, {}), name
        # OW is words of 16 bits, as for DCMTK; pydicom swaps pixels of 32 bits as a whole.
        if "PixelData" in original and (target != BIG_ENDIAN or original.BitsAllocated <= 16):
            assert (found.pixel_array == original.pixel_array).all(), name


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"])
def test_dcmtk_that_takes_one_syntax_only(name, archive, dcmtk, tmp_path, storescp):
    _, sop_instance, syntax = SAMPLES[name]
    port, folder = storescp("+xi", "+B")
    archive.app.destinations["IMPLICIT"] = Peer("127.0.0.1", port)
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={key(syntax)}"]
    done = dcmtk("getscu", "-S", "+B", "+xb", "-od", tmp_path, *keys, "127.0.0.1", archive.port)
    assert done.returncode == 0, done.stdout
    done = dcmtk("movescu", "-S", "-aem", "IMPLICIT", *keys, "127.0.0.1", archive.port)
    assert done.returncode == 0, done.stdout
    original = pydicom.dcmread(FILES / name)
    for where, wanted in ((tmp_path, BIG_ENDIAN), (folder, IMPLICIT)):
        (found,) = (
            ds for ds in map(pydicom.dcmread, where.iterdir()) if ds.SOPInstanceUID == sop_instance
        )
        assert found.file_meta.TransferSyntaxUID == wanted
        assert (found.pixel_array == original.pixel_array).all()
        assert found.PatientID == original.PatientID


def test_what_can_be_sent_neither_as_it_is_nor_converted(sample):
    """JPEG for a peer that knows MR in RLE only, and a private syntax."""
    private = Instance(
        b"anything", sop_class=CT, sop_instance=uid(1), transfer_syntax="1.2.840.113619.5.2"
    )

    def handler(request):
        return [private, sample("MR_small.dcm")]

    rle = uids.transfer_syntax("RLELossless")
    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT), (MR, rle)) as peer:
        peer.get()
        pending, final, failed, came = peer.all()
        assert came == []
        assert final.status == 0xA702
        assert failed == [uid(1), SAMPLES["MR_small.dcm"][1]]
        assert [counts(one) for one in pending] == [(1, 0, 1, 0), (0, 0, 2, 0)]
        peer.release()
    with serving(handler) as server:
        context = (CT, private.transfer_syntax)
        with Requestor(server.port, context) as peer:
            peer.get()
            _, final, failed, came = peer.all()
            peer.release()
    assert (final.status, len(failed), [data for _, data in came]) == (0xB000, 1, [b"anything"])


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


def test_a_handler_that_fails_tells_what_failed_before():
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
def test_a_handler_that_yields_fewer_than_its_count_is_told_of(status, caplog):
    def handler(request):
        request.count = 3
        yield made(0)
        return status

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        assert peer.all()[1].status == 0
        peer.release()
    assert "the handler yielded 2 fewer than its count says" in caplog.text


def test_the_path_of_what_cannot_be_read_is_told_at_debug_only(tmp_path, caplog):
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


def test_cancel_of_a_move():
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


# ------------------------------------------------------------------------------ destinations


def test_the_destination_sees_who_asked():
    asked = []
    with receiving() as destination, serving() as server:

        @server.app.move
        def move(request):
            asked.append(request)
            return [made(1)]

        @server.app.destination
        def where(ae_title, request):
            asked.append((ae_title, request.move_destination, request.calling_ae, request.level))
            return Peer("127.0.0.1", destination.port)

        with Requestor(server.port, calling="WORKSTATION", called="TITLE") as peer:
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
def test_what_has_no_uid_to_propose_is_not_proposed(missing):
    hints = {"sop_class": CT, "sop_instance": uid(1), "transfer_syntax": EXPLICIT, missing: ""}

    def handler(request):
        return [Instance(b"anything", **hints), made(2)]

    proposed = []
    with receiving() as destination:
        destination.app.after_association(
            lambda association, _: proposed.extend(association.proposed)
        )
        with serving(handler, DEST=destination.port) as server, Requestor(server.port) as raw:
            raw.move("DEST")
            _, final, failed, _ = raw.all()
            raw.release()
    assert (final.status, counts(final), failed) == (0xB000, (None, 1, 1, 0), [uid(1)])
    assert set(proposed) == {CT}


def test_the_title_of_the_destination_where_it_has_another():
    with receiving() as destination:
        peer = Peer("127.0.0.1", destination.port, "REAL")
        with serving(lambda request: [made(1)], DEST=peer) as server:
            with Requestor(server.port) as raw:
                raw.move()
                assert raw.all()[1].status == 0
                raw.release()
        assert destination.received[0][0].called_ae == "REAL"


def test_a_destination_that_nobody_knows():
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
    with serving(lambda request: [made(1)]) as server:

        @server.app.destination
        def where(ae_title, request):
            raise raised

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
def test_a_destination_whose_address_is_none(host):
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
def test_what_a_list_says_ahead_needs_one_association(service):
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


# ------------------------------------------------------------------------------ files


@pytest.fixture
def opened(monkeypatch):
    """What is opened ahead, as it happens."""
    instances, original = queue.Queue(), Instance.opened

    def watched(instance):
        found = original(instance)
        instances.put(found)
        return found

    monkeypatch.setattr(Instance, "opened", watched)
    return instances


@pytest.mark.parametrize("service", ["get", "move"])
def test_the_next_of_a_list_is_opened_while_a_peer_stores_one(service, tmp_path, opened):
    path = tmp_path / f"{uid(1)}.dcm"

    def store(*_):
        if path.exists():  # the first one is being stored
            opened.get(timeout=WAIT)
            os.truncate(path, 200)  # it was read, too
            path.unlink()
        return 0

    instances = files(tmp_path, 2)
    with receiving(store) as destination:
        with serving(lambda request: instances, DEST=destination.port) as server:
            with Requestor(server.port, (CT, EXPLICIT)) as peer:
                getattr(peer, service)()
                _, final, _, _ = peer.all(store)
                peer.release()
    assert (final.status, counts(final)) == (0, (None, 2, 0, 0))


def test_what_was_opened_ahead_is_closed_after_a_cancel(tmp_path, opened):
    ahead = []

    def store(number, command):
        ahead.append(opened.get(timeout=WAIT))
        peer.cancel(1)
        return 0

    instances = files(tmp_path, 3)
    with serving(lambda request: instances) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            _, final, _, came = peer.all(store)
            peer.release()
    assert (final.status, counts(final), len(came)) == (0xFE00, (2, 1, 0, 0), 1)
    assert [instance._opened for instance in (*ahead, *instances)] == [None] * 4


def test_instances_that_requests_share_are_sent_to_all_of_them(tmp_path):
    instances = files(tmp_path, 5, 20_000)

    def fetch(results):
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            for _ in range(10):
                peer.get()
                _, final, _, came = peer.all()
                results.append((final.status, [data[-20_000:] for _, data in came]))
            peer.release()

    found = [[] for _ in range(3)]
    with serving(lambda request: instances) as server:
        threads = [threading.Thread(target=fetch, args=(results,)) for results in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert found == [[(0, [bytes(20_000)] * 5)] * 10] * 3


@pytest.mark.parametrize("service", ["get", "move"])
def test_a_generator_goes_on_when_the_peer_has_answered(service, tmp_path):
    told = []

    def handler(request):
        request.count = 2
        for number in range(2):
            (instance,) = files(tmp_path, 1)
            yield instance
            told.append(f"answered {number}")
            (tmp_path / f"{uid(0)}.dcm").unlink()

    def store(*_):
        told.append("stored")
        return 0

    with receiving(store) as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            getattr(peer, service)()
            _, final, _, _ = peer.all(store)
            peer.release()
    assert counts(final) == (None, 2, 0, 0)
    assert told == ["stored", "answered 0", "stored", "answered 1"]


def test_a_failed_dataset_is_named_even_if_the_handler_uses_it_again():
    def handler(request):
        request.count = 2
        ds = made(0)
        for number in range(2):
            ds.SOPInstanceUID = uid(number)
            yield ds

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, failed, _ = peer.all(lambda number, command: 0xA700 if number == 0 else 0)
        peer.release()
    assert (final.status, failed) == (0xB000, [uid(0)])


@pytest.mark.parametrize("service", ["get", "move"])
@pytest.mark.parametrize("hints", [True, False])
def test_a_file_that_vanishes_is_named_by_its_hints(service, hints, tmp_path):
    instances = files(tmp_path, 5)
    paths = [tmp_path / f"{uid(number)}.dcm" for number in range(5)]

    def handler(request):
        request.count = 5
        for number in range(5):
            if number == 1:
                paths[1].unlink()
            yield instances[number] if hints else paths[number]

    with receiving() as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            getattr(peer, service)()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (final.status, counts(final)) == (0xB000, (None, 4, 1, 0))
    assert failed == ([uid(1)] if hints else [])


class Shrinking(Instance):
    """An instance whose file gets shorter once the first part of it is read."""

    def open(self):
        file = super().open()
        path = self._source

        class File:
            tell, seek, close, fileno = file.tell, file.seek, file.close, file.fileno
            closed = False

            def readinto(self, buffer):
                count = file.readinto(buffer)
                if os.path.getsize(path) > 300_000:
                    os.truncate(path, 300_000)
                return count

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return File()


def shrinking(folder, count, which):
    instances = files(folder, count, 3_000_000)
    path = folder / f"{uid(which)}.dcm"
    instances[which] = Shrinking(
        path, sop_class=CT, sop_instance=uid(which), transfer_syntax=EXPLICIT
    )
    return instances


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_gets_shorter_while_it_is_moved(which, tmp_path):
    """It fails and is not sent again as if it were whole; the others arrive."""
    instances = shrinking(tmp_path, 4, which)
    with receiving() as destination:
        with serving(lambda request: instances, DEST=destination.port) as server:
            with Requestor(server.port) as peer:
                peer.move()
                _, final, failed, _ = peer.all()
                peer.release()
    assert (final.status, counts(final), failed) == (0xB000, (None, 3, 1, 0), [uid(which)])
    received = {request.sop_instance: len(data) for request, data in destination.received}
    assert received.keys() == {uid(number) for number in range(4) if number != which}
    assert min(received.values()) > 3_000_000


def test_a_file_that_gets_shorter_while_it_is_fetched(tmp_path):
    """Half of it is on the way already: the association is aborted."""
    closed = threading.Event()

    def handler(request):
        request.count = 4
        try:
            yield from shrinking(tmp_path, 4, 1)
        finally:
            closed.set()

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        answers = peer.answers()
        assert len(next(answers)[1]) > 3_000_000
        assert next(answers)[0].status == PENDING
        with pytest.raises(AssertionError, match="Abort"):
            next(answers)
        assert closed.wait(WAIT)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "text").write_text("not DICOM")
    (tmp_path / "empty").touch()

    def handler(request):
        return [tmp_path / "text", tmp_path / "empty", tmp_path, "a\0b", made(1)]

    with receiving() as destination, serving(handler, DEST=destination.port) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            for ask in (peer.get, peer.move):
                ask()
                _, final, _, _ = peer.all()
                assert (final.status, counts(final)) == (0xB000, (None, 1, 4, 0))
            peer.release()


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
def test_how_a_handler_ends(handler, status, completed):
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
def test_kinds_of_handlers(handler):
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
def test_a_count_that_is_wrong(count, left, monkeypatch):
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


def test_a_slow_generator_and_the_pending_that_say_so(monkeypatch):
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


def test_a_slow_destination_and_the_pending_that_say_so(monkeypatch):
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


def test_fewer_pending_with_an_interval():
    with serving() as server:
        server.app.get(pending_interval=1000)(lambda r: [made(n) for n in range(20)])
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            pending, final, _, came = peer.all()
            peer.release()
    assert (len(pending), final.completed, len(came)) == (0, 20, 20)


# ------------------------------------------------------------------------------ identifiers


@pytest.mark.parametrize(
    "keys",
    [
        {"StudyInstanceUID": None},
        {"StudyInstanceUID": ""},
        {"StudyInstanceUID": "*"},
        {"StudyInstanceUID": "\\"},
        {"StudyInstanceUID": ["1.2.3", ""]},
        {"QueryRetrieveLevel": None},
        {"QueryRetrieveLevel": "HOSPITAL"},
        {"QueryRetrieveLevel": "PATIENT", "PatientID": "1"},
        {"QueryRetrieveLevel": "SERIES"},
        {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": "1.?"},
        {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": ""},
    ],
    ids=str,
)
def test_an_identifier_without_its_unique_key_never_reaches_a_handler(keys):
    reached = []
    with serving(reached.append, DEST=1) as server, Requestor(server.port) as peer:
        for ask in (peer.get, peer.move):
            ask(**keys)
            pending, final, failed, _ = peer.all()
            assert (pending, final.status, failed) == ([], 0xA900, [])
        peer.release()
    assert reached == []


def test_a_list_of_unique_keys_is_one():
    asked = []

    def handler(request):
        asked.append(request.identifier.StudyInstanceUID)
        return []

    with serving(handler) as server, Requestor(server.port) as peer:
        peer.get(StudyInstanceUID=["1.2.3", "1.2.4"])
        assert peer.all()[1].status == 0
        peer.release()
    assert asked == [["1.2.3", "1.2.4"]]


@pytest.mark.parametrize("implicit", [True, False])
def test_a_list_of_2000_failed_instances(implicit, nobody):
    names = [generate_uid(entropy_srcs=[str(number)]) for number in range(2000)]

    def handler(request):
        return [
            Instance("nowhere", sop_class=CT, sop_instance=name, transfer_syntax=EXPLICIT)
            for name in names
        ]

    with serving(handler, DEST=nobody) as server:
        with Requestor(server.port, syntax=IMPLICIT if implicit else EXPLICIT) as peer:
            command = commands.CMoveRQ(
                message_id=1, affected_sop_class=MOVE, move_destination="DEST"
            )
            peer.send(3, command, encoded(implicit))
            *pending, (final, data) = peer.answers()
            peer.release()
    assert len(pending) == 2000
    assert (final.status, counts(final)) == (0xA702, (None, 0, 2000, 0))
    assert len(data) > 65_534
    ds = decoded(data, implicit)
    raw = ds.get_item("FailedSOPInstanceUIDList")
    if not implicit:
        assert data[4:6] == b"UN"  # a UI has no room for so many (PS3.5 §6.2.2)
    listed = raw.value if isinstance(raw.value, bytes) else b"\\".join(raw.value)
    assert listed.rstrip(b"\0").decode().split("\\") == names


def test_a_client_reads_a_list_of_2000_failed_instances(nobody):
    names = [generate_uid(entropy_srcs=[str(number)]) for number in range(2000)]

    def handler(request):
        return [
            Instance("nowhere", sop_class=CT, sop_instance=name, transfer_syntax=EXPLICIT)
            for name in names
        ]

    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
    with serving(handler, DEST=nobody) as server:
        with connect("127.0.0.1", server.port) as client:
            with pytest.raises(RequestFailed) as raised:
                list(client.move(keys, "DEST"))
    assert list(raised.value.progress.failed_instances) == names


# ------------------------------------------------------------------------------ memory

SERVER = """
import sys
from pacsroute import App, Instance, Peer

app = App("BIG", spool=sys.argv[2])

@app.get
@app.move
def retrieve(request):
    request.count = 60
    for number in range(60):
        yield Instance(sys.argv[1], sop_class=sys.argv[3], sop_instance=sys.argv[4],
                       transfer_syntax="1.2.840.10008.1.2.1")

@app.destination
def destination(ae_title, request):
    return Peer("127.0.0.1", int(ae_title))

server = app.serve(port=0, grace=1)
print(server.port, flush=True)
server.run()
"""


def peak(pid):
    """Return the most memory that a process ever had, in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        pytest.skip("there is no /proc here to read the memory of a process from")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if "VmHWM" in line)


def test_memory_stays_flat_while_300_megabytes_pass(tmp_path):
    files(tmp_path / "files", 1, 5_000_000)
    (path,) = (tmp_path / "files").iterdir()
    taken = []
    app = App("DEST", spool=tmp_path)
    app.store(lambda request: taken.append(os.path.getsize(path)))
    arguments = [sys.executable, "-c", SERVER, str(path), str(tmp_path), CT, uid(0)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process,
        app.serve(port=0, grace=1) as destination,
    ):
        try:
            port = int(process.stdout.readline())
            with Requestor(port, (CT, EXPLICIT)) as peer:
                peer.get(QueryRetrieveLevel="HOSPITAL")
                assert peer.all()[1].status == 0xA900
                before = peak(process.pid)
                size = 0
                peer.get()
                for command, data in peer.answers():
                    size += len(data or b"")
                    final = command
                assert (final.status, final.completed) == (0, 60)
                assert size > 300_000_000
                peer.move(str(destination.port))
                assert counts(peer.all()[1]) == (None, 60, 0, 0)
                assert len(taken) == 60
                assert peak(process.pid) - before < 24_000_000
                peer.release()
        finally:
            process.kill()


class Unreadable(Instance):
    """An instance whose file opens, and cannot be read."""

    def open(self):
        class File:
            def tell(self):
                return 0

            def seek(self, *where):
                return 5_000_000

            def readinto(self, buffer):
                raise OSError("disk")

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

        return File()


def test_a_pending_that_waits_goes_before_the_abort(tmp_path):
    good, bad = files(tmp_path, 2)
    bad = Unreadable(bad._source, **bad._hints)
    with serving(lambda request: [good, bad]) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            answers = peer.answers()
            assert isinstance(next(answers)[0], commands.CStoreRQ)
            command, _ = next(answers)
            assert (command.status, command.completed) == (PENDING, 1)
            assert isinstance(peer.read_pdu(), pdu.Abort)


def test_one_of_an_uncounted_generator_that_cannot_be_encoded(tmp_path):
    def handler(request):
        for number in range(5):
            ds = made(number)
            if number == 2:
                ds.Rows = 70_000
            yield ds

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, failed, came = peer.all()
        peer.release()
    assert (final.status, counts(final)) == (0xB000, (None, 4, 1, 0))
    assert (failed, len(came)) == ([uid(2)], 4)


def test_an_uncounted_generator_is_not_drained_for_who_has_cancelled():
    begun, cancelled, drawn = threading.Event(), threading.Event(), []

    def handler(request):
        for number in range(1000):
            drawn.append(number)
            begun.set()
            assert cancelled.wait(WAIT)
            deadline = time.monotonic() + WAIT
            while not request.cancelled and time.monotonic() < deadline:
                time.sleep(0.001)
            yield made(number)

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        assert begun.wait(WAIT)
        peer.cancel(1)
        cancelled.set()
        _, final, _, came = peer.all()
        peer.release()
    assert (final.status, came) == (CANCEL, [])
    assert len(drawn) <= 2


@pytest.mark.parametrize("error", [KeyError("mine"), RuntimeError("mine")])
def test_an_instance_of_the_handlers_own_that_raises(error, tmp_path):
    class Own(Instance):
        def open(self):
            raise error

    good, bad = files(tmp_path, 2)
    bad = Own(bad._source, **bad._hints)
    with serving(lambda request: [bad, good]) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            _, final, failed, _ = peer.all()
            peer.release()
    assert (final.status, counts(final), failed) == (0xB000, (None, 1, 1, 0), [uid(1)])


def test_a_dataset_without_a_uid_is_not_sent():
    nameless = made(1)
    del nameless.SOPInstanceUID
    with serving(lambda request: [nameless, made(2)]) as server:
        with Requestor(server.port, (CT, EXPLICIT)) as peer:
            peer.get()
            _, final, _, came = peer.all()
            peer.release()
    assert (counts(final), len(came)) == ((None, 1, 1, 0), 1)


@pytest.mark.parametrize("count", ["5", (5,), 5.5])
def test_a_count_that_is_no_number_fails_the_request(count):
    def handler(request):
        request.count = count
        yield made(1)

    with serving(handler) as server, Requestor(server.port, (CT, EXPLICIT)) as peer:
        peer.get()
        _, final, _, _ = peer.all()
        peer.get(message_id=2)
        peer.all()
        peer.release()
    assert final.status == 0xC000
