"""Saved instances equal the received ones, for any cut of the bytes and with other senders."""

import hashlib
import random
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.names import CT, EXPLICIT, WAIT
from support.raw_peer import RawPeer

from pacsroute import App
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import command_set, commands
from pacsroute.instances import spool
from pacsroute.memory import PROCESS
from pacsroute.upper_layer import pdu

SIZES = (
    1000,
    spool.THRESHOLD - 500,
    spool.THRESHOLD,
    spool.THRESHOLD + 1,
    400_000,
    spool.LONGEST_KEPT - 200,
    spool.LONGEST_KEPT,
    spool.LONGEST_KEPT + 2,
    2_500_000,
)
PEERS, STORES = 6, 25


def image(chance, uid):
    pixels = chance.randbytes(chance.choice(SIZES) + chance.randrange(300) & ~1)
    return encode({"SOPClassUID": CT, "SOPInstanceUID": uid, "PixelData": pixels}, EXPLICIT)


def cut(chance, data, most):
    """Return a data set or command as a list of pieces of random lengths, some of them empty."""
    shortest = chance.choice((most, most, 200_000, 5000 if len(data) < 500_000 else most))
    pieces = []
    while data or not pieces:
        size = most if chance.random() < 0.5 else chance.randrange(0, shortest)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def pdvs(chance, command, data, most):
    """Return the fragments of a message, as PDUs with one or several in each."""
    encoded = command_set.encode(command)
    parts = [(piece, 1) for piece in cut(chance, encoded, 64 if chance.random() < 0.1 else most)]
    parts[-1] = parts[-1][0], 3
    parts += [(piece, 0) for piece in cut(chance, data, most)]
    parts[-1] = parts[-1][0], 2
    together = b""
    for piece, control in parts:
        one = struct.pack(">IBB", len(piece) + 2, 1, control) + piece
        if together and (len(together) + len(one) > most or chance.random() < 0.6):
            yield struct.pack(">BxI", 4, len(together)) + together
            together = b""
        together += one
    yield struct.pack(">BxI", 4, len(together)) + together


def send(chance, sock, stream):
    """Send bytes in calls of random lengths."""
    view = memoryview(stream)
    while view:
        size = chance.choice((len(view), 1 << 16, 7, 100_003))
        sock.sendall(view[:size])
        view = view[size:]


def store(chance, peer, uid, data, aborts):
    command = commands.CStoreRQ(
        message_id=1, affected_sop_class=CT, affected_sop_instance=uid, has_data_set=True
    )
    units = list(pdvs(chance, command, data, peer.maximum))
    if aborts:
        whole = b"".join(units[: chance.randrange(len(units))])
        rest = chance.choice((pdu.encode(pdu.Abort(0)), units[-1][:-1]))
        send(chance, peer.socket, whole + rest)
        return
    stream = b"".join(units)
    send(chance, peer.socket, stream)
    assert peer.receive()[0].status == 0


class Handler:
    """Saves at once, later on another thread, or twice; or reads what it was given long after."""

    def __init__(self, folder):
        self.folder = folder
        self.kept = []
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(3)
        self.later = []

    def __call__(self, request):
        how = int(request.sop_instance.rpartition(".")[2]) % 5
        instance = request.instance
        if how == 0:
            self.later.append(self.pool.submit(instance.save, self.folder, durable=False))
        elif how == 1:
            with self.lock:
                self.kept.append(instance)
                given = self.kept.pop(0) if len(self.kept) > 8 else None
            if given is not None:
                given.save(self.folder, durable=False)
        elif how == 2:
            assert request.dataset.SOPInstanceUID == request.sop_instance
            request.save(self.folder, durable=False)
        else:
            request.save(self.folder, durable=False)
            if how == 3:
                instance.save(self.folder / "again", durable=False)

    def finish(self):
        for one in self.kept:
            one.save(self.folder, durable=False)
        self.kept.clear()
        for future in self.later:
            future.result(WAIT)
        self.pool.shutdown()
        self.later.clear()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_each_instance_is_saved_as_its_peer_sent_it(tmp_path, seed):
    handler = Handler(tmp_path / "in")
    app = App("ARCHIVE", max_associations=PEERS * 2)
    app.store(handler.__call__)
    sent, held = {}, PROCESS.held

    def one(number):
        chance = random.Random(1000 * seed + number)
        peer = None
        for count in range(STORES):
            peer = peer or RawPeer(server.port, [(CT, EXPLICIT)])
            uid = f"1.2.{seed + 1}.{number + 1}.{count + 1}"
            data = image(chance, uid)
            aborts = chance.random() < 0.15
            if not aborts:
                sent[uid] = hashlib.sha256(data).digest()
            store(chance, peer, uid, data, aborts)
            if aborts:
                peer.socket.close()
                peer = None
        if peer:
            peer.release()
            peer.socket.close()

    with app.serve(port=0) as server:
        with ThreadPoolExecutor(PEERS) as pool:
            list(pool.map(one, range(PEERS), timeout=10 * WAIT))
    handler.finish()
    files = list((tmp_path / "in").rglob("*.dcm"))
    assert {path.stem for path in files} == set(sent)
    for path in files:
        whole = path.read_bytes()
        length = struct.unpack_from("<I", whole, 140)[0]
        assert hashlib.sha256(whole[144 + length :]).digest() == sent[path.stem], path
    assert PROCESS.held == held
