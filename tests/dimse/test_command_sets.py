"""Command sets: each message type there and back, and nothing raises but ProtocolError."""

from __future__ import annotations

import struct
import unittest.mock
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsroute.dimse import command_set, commands
from pacsroute.dimse.command_set import decode, encode
from pacsroute.dimse.commands import (
    TYPES,
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    CFindRQ,
    CGetRQ,
    CGetRSP,
    CMoveRQ,
    CStoreRQ,
    CStoreRSP,
    NGetRQ,
    UnknownRQ,
    UnknownRSP,
)
from pacsroute.errors import ProtocolError
from pacsroute.framework.requests import Request

number = st.integers(0, 0xFFFF)
uid = st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,6}){0,8}", fullmatch=True)
text = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=16)
tags = st.lists(st.integers(0, 0xFFFF_FFFF), max_size=5).map(tuple)

VALUES = {
    "affected_sop_class": uid,
    "requested_sop_class": uid,
    "affected_sop_instance": uid,
    "requested_sop_instance": uid,
    "move_destination": text,
    "move_originator_ae": text,
    "error_comment": text,
    "offending_element": tags,
    "attribute_identifiers": tags,
    "has_data_set": st.booleans(),
}
OPTIONAL = st.none()

# PS3.7 table E.1-1.
COMMAND_FIELDS = {
    "CStoreRQ": 0x0001,
    "CStoreRSP": 0x8001,
    "CGetRQ": 0x0010,
    "CGetRSP": 0x8010,
    "CFindRQ": 0x0020,
    "CFindRSP": 0x8020,
    "CMoveRQ": 0x0021,
    "CMoveRSP": 0x8021,
    "CEchoRQ": 0x0030,
    "CEchoRSP": 0x8030,
    "NEventReportRQ": 0x0100,
    "NEventReportRSP": 0x8100,
    "NGetRQ": 0x0110,
    "NGetRSP": 0x8110,
    "NSetRQ": 0x0120,
    "NSetRSP": 0x8120,
    "NActionRQ": 0x0130,
    "NActionRSP": 0x8130,
    "NCreateRQ": 0x0140,
    "NCreateRSP": 0x8140,
    "NDeleteRQ": 0x0150,
    "NDeleteRSP": 0x8150,
    "CCancelRQ": 0x0FFF,
}


def command_of(kind):
    values = {}
    for field in fields(kind):
        if field.name == "received_field" or not field.init:
            continue
        strategy = VALUES.get(field.name, number)
        values[field.name] = OPTIONAL | strategy if field.default is None else strategy
    return st.builds(kind, **values)


every_command = st.sampled_from(list(TYPES.values())).flatmap(command_of)


def element(number, value=b"", group=0):
    return struct.pack("<HHI", group, number, len(value)) + value


def us(value):
    return struct.pack("<H", value)


def elements(data):
    position, found = 0, {}
    while position < len(data):
        group, number, length = struct.unpack_from("<HHI", data, position)
        assert group == 0
        assert number not in found
        found[number] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return found


def read(data):
    try:
        return decode(data)
    except ProtocolError:
        return None


def test_the_message_types_are_the_standards():
    assert {kind.__name__: field for field, kind in TYPES.items()} == COMMAND_FIELDS


@pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: kind.__name__)
@given(st.data())
def test_every_message_type_round_trips(kind, draw):
    command = draw.draw(command_of(kind))
    data = encode(command)
    found = elements(data)

    assert decode(data) == command
    assert type(decode(bytearray(data))) is kind
    assert list(found) == sorted(found)
    assert found[0x0000] == struct.pack("<I", len(data) - 12)
    assert found[0x0100] == us(kind.command_field)
    assert (found[0x0800] == us(0x0101)) == (not command.has_data_set)
    assert all(len(value) % 2 == 0 for value in found.values())


@pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: kind.__name__)
def test_every_message_type_round_trips_without_optional_elements(kind):
    assert decode(encode(kind())) == kind()


def test_bytes_of_encoded_command_sets():
    data = encode(CEchoRQ(message_id=7, affected_sop_class="1.2.840.10008.1.1"))
    assert data == (
        element(0x0000, struct.pack("<I", 56))
        + element(0x0002, b"1.2.840.10008.1.1\0")
        + element(0x0100, us(0x0030))
        + element(0x0110, us(7))
        + element(0x0800, us(0x0101))
    )


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("status", 0x0900),
        ("offending_element", 0x0901),
        ("error_comment", 0x0902),
        ("error_id", 0x0903),
        ("message_id_responded_to", 0x0120),
        ("affected_sop_instance", 0x1000),
    ],
)
def test_elements_of_a_response(name, number):
    value = {"offending_element": (0x00100020, 0x7FE00010), "error_comment": "no"}.get(name, 5)
    value = "1.2" if name == "affected_sop_instance" else value
    found = elements(encode(CStoreRSP(**{name: value})))
    expected = {
        0x0901: bytes.fromhex("10002000e07f1000"),
        0x0902: b"no",
        0x1000: b"1.2\0",
    }
    assert found[number] == expected.get(number, us(5))


@given(every_command, st.lists(st.tuples(st.integers(0x2000, 0xFFFF), st.binary(max_size=20))))
def test_unknown_elements_and_the_group_length_are_ignored(command, more):
    data = encode(command)
    added = b"".join(element(number, value) for number, value in more)

    assert decode(data + added) == command
    assert decode(added + data[12:]) == command
    assert decode(element(0, b"\xff\xff\xff\xff") + data[12:]) == command
    assert decode(element(0, b"") + data[12:]) == command


def test_elements_of_other_groups_are_ignored():
    """Orthanc adds the list of failed instances to a C-GET-RSP, with its group length."""
    failed = element(0x0058, b"1.2.826.0.1\0", group=8)
    more = element(0, struct.pack("<I", len(failed)), group=8) + failed
    response = CGetRSP(message_id_responded_to=1, status=0xC000, completed=7, failed=1, warning=0)
    assert decode(encode(response) + more) == response
    assert decode(encode(CEchoRQ(message_id=1)) + more) == CEchoRQ(message_id=1)
    with pytest.raises(ProtocolError, match="cut short"):
        decode(encode(response) + more[:-1])


def test_elements_that_a_message_does_not_have_are_ignored():
    data = encode(CEchoRQ(message_id=1)) + element(0x0700, us(1)) + element(0x1000, b"1.2")
    assert decode(data) == CEchoRQ(message_id=1)


@pytest.mark.parametrize("kind", [CStoreRQ, CFindRQ, CGetRQ, CMoveRQ])
def test_a_missing_priority_is_medium(kind):
    found = elements(encode(kind(message_id=1, priority=commands.HIGH)))
    assert found.pop(0x0700) == us(1)
    data = b"".join(element(number, value) for number, value in found.items())
    assert decode(data).priority == commands.MEDIUM


@pytest.mark.parametrize("padding", ["", "\0", "\0\0"])
def test_uids_lose_the_nuls_at_their_end(padding):
    data = element(0x0002, b"1.2.3" + padding.encode()) + element(0x0100, us(0x0030))
    assert decode(data).affected_sop_class == "1.2.3"


@given(uid)
def test_uids_are_padded_to_an_even_length(value):
    found = elements(encode(CEchoRQ(affected_sop_class=value)))[0x0002]
    assert found in (value.encode(), value.encode() + b"\0")


def test_a_response_gives_back_the_peers_own_uid():
    request = decode(element(0x0002, b" 1.02 ") + element(0x0100, us(0x0030)))
    response = CEchoRSP(affected_sop_class=request.affected_sop_class)
    assert elements(encode(response))[0x0002] == b" 1.02 "


@pytest.mark.parametrize("value", [b"STORE", b"STORE ", b" STORE\0", b"STORE           "])
def test_ae_titles_are_trimmed(value):
    data = element(0x0100, us(0x0021)) + element(0x0600, value)
    assert decode(data).move_destination == "STORE"


@pytest.mark.parametrize(
    ("value", "follows"), [(0x0101, False), (0x0000, True), (0x0001, True), (0x0102, True)]
)
def test_a_data_set_follows_unless_the_type_is_0101(value, follows):
    data = element(0x0100, us(0x0001)) + element(0x0800, us(value))
    assert decode(data).has_data_set is follows


@given(st.integers(0, 0xFFFF).filter(lambda field: field not in TYPES), number)
def test_unknown_command_field_is_an_error(field, message_id):
    data = element(0x0100, us(field)) + element(0x0110, us(message_id))
    command = decode(data)

    assert type(command) is (UnknownRSP if field & 0x8000 else UnknownRQ)
    assert command.received_field == field
    if field < 0x8000:
        assert command.message_id == message_id
    assert decode(encode(command)) == command


@pytest.mark.parametrize(
    "command",
    [
        CEchoRQ(message_id=65_536),
        CEchoRQ(message_id=-1),
        CEchoRQ(affected_sop_class="Ω"),
        NGetRQ(attribute_identifiers=(-1,)),
        NGetRQ(attribute_identifiers=(1 << 32,)),
    ],
)
def test_value_that_does_not_fit_is_a_value_error(command):
    with pytest.raises(ValueError):
        encode(command)


# ------------------------------------------------------------- what is not to be trusted


@pytest.mark.parametrize(
    "data",
    [
        b"",
        element(0x0002, b"1.2"),  # no Command Field
        element(0x0100, b"\x30"),
        element(0x0020, b"x", group=0x0010),
        encode(CEchoRQ(message_id=1))[:-1],
        struct.pack("<HHI", 0, 0x0100, 0xFFFF_FFFF) + us(0x0030),
    ],
    ids=["nothing", "no field", "short field", "group 0010", "cut", "undefined length"],
)
def test_bytes_that_are_not_a_command_set(data):
    with pytest.raises(ProtocolError):
        decode(data)


@given(st.binary(max_size=200))
def test_decoding_any_bytes_raises_protocol_errors_only(data):
    read(data)


@given(
    st.sampled_from([*TYPES, 0x0BAD, 0x8BAD]),
    st.dictionaries(
        st.sampled_from(
            [number for number, _ in command_set._ELEMENTS.values() if number != 0x0100]
        ),
        st.binary(max_size=9),
    ),
)
def test_commands_of_any_values_round_trip(field, values):
    data = element(0x0100, us(field)) + b"".join(element(*value) for value in values.items())
    command = decode(data)
    assert decode(encode(command)) is not None


@given(every_command, st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=6))
def test_a_command_set_with_other_bytes_in_it(command, changes):
    data = bytearray(encode(command))
    for position, value in changes:
        data[position % len(data)] = value
    read(data)


@given(every_command, st.data())
def test_a_command_set_cut_short(command, draw):
    data = encode(command)
    read(data[: draw.draw(st.integers(0, len(data)))])


# The beginning of a Message ID, a SOP Instance UID and a number, also as part of another value.
marks = st.sampled_from(
    [
        b"\0\0\x10\1\2\0\0\0",
        b"\0\0\x20\1\2\0\0\0",
        b"\0\0\0\x10\4\0\0\0",
        b"\0\0\x20\x10\2\0\0\0",
    ]
)
anything = st.lists(st.binary(max_size=9) | marks, max_size=4).map(b"".join)


@given(
    st.sampled_from(list(TYPES)),
    st.lists(
        st.tuples(
            st.sampled_from([0, 2, 0x110, 0x120, 0x800, 0x900, 0x1000, 0x1020, 0x9999]), anything
        ),
        max_size=6,
    ),
    anything,
    st.integers(0, 400),
)
def test_what_is_remembered_of_messages_changes_nothing(field, values, behind, length):
    data = (element(0x0100, us(field)) + b"".join(element(*one) for one in values) + behind)[
        :length
    ]

    def decoded():
        try:
            return decode(data)
        except ProtocolError:
            return None

    with unittest.mock.patch.object(command_set, "_repeated", return_value=None):
        plain = decoded()
    assert decoded() == decoded() == plain


def test_a_repeated_element_has_its_last_value():
    data = element(0x0100, b"\1") + element(0x0110, us(7)) + element(0x1000, b"1.5\0")
    assert decode(data + element(0x0100, us(0x0001))) == CStoreRQ(
        has_data_set=False, message_id=7, affected_sop_instance="1.5"
    )


def test_a_cancel_names_the_request_it_is_about():
    found = elements(encode(CCancelRQ(message_id_responded_to=9)))
    assert found[0x0120] == us(9)
    assert 0x0110 not in found


def test_an_id_inside_a_uid_is_not_taken_for_the_message_id():
    inside = struct.pack("<HHIH", 0, 0x0110, 2, 9)
    data = encode(CEchoRQ(message_id=3, affected_sop_class=inside.decode("latin-1")))
    assert decode(data).message_id == 3


def test_a_message_id_that_is_cut_short_is_no_message_id():
    data = encode(CEchoRQ(message_id=3, affected_sop_class="1.2"))
    at = data.index(struct.pack("<HHI", 0, 0x0110, 2))
    element_after = data[at + 10 :]
    last = data[:at] + element_after + data[at : at + 10]
    assert decode(last).message_id == 3
    for missing in (1, 2):
        with pytest.raises(ProtocolError):
            decode(last[:-missing])


def test_elements_that_only_look_like_the_message_id_are_not_taken_for_it():
    """An unknown element may hold what looks like both gaps; what follows is what counts."""
    inside = struct.pack("<HHIH", 0, 0x0110, 2, 9) + struct.pack("<HHI2s", 0, 0x1000, 2, b"9\0")
    body = encode(CStoreRQ(message_id=3, affected_sop_class="1.2", affected_sop_instance="1.5"))[
        12:
    ]
    data = encode(CEchoRQ(message_id=1))[:12]
    data += struct.pack("<HHI", 0, 0x0004, len(inside)) + inside + body
    command = decode(data)
    assert (command.message_id, command.affected_sop_instance) == (3, "1.5")


@pytest.mark.parametrize("value", [b"\7", b"\7\0\0\0"])
def test_a_message_id_of_an_odd_length_is_not_that_of_another_element(value):
    body = element(0x0002, b"1.2 ") + element(0x0100, us(0x0001)) + element(0x0110, value)
    body += element(0x0120, us(9)) + element(0x1000, b"1.5\0")
    assert decode(element(0x0000, struct.pack("<I", len(body))) + body).message_id == 7


@pytest.mark.parametrize("status", [b"", element(0x0900), element(0x0900, b"\0")])
def test_a_response_without_a_status_is_no_success(status):
    for kind in (CStoreRSP, CEchoRSP):
        body = element(0x0100, us(kind.command_field)) + element(0x0120, us(9)) + status
        assert decode(element(0x0000, struct.pack("<I", len(body))) + body).status == 0x0110
        assert decode(encode(kind(message_id_responded_to=9))).status == 0


def test_a_command_says_what_it_and_its_route_are_called():
    assert commands.NAMES["n_event_report"] == "N-EVENT-REPORT"
    for kind in commands.TYPES.values():
        full = commands.full_name(kind())
        assert full.replace("-", "").casefold() == kind.__name__.casefold()
        assert full.startswith(f"{kind.name}-")
    routes = {kind.route for kind in commands.TYPES.values()} - {""}
    assert routes == {kind.command for kind in every(Request)} - {""}


def every(kind):
    return {kind}.union(*map(every, kind.__subclasses__()))
