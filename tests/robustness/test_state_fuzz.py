"""The sans-I/O core: calls in any order, any peer, its bytes cut anywhere."""

import itertools
import logging
import random

import pytest
from fuzz import targets
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pacsroute import uids
from pacsroute.dimse import command_set, commands
from pacsroute.dimse.messages import Assembler
from pacsroute.errors import AssociationError, ProtocolError
from pacsroute.upper_layer import pdu
from pacsroute.upper_layer.connection import Connection
from pacsroute.upper_layer.pdu import PDV, Abort, AssociateAC, AssociateRJ, ContextResult, PDataTF
from pacsroute.upper_layer.state_machine import ACTIONS, NEXT, RELEASE_COLLISION

MAXIMUM = 4096
STATES = {f"Sta{number}" for number in range(1, 14)}
REQUEST = pdu.decode(targets.recorded("dcmtk_storescu")[0])
ACCEPT = AssociateAC("ARCHIVE", "CT", (ContextResult(1, 0, uids.IMPLICIT_VR_LITTLE_ENDIAN),))
DATA = pdu.encode(
    PDataTF((PDV(1, True, True, command_set.encode(commands.CEchoRQ(message_id=1))),))
)
RECORDED = targets.everything_recorded()
WHOLE = [
    *RECORDED,
    *map(pdu.encode, (AssociateRJ(1, 1, 1), pdu.ReleaseRQ(), pdu.ReleaseRP(), Abort(0))),
    *[pdu.encode(pdu.ReleaseRQ())] * 4,  # oftener, for the many states of a release
]
PDUS = st.sampled_from(WHOLE)
TOO_LONG = [2 * MAXIMUM + 1, 1 << 20, (1 << 32) - 1]

# What the user is told of (PS3.8 tables 9-6 to 9-9), and the event of each PDU.
INDICATIONS = {"AE-3", "AE-4", "AE-6", "DT-2", "AR-2", "AR-3", "AR-6", "AR-8", "AR-10", "AA-3"}
RECEIVED = {
    AssociateAC: "Evt3",
    AssociateRJ: "Evt4",
    pdu.AssociateRQ: "Evt6",
    PDataTF: "Evt10",
    pdu.ReleaseRQ: "Evt12",
    pdu.ReleaseRP: "Evt13",
    Abort: "Evt16",
}
RUNS = settings(stateful_step_count=50)


@st.composite
def mutated(draw, source=PDUS):
    """Bytes of which some are others, are gone, or come twice."""
    data = bytearray(draw(source))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case 1:
                del data[at : at + draw(st.integers(1, 64))]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case 3:
                data[at : at + 1] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80"]))
    return bytes(data)


def decoded(buffers):
    """Return the PDUs that a connection has to send; they have to be whole, and valid."""
    return [pdu.decode(data) for data in targets.cut(b"".join(map(bytes, buffers)))]


class AnyPeer(RuleBasedStateMachine):
    """One connection, of either role, with a user and a peer that both do as they like."""

    @initialize(role=st.sampled_from(["acceptor", "requestor"]), associated=st.booleans())
    def begin(self, role, associated):
        self.role = role
        self.connection = connection = Connection(
            role, maximum_length=MAXIMUM, maximum_associate_length=2 * MAXIMUM
        )
        self.held = b""  # of the peer's bytes, what has not come yet
        if associated and role == "acceptor":
            connection.receive_data(pdu.encode(REQUEST))
            connection.next_event()
            connection.accept(ACCEPT)
        elif associated:
            connection.associate(REQUEST)
            connection.transport_connected()
            connection.receive_data(pdu.encode(ACCEPT))
            connection.next_event()

    def call(self, event, method, *arguments):
        """Make a call, which does what the table says or is refused and changes nothing."""
        before = self.connection.state
        action = ACTIONS.get((event, before))
        if action is None and not (event == "Evt17" and before == "Sta1"):
            with pytest.raises(AssociationError):
                method(*arguments)
        else:
            method(*arguments)
        expected = NEXT[action] if action else before
        assert self.connection.state == expected

    @rule(event=st.sampled_from(["Evt1", "Evt2", "Evt7", "Evt9", "Evt11", "Evt14"]))
    def user_goes_on(self, event):
        connection = self.connection
        match event:
            case "Evt1":
                self.call(event, connection.associate, REQUEST)
            case "Evt2":
                self.call(event, connection.transport_connected)
            case "Evt7":
                self.call(event, connection.accept, ACCEPT)
            case "Evt9":
                self.call(event, connection.send_data, [DATA])
            case "Evt11":
                self.call(event, connection.release)
            case "Evt14":
                self.call(event, connection.respond_release)

    @rule(event=st.sampled_from(["Evt8", "Evt15", "Evt17", "Evt18"]))
    def user_ends_it(self, event):
        connection = self.connection
        match event:
            case "Evt8":
                self.call(event, connection.reject, AssociateRJ(2, 3, 2))
            case "Evt15":
                self.call(event, connection.abort)
            case "Evt17":
                self.call(event, connection.transport_closed)
            case "Evt18":
                self.call(event, connection.artim_expired)

    @rule(data=st.one_of(PDUS, PDUS, mutated(), st.binary(max_size=64)))
    def peer_sends(self, data):
        self.held += data

    @rule(kind=st.integers(0, 9), length=st.sampled_from([0, 4, *TOO_LONG]))
    def peer_sends_a_header(self, kind, length):
        self.held += pdu.HEADER.pack(kind, length) + bytes(4)

    @precondition(lambda self: self.connection.state != "Sta4")  # nothing is connected then
    @rule(count=st.integers(1, 2000))
    def some_of_it_comes(self, count):
        # As a socket brings it: no more than there is room for.
        room = self.connection.get_buffer()
        piece = self.held[: min(count, len(room))]
        room[: len(piece)] = piece
        self.connection.buffer_updated(len(piece))
        self.held = self.held[len(piece) :]
        self.take()

    @precondition(lambda self: self.connection.state != "Sta4")
    @rule()
    def all_of_it_comes(self):
        data, self.held = self.held, b""
        while data:
            room = self.connection.get_buffer()
            piece, data = data[: len(room)], data[len(room) :]
            room[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
            self.take()

    def take(self):
        """Take the events, each of which the table has to allow."""
        while True:
            before = self.connection.state
            event = self.connection.next_event()
            if before == "Sta1":
                assert event is None, "something was read after the end"
                assert not self.connection.partial
            if event is None:
                return
            after = self.connection.state
            if isinstance(event, Abort) and after == "Sta13":
                assert ("Evt19", before) in ACTIONS  # this side has ended it
                continue
            action = ACTIONS[RECEIVED[type(event)], before]
            assert action in INDICATIONS
            assert after == (RELEASE_COLLISION[self.role] if action == "AR-8" else NEXT[action])

    @invariant()
    def it_is_sound(self):
        if not hasattr(self, "connection"):
            return
        assert self.connection.state in STATES
        for sent in decoded(self.connection.data_to_send()):
            assert not isinstance(sent, AssociateAC) or self.role == "acceptor"
        # A PDU of the longest kind, its header, and the room for the next one's beginning.
        assert 0 < len(self.connection.get_buffer()) <= 2 * MAXIMUM + 6 + 65_536


class TwoInOrder(RuleBasedStateMachine):
    """Two connections that keep to the rules, over a transport that cuts and delays as it likes.

    Neither may ever find an error in what the other does.
    """

    ROLES = ("requestor", "acceptor")

    @initialize(associated=st.booleans())
    def begin(self, associated):
        self.sides = {role: Connection(role, maximum_length=MAXIMUM) for role in self.ROLES}
        self.way = dict.fromkeys(self.ROLES, b"")  # to each of them
        self.sides["requestor"].associate(REQUEST)
        self.sides["requestor"].transport_connected()
        self.collect()
        if associated:
            self.carry("acceptor", 1000)
            self.sides["acceptor"].accept(ACCEPT)
            self.collect()
            self.carry("requestor", 1000)

    def collect(self):
        for role, other in (self.ROLES, self.ROLES[::-1]):
            self.way[other] += b"".join(map(bytes, self.sides[role].data_to_send()))

    @rule(role=st.sampled_from(ROLES), count=st.integers(1, 400))
    def carry(self, role, count):
        side = self.sides[role]
        data, self.way[role] = self.way[role][:count], self.way[role][count:]
        side.receive_data(data)
        while side.next_event() is not None:
            pass
        self.collect()

    @rule(
        role=st.sampled_from(ROLES),
        call=st.sampled_from(
            [
                ("Evt7", lambda side: side.accept(ACCEPT)),
                ("Evt8", lambda side: side.reject(AssociateRJ(1, 1, 1))),
                ("Evt9", lambda side: side.send_data([DATA])),
                ("Evt11", lambda side: side.release()),
                ("Evt14", lambda side: side.respond_release()),
            ]
        ),
    )
    def user(self, role, call):
        event, method = call
        if (event, self.sides[role].state) in ACTIONS:
            method(self.sides[role])
        self.collect()

    @rule(role=st.sampled_from(ROLES))
    def abort(self, role):
        if ("Evt15", self.sides[role].state) in ACTIONS:
            self.sides[role].abort()
        self.collect()

    @invariant()
    def nobody_finds_an_error(self):
        assert not any(side.error for side in getattr(self, "sides", {}).values())

    def teardown(self):
        if not hasattr(self, "sides"):
            return
        for _ in range(8):  # whatever is on its way arrives
            for role in self.ROLES:
                self.carry(role, 1 << 20)
        states = {role: side.state for role, side in self.sides.items()}
        # Nobody is left waiting for the other: either both talk, or it is somebody's turn.
        waiting = {"Sta5", "Sta7", "Sta10", "Sta11"}
        assert not set(states.values()) <= waiting, states


class Sink(bytearray):
    closed = False

    def write(self, data):
        self.extend(data)

    def close(self):
        self.closed = True


class AnyFragments(RuleBasedStateMachine):
    """An assembler, with fragments of good messages and of bad ones."""

    @initialize(limit=st.sampled_from([200, 65_536]))
    def begin(self, limit):
        self.limit = limit
        self.sinks = []
        self.assembler = Assembler(self.open_sink, limit)
        self.coming = []  # PDVs of the message that is under way
        self.expected = None

    def open_sink(self, context_id, command):
        self.sinks.append(Sink())
        return self.sinks[-1]

    @precondition(lambda self: not self.coming)
    @rule(
        context_id=st.sampled_from([1, 3]),
        message_id=st.integers(0, 65_535),
        data=st.none() | st.binary(min_size=1, max_size=300),
        cuts=st.lists(st.integers(0, 300), max_size=4),
    )
    def a_message_begins(self, context_id, message_id, data, cuts):
        command = commands.CStoreRQ(message_id=message_id, has_data_set=data is not None)
        self.expected = context_id, message_id, data
        parts = [(True, command_set.encode(command))] + ([] if data is None else [(False, data)])
        for is_command, whole in parts:
            edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
            pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
            for number, piece in enumerate(pieces):
                last = number == len(pieces) - 1
                self.coming.append(PDV(context_id, is_command, last, piece))

    @precondition(lambda self: self.coming)
    @rule()
    def a_fragment_comes(self):
        done = self.assembler.add(self.coming.pop(0))
        if self.coming:
            assert done == []
        else:
            (message,) = done
            command, data = message.command, message.data
            assert (
                message.context_id,
                command.message_id,
                None if data is None else bytes(data),
            ) == self.expected
        assert self.assembler.partial is bool(self.coming)

    @rule(
        context_id=st.sampled_from([1, 3, 5]),
        is_command=st.booleans(),
        is_last=st.booleans(),
        data=st.one_of(
            st.binary(max_size=400),
            mutated(st.sampled_from(targets.seeds("command_sets"))),
        ),
    )
    def something_wrong_comes(self, context_id, is_command, is_last, data):
        try:
            self.assembler.add(PDV(context_id, is_command, is_last, data))
        except ProtocolError:
            pass
        self.end()

    @rule()
    def end(self):
        self.assembler.close()
        with pytest.raises(ProtocolError):
            self.assembler.add(PDV(1, False, True, b"ab"))
        self.begin(self.limit)


TestAnyPeer = AnyPeer.TestCase
TestTwoInOrder = TwoInOrder.TestCase
TestAnyFragments = AnyFragments.TestCase
TestAnyPeer.settings = TestTwoInOrder.settings = TestAnyFragments.settings = RUNS


# --------------------------------------------------------- recordings, whole and mutated


@pytest.fixture
def watched():
    """Have each record of the log looked at."""
    logger = logging.getLogger("pacsroute")
    before = logger.level
    logger.addHandler(targets.LOGGED)
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(before)
    logger.removeHandler(targets.LOGGED)
    assert not targets.LOGGED.wrong


CONVERSATIONS = list(targets.conversations())


@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
def test_a_conversation_is_served_to_its_end(number, watched):
    targets.associations(CONVERSATIONS[number])


@pytest.mark.usefixtures("watched")
def test_mutated_conversations_end_in_good_order():
    @given(mutated(st.sampled_from(CONVERSATIONS)))
    def check(data):
        targets.associations(data)

    check()


@pytest.mark.usefixtures("watched")
def test_a_conversation_may_end_anywhere():
    chance = random.Random(1)
    for stream in CONVERSATIONS:
        for _ in range(20):
            targets.associations(stream[: chance.randrange(len(stream))])


@pytest.mark.parametrize("name", sorted(targets.TARGETS.keys() - {"associations"}))
def test_mutated_seeds(name):
    @given(mutated(st.sampled_from(targets.seeds(name))))
    def check(data):
        targets.TARGETS[name](data)

    check()
