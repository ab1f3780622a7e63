"""Where the data sets of messages go while they come, and what of them is too much."""

import gc

from pacsroute.memory import PROCESS
from pacsroute.services.sinks import Memory

MIB = 1_048_576


def test_a_data_set_is_kept_as_it_came():
    sink = Memory(10)
    assert not sink
    for piece in (b"1234", b"56"):
        sink.write(memoryview(piece))
    assert (bytes(sink), sink.in_memory, sink.cut) == (b"123456", 6, "")


def test_a_data_set_beyond_its_limit_is_dropped():
    sink = Memory(10, "max_identifier_length")
    for _ in range(3):
        sink.write(memoryview(b"123456"))
    assert (bytes(sink), sink.in_memory) == (b"", 0)
    assert sink.cut == "longer than max_identifier_length, 10 bytes"
    assert sink  # it is not the same as none


def test_all_data_sets_together_draw_on_the_memory_of_the_process():
    before = PROCESS.held
    most = before + 3 * MIB
    sinks = [Memory(10 * MIB, most=most) for _ in range(4)]
    for sink in sinks:
        sink.write(memoryview(bytes(MIB)))
    assert [len(sink) for sink in sinks] == [MIB, MIB, MIB, 0]
    assert sinks[3].cut.startswith("max_memory reached")
    assert before < PROCESS.held <= most
    sinks.pop(0)
    late = Memory(10 * MIB, most=most)
    late.write(memoryview(bytes(MIB)))
    assert not late.cut
    del sinks, sink, late
    gc.collect()
    assert PROCESS.held <= before
