"""The inbox alone: messages that have come, cancelled requests, and threads that wait."""

import threading
from queue import SimpleQueue

import pytest
from support.names import WAIT
from support.unharmed import until

from pacsroute import uids
from pacsroute.dimse import commands, messages
from pacsroute.errors import ProtocolError
from pacsroute.net.inbox import Inbox
from pacsroute.services.sinks import Memory
from pacsroute.upper_layer import pdu


def data(command, content=None, context_id=1):
    """Return what a peer sends for a message, each PDU as the upper layer has it."""
    sent = b"".join(messages.fragment(context_id, command, content, 16_384))
    found = []
    while sent:
        length = 6 + int.from_bytes(sent[2:6], "big")
        found.append(pdu.decode(sent[:length]))
        sent = sent[length:]
    return found


def echo(message_id):
    return commands.CEchoRQ(message_id=message_id, affected_sop_class=uids.VERIFICATION)


def echo_response(message_id):
    return commands.CEchoRSP(
        message_id_responded_to=message_id, affected_sop_class=uids.VERIFICATION, status=0
    )


def add(inbox, command, content=None):
    return [inbox.add(one, {1}) for one in data(command, content)]


@pytest.fixture
def inbox():
    return Inbox(lambda context_id, command: Memory(1000))


def test_messages_come_out_in_the_order_they_came_in(inbox):
    for number in (1, 2):
        assert add(inbox, echo(number)) == [True]
    assert [inbox.next().command.message_id for _ in range(2)] == [1, 2]
    assert not inbox.waiting


def test_a_message_is_partial_until_its_data_set_has_come(inbox):
    find = commands.CFindRQ(message_id=1, affected_sop_class="1.2.3")
    command, identifier = data(find, b"12")
    assert not inbox.add(command, {1})
    assert inbox.partial == 0
    assert not inbox.waiting
    assert inbox.add(identifier, {1})
    assert inbox.partial is None
    assert bytes(inbox.next().data) == b"12"


def test_a_response_is_found_behind_other_messages(inbox):
    for command in (echo(1), echo_response(8), echo_response(9)):
        add(inbox, command)
    assert inbox.response(7) is None
    assert inbox.response(9).command.message_id_responded_to == 9
    assert inbox.next_request().command.message_id == 1
    assert inbox.next_request() is None
    assert inbox.next().command.message_id_responded_to == 8


def test_a_cancel_is_noted_and_not_queued(inbox):
    add(inbox, commands.CCancelRQ(message_id_responded_to=5))
    assert not inbox.waiting
    assert inbox.is_cancelled(5)
    assert not inbox.is_cancelled(6)


def test_a_late_cancel_does_not_cancel_the_next_request_of_its_id(inbox):
    add(inbox, commands.CCancelRQ(message_id_responded_to=5))
    add(inbox, echo(5))
    assert not inbox.is_cancelled(5)


def test_a_context_that_was_not_accepted_is_an_error(inbox):
    with pytest.raises(ProtocolError, match="context 3"):
        inbox.add(data(echo(1), context_id=3)[0], {1})


def test_waiting_messages_are_bounded(inbox):
    for number in range(65):
        add(inbox, echo(number))
    with pytest.raises(ProtocolError, match="too many messages"):
        add(inbox, echo(65))


def test_the_memory_of_waiting_messages_is_bounded():
    inbox = Inbox(lambda context_id, command: Memory(10_000_000))
    find = commands.CFindRQ(message_id=1, affected_sop_class="1.2.3")
    for _ in range(2):
        add(inbox, find, bytes(1_000_000))
    assert inbox.next().size == 1_000_000
    add(inbox, find, bytes(40_000))
    with pytest.raises(ProtocolError, match="too much data"):
        add(inbox, find, bytes(1_100_000))


def test_a_response_without_end_is_refused():
    inbox = Inbox(lambda context_id, command: Memory(1000), max_response_length=1000)
    command, *_ = data(echo_response(1), b"12")
    inbox.add(command, {1})
    piece = pdu.PDataTF((pdu.PDV(1, False, False, bytes(500)),))
    for _ in range(4):
        assert not inbox.add(piece, {1})
    assert inbox.partial == 0  # its bytes give it no more time
    with pytest.raises(ProtocolError, match="a response of more than 2000 bytes"):
        inbox.add(piece, {1})


def test_one_waiting_message_may_have_any_length():
    inbox = Inbox(lambda context_id, command: Memory(10_000_000))
    add(inbox, commands.CFindRQ(message_id=1, affected_sop_class="1.2.3"), bytes(9_000_000))
    add(inbox, echo(2))
    assert inbox.next().size == 9_000_000


def test_another_thread_gets_its_response(inbox):
    inbox.window = 2
    inbox.read_here()
    found = SimpleQueue()

    def wait():
        assert not inbox.is_read_here
        found.put(inbox.wait_for_response(9, WAIT))

    threading.Thread(target=wait, daemon=True).start()
    assert inbox.is_read_here
    add(inbox, echo_response(8))
    add(inbox, echo_response(9))
    assert found.get(timeout=WAIT).command.message_id_responded_to == 9
    assert inbox.next().command.message_id_responded_to == 8


def test_a_response_that_came_before_it_is_waited_for(inbox):
    add(inbox, echo_response(9))
    assert inbox.wait_for_response(9, WAIT) is not None
    assert inbox.wait_for_response(9, 0.001) is None


def test_the_end_wakes_threads_that_wait(inbox):
    found = SimpleQueue()
    thread = threading.Thread(
        target=lambda: found.put(inbox.wait_for_response(9, WAIT)), daemon=True
    )
    thread.start()
    assert until(lambda: inbox._sleepers)
    inbox.wake()
    assert found.get(timeout=WAIT) is None


def test_a_data_set_that_is_not_whole_is_dropped_at_the_end():
    closed = []

    class Sink(Memory):
        def close(self):
            closed.append(bytes(self))

    inbox = Inbox(lambda context_id, command: Sink(1000))
    find = commands.CFindRQ(message_id=1, affected_sop_class="1.2.3")
    inbox.add(data(find, b"12")[0], {1})
    inbox.add(pdu.PDataTF((pdu.PDV(1, False, False, b"34"),)), {1})
    inbox.close()
    assert closed == [b"34"]
