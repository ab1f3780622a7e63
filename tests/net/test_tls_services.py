"""The DIMSE services over TLS: answers, C-CANCEL, many instances, slow peers."""

import contextlib
import socket
import threading
import time

import pydicom
import pytest
from support.certificates import secured
from support.names import WAIT

from pacsroute import App, uids
from pacsroute.net import transport
from pacsroute.tls import TLS

ROWS = 40


def test_answers_go_out_while_the_generator_waits_and_looks_for_a_cancel(serve_tls, pki):
    """Two threads at one SSL object: the flusher sends while the other one reads."""
    app, arrived = App(), []

    @app.find
    def find(request):
        for i in range(ROWS):
            yield {"PatientID": str(i), "PatientName": "X" * 200}
            deadline = time.monotonic() + WAIT
            while len(arrived) <= i and not request.cancelled:
                assert time.monotonic() < deadline

    with secured(serve_tls(app), pki.trusting()) as client:
        for row in client.find({"QueryRetrieveLevel": "STUDY", "PatientID": "", "PatientName": ""}):
            assert row.PatientName == "X" * 200
            arrived.append(row.PatientID)
    assert arrived == [str(i) for i in range(ROWS)]


def test_cancel_of_a_find_over_tls(serve_tls, pki):
    app, closed = App(), []

    @app.find
    def find(request):
        try:
            yield {"PatientID": "1"}
            deadline = time.monotonic() + WAIT
            while not request.cancelled:
                assert time.monotonic() < deadline
            yield {"PatientID": "2"}
        finally:
            closed.append(request.cancelled)

    with secured(serve_tls(app), pki.trusting()) as client:
        rows = client.find({"QueryRetrieveLevel": "STUDY", "PatientID": ""})
        assert next(rows).PatientID == "1"
        rows.close()
        assert closed == [True]
        assert client.echo().code == 0


COUNT, SIZE = 200, 524_288


def test_200_instances_there_and_back(serve_tls, pki, tmp_path):
    app, folder = App(spool=tmp_path), tmp_path / "kept"

    @app.store
    def store(request):
        request.save(folder, durable=False)

    @app.get
    def get(request):
        paths = sorted(folder.iterdir())
        request.count = len(paths)
        yield from paths

    def image(i):
        ds = pydicom.Dataset()
        ds.SOPClassUID = uids.sop_class("CTImageStorage", "store")
        ds.SOPInstanceUID = f"1.2.{i}"
        ds.StudyInstanceUID = "1.2.3"
        ds.PixelData = i.to_bytes(2, "little") * (SIZE // 2)
        return ds

    with secured(serve_tls(app), pki.trusting()) as client:
        for i in range(COUNT):
            assert client.store(image(i)).code == 0
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
        found = {one.sop_instance: one.dataset for one in client.get(keys)}
    assert len(found) == COUNT
    for i in range(COUNT):
        assert found[f"1.2.{i}"].PixelData == i.to_bytes(2, "little") * (SIZE // 2)


def test_a_peer_that_does_not_read_is_given_up(pki):
    """The deadline for writing, and what is left when it has passed."""
    near, far = socket.socketpair()
    context = TLS(*pki.server.files).server()
    thread_side = []

    def ask():
        thread_side.append(TLS(verify=False).client().wrap_socket(far))

    thread = threading.Thread(target=ask)
    thread.start()
    wrapped = context.wrap_socket(near, server_side=True, do_handshake_on_connect=False)
    sock = transport.TLSSocket(wrapped, 0.05, 0.05)
    sock.handshake(WAIT)
    thread.join(WAIT)
    with thread_side[0] as peer:
        with pytest.raises(BlockingIOError):
            sock.sendall(bytes(16 << 20))
        with pytest.raises(BlockingIOError):
            sock.send(bytes(20_000), transport.DONTWAIT)
        with pytest.raises(BlockingIOError):
            sock.recv_into(memoryview(bytearray(10)))
        peer.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while data := peer.recv(65_536):
                assert not any(data)
        # There is room again: what was cut off goes on where it was.
        assert sock.send(bytes(20_000), transport.DONTWAIT) == 20_000
        sock.close()
        while data := peer.recv(65_536):
            assert not any(data)
