"""C-STORE of the client: what it sends, converts, and does when an instance breaks off."""

import threading

import pydicom
import pytest
from support.datasets import made, uid
from support.names import CT, EXPLICIT, IMPLICIT, WAIT
from support.samples import body

from pacsroute import (
    App,
    AssociationAborted,
    AssociationError,
    DataSetError,
    Failure,
    Instance,
    ReadFailed,
    RequestFailed,
    Status,
)
from pacsroute.dimse import messages
from pacsroute.instances import part10
from pacsroute.net import outbox, transport
from pacsroute.upper_layer import pdu


def test_client_stores_paths_datasets_and_instances(listening, archive, sample):
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
def test_instance_is_converted_to_what_the_peer_accepts(name, syntaxes, listening, sample):
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


def test_store_returns_warnings_and_raises_failures(listening):
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


def test_source_that_is_not_an_instance_is_refused(listening, archive, tmp_path):
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


def test_abort_is_not_sent_within_another_threads_pdu(listening, archive, monkeypatch):
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


def test_abort_is_not_sent_within_an_interrupted_pdu(listening, archive, monkeypatch):
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
