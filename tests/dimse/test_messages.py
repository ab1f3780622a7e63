"""Messages: cut into PDUs for any limit, and put together again."""

from __future__ import annotations

import dataclasses
import io
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsroute.dimse import command_set, commands
from pacsroute.dimse.commands import CEchoRQ, CFindRQ, CStoreRQ
from pacsroute.dimse.messages import BATCH, Assembler, Message, fragment, stream
from pacsroute.errors import ProtocolError
from pacsroute.upper_layer import pdu as pdus
from pacsroute.upper_layer.pdu import PDV, UNEXPECTED_PARAMETER

ECHO = CEchoRQ(message_id=1, affected_sop_class="1.2.840.10008.1.1")
STORE = CStoreRQ(message_id=2, affected_sop_class="1.2.3", has_data_set=True)
ECHO_BYTES, STORE_BYTES = command_set.encode(ECHO), command_set.encode(STORE)

limits = st.just(0) | st.integers(8, 200) | st.integers(8, 70_000)
contents = st.none() | st.binary(max_size=1_500).map(lambda data: data + data)


class Pieces(list):
    """A sink that copies what it is given."""

    def write(self, data):
        self.append(bytes(data))


def assembler(**options):
    opened = []

    def open_sink(context_id, command):
        opened.append((context_id, command))
        return Pieces()

    made = Assembler(open_sink, **options)
    return made, opened


def read_pdus(parts):
    whole = b"".join(bytes(part) for part in parts)
    while whole:
        length = 6 + int.from_bytes(whole[2:6], "big")
        yield length - 6, pdus.decode(whole[:length])
        whole = whole[length:]


def assemble(pdvs, **options):
    made, _ = assembler(**options)
    done = [message for pdv in pdvs for message in made.add(pdv)]
    return done, made


def content(message):
    return None if message.data is None else b"".join(message.data)


# ------------------------------------------------------------------------ there and back


@given(limits, contents, st.integers(0, 255), st.booleans())
def test_message_round_trips_for_any_pdu_limit(limit, data, context_id, as_view):
    command = dataclasses.replace(STORE)
    given_data = memoryview(data) if as_view and data is not None else data
    made, opened = assembler()
    done = []
    for length, pdu in read_pdus(fragment(context_id, command, given_data, limit)):
        assert not done
        assert limit == 0 or length <= limit
        for pdv in pdu.pdvs:
            assert pdv.context_id == context_id
            assert len(pdv.fragment) % 2 == 0
            assert len(pdv.fragment) or not data
            done += made.add(pdv)

    (message,) = done
    assert message[:2] == (context_id, command)
    assert content(message) == data
    assert command.has_data_set == (data is not None)
    assert opened == ([] if data is None else [(context_id, command)])
    assert not made.partial


@given(st.lists(st.tuples(limits, contents), max_size=5))
def test_one_message_after_the_other(messages):
    made, _ = assembler()
    for number, (limit, data) in enumerate(messages):
        command = CFindRQ(message_id=number)
        done = []
        for _, pdu in read_pdus(fragment(1, command, data, limit)):
            for pdv in pdu.pdvs:
                done += made.add(pdv)
        assert [(m.command, content(m)) for m in done] == [(command, data)]


@given(st.integers(8, 400), st.integers(0, 900))
def test_pdus_are_as_full_as_they_may_be(limit, pairs):
    data = bytes(2 * pairs)
    sizes = [
        len(pdv.fragment)
        for _, pdu in read_pdus(fragment(1, dataclasses.replace(STORE), data, limit))
        for pdv in pdu.pdvs
        if not pdv.is_command
    ]
    room = (limit - 6) // 2 * 2
    assert len(sizes) == max(1, -(-len(data) // room))
    assert all(size == room for size in sizes[:-1])


def test_data_is_not_copied():
    data = bytes(100_000)
    parts = fragment(1, dataclasses.replace(STORE), data, 16_384)
    assert all(part.obj is data for part in parts if isinstance(part, memoryview))
    assert fragment(1, dataclasses.replace(STORE), data, 0)[-1] is data


# -------------------------------------------------------------------------- fragments


@given(
    st.lists(st.integers(0, len(STORE_BYTES)), max_size=6),
    st.lists(st.binary(max_size=30), max_size=6),
)
def test_fragments_of_any_size(cuts, pieces):
    edges = [0, *sorted(cuts), len(STORE_BYTES)]
    pdvs = [PDV(1, True, False, STORE_BYTES[a:b]) for a, b in pairwise(edges)]
    pdvs += [PDV(1, True, True, b"")]
    pdvs += [PDV(1, False, False, piece) for piece in pieces]
    pdvs += [PDV(1, False, True, b"")]

    (message,), made = assemble(pdvs)
    assert message.command == STORE
    assert content(message) == b"".join(pieces)
    assert not made.partial


def test_pdu_with_several_pdvs():
    pdvs = (
        PDV(1, True, False, STORE_BYTES[:10]),
        PDV(1, True, True, STORE_BYTES[10:]),
        PDV(1, False, False, b"ab"),
        PDV(1, False, True, b"cd"),
    )
    received = pdus.decode(pdus.encode(pdus.PDataTF(pdvs)))

    (message,), _ = assemble(received.pdvs)
    assert message.command == STORE
    assert message.data == [b"ab", b"cd"]


def test_an_empty_last_fragment():
    (message,), made = assemble(
        [
            PDV(1, True, True, STORE_BYTES),
            PDV(1, False, False, b"abcd"),
            PDV(1, False, True, b""),
        ]
    )
    assert content(message) == b"abcd"
    assert not made.partial


def test_assembler_tells_what_is_under_way():
    made, opened = assembler()
    assert not made.partial
    made.add(PDV(1, True, False, STORE_BYTES[:4]))
    assert made.partial
    made.add(PDV(1, True, True, STORE_BYTES[4:]))
    assert made.partial
    assert not opened
    made.add(PDV(1, False, False, b"ab"))
    assert made.partial
    assert opened == [(1, STORE)]
    made.add(PDV(1, False, True, b""))
    assert not made.partial


@pytest.mark.parametrize("other", [1, 3])
def test_command_instead_of_the_announced_data_set_is_refused(other):
    done, made = assemble([PDV(1, True, True, STORE_BYTES), PDV(other, True, True, ECHO_BYTES)])
    assert done == [Message(1, STORE), Message(other, ECHO)]
    assert not made.partial


# ------------------------------------------------------------------ what is not allowed


@pytest.mark.parametrize(
    "pdvs",
    [
        [PDV(1, False, True, b"ab")],
        [PDV(1, True, True, ECHO_BYTES), PDV(1, False, True, b"ab")],
        [PDV(1, True, False, STORE_BYTES[:9]), PDV(1, False, True, b"ab")],
        [PDV(1, True, False, STORE_BYTES[:9]), PDV(3, True, True, STORE_BYTES[9:])],
        [PDV(1, True, True, STORE_BYTES), PDV(3, False, True, b"ab")],
        [
            PDV(1, True, True, STORE_BYTES),
            PDV(1, False, False, b"ab"),
            PDV(1, True, True, ECHO_BYTES),
        ],
        [
            PDV(1, True, True, STORE_BYTES),
            PDV(1, False, False, b"ab"),
            PDV(3, False, True, b"cd"),
        ],
    ],
    ids=[
        "data first",
        "data not announced",
        "data inside a command",
        "command on two contexts",
        "data on another context",
        "command inside data",
        "data on two contexts",
    ],
)
def test_fragments_of_two_messages_mixed(pdvs):
    made, _ = assembler()
    for pdv in pdvs[:-1]:
        made.add(pdv)
    with pytest.raises(ProtocolError) as caught:
        made.add(pdvs[-1])
    assert caught.value.reason == UNEXPECTED_PARAMETER


def test_a_command_set_that_does_not_end():
    made, _ = assembler(maximum_command_length=100)
    made.add(PDV(1, True, False, bytes(100)))
    with pytest.raises(ProtocolError):
        made.add(PDV(1, True, False, b"\0"))


@given(
    st.lists(
        st.builds(
            PDV,
            st.sampled_from([1, 3]),
            st.booleans(),
            st.booleans(),
            st.sampled_from([ECHO_BYTES, STORE_BYTES, b"", b"ab"]) | st.binary(max_size=30),
        ),
        max_size=10,
    )
)
def test_any_fragments_raise_protocol_errors_only(pdvs):
    made, _ = assembler()
    try:
        for pdv in pdvs:
            assert len(made.add(pdv)) <= 2
    except ProtocolError:
        pass


def test_a_limit_that_holds_nothing_is_refused():
    for limit in range(1, 8):
        with pytest.raises(ValueError, match="holds no fragment"):
            fragment(1, commands.CEchoRQ(message_id=1), None, limit)


def test_an_empty_first_fragment_begins_a_message():
    assembler = Assembler(lambda context_id, command: None)
    assembler.add(PDV(1, True, False, b""))
    assert assembler.partial
    with pytest.raises(ProtocolError):
        assembler.add(PDV(3, True, True, command_set.encode(commands.CEchoRQ(message_id=1))))


@pytest.mark.parametrize("is_command", [True, False])
def test_fragments_without_a_byte_are_bounded(is_command):
    assembler = Assembler(lambda context_id, command: io.BytesIO())
    if not is_command:
        command = commands.CFindRQ(message_id=1, affected_sop_class="1.2", has_data_set=True)
        assembler.add(PDV(1, True, True, command_set.encode(command)))
    for _ in range(64):
        assembler.add(PDV(1, is_command, False, b""))
    assert assembler.size == 0
    with pytest.raises(ProtocolError, match="without a byte"):
        assembler.add(PDV(1, is_command, False, b""))


def test_the_bytes_of_a_message_that_is_not_complete_are_counted():
    assembler = Assembler(lambda context_id, command: io.BytesIO())
    command = commands.CFindRQ(message_id=1, affected_sop_class="1.2", has_data_set=True)
    assembler.add(PDV(1, True, True, command_set.encode(command)))
    for _ in range(3):
        assembler.add(PDV(1, False, False, b"1234"))
    assert assembler.size == 12
    assembler.add(PDV(1, False, True, b"12"))
    assert assembler.size == 0


@pytest.mark.parametrize("maximum", [0, 64, 4096, 131_072, 1 << 20])
@pytest.mark.parametrize(
    "size", [0, 1, 2, 99, 100, 101, 1000, BATCH - 1, BATCH, BATCH + 1, 600_001]
)
def test_a_streamed_data_set_arrives_whole_and_even(size, maximum):
    data = bytes(range(256)) * (size // 256 + 1)
    room = memoryview(bytearray(min(BATCH, size + 2 & ~1)))
    batches = stream(5, io.BytesIO(data[:size]), size, maximum, room)
    whole = memoryview(b"".join(b"".join(parts) for parts in batches))
    found, ends = b"", []
    while whole:
        kind, length, pdv, context_id, control = struct.unpack_from(">BxIIBB", whole)
        assert (kind, pdv, context_id) == (4, length - 4, 5)
        assert length <= (maximum or length)
        ends.append(control)
        found, whole = found + whole[12 : 6 + length], whole[6 + length :]
    assert found == data[:size] + b"\0" * (size & 1)
    assert ends == [0] * (len(ends) - 1) + [2]
