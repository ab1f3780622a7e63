"""Steps with strange values: what is answered with Success can be read, and hides nobody else's."""

import logging
import runpy
import struct
from collections import Counter

import pytest
from pydicom.datadict import DicomDictionary
from support.datasets import dataset
from support.names import IMPLICIT, MPPS
from support.performed_steps import created
from support.places import EXAMPLES
from support.raw_peer import RawPeer
from support.unified_steps import pushed

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dimse import commands

pytestmark = pytest.mark.slow

PUSH, PULL = (
    uids.sop_class(f"UnifiedProcedureStep{name}", "n_create") for name in ("Push", "Pull")
)
QUERY = uids.sop_class("UPS", "find")
RETRIEVE = uids.sop_class("MPPSRetrieve", "n_get")
STATE = 0x0074_1000  # Procedure Step State
VALUES = [
    *(b"nan", b"-inf", b"1e400", b"abc", b"9" * 70, b"\\1\\", b"20249999", b"A" * 70_000),
    *(bytes(range(0x80, 0x100)), b"\x1b$B\x1b(J", b"\xff" * 3, b"\0\0\0\0\0\0\xf0\xff"),
]
TAGS = [
    *{
        vr: tag
        for tag, (vr, *_) in sorted(DicomDictionary.items(), reverse=True)
        if tag >> 16 > 2 and vr not in ("NONE", "SQ")
    }.values()
]
POISONS = [(tag, value) for tag in TAGS for value in VALUES]


def poisoned(data_set, tag, value):
    """Return the bytes of a data set, in implicit VR, with an element as a peer sends it."""
    ds = {int(element.tag): encode(dataset_of(element), IMPLICIT) for element in data_set}
    value += b" " * (len(value) % 2)
    ds[tag] = struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
    return b"".join(ds[number] for number in sorted(ds))


def dataset_of(element):
    one = dataset()
    one.add(element)
    return one


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", str(tmp_path / "steps.db"))
    monkeypatch.setenv("PACSROUTE_SPOOL", str(tmp_path))

    def serve(name):
        return runpy.run_path(str(EXAMPLES / name))["app"].serve(port=0, grace=0)

    return serve


def exchange(peer, context_id, command, data=None):
    peer.send(context_id, command, data)
    return peer.receive()


def create(peer, sop_class, number, data):
    names = {"affected_sop_class": sop_class, "affected_sop_instance": f"1.2.3.{number}"}
    return exchange(peer, 1, commands.NCreateRQ(message_id=1, **names), data)[0].status


def read(peer, sop_class, number):
    names = {"requested_sop_class": sop_class, "requested_sop_instance": f"1.2.3.{number}"}
    return exchange(peer, 3, commands.NGetRQ(message_id=1, **names))[0].status


def test_a_performed_step_is_refused_or_can_be_read(served, caplog):
    statuses = Counter()
    contexts = [(MPPS, IMPLICIT), (RETRIEVE, IMPLICIT)]
    with served("mpps.py") as server, RawPeer(server.port, contexts) as peer:
        for number, (tag, value) in enumerate(POISONS):
            status = create(peer, MPPS, number, poisoned(created(), tag, value))
            statuses[status] += 1
            if status == 0:
                assert read(peer, RETRIEVE, number) == 0, (hex(tag), value)
        peer.release()
    assert statuses.keys() == {0x0000, 0x0106}, statuses
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_unified_step_is_refused_or_hides_no_other(served, caplog):
    """A patient's size of ``nan`` once made each query for the size fail, for everybody."""
    contexts = [(PUSH, IMPLICIT), (PULL, IMPLICIT), (QUERY, IMPLICIT)]
    kept = 0
    with served("ups.py") as server, RawPeer(server.port, contexts) as peer:
        for number, (tag, value) in enumerate(POISONS):
            status = create(peer, PUSH, number, poisoned(pushed(), tag, value))
            assert status in (0, 0x0106), (hex(tag), value)
            if status == 0:
                kept += 1
                assert read(peer, PUSH, number) == 0, (hex(tag), value)
        asked = {tag: struct.pack("<HHI", tag >> 16, tag & 0xFFFF, 0) for tag in [*TAGS, STATE]}
        peer.find(b"".join(asked[tag] for tag in sorted(asked)), QUERY, 5)
        found = [peer.receive()[0].status]
        while found[-1] in (0xFF00, 0xFF01):
            found.append(peer.receive()[0].status)
        peer.release()
    assert (found[-1], len(found) - 1) == (0, kept)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
