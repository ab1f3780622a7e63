"""The upper layer's connection: two of them back to back, and what peers do to one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacsroute.errors import AssociationError
from pacsroute.upper_layer import pdu as pdus
from pacsroute.upper_layer.connection import Connection, TransportClosed
from pacsroute.upper_layer.pdu import (
    PDV,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ContextResult,
    PDataTF,
    PresentationContext,
    ReleaseRP,
    ReleaseRQ,
    UserInformation,
    encode,
)
from pacsroute.upper_layer.state_machine import ACTIONS

REQUEST = AssociateRQ(
    "ARCHIVE", "CT", (PresentationContext(1, "1.2.3", ("1.2.4",)),), UserInformation(16_384, "1.2")
)
ACCEPT = AssociateAC("ARCHIVE", "CT", (ContextResult(1, 0, "1.2.4"),), UserInformation(16_384))
DATA = PDataTF((PDV(1, True, True, b"what it is"),))


def sent(connection):
    return b"".join(bytes(part) for part in connection.data_to_send())


def taken(connection):
    """The events that are there, their fragments copied so as to stay."""
    events = []
    while (event := connection.next_event()) is not None:
        events.append(kept(event))
    return events


def kept(event):
    if isinstance(event, PDataTF):
        return PDataTF(tuple(pdv._replace(fragment=bytes(pdv.fragment)) for pdv in event.pdvs))
    return event


def carry(sender, receiver):
    """Bring what the one sends to the other; return what happens there."""
    receiver.receive_data(sent(sender))
    return taken(receiver)


def feed(connection, *parts):
    connection.receive_data(b"".join(x if isinstance(x, bytes) else encode(x) for x in parts))
    return taken(connection)


def pair():
    """A requestor and an acceptor with an association between them."""
    requestor, acceptor = Connection("requestor"), Connection("acceptor")
    requestor.associate(REQUEST)
    assert requestor.state == "Sta4"
    assert not requestor.data_to_send()
    requestor.transport_connected()
    assert requestor.state == "Sta5"
    assert carry(requestor, acceptor) == [REQUEST]
    assert acceptor.state == "Sta3"
    acceptor.accept(ACCEPT)
    assert carry(acceptor, requestor) == [ACCEPT]
    assert (requestor.state, acceptor.state) == ("Sta6", "Sta6")
    return requestor, acceptor


def established():
    return pair()[1]


def reached(state):
    """An acceptor or a requestor in a state that it reached by the rules."""
    if state == "Sta2":
        return Connection("acceptor")
    if state in ("Sta3", "Sta13"):
        connection = Connection("acceptor")
        feed(connection, REQUEST)
        if state == "Sta13":
            connection.reject(AssociateRJ(1, 1, 1))
    elif state == "Sta5":
        connection = Connection("requestor")
        connection.associate(REQUEST)
        connection.transport_connected()
    else:
        connection = pair()[state in ("Sta10", "Sta12")]
        if state == "Sta8":
            feed(connection, ReleaseRQ())
        elif state != "Sta6":
            connection.release()
            if state != "Sta7":
                feed(connection, ReleaseRQ())
            if state == "Sta11":
                connection.respond_release()
            if state == "Sta12":
                feed(connection, ReleaseRP())
    sent(connection)
    assert connection.state == state
    return connection


CONNECTED = [f"Sta{n}" for n in (2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13)]

# ------------------------------------------------------------------------- good order


@pytest.mark.parametrize("first", [0, 1], ids=["requestor", "acceptor"])
def test_data_goes_both_ways(first):
    ends = pair()
    for sender, receiver in (ends, ends[::-1]):
        sender.send_data([encode(DATA), encode(DATA)])
        assert carry(sender, receiver) == [DATA, DATA]
    assert ends[first].state == "Sta6"


@pytest.mark.parametrize("order", [1, -1], ids=["requestor", "acceptor"])
def test_either_side_releases(order):
    asking, asked = pair()[::order]

    asking.release()
    assert asking.state == "Sta7"
    assert carry(asking, asked) == [ReleaseRQ()]
    assert asked.state == "Sta8"
    asked.send_data([encode(DATA)])  # what is still to be answered
    assert asked.state == "Sta8"
    assert carry(asked, asking) == [DATA]
    assert asking.state == "Sta7"
    asked.respond_release()
    assert asked.state == "Sta13"
    assert asked.artim_running
    assert carry(asked, asking) == [ReleaseRP()]
    assert asking.state == "Sta1"
    assert asking.transport_closed() is None
    assert asked.transport_closed() is None
    assert asked.state == "Sta1"
    assert asking.error is asked.error is None


def test_release_collision():
    requestor, acceptor = pair()
    requestor.release()
    acceptor.release()
    crossing = sent(requestor)

    assert carry(acceptor, requestor) == [ReleaseRQ()]
    assert requestor.state == "Sta9"
    assert feed(acceptor, crossing) == [ReleaseRQ()]
    assert acceptor.state == "Sta10"

    requestor.respond_release()
    assert requestor.state == "Sta11"
    assert carry(requestor, acceptor) == [ReleaseRP()]
    assert acceptor.state == "Sta12"
    acceptor.respond_release()
    assert acceptor.state == "Sta13"
    assert carry(acceptor, requestor) == [ReleaseRP()]
    assert requestor.state == "Sta1"
    assert acceptor.transport_closed() is None
    assert acceptor.state == "Sta1"


def test_acceptor_rejects():
    requestor, acceptor = Connection("requestor"), Connection("acceptor")
    requestor.associate(REQUEST)
    requestor.transport_connected()
    carry(requestor, acceptor)

    acceptor.reject(AssociateRJ(1, 1, 7))
    assert acceptor.state == "Sta13"
    assert acceptor.artim_running
    assert carry(acceptor, requestor) == [AssociateRJ(1, 1, 7)]
    assert requestor.state == "Sta1"


@pytest.mark.parametrize("order", [1, -1], ids=["requestor", "acceptor"])
@pytest.mark.parametrize(("source", "reason"), [(0, 0), (2, 6)])
def test_either_side_aborts(order, source, reason):
    aborting, aborted = pair()[::order]

    aborting.abort(source, reason)
    assert aborting.state == "Sta13"
    assert carry(aborting, aborted) == [Abort(source, reason)]
    assert aborted.state == "Sta1"
    assert sent(aborted) == b""


def test_an_abort_before_the_transport_connection_sends_nothing():
    requestor = Connection("requestor")
    requestor.associate(REQUEST)
    requestor.abort()
    assert requestor.state == "Sta1"
    assert sent(requestor) == b""


# ------------------------------------------------------------------------------ ARTIM


@pytest.mark.parametrize("state", CONNECTED)
def test_artim_runs_in_two_states_only(state):
    connection = reached(state)
    assert connection.artim_running == (state in ("Sta2", "Sta13"))
    if connection.artim_running:
        connection.artim_expired()
        assert connection.state == "Sta1"
        assert not connection.artim_running
        assert sent(connection) == b""
    else:
        with pytest.raises(AssociationError):
            connection.artim_expired()
        assert connection.state == state


@pytest.mark.parametrize("state", CONNECTED)
def test_the_transport_connection_may_close_at_any_time(state):
    connection = reached(state)
    lost = None if state in ("Sta2", "Sta13") else TransportClosed()
    assert connection.transport_closed() == lost
    assert connection.state == "Sta1"
    assert connection.transport_closed() is None


# ------------------------------------------------------------------- what is not allowed


@pytest.mark.parametrize("version", [0, 2, 0xFFFE])
def test_a_protocol_version_that_we_do_not_know(version):
    connection = Connection("acceptor")
    assert feed(connection, AssociateRQ("A", "B", protocol_version=version)) == []
    assert sent(connection) == encode(AssociateRJ(1, 2, 2))
    assert connection.state == "Sta13"
    assert connection.error is not None


def test_protocol_version_with_bit_0_is_accepted():
    connection = Connection("acceptor")
    request = AssociateRQ("A", "B", protocol_version=0xFFFF)
    assert feed(connection, request) == [request]


@pytest.mark.parametrize(
    "data",
    [DATA, ACCEPT, AssociateRJ(1, 1, 1), ReleaseRQ(), ReleaseRP(), bytes(6)],
    ids=["P-DATA-TF", "AC", "RJ", "RELEASE-RQ", "RELEASE-RP", "unknown"],
)
def test_before_a_request_the_abort_is_the_users(data):
    connection = Connection("acceptor")
    assert feed(connection, data) == []
    assert sent(connection) == encode(Abort(0))
    assert connection.state == "Sta13"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(REQUEST), pdus.UNEXPECTED_PDU),
        (encode(ACCEPT), pdus.UNEXPECTED_PDU),
        (encode(AssociateRJ(1, 1, 1)), pdus.UNEXPECTED_PDU),
        (encode(ReleaseRP()), pdus.UNEXPECTED_PDU),
        (b"\x00\0\0\0\0\0", pdus.UNRECOGNIZED_PDU),
        (b"\x08\0\xff\xff\xff\xff", pdus.UNRECOGNIZED_PDU),
        (b"\x04\0\xff\xff\xff\xff", pdus.INVALID_PARAMETER),
        (b"\x05\0\xff\xff\xff\xff", pdus.INVALID_PARAMETER),
        (b"\x04\0\0\0\0\0", pdus.INVALID_PARAMETER),
    ],
    ids=["RQ", "AC", "RJ", "RP", "type 0", "type 8", "long data", "long release", "no PDV"],
)
def test_in_an_association_the_abort_is_the_providers(data, reason):
    connection = established()
    assert feed(connection, data) == [Abort(2, reason)]
    assert sent(connection) == encode(Abort(2, reason))
    assert connection.state == "Sta13"
    assert connection.error.reason == reason


def test_the_limit_of_a_pdu():
    limit = 1_000
    for length, allowed in ((2 * limit, True), (2 * limit + 1, False)):
        connection = Connection("acceptor", maximum_length=limit, maximum_associate_length=500)
        feed(connection, REQUEST)
        connection.accept(ACCEPT)
        data = PDataTF((PDV(1, False, True, bytes(length - 6)),))
        assert feed(connection, data) == [data if allowed else Abort(2, pdus.INVALID_PARAMETER)]
        assert connection.state == ("Sta6" if allowed else "Sta13")
    connection = Connection("acceptor", maximum_associate_length=500)
    assert feed(connection, pdus.HEADER.pack(1, 501)) == []
    assert sent(connection) == encode(Abort(0))


def test_nothing_is_kept_for_a_length_that_is_only_claimed():
    connection = established()
    feed(connection, b"\x04\0\xff\xff\xff\xff")
    assert len(connection.get_buffer()) < 1_000_000


def test_bytes_after_an_abort_are_ignored():
    connection = established()
    connection.abort()
    sent(connection)
    assert feed(connection, DATA, DATA, ReleaseRQ()) == []
    assert sent(connection) == b""
    assert connection.state == "Sta13"
    assert feed(connection, Abort(0)) == []
    assert connection.state == "Sta1"


def test_after_lost_framing_nothing_is_read():
    connection = established()
    feed(connection, b"\xff\0\0\0\0\0")
    sent(connection)
    assert feed(connection, DATA, REQUEST, b"\xff" * 100) == []
    assert sent(connection) == b""
    assert not connection.partial


@pytest.mark.parametrize("state", CONNECTED)
@pytest.mark.parametrize(
    ("ask", "event"),
    [
        (lambda c: c.associate(REQUEST), "Evt1"),
        (lambda c: c.accept(ACCEPT), "Evt7"),
        (lambda c: c.reject(AssociateRJ(1, 1, 1)), "Evt8"),
        (lambda c: c.send_data([encode(DATA)]), "Evt9"),
        (lambda c: c.release(), "Evt11"),
        (lambda c: c.respond_release(), "Evt14"),
        (lambda c: c.abort(), "Evt15"),
    ],
    ids=["associate", "accept", "reject", "data", "release", "respond", "abort"],
)
def test_the_user_may_do_what_the_table_says_and_no_more(state, ask, event):
    connection = reached(state)
    if (event, state) in ACTIONS:
        ask(connection)
        assert sent(connection)
    else:
        with pytest.raises(AssociationError):
            ask(connection)
        assert connection.state == state
        assert sent(connection) == b""


@pytest.mark.parametrize("state", CONNECTED)
def test_abort_ends_the_connection_in_any_state(state):
    connection = reached(state)
    expected = [] if state in ("Sta2", "Sta13") else [Abort(2, 1)]
    assert feed(connection, Abort(2, 1)) == expected
    assert connection.state == "Sta1"
    assert sent(connection) == b""


# ------------------------------------------------------------------------ in any pieces


some_data = st.lists(
    st.builds(PDV, st.just(1), st.booleans(), st.booleans(), st.binary(max_size=2_000)),
    min_size=1,
    max_size=3,
).map(lambda pdvs: PDataTF(tuple(pdvs)))


def cut(stream, sizes):
    position, turn = 0, 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        yield stream[position : position + size]
        position, turn = position + size, turn + 1


@given(
    st.lists(some_data, max_size=8),
    st.lists(st.integers(1, 5_000), min_size=1, max_size=6),
    st.booleans(),
)
@settings(deadline=None)
def test_any_fragmentation_gives_the_same_events(stream, sizes, ends_well):
    last = ReleaseRQ() if ends_well else Abort(2, 1)
    expected = [*stream, last]
    whole = b"".join(map(encode, expected))

    copied, placed = established(), established()
    assert feed(established(), whole) == expected
    events = []
    for piece in cut(whole, sizes):
        copied.receive_data(piece)
        events += taken(copied)
    assert events == expected

    events = []  # the way of a shell that reads into the buffer
    for piece in cut(whole, sizes):
        rest = piece
        while rest:
            room = placed.get_buffer()
            assert room
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            placed.buffer_updated(count)
            rest = rest[count:]
            events += taken(placed)
    assert events == expected
    assert not copied.partial
    assert not placed.partial
    assert copied.state == placed.state == ("Sta8" if ends_well else "Sta1")


def test_one_byte_at_a_time():
    connection, events = Connection("acceptor"), []
    for value in encode(REQUEST):
        assert not events
        events += feed(connection, bytes([value]))
        assert bool(connection.partial) == (not events)
    assert events == [REQUEST]
    connection.accept(ACCEPT)
    for value in encode(DATA) + encode(ReleaseRQ()):
        events += feed(connection, bytes([value]))
    assert events == [REQUEST, DATA, ReleaseRQ()]


def test_a_thousand_pdus_at_once():
    stream = [PDataTF((PDV(1, False, False, bytes([n & 255]) * n),)) for n in range(1_000)]
    connection = established()
    connection.receive_data(b"".join(map(encode, stream)))
    assert taken(connection) == stream
    assert not connection.partial


def test_fragments_are_views_of_the_buffer_and_stay_until_more_is_read():
    connection = established()
    connection.receive_data(encode(DATA) + encode(DATA))
    first, second = connection.next_event(), connection.next_event()
    (buffer,) = {id(event.pdvs[0].fragment.obj) for event in (first, second)}

    assert all(isinstance(event.pdvs[0].fragment, memoryview) for event in (first, second))
    assert id(connection.get_buffer().obj) == buffer
    assert (kept(first), kept(second)) == (DATA, DATA)


# ------------------------------------------------------------- what is not to be trusted


@given(
    st.sampled_from(CONNECTED),
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from([REQUEST, ACCEPT, DATA, ReleaseRQ(), ReleaseRP(), Abort(0)]).map(encode)
        | st.tuples(st.integers(0, 9), st.binary(max_size=40)).map(
            lambda pdu: pdus.HEADER.pack(pdu[0], len(pdu[1])) + pdu[1]
        ),
        max_size=8,
    ),
)
@settings(deadline=None)
def test_any_bytes_end_as_the_state_table_says(state, pieces):
    connection = reached(state)
    for piece in pieces:
        feed(connection, piece)
        assert connection.state == "Sta1" or ("Evt17", connection.state) in ACTIONS
        answer = sent(connection)
        if answer:  # it is an A-ABORT or A-ASSOCIATE-RJ, and the end
            assert answer[0] in (3, 7)
            assert connection.state in ("Sta13", "Sta1")
            assert connection.error is not None
    connection.transport_closed()
    assert connection.state == "Sta1"
    assert taken(connection) == []


def test_data_before_the_association_is_refused_unbuffered():
    connection = Connection("acceptor", maximum_length=0x0FFF_FFFF)
    connection.receive_data(b"\4\0\x1f\xff\xff\xff")
    assert connection.next_event() is None
    assert connection.state == "Sta13"
    assert len(connection.get_buffer()) < 1 << 20


def test_a_length_without_a_limit_is_refused():
    with pytest.raises(ValueError, match="bounds a buffer"):
        Connection("acceptor", maximum_length=0)
