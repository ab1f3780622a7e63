"""What cannot be read to its end is kept as it came, and never taken for a whole data set."""

import struct
import zlib

import pytest
from support.names import CT, DEFLATED, EXPLICIT, FIND, GET, IMPLICIT, ONE_STUDY
from support.raw_peer import RawPeer

from pacsroute import App, DataSetError, Instance
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.parsing import parse
from pacsroute.dimse import commands
from pacsroute.dimse.messages import Message
from pacsroute.net.answers import data_set_of
from pacsroute.upper_layer.negotiation import AcceptedContext

ROW = {
    "SOPClassUID": CT,
    "SOPInstanceUID": "1.2.3",
    "PatientID": "1",
    "Rows": 1,
    "PixelData": bytes(400),
}
WHOLE = encode(ROW, EXPLICIT)
BEFORE = WHOLE[: WHOLE.index(b"\x28\0\x10\0US")]
BEHIND = WHOLE[len(BEFORE) :]
WRONG = {
    "cut in a value": (EXPLICIT, WHOLE[:-100]),
    "cut in a head": (EXPLICIT, WHOLE[:-406]),
    "a length that is too long": (EXPLICIT, WHOLE[:-404] + struct.pack("<I", 4000) + bytes(400)),
    "an unknown VR": (EXPLICIT, BEFORE + b"\x18\0\x15\0??\xf4\x01HEAD" + BEHIND),
    "no end of what is deflated": (DEFLATED, encode(ROW, DEFLATED)[:-6]),
    "nothing that is deflated": (DEFLATED, encode(ROW, DEFLATED)[:40] + bytes(60)),
    "an item that is cut": (
        EXPLICIT,
        BEFORE + b"\x40\0\x75\2SQ\0\0\x10\0\0\0\xfe\xff\0\xe0\x99\0\0\0\x10\0\x20\0LO\0\0",
    ),
}


@pytest.fixture
def served(tmp_path):
    """Return a server that only saves, or parses too, and sends what it has saved."""
    app = App("ARCHIVE")
    app.state.parse = False

    @app.store
    def store(request):
        if app.state.parse:
            list(request.dataset.iterall())
        request.save(tmp_path, durable=False)

    @app.get("StudyRoot")
    def get(request):
        return [Instance(path) for path in tmp_path.glob("*.dcm")]

    with app.serve(port=0, grace=1) as server:
        yield server


def fetched(port, syntax):
    """Fetch everything in a transfer syntax; return the data sets, and the final response."""
    found = []
    with RawPeer(port, [(GET, IMPLICIT), (CT, syntax)], scp_of=[CT]) as peer:
        peer.send(1, commands.CGetRQ(message_id=1, affected_sop_class=GET), ONE_STUDY)
        while True:
            command, data = peer.receive()
            if isinstance(command, commands.CStoreRQ):
                found.append(data)
                done = commands.CStoreRSP(message_id_responded_to=command.message_id)
                peer.send(3, done)
            elif command.status != 0xFF00:
                return found, command


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_whole_is_stored_as_it_came_and_not_converted(served, caplog, kind):
    syntax, data = WRONG[kind]
    with RawPeer(served.port, [(CT, syntax)]) as peer:
        assert peer.store(data, CT, "1.2.3").status == 0
    found, final = fetched(served.port, syntax)
    assert (found, final.status, final.completed) == ([data], 0, 1)
    found, final = fetched(served.port, IMPLICIT)
    assert (found, final.completed, final.failed) == ([], 0, 1)
    assert final.status == 0xA702
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", WRONG)
def test_a_handler_that_asks_for_what_is_not_whole_gets_an_error(served, caplog, kind):
    served.app.state.parse = True
    syntax, data = WRONG[kind]
    with RawPeer(served.port, [(CT, syntax)]) as peer:
        assert peer.store(data, CT, "1.2.3").status == 0xC000
        assert peer.store(encode(ROW, syntax), CT, "1.2.3").status == 0
    lines = [record for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(lines) <= 2
    assert lines
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("vr", [b"  ", b"??", b"\0\0", b"ox"])
def test_what_is_behind_an_unknown_vr_is_converted(served, vr):
    odd = b"\x18\0\x15\0" + vr + b"\x04\0HEAD"
    with RawPeer(served.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(BEFORE + odd + BEHIND, CT, "1.2.3").status == 0
    (data,), final = fetched(served.port, IMPLICIT)
    converted = parse(data, IMPLICIT)
    assert (final.status, converted.Rows, len(converted.PixelData)) == (0, 1, 400)


def test_a_data_set_that_inflates_970_times_is_converted(served):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(encode(ROW | {"PixelData": bytes(40_000_000)}, EXPLICIT))
    with RawPeer(served.port, [(CT, DEFLATED)]) as peer:
        assert peer.store(data + packer.flush(), CT, "1.2.3").status == 0
    (converted,), final = fetched(served.port, IMPLICIT)
    assert (final.status, len(converted) > 40_000_000) == (0, True)


@pytest.mark.parametrize("data", [WHOLE[:-1], WHOLE[:-405], WRONG["an item that is cut"][1]])
def test_an_answer_that_is_cut_is_an_error_of_the_client(data):
    context = AcceptedContext(1, FIND, EXPLICIT)
    message = Message(1, commands.CFindRSP(status=0xFF00), bytearray(data))
    with pytest.raises(DataSetError):
        data_set_of(message, context)
