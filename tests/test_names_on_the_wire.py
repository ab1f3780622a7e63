"""What a peer calls itself cannot forge a log line."""

from pacsroute.upper_layer.pdu import AssociateRQ, decode, encode


def test_control_characters_of_a_title_do_not_come_through():
    request = decode(encode(AssociateRQ("ARCHIVE", "CT\n\x1b[2J\x9b")))
    assert request.calling_ae == "CT??[2J?"
    assert b"CT\n\x1b[2J\x9b" in request.titles, "the answer repeats the bytes as they came"
