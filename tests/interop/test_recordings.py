"""What other implementations really send, recorded from the wire."""

from __future__ import annotations

import pytest
from support.places import RECORDINGS

from pacsroute import App
from pacsroute.dimse.commands import CEchoRQ, CStoreRQ
from pacsroute.dimse.messages import Assembler
from pacsroute.testing import replay
from pacsroute.trace.files import read
from pacsroute.trace.wire import Frames
from pacsroute.upper_layer import pdu as pdus
from pacsroute.upper_layer.connection import Connection
from pacsroute.upper_layer.pdu import (
    AssociateAC,
    AssociateRQ,
    ContextResult,
    PresentationContext,
    UserInformation,
)

VERIFICATION = "1.2.840.10008.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (
    f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".1.99", ".2")
)
DCMTK = UserInformation(16_384, "1.2.276.0.7230010.3.0.3.6.7", "OFFIS_DCMTK_367")
ANSWERS = (ContextResult(1, 0, IMPLICIT), ContextResult(3, 0, EXPLICIT))

ASSOCIATIONS = {
    "dcmtk_echoscu": AssociateRQ(
        "ARCHIVE",
        "ECHO_SCU",
        (PresentationContext(1, VERIFICATION, (IMPLICIT,)),),
        DCMTK,
    ),
    "dcmtk_storescu": AssociateRQ(
        "ARCHIVE",
        "STORE_SCU",
        (
            PresentationContext(1, SECONDARY_CAPTURE, (EXPLICIT,)),
            PresentationContext(3, SECONDARY_CAPTURE, (BIG_ENDIAN, IMPLICIT)),
        ),
        DCMTK,
    ),
    "pynetdicom_echo": AssociateRQ(
        "ARCHIVE",
        "PYNETDICOM_SCU",
        (PresentationContext(1, VERIFICATION, (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)),),
        UserInformation(16_382, "1.2.826.0.1.3680043.9.3811.3.0.4", "PYNETDICOM_304"),
    ),
    # Both were asked for Verification, Secondary Capture and an abstract syntax of no one's.
    "dcmtk_storescp": AssociateAC(
        "STORE_SCP", "PACSROUTE", (*ANSWERS, ContextResult(5, 3, IMPLICIT)), DCMTK
    ),
    "orthanc": AssociateAC(
        "ORTHANC", "PACSROUTE", (*ANSWERS, ContextResult(5, 3, IMPLICIT)), DCMTK
    ),
}

COMMANDS = {
    "dcmtk_echoscu": CEchoRQ(message_id=1, affected_sop_class=VERIFICATION),
    "pynetdicom_echo": CEchoRQ(message_id=1, affected_sop_class=VERIFICATION),
    "dcmtk_storescu": CStoreRQ(
        message_id=1,
        affected_sop_class=SECONDARY_CAPTURE,
        affected_sop_instance="1.2.3.4.5.6",
        has_data_set=True,
    ),
}


def pdus_of(name):
    """Return the PDUs that the other implementation has sent."""
    requestor = name not in ("dcmtk_storescp", "orthanc")
    frames = Frames()
    return [
        frame
        for _, chunk in read(RECORDINGS / f"{name}.rec")
        if chunk is not None and chunk.by_requestor == requestor
        for frame in frames.add(chunk.data)
    ]


def test_every_recording_is_tested():
    assert {path.stem for path in RECORDINGS.iterdir()} == {*ASSOCIATIONS, *COMMANDS}


@pytest.mark.parametrize("name", ASSOCIATIONS)
def test_associations(name):
    data = pdus_of(name)[0]
    received = pdus.decode(data)

    assert received == ASSOCIATIONS[name]
    assert received.protocol_version == 1
    assert received.application_context == "1.2.840.10008.3.1.1.1"
    written = pdus.encode(received)
    assert len(written) == len(data)
    # The same bytes again, but for a reserved one that DCMTK fills in each context.
    reserved = [data[i] for i in range(len(data)) if data[i] != written[i]]
    filled = len(received.contexts) if name.startswith("dcmtk") and data[0] == 1 else 0
    assert reserved == [0xFF] * filled


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name):
    pdv = pdus.decode(pdus_of(name)[1]).pdvs[0]
    made = Assembler(lambda context_id, command: None)
    done = made.add(pdv)

    assert (pdv.context_id, pdv.is_command, pdv.is_last) == (1, True, True)
    if COMMANDS[name].has_data_set:
        assert done == []
        assert made.incomplete.command == COMMANDS[name]
    else:
        assert [message.command for message in done] == [COMMANDS[name]]


@pytest.mark.parametrize("name", ["dcmtk_echoscu", "pynetdicom_echo"])
def test_a_recorded_peer_talks_to_a_connection(name):
    request, echo, *_ = pdus_of(name)
    connection = Connection("acceptor")
    connection.receive_data(request)
    assert connection.next_event() == ASSOCIATIONS[name]
    connection.accept(AssociateAC("A", "B", (ContextResult(1, 0, IMPLICIT),)))
    connection.receive_data(echo)
    assert len(connection.next_event().pdvs) == 1
    assert connection.state == "Sta6"


@pytest.mark.parametrize("name", ["dcmtk_storescp", "orthanc"])
def test_a_recorded_acceptor_answers_a_connection(name):
    connection = Connection("requestor")
    connection.associate(AssociateRQ("A", "PACSROUTE"))
    connection.transport_connected()
    connection.receive_data(pdus_of(name)[0])
    assert connection.next_event() == ASSOCIATIONS[name]
    assert connection.state == "Sta6"


@pytest.mark.parametrize("name", ASSOCIATIONS)
def test_recordings_are_answered_as_recorded(name):
    app = App("ARCHIVE")
    stored = []

    @app.store("SecondaryCaptureImageStorage")
    def store(request):
        stored.append(request.sop_instance)

    assert replay(RECORDINGS / f"{name}.rec", app) == []
    assert stored == (["1.2.3.4.5.6"] if name == "dcmtk_storescu" else [])
