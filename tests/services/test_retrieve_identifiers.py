"""The identifiers of C-GET and C-MOVE: unique keys, and lists of failed instances."""

import pytest
from pydicom.uid import generate_uid
from support.names import CT, EXPLICIT, IMPLICIT, MOVE
from support.retrieval import Requestor, counts, decoded, encoded, serving

from pacsroute import (
    Instance,
    RequestFailed,
    connect,
)
from pacsroute.dimse import commands


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


def test_list_of_unique_keys_is_a_unique_key():
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
