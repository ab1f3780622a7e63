"""PDUs: what is written is read again, and nothing that comes raises but ProtocolError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pacsroute.errors import ProtocolError
from pacsroute.upper_layer import pdu as pdus
from pacsroute.upper_layer.pdu import (
    MAXIMUM_PDVS,
    PDV,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    CommonExtendedNegotiation,
    ContextResult,
    ExtendedNegotiation,
    PDataTF,
    PresentationContext,
    ReleaseRP,
    ReleaseRQ,
    RoleSelection,
    UserIdentity,
    UserInformation,
    decode,
    encode,
)

byte = st.integers(0, 255)
short = st.integers(0, 0xFFFF)
uid = st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,6}){1,8}", fullmatch=True)
title = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"),
    min_size=1,
    max_size=16,
).filter(lambda text: text == text.strip())
blob = st.binary(max_size=80)


def tuples(values, max_size=4):
    return st.lists(values, max_size=max_size).map(tuple)


roles = st.builds(RoleSelection, uid, st.booleans(), st.booleans())
extended = st.builds(ExtendedNegotiation, uid, blob)
common = st.builds(CommonExtendedNegotiation, uid, uid, tuples(uid))
identity = st.builds(UserIdentity, st.integers(1, 5), st.booleans(), blob, blob)
information = st.builds(
    UserInformation,
    st.none() | st.integers(0, 0xFFFF_FFFF),
    st.just("") | uid,
    st.just("") | title,
    st.none() | st.tuples(short, short),
    tuples(roles),
    tuples(extended),
    tuples(common),
    st.none() | identity,
    st.none() | blob,
)
contexts = st.lists(
    st.builds(PresentationContext, byte, uid, tuples(uid)), max_size=6, unique_by=lambda c: c.id
).map(tuple)
requests = st.builds(AssociateRQ, title, title, contexts, information, uid, short)
accepts = st.builds(
    AssociateAC,
    title,
    title,
    tuples(st.builds(ContextResult, byte, byte, uid)),
    information,
    uid,
    short,
)
pdvs = st.builds(PDV, byte, st.booleans(), st.booleans(), blob)
data = st.builds(PDataTF, st.lists(pdvs, min_size=1, max_size=4).map(tuple))
every_pdu = st.one_of(
    requests,
    accepts,
    st.builds(AssociateRJ, byte, byte, byte),
    data,
    st.just(ReleaseRQ()),
    st.just(ReleaseRP()),
    st.builds(Abort, byte, byte),
)


def with_length(data):
    """The PDU with the length that its header should have."""
    return data[:2] + struct.pack(">I", len(data) - 6) + data[6:]


def item(number, body=b""):
    return struct.pack(">BxH", number, len(body)) + body


def read(data):
    """Decode what may be anything: a PDU, or None if it is not one."""
    try:
        return decode(data)
    except ProtocolError as error:
        reason = error.reason
    assert reason in (pdus.UNRECOGNIZED_PDU, pdus.INVALID_PARAMETER)
    return None


# ---------------------------------------------------------------------- there and back


@given(every_pdu)
@example(AssociateRQ("A", "B"))
@example(AssociateAC("A", "B"))
def test_pdu_round_trips(pdu):
    written = encode(pdu)

    assert decode(written) == pdu
    assert len(written) == 6 + int.from_bytes(written[2:6], "big")


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("wanted", [False, True])
def test_user_identity_of_every_type(kind, wanted):
    secondary = b"secret" if kind == 2 else b""
    identity = UserIdentity(kind, wanted, b"someone", secondary)
    request = AssociateRQ("A", "B", user_information=UserInformation(user_identity=identity))

    assert decode(encode(request)).user_information.user_identity == identity
    assert "secret" not in repr(request)
    assert "someone" not in repr(request)


@pytest.mark.parametrize(
    ("pdu", "expected"),
    [
        (AssociateRJ(1, 2, 3), "03000000000400010203"),
        (ReleaseRQ(), "05000000000400000000"),
        (ReleaseRP(), "06000000000400000000"),
        (Abort(2, 5), "07000000000400000205"),
        (PDataTF((PDV(3, True, True, b"AB"),)), "0400000000080000000403034142"),
        (PDataTF((PDV(3, False, True, b""),)), "040000000006000000020302"),
        (PDataTF((PDV(3, True, False, b""),)), "040000000006000000020301"),
    ],
)
def test_bytes_of_encoded_pdus(pdu, expected):
    assert encode(pdu).hex() == expected
    assert decode(bytes.fromhex(expected)) == pdu


def test_bytes_of_an_encoded_association_request():
    user = UserInformation(16_384, "1.2", "V", (1, 2), (RoleSelection("1.3", True, False),))
    request = AssociateRQ(
        "CALLED", "CALLING", (PresentationContext(1, "1.2.3", ("1.4", "1.5")),), user, "1.9"
    )

    body = (
        b"\0\1\0\0CALLED          CALLING         "
        + bytes(32)
        + item(0x10, b"1.9")
        + item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.3") + item(0x40, b"1.4") + item(0x40, b"1.5"))
        + item(
            0x50,
            item(0x51, b"\0\0\x40\0")
            + item(0x52, b"1.2")
            + item(0x53, b"\0\1\0\2")
            + item(0x54, b"\0\x031.3\1\0")
            + item(0x55, b"V"),
        )
    )
    assert encode(request) == with_length(b"\1\0\0\0\0\0" + body)


@given(requests)
def test_the_accept_repeats_the_titles_of_the_request(request):
    data = bytearray(encode(request))
    data[42:74] = bytes(range(32))  # reserved, and not tested
    received = decode(bytes(data))
    answer = encode(AssociateAC("X", "Y", titles=received.titles))

    assert received == request
    assert answer[10:74] == data[10:74]


@given(data)
def test_fragments_are_views_of_the_decoded_bytes(pdu):
    buffer = bytearray(encode(pdu))
    for pdv in decode(memoryview(buffer)).pdvs:
        assert isinstance(pdv.fragment, memoryview)
        assert pdv.fragment.obj is buffer


# ------------------------------------------------------------------- what peers do too


@given(st.sampled_from([AssociateRQ, AssociateAC]), st.data())
def test_unknown_items_are_skipped(kind, draw):
    user = UserInformation(100, "1.2", roles=(RoleSelection("1.3", True, True),))
    context = (
        PresentationContext(1, "1.2.3", ("1.4",))
        if kind is AssociateRQ
        else ContextResult(1, 0, "1.4")
    )
    pdu = kind("A", "B", (context,), user)
    own = encode(pdu)
    unknown = st.integers(0x60, 0xFF) | st.integers(0, 0x0F)
    outside = item(draw.draw(unknown), draw.draw(blob))
    user_item = item(0x50, own[own.index(b"\x50\0", 74) + 4 :] + outside)
    start = own.index(b"\x50\0", 74)

    assert decode(with_length(own[:74] + outside + own[74:])) == pdu
    assert decode(with_length(own + outside)) == pdu
    assert decode(with_length(own[:start] + user_item)) == pdu


def test_reserved_bytes_are_not_tested():
    assert decode(bytes.fromhex("05ff00000004ffffffff")) == ReleaseRQ()
    assert decode(bytes.fromhex("06ff00000004ffffffff")) == ReleaseRP()
    assert decode(bytes.fromhex("07ff00000004ffff0206")) == Abort(2, 6)
    assert decode(bytes.fromhex("03ff00000004ff010203")) == AssociateRJ(1, 2, 3)
    assert decode(bytes.fromhex("04ff000000060000000203ff")).pdvs[0][:3] == (3, True, True)


def test_uids_and_titles_are_trimmed():
    data = (
        b"\0\1\0\0"
        + b"  CALLED".ljust(16, b"\0")
        + b"CALLING\0".ljust(16)
        + bytes(32)
        + item(0x10, b"1.9\0")
        + item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.3 ") + item(0x40, b"1.4\0"))
    )
    request = decode(with_length(b"\1\0\0\0\0\0" + data))

    assert (request.called_ae, request.calling_ae) == ("CALLED", "CALLING")
    assert request.application_context == "1.9"
    assert request.contexts == (PresentationContext(1, "1.2.3", ("1.4",)),)
    assert request.user_information == UserInformation()


def test_a_title_ends_at_a_nul():
    titles = b"CT \0OLD TITLE".ljust(16, b"\xcd") + b"\0MR1\0MODALITY"[:16].ljust(16)
    data = b"\0\1\0\0" + titles + bytes(32) + item(0x10, b"1.9")
    request = decode(with_length(b"\1\0\0\0\0\0" + data))

    assert (request.called_ae, request.calling_ae) == ("CT", "MR1")


def test_a_rejected_context_may_come_without_transfer_syntax():
    accept = encode(AssociateAC("A", "B"))
    accept += item(0x21, bytes((3, 0, 3, 0)))

    assert decode(with_length(accept)).contexts == (ContextResult(3, 3, ""),)


def test_user_identity_may_come_without_its_secondary_field():
    request = encode(AssociateRQ("A", "B"))[:-4]
    request += item(0x50, item(0x58, b"\1\0\0\2me"))

    user = decode(with_length(request)).user_information
    assert user.user_identity == UserIdentity(1, False, b"me")


def test_the_pdvs_of_a_pdu_are_bounded():
    one = PDV(1, False, False, b"12")
    assert len(decode(encode(PDataTF((one,) * MAXIMUM_PDVS))).pdvs) == MAXIMUM_PDVS
    with pytest.raises(ProtocolError, match="more than 1024 PDVs in one PDU"):
        decode(encode(PDataTF((one,) * (MAXIMUM_PDVS + 1))))


MANY = {
    "transfer syntaxes": item(0x20, b"\1\0\0\0" + item(0x40) * 9000),
    "extended negotiation": item(0x50, item(0x56, b"\0\0") * 9000),
    "related classes": item(0x50, item(0x57, struct.pack(">HHH", 0, 0, 18_000) + bytes(18_000))),
    "items that are not known": item(0x99) * 9000,
}


@pytest.mark.parametrize("kind", MANY)
def test_the_items_of_a_request_are_bounded(kind):
    request = encode(AssociateRQ("A", "B"))
    decode(with_length(request + MANY[kind]))
    with pytest.raises(ProtocolError, match="more than 16384 items in one PDU"):
        decode(with_length(request + 2 * MANY[kind]))


def test_a_context_id_that_comes_twice_is_read_twice():
    contexts = PresentationContext(1, "1.2", ("1.3",)), PresentationContext(1, "1.4", ("1.3",))
    assert decode(encode(AssociateRQ("A", "B", contexts))).contexts == contexts


# ------------------------------------------------------------- what cannot be written


@pytest.mark.parametrize(
    "pdu",
    [
        AssociateRQ("", "B"),
        AssociateRQ(" ", "B"),
        AssociateRQ("A" * 17, "B"),
        AssociateRQ("Ω", "B"),
        AssociateRQ("A", "B", application_context="Ω"),
        AssociateRQ("A", "B", protocol_version=65_536),
        AssociateRQ("A", "B", (PresentationContext(256, "1.2", ()),)),
        AssociateAC("A", "B", (ContextResult(1, 256, "1.2"),)),
        AssociateRQ("A", "B", user_information=UserInformation(-1)),
        AssociateRQ("A", "B", user_information=UserInformation(asynchronous_operations=(1, -1))),
        PDataTF((PDV(256, True, True, b""),)),
        AssociateRJ(256, 0, 0),
        Abort(2, -1),
    ],
)
def test_value_that_does_not_fit_is_a_value_error(pdu):
    with pytest.raises(ValueError):
        encode(pdu)


# ------------------------------------------------------------ what is not to be trusted


@given(st.binary(max_size=300))
def test_decoding_any_bytes_raises_protocol_errors_only(data):
    read(data)


@given(st.integers(1, 7), st.binary(max_size=300))
def test_any_body_after_a_valid_header_raises_protocol_errors_only(number, body):
    read(pdus.HEADER.pack(number, len(body)) + body)


@given(st.sampled_from([1, 2]), st.lists(st.tuples(byte, blob), max_size=6), st.booleans())
def test_any_association_items_raise_protocol_errors_only(number, items, inside):
    body = b"".join(item(kind, value) for kind, value in items)
    body = item(0x50, body) if inside else body
    read(pdus.HEADER.pack(number, 68 + len(body)) + b"\0\1\0\0" + b"A" * 64 + body)


@given(every_pdu, st.data())
def test_a_pdu_cut_short(pdu, draw):
    whole = encode(pdu)
    cut = whole[: draw.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(ProtocolError):
        decode(cut)
    if len(cut) >= 6:
        read(with_length(cut))


@given(every_pdu, st.lists(st.tuples(st.integers(0, 0xFFFF), byte), min_size=1, max_size=8))
def test_a_pdu_with_other_bytes_in_it(pdu, changes):
    data = bytearray(encode(pdu))
    for position, value in changes:
        data[position % len(data)] = value
    read(bytes(data))
    read(with_length(bytes(data)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", pdus.INVALID_PARAMETER),
        ("0500000000", pdus.INVALID_PARAMETER),
        ("05000000000500000000", pdus.INVALID_PARAMETER),
        ("000000000000", pdus.UNRECOGNIZED_PDU),
        ("080000000000", pdus.UNRECOGNIZED_PDU),
        ("040000000000", pdus.INVALID_PARAMETER),  # no PDV
        ("0400000000050000000101", pdus.INVALID_PARAMETER),
        ("040000000006000000010103", pdus.INVALID_PARAMETER),  # shorter than its head
        ("040000000006000000030103", pdus.INVALID_PARAMETER),  # longer than its PDU
        ("030000000003000102", pdus.INVALID_PARAMETER),
        ("070000000003000002", pdus.INVALID_PARAMETER),
    ],
)
def test_bytes_that_are_not_a_pdu(data, reason):
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex(data))
    assert caught.value.reason == reason


def test_a_request_whose_identity_another_item_replaces_is_not_remembered():
    first = encode(_proposing(UserIdentity(2, False, b"doe", b"secret")))[6:]
    second = encode(_proposing(None))[6:]
    item = second[second.rindex(b"\x50\0") :]
    body = first + item
    found = decode(b"\1\0" + len(body).to_bytes(4, "big") + body)
    assert found.user_information.user_identity is None
    assert found.proposal == b""
    assert not any(b"secret" in data for data in pdus._proposals)


def _proposing(identity):
    user = UserInformation(user_identity=identity)
    return AssociateRQ("A", "B", user_information=user)
