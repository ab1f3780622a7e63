"""TCP connections in captures, real ones and ones made up to be difficult."""

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.captures import (
    CLIENT,
    ETHERNET,
    IPV4,
    IPV6,
    LOOP,
    NULL,
    RAW,
    SERVER,
    SLL,
    SLL2,
    dialogue,
    linked,
    pcap,
    pcapng,
    raw,
)
from support.places import CAPTURES

from pacsroute.trace.conversation import UnreadableFile
from pacsroute.trace.files import read
from pacsroute.trace.pcap import tcp as tcp_module
from pacsroute.trace.pcap.capture import DamagedCapture, packets
from pacsroute.trace.pcap.packets import ACK, FIN, RST, SYN, Segment
from pacsroute.trace.pcap.tcp import conversations


def heard(data):
    """Return what each connection of a capture has: ends, both directions, and trouble."""
    found = {}
    for conversation, chunk in conversations(packets(io.BytesIO(data))):
        asked, answered = found.setdefault(conversation, (bytearray(), bytearray()))
        if chunk is not None:
            (asked if chunk.by_requestor else answered).extend(chunk.data)
    return [
        (one.requestor, one.acceptor, bytes(asked), bytes(answered), one.trouble)
        for one, (asked, answered) in found.items()
    ]


WHOLE = ("10.0.0.7:50312", "10.0.0.1:104", b"abcdef", b"ABC", "")


# ------------------------------------------------------------- files and links


@pytest.mark.parametrize("kind", [ETHERNET, "vlan", NULL, LOOP, RAW, 12, 14, SLL, SLL2, IPV4])
def test_every_link_type_is_read(kind):
    assert heard(pcap(kind, [linked(kind, packet) for packet in dialogue()])) == [WHOLE]


@pytest.mark.parametrize("kind", [ETHERNET, NULL, RAW, SLL, SLL2, IPV6])
@pytest.mark.parametrize("extensions", [False, True])
def test_ipv6_packets_are_read(kind, extensions):
    client, server = ("fe80::7", 50312), ("fe80::1", 104)
    frames = [linked(kind, one) for one in dialogue(client, server, extensions=extensions)]
    expected = [("[fe80::7]:50312", "[fe80::1]:104", b"abcdef", b"ABC", "")]
    assert heard(pcap(kind, frames)) == expected


def test_a_length_that_the_network_card_fills_in_later():
    assert heard(pcap(RAW, dialogue(offload=True))) == [WHOLE]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("make", [pcap, pcapng])
def test_byte_orders_and_times(order, make):
    data = make(RAW, dialogue(), order)
    assert heard(data) == [WHOLE]
    assert [packet.time for packet in packets(io.BytesIO(data))] == [
        1000.5 + number for number in range(7)
    ]


def test_nanoseconds_sections_and_simple_packets():
    data = pcap(RAW, dialogue(), nanoseconds=True)
    assert next(packets(io.BytesIO(data))).time == pytest.approx(1000.5)
    parts = dialogue()
    both = pcapng(RAW, parts[:3]) + pcapng(ETHERNET, [linked(ETHERNET, p) for p in parts[3:]], ">")
    assert heard(both) == [WHOLE]
    assert heard(pcapng(RAW, dialogue(), simple=True)) == [WHOLE]


def test_file_that_is_not_a_capture_is_refused():
    for data in (b"", b"GIF89a", b"\0" * 100):
        with pytest.raises(UnreadableFile, match="neither"):
            heard(data)
    with pytest.raises(UnreadableFile, match="type 105"):
        heard(pcap(105, dialogue()))


@pytest.mark.parametrize("make", [pcap, pcapng])
def test_a_cut_capture_is_read_as_far_as_it_goes(make):
    whole = make(ETHERNET, [linked(ETHERNET, packet) for packet in dialogue()])
    seen = set()
    for end in range(24, len(whole)):
        for _, _, asked, answered, trouble in heard(whole[:end]):
            assert (asked, answered) in {
                (b"", b""),
                (b"abcd", b""),
                *((b"abcdef", x) for x in (b"", b"ABC")),
            }
            assert trouble in ("the capture was cut here", "the capture ends here")
            seen.add(asked)
    assert seen == {b"", b"abcd", b"abcdef"}


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=6), st.booleans())
def test_a_damaged_capture_is_no_traceback(damage, old):
    data = bytearray((pcap if old else pcapng)(RAW, dialogue()))
    for at, byte in damage:
        data[at % len(data)] = byte
    try:
        heard(bytes(data))
    except UnreadableFile:
        pass


@given(st.binary(max_size=80), st.sampled_from([ETHERNET, NULL, RAW, SLL, SLL2]))
@example(b"`\0\0\0\0\0\6", RAW)
def test_packets_of_anything(data, kind):
    assert isinstance(heard(pcap(kind, [data, *(linked(kind, p) for p in dialogue())])), list)


# ------------------------------------------------------------- segments


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_any_order_and_any_retransmission(order, again):
    pieces = [
        (CLIENT, SERVER, 0xFFFF_FFFE + 2 * n, ACK, b"abcdefghijkl"[2 * n : 2 * n + 2])
        for n in range(6)
    ]
    syn = (CLIENT, SERVER, 0xFFFF_FFFD, SYN, b"")  # the numbers wrap around in the middle
    sent = [syn, *(pieces[n] for n in [*order, *again])]
    assert heard(raw(*sent))[0][2] == b"abcdefghijkl"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=30))
def test_overlapping_segments(parts):
    text = bytes(range(65, 105))
    sent = [(CLIENT, SERVER, 99, SYN, b"")]
    sent += [(CLIENT, SERVER, 100 + at, ACK, text[at : at + size]) for at, size in parts]
    sent += [(CLIENT, SERVER, 100, ACK, text)]
    assert heard(raw(*sent))[0][2] == text


def test_segments_behind_a_gap_take_linear_time():
    """That took a time which grew with the square of their number."""

    class Waiting(dict):
        def __iter__(self):
            raise AssertionError

    stream = tcp_module._Stream()
    stream._waiting = Waiting()
    ends = ("", 1), ("", 2)
    heard = b""
    for at in (0, *range(99, 0, -1)):
        heard += stream.add(Segment(0.0, *ends, 1000 + at, ACK, bytes([at])))
        assert stream.gap == max(0, at - 1)
    assert heard == bytes(range(100))


def test_gap_in_a_capture_is_reported():
    ((_, _, asked, answered, trouble),) = heard(
        raw(
            (CLIENT, SERVER, 99, SYN, b""),
            (SERVER, CLIENT, 9, SYN | ACK, b""),
            (CLIENT, SERVER, 100, ACK, b"ab"),
            (CLIENT, SERVER, 105, ACK, b"fg"),
            (SERVER, CLIENT, 10, ACK, b"AB"),
            (CLIENT, SERVER, 107, FIN | ACK, b""),
            (SERVER, CLIENT, 12, FIN | ACK, b""),
        )
    )
    assert (asked, answered) == (b"ab", b"AB")
    assert trouble.startswith("3 bytes were not captured")


def test_a_capture_that_begins_in_the_middle():
    later = [(SERVER, CLIENT, 500, ACK, b"\4AB"), (CLIENT, SERVER, 900, ACK, b"\4ab")]
    ((requestor, _, asked, answered, trouble),) = heard(raw(*later))
    assert (requestor, asked, answered) == ("10.0.0.7:50312", b"\4ab", b"\4AB")
    assert trouble == "the capture ends here"
    # Who requests an association is the requestor, whatever its port is.
    swapped = [(SERVER, CLIENT, 500, ACK, b"\1\0request")]
    assert heard(raw(*swapped))[0][0] == "10.0.0.1:104"


def test_a_port_that_is_used_again():
    first = [(s, t, *rest) for s, t, *rest in segments(b"one")]
    again = segments(b"two", first=5000)
    late = (CLIENT, SERVER, 1001, ACK, b"one")  # a retransmission after the end
    found = heard(raw(*first, late, *again))
    assert [asked for _, _, asked, _, _ in found] == [b"one", b"two"]
    without_end = heard(raw(*first[:3], first[0], *again))
    assert [asked for _, _, asked, _, _ in without_end] == [b"one", b"two"]


def segments(data, first=1000):
    return [
        (CLIENT, SERVER, first, SYN, b""),
        (SERVER, CLIENT, 77, SYN | ACK, b""),
        (CLIENT, SERVER, first + 1, ACK, data),
        (CLIENT, SERVER, first + 1 + len(data), RST, b""),
    ]


def test_connections_at_the_same_time():
    other = ("10.0.0.8", 50312)
    mixed = [p for pair in zip(dialogue(), dialogue(other), strict=True) for p in pair]
    assert sorted(heard(pcap(RAW, mixed))) == [WHOLE, ("10.0.0.8:50312", *WHOLE[1:])]


def test_fragments_and_other_protocols_are_ignored():
    packet = bytearray(dialogue()[2])
    packet[6:8] = b"\0\x10"  # not the first fragment
    udp = bytearray(dialogue()[2])
    udp[9] = 17
    frames = [bytes(udp), bytes(packet), *dialogue()]
    assert heard(pcap(RAW, frames)) == [WHOLE]


def test_damaged_capture_raises_damaged_capture():
    with pytest.raises(DamagedCapture):
        list(packets(io.BytesIO(pcapng(RAW, dialogue())[:-3])))


# ------------------------------------------------------------- real ones


@pytest.mark.parametrize("name", ["dcmtk", "dcmtk_cooked"])
def test_captures_of_tcpdump(name):
    found = list(read(CAPTURES / f"{name}.pcap"))
    ended = [conversation for conversation, chunk in found if chunk is None]
    assert len(ended) == (3 if name == "dcmtk" else 1)
    for conversation in ended:
        assert conversation.trouble == ""
        assert conversation.acceptor == "127.0.0.1:11777"
        said = b"".join(
            chunk.data
            for one, chunk in found
            if one is conversation and chunk and chunk.by_requestor
        )
        assert said[:2] == b"\1\0"
        assert said.endswith(b"\5\0\0\0\0\4\0\0\0\0")
