"""Identifiers whose values are not of the type that their keywords have."""

import logging

import pytest
from support.names import EXPLICIT, FIND

from pacsroute import App


def element(group, number, vr, value):
    """Return an element in explicit VR little endian, with a short or a long header."""
    head = group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr
    if vr in (b"OB", b"UN", b"SQ", b"UT"):
        return head + bytes(2) + len(value).to_bytes(4, "little") + value
    return head + len(value).to_bytes(2, "little") + value


ODD = {
    b"AT": b"\x08\x00\x52\x00",
    b"OB": b"SECRET",
    b"US": b"\x01\x00\x02\x00",
    b"FD": bytes(8),
    b"UN": b"SECRET",
    b"SQ": b"",
    b"CS": b"SECRET\\AGAIN ",
}


@pytest.mark.parametrize("vr", ODD, ids=bytes.decode)
@pytest.mark.parametrize("number", [0x0005, 0x0052], ids=["character set", "level"])
def test_an_identifier_with_another_vr_is_answered_without_a_traceback(
    vr, number, raw_peer, caplog
):
    app = App()

    @app.find("StudyRoot")
    def find(request):
        yield {"PatientID": "1"}

    identifier = element(0x0008, number, vr, ODD[vr]) + element(0x0010, 0x0020, b"LO", b"")
    with caplog.at_level(logging.INFO), app.serve(port=0, grace=1) as server:
        with raw_peer(server.port, [(FIND, EXPLICIT)]) as peer:
            peer.find(identifier, FIND)
            codes = [peer.receive()[0].status]
            if codes[0] in (0xFF00, 0xFF01):
                codes.append(peer.receive()[0].status)
            peer.release()
    assert codes[-1] in (0, 0xA900, 0xC000)
    assert [record for record in caplog.records if record.exc_info] == []
    assert "SECRET" not in caplog.text
