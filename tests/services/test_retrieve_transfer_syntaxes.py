"""C-GET and C-MOVE in each transfer syntax: as stored, and converted."""

import contextlib
import os
import socket
import subprocess
import time

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom import evt
from support.datasets import uid
from support.names import BIG_ENDIAN, CT, DEFLATED, EXPLICIT, GET, IMPLICIT, MOVE, MR, WAIT
from support.programs import program
from support.raw_peer import RawPeer
from support.retrieval import PENDING, Requestor, counts, receiving, serving
from support.samples import FILES, SAMPLES, body

from pacsroute import (
    App,
    Instance,
    Peer,
    uids,
)

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


def test_samples_cover_every_transfer_syntax():
    assert len(OF_SYNTAX) == 12
    assert sum(map(len, OF_SYNTAX.values())) > 40


def study(uid):
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", uid
    return ds


@pytest.mark.parametrize("syntax", OF_SYNTAX, ids=uids.name)
def test_pynetdicom_gets_instances_as_stored(syntax, archive, pynetdicom_association):

    received = {}

    def keep(event):
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        assert event.context.transfer_syntax == syntax
        return 0

    classes = sorted({SAMPLES[name][0] for name in OF_SYNTAX[syntax]})
    association = pynetdicom_association(
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
def test_pynetdicom_moves_instances_as_stored(syntax, archive, pynetdicom_association):
    with receiving() as destination:
        archive.app.destinations["DEST"] = Peer("127.0.0.1", destination.port)
        association = pynetdicom_association(archive.port, [(MOVE, IMPLICIT)])
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
def test_getscu_gets_instances_as_stored(syntax, archive, dcmtk, tmp_path):
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
    path = program("storescp")
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
def test_instance_is_converted_for_the_requestor(target):
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


def test_instance_that_can_neither_be_sent_nor_converted_fails(sample):
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
