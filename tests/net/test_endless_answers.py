"""Answers without end: the timeout of a client holds within them, and memory is bounded."""

import contextlib
import itertools
import time

import pytest
from support.names import CT

from pacsroute import App, AssociationAborted
from pacsroute.dimse import commands
from pacsroute.dimse.messages import fragment
from pacsroute.upper_layer import pdu

pytestmark = pytest.mark.slow

STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}
KINDS = {"find": commands.CFindRSP, "get": commands.CGetRSP}


def piece(size):
    return pdu.encode(pdu.PDataTF((pdu.PDV(1, False, False, bytes(size)),)))


# What comes again and again within the data set of a response, and the seconds between.
ENDLESS = {
    "empty fragments": (piece(0), 0.05),
    "small fragments, faster than min_rate": (piece(100), 0.02),
    "a byte at a time of a long PDU": (b"\0", 0.02),
    "as much as the network carries": (piece(1 << 20), 0),
}


def answering(method, kind):
    """Return what an SCP does with an association: a pending response, and then no end of it."""
    again, pause = ENDLESS[kind]

    def serve(association):
        request = association.receive()
        response = KINDS[method](message_id_responded_to=request.command.message_id, status=0xFF00)
        head = b"".join(fragment(request.context_id, response, None, 0, follows=True))
        if kind.startswith("a byte"):
            head += piece(1 << 20)[:20]
        sock = association._channel._socket
        with contextlib.suppress(OSError):
            sock.sendall(head)
            for _ in itertools.count():
                sock.sendall(again)
                time.sleep(pause)
        raise AssociationAborted(None)

    return serve


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("method", KINDS)
def test_an_answer_without_end_is_given_up(listening, method, kind):
    app = App("ARCHIVE")
    getattr(app, method)(lambda request: [])
    app.store(lambda request: None)
    peer = listening(app, answering(method, kind))
    began = time.monotonic()
    options = {"storage": [CT]} if method == "get" else {}
    with peer.client(timeout=0.5) as client, pytest.raises(AssociationAborted) as raised:
        list(getattr(client, method)(STUDY, **options))
    assert time.monotonic() - began < 10
    words = "a response of more than", "did not arrive in time"
    assert any(one in str(raised.value) for one in words)
