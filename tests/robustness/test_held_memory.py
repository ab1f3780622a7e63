"""What a peer can make a server hold, and how long others wait meanwhile."""

import struct
import sys

import pytest
from support.hostile import hostile
from support.names import CT, EXPLICIT, FIND, GET, IMPLICIT, ONE_STUDY
from support.raw_peer import RawPeer
from support.serving import Serving
from support.unharmed import until

from pacsroute import App
from pacsroute.dimse import commands
from pacsroute.dimse.messages import fragment
from pacsroute.memory import PROCESS
from pacsroute.upper_layer import pdu

MIB = 1_048_576
PEERS = 6

APP = """
from pacsroute import App, Instance
from pydicom import Dataset

app = App("HELD")
ds = Dataset()
ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"

@app.store
def store(request): ...

@app.find
def find(request):
    return []

@app.get
def get(request):
    return [Instance(ds)]
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture
def server(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    with Serving(tmp_path, "app.py") as server:
        with RawPeer(server.port, [(CT, EXPLICIT)]) as peer:  # pydicom is imported by then
            peer.store(b"", CT, "1.2.3")
        yield server


def is_ended(peer):
    """Read to the end of an association; tell whether the server has ended it."""
    try:
        while not isinstance(peer.read_pdu(), pdu.Abort):
            pass
    except (OSError, EOFError):
        pass
    return True


def test_empty_pdvs_cost_nothing(server):
    body = struct.pack(">IBB", 2, 1, 0) * (2 * MIB // 6)
    whole = struct.pack(">BxI", 4, len(body)) + body
    command = commands.CStoreRQ(message_id=1, affected_sop_class=CT, affected_sop_instance="1.2")

    def attack(port):
        with RawPeer(port, [(CT, EXPLICIT)]) as peer:
            peer.socket.sendall(fragment(1, command, None, peer.maximum, follows=True)[0])
            try:
                for _ in range(3):
                    peer.socket.sendall(whole)
            except OSError:
                pass
            assert is_ended(peer)

    memory, slowest = hostile(server, attack, PEERS)
    assert memory < 20 * MIB * PEERS  # it was 100 MB for each
    assert slowest < 5


def test_requests_that_wait_are_bounded_in_bytes(server):
    contexts = [(CT, EXPLICIT), (GET, IMPLICIT), (FIND, IMPLICIT)]

    def attack(port):
        with RawPeer(port, contexts, scp_of=[CT]) as peer:
            get = commands.CGetRQ(message_id=1, affected_sop_class=GET)
            peer.send(3, get, ONE_STUDY)
            assert isinstance(peer.receive()[0], commands.CStoreRQ)
            try:
                for number in range(64):
                    peer.find(bytes(4 * MIB - 1000), FIND, 5, number + 2)
            except OSError:
                pass
            assert is_ended(peer)

    memory, slowest = hostile(server, attack, PEERS)
    assert memory < 30 * MIB * PEERS  # it was 250 MB for each
    assert slowest < 5


def test_data_sets_under_way_draw_on_one_account():
    before = PROCESS.held
    app = App(max_memory=8 * MIB)
    app.find(lambda request: [])
    with app.serve(port=0, grace=1) as server:
        peers = [RawPeer(server.port, [(FIND, IMPLICIT)]) for _ in range(6)]
        find = commands.CFindRQ(message_id=1, affected_sop_class=FIND)
        begun = b"".join(fragment(1, find, bytes(3 * MIB), 1 << 20)[:-2])  # all but the last PDU
        for peer in peers:
            peer.socket.sendall(begun)
        with RawPeer(server.port, [(FIND, IMPLICIT)]) as peer:
            peer.find(ONE_STUDY, FIND)
            assert peer.receive()[0].status == 0
            peer.release()
        assert until(lambda: PROCESS.held - before > 4 * MIB)
        assert PROCESS.held - before <= 8 * MIB
        for peer in peers:
            peer.socket.close()
        assert until(lambda: PROCESS.held == before)
