"""Protocol data units: plain values, one writer and one reader (PS3.8 §9.3, PS3.7 Annex D)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from pacsroute.errors import ProtocolError
from pacsroute.uids import APPLICATION_CONTEXT

Buffer = bytes | bytearray | memoryview

HEADER = struct.Struct(">BxI")
_ITEM = struct.Struct(">BxH")
_LENGTH = struct.Struct(">H")
_PDV = struct.Struct(">IBB")

MAXIMUM_PDVS = 1024
"""The maximum PDVs of one P-DATA-TF. Peers send one or two; each costs 50 times its header."""

MAXIMUM_ITEMS = 16_384
"""Items and sub-items of an A-ASSOCIATE PDU; 128 contexts of 100 transfer syntaxes have 13,056."""

_REMEMBERED = 64  # requests, and answers: most peers repeat theirs
_SHORT = 16_384  # bytes of what is remembered at most
_IDENTITY = b"\x58\0"  # the start of an item with a user identity

UNRECOGNIZED_PDU, UNEXPECTED_PDU = 1, 2
UNEXPECTED_PARAMETER, INVALID_PARAMETER = 5, 6


class PresentationContext(NamedTuple):
    """A presentation context as the requestor proposes it (PS3.8 §9.3.2.2)."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class ContextResult(NamedTuple):
    """The acceptor's answer to one (PS3.8 §9.3.3.2).

    The result is 0 accepted, 1 user rejection, 2 no reason, 3 abstract syntax not
    supported, 4 transfer syntaxes not supported.
    """

    id: int
    result: int
    transfer_syntax: str


class RoleSelection(NamedTuple):
    """Which roles the requestor of the association may take (PS3.7 §D.3.3.4)."""

    sop_class: str
    scu: bool
    scp: bool


class ExtendedNegotiation(NamedTuple):
    """Service-class application information of a SOP class (PS3.7 §D.3.3.5)."""

    sop_class: str
    information: bytes


class CommonExtendedNegotiation(NamedTuple):
    """The service class and the general classes of a SOP class (PS3.7 §D.3.3.6)."""

    sop_class: str
    service_class: str
    related: tuple[str, ...] = ()


class UserIdentity(NamedTuple):
    """The identity that the requestor claims (PS3.7 §D.3.3.7).

    Type 1 is a user name, 2 a user name and passcode, 3 a Kerberos ticket, 4 a SAML
    assertion, 5 a JSON web token.
    """

    type: int
    response_requested: bool
    primary: bytes
    secondary: bytes = b""

    def __repr__(self) -> str:  # a passcode or token must not reach a log by accident
        return f"UserIdentity(type={self.type}, response_requested={self.response_requested})"


@dataclass(frozen=True, slots=True)
class UserInformation:
    """The user information item of A-ASSOCIATE (PS3.8 §9.3.2.3, PS3.7 §D.3.3)."""

    maximum_length: int | None = None
    implementation_class: str = ""
    implementation_version: str = ""
    asynchronous_operations: tuple[int, int] | None = None
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[ExtendedNegotiation, ...] = ()
    common_extended: tuple[CommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None
    user_identity_response: bytes | None = None


@dataclass(frozen=True, slots=True)
class AssociateRQ:
    """A-ASSOCIATE-RQ (PS3.8 §9.3.2).

    `titles` holds bytes 11 to 74 as received; the A-ASSOCIATE-AC repeats them. `proposal` holds the
    bytes after them, if they are few and claim no identity: the answer to equal ones is the same.
    Some peers give several contexts the same ID.
    """

    called_ae: str
    calling_ae: str
    contexts: tuple[PresentationContext, ...] = ()
    user_information: UserInformation = UserInformation()
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    titles: bytes = field(default=b"", compare=False, repr=False)
    proposal: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AssociateAC:
    """A-ASSOCIATE-AC (PS3.8 §9.3.3)."""

    called_ae: str
    calling_ae: str
    contexts: tuple[ContextResult, ...] = ()
    user_information: UserInformation = UserInformation()
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    titles: bytes = field(default=b"", compare=False, repr=False)


class AssociateRJ(NamedTuple):
    """A-ASSOCIATE-RJ (PS3.8 §9.3.4)."""

    result: int
    source: int
    reason: int


class PDV(NamedTuple):
    """One presentation data value: a fragment of a command or of a data set (PS3.8 §9.3.5.1)."""

    context_id: int
    is_command: bool
    is_last: bool
    fragment: Buffer


class PDataTF(NamedTuple):
    """P-DATA-TF (PS3.8 §9.3.5). The fragments are views of the buffer that was decoded."""

    pdvs: tuple[PDV, ...]


class ReleaseRQ(NamedTuple):
    """A-RELEASE-RQ (PS3.8 §9.3.6)."""


class ReleaseRP(NamedTuple):
    """A-RELEASE-RP (PS3.8 §9.3.7)."""


class Abort(NamedTuple):
    """A-ABORT (PS3.8 §9.3.8): source 0 is the service user, 2 the service provider."""

    source: int
    reason: int = 0


Pdu = AssociateRQ | AssociateAC | AssociateRJ | PDataTF | ReleaseRQ | ReleaseRP | Abort


# ---------------------------------------------------------------------------- writing


def encode(pdu: Pdu) -> bytes:
    """Return the bytes of a PDU.

    Raises
    ------
    ValueError
        If a value does not fit its field.

    Examples
    --------
    >>> encode(Abort(0)).hex()
    '07000000000400000000'
    """
    try:
        number, body = _ENCODERS[type(pdu)](pdu)
        return HEADER.pack(number, len(body)) + body
    except (struct.error, UnicodeEncodeError) as error:
        raise ValueError(f"{type(pdu).__name__}: {error}") from None


def _item(number: int, body: bytes) -> bytes:
    return _ITEM.pack(number, len(body)) + body


def _counted(text: str | bytes) -> bytes:
    body = text if isinstance(text, bytes) else text.encode("latin-1")
    return _LENGTH.pack(len(body)) + body


def _title(text: str) -> bytes:
    body = text.encode("latin-1")
    if not 1 <= len(body.strip()) <= 16 or len(body) > 16:
        raise ValueError(f"an AE title has 1 to 16 characters, not {len(body)}")
    return body.ljust(16)


def _head_of(pdu: AssociateRQ | AssociateAC) -> bytes:
    titles = pdu.titles or _title(pdu.called_ae) + _title(pdu.calling_ae) + bytes(32)
    return struct.pack(">Hxx", pdu.protocol_version) + titles


def _items_of(pdu: AssociateRQ | AssociateAC, contexts: Iterator[bytes]) -> bytes:
    return b"".join(
        (
            _item(0x10, pdu.application_context.encode("latin-1")),
            *contexts,
            _item(0x50, b"".join(_user_items(pdu.user_information))),
        )
    )


def _encode_rq(pdu: AssociateRQ) -> tuple[int, bytes]:
    contexts = (
        _item(
            0x20,
            bytes((context.id, 0, 0, 0))
            + _item(0x30, context.abstract_syntax.encode("latin-1"))
            + b"".join(
                _item(0x40, syntax.encode("latin-1")) for syntax in context.transfer_syntaxes
            ),
        )
        for context in pdu.contexts
    )
    return 1, _head_of(pdu) + _items_of(pdu, contexts)


_answers: dict[tuple[object, ...], bytes] = {}


def _encode_ac(pdu: AssociateAC) -> tuple[int, bytes]:
    values = pdu.application_context, pdu.contexts, pdu.user_information
    items = _answers.get(values)
    if items is None:
        contexts = (
            _item(
                0x21,
                bytes((context.id, 0, context.result, 0))
                + _item(0x40, context.transfer_syntax.encode("latin-1")),
            )
            for context in pdu.contexts
        )
        items = _items_of(pdu, contexts)
        if len(items) <= _SHORT and pdu.user_information.user_identity_response is None:
            remember(_answers, values, items)
    return 2, _head_of(pdu) + items


def remember(known: dict[Any, Any], key: object, value: object) -> None:
    """Remember what repeated requests have in common; a peer cannot make that grow."""
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value


def _user_items(info: UserInformation) -> Iterator[bytes]:
    if info.maximum_length is not None:
        yield _item(0x51, struct.pack(">I", info.maximum_length))
    if info.implementation_class:
        yield _item(0x52, info.implementation_class.encode("latin-1"))
    if info.asynchronous_operations is not None:
        yield _item(0x53, struct.pack(">HH", *info.asynchronous_operations))
    for role in info.roles:
        yield _item(0x54, _counted(role.sop_class) + bytes((role.scu, role.scp)))
    if info.implementation_version:
        yield _item(0x55, info.implementation_version.encode("latin-1"))
    for extended in info.extended:
        yield _item(0x56, _counted(extended.sop_class) + extended.information)
    for common in info.common_extended:
        related = b"".join(map(_counted, common.related))
        yield _item(
            0x57, _counted(common.sop_class) + _counted(common.service_class) + _counted(related)
        )
    if info.user_identity is not None:
        kind, wanted, primary, secondary = info.user_identity
        yield _item(0x58, bytes((kind, wanted)) + _counted(primary) + _counted(secondary))
    if info.user_identity_response is not None:
        yield _item(0x59, _counted(info.user_identity_response))


def _encode_data(pdu: PDataTF) -> tuple[int, bytes]:
    parts: list[Buffer] = []
    for context_id, is_command, is_last, fragment in pdu.pdvs:
        parts += (_PDV.pack(len(fragment) + 2, context_id, is_command | is_last << 1), fragment)
    return 4, b"".join(parts)


_ENCODERS: dict[type, Callable[..., tuple[int, bytes]]] = {
    AssociateRQ: _encode_rq,
    AssociateAC: _encode_ac,
    AssociateRJ: lambda pdu: (3, bytes((0, *pdu))),
    PDataTF: _encode_data,
    ReleaseRQ: lambda pdu: (5, bytes(4)),
    ReleaseRP: lambda pdu: (6, bytes(4)),
    Abort: lambda pdu: (7, bytes((0, 0, *pdu))),
}


# ---------------------------------------------------------------------------- reading


def decode(data: bytes | memoryview) -> Pdu:
    """Return the PDU encoded in its complete bytes, including the header.

    Reserved bytes are not tested, and unknown items are skipped (PS3.8 §9.3.1).

    Raises
    ------
    ProtocolError
        If they are not a PDU, with the reason of the A-ABORT that answers it.

    Examples
    --------
    >>> decode(encode(ReleaseRQ()))
    ReleaseRQ()
    """
    view = memoryview(data)
    if len(view) < 6:
        raise ProtocolError("a PDU has at least 6 bytes", INVALID_PARAMETER)
    number, length = HEADER.unpack_from(view)
    if length != len(view) - 6:
        raise ProtocolError("the length of the PDU does not match its bytes", INVALID_PARAMETER)
    decoder = _DECODERS.get(number)
    if decoder is None:
        raise ProtocolError(f"no PDU has the type {number:02X}H", UNRECOGNIZED_PDU)
    try:
        return decoder(view[6:])
    except (struct.error, IndexError):
        raise ProtocolError(
            f"a PDU of type {number:02X}H is cut short", INVALID_PARAMETER
        ) from None


def _count(left: Iterator[int]) -> None:
    if next(left, None) is None:
        raise ProtocolError(f"more than {MAXIMUM_ITEMS} items in one PDU", INVALID_PARAMETER)


def _items(view: memoryview, left: Iterator[int]) -> Iterator[tuple[int, memoryview]]:
    """Yield the types and bodies of items; `left` has one number for each allowed item."""
    position, end = 0, len(view)
    while position < end:
        _count(left)
        number, length = _ITEM.unpack_from(view, position)
        position += 4
        if position + length > end:
            raise ProtocolError(
                f"item {number:02X}H is longer than its container", INVALID_PARAMETER
            )
        yield number, view[position : position + length]
        position += length


def _text(view: Buffer) -> str:
    """Decode a UID or a version name; peers pad them, and some put more than ASCII in them."""
    return bytes(view).decode("latin-1").strip(" \0")


# Titles appear in log lines, which their bytes must not be able to forge. A valid title has only
# the default repertoire (PS3.5 §6.2), so it is unchanged.
_NOT_IN_A_TITLE = dict.fromkeys((*range(32), *range(127, 256)), "?")


@lru_cache(maxsize=1024)
def _read_title(data: bytes) -> str:
    # Peers that copy C strings leave stale memory after a NUL.
    text = _text(data).partition("\0")[0]
    return text.rstrip(" ").translate(_NOT_IN_A_TITLE)


def _take(view: memoryview, position: int) -> tuple[memoryview, int]:
    (length,) = _LENGTH.unpack_from(view, position)
    start, stop = position + 2, position + 2 + length
    if stop > len(view):
        raise ProtocolError("a field is longer than its sub-item", INVALID_PARAMETER)
    return view[start:stop], stop


def _head(view: memoryview) -> tuple[int, bytes, str, str]:
    if len(view) < 68:
        raise ProtocolError("an A-ASSOCIATE PDU is cut short", INVALID_PARAMETER)
    (version,) = _LENGTH.unpack_from(view)
    titles = bytes(view[4:68])
    return version, titles, _read_title(titles[:16]), _read_title(titles[16:32])


class _Proposal(NamedTuple):
    """A request without its titles."""

    application: str
    contexts: tuple[PresentationContext, ...]
    user: UserInformation


_proposals: dict[bytes, _Proposal] = {}


def _decode_rq(view: memoryview) -> AssociateRQ:
    version, titles, called, calling = _head(view)
    data = bytes(view[68:])
    found = _proposals.get(data)
    if found is None:
        found = _decode_proposal(view[68:])
        if len(data) > _SHORT or _IDENTITY in data:
            data = b""  # a passcode must not stay in memory, even of an item that another replaces
        else:
            remember(_proposals, data, found)
    application, contexts, user = found
    return AssociateRQ(called, calling, contexts, user, application, version, titles, data)


def _decode_proposal(view: memoryview) -> _Proposal:
    application, contexts, user = "", [], UserInformation()
    left = iter(range(MAXIMUM_ITEMS))
    for number, body in _items(view, left):
        if number == 0x10:
            application = _text(body)
        elif number == 0x20:
            abstract, syntaxes = "", []
            for kind, value in _items(body[4:], left):
                if kind == 0x30:
                    abstract = _text(value)
                elif kind == 0x40:
                    syntaxes.append(_text(value))
            contexts.append(PresentationContext(body[0], abstract, tuple(syntaxes)))
        elif number == 0x50:
            user = _decode_user(body, left)
    return _Proposal(application, tuple(contexts), user)


def _decode_ac(view: memoryview) -> AssociateAC:
    version, titles, called, calling = _head(view)
    application, contexts, user = "", [], UserInformation()
    left = iter(range(MAXIMUM_ITEMS))
    for number, body in _items(view[68:], left):
        if number == 0x10:
            application = _text(body)
        elif number == 0x21:
            # A rejected context's transfer syntax is not significant; some peers send none.
            syntax = next(
                (_text(value) for kind, value in _items(body[4:], left) if kind == 0x40), ""
            )
            contexts.append(ContextResult(body[0], body[2], syntax))
        elif number == 0x50:
            user = _decode_user(body, left)
    return AssociateAC(called, calling, tuple(contexts), user, application, version, titles)


def _decode_user(view: memoryview, left: Iterator[int]) -> UserInformation:
    maximum: int | None = None
    texts = {0x52: "", 0x55: ""}
    window: tuple[int, int] | None = None
    roles, extended, common = [], [], []
    identity: UserIdentity | None = None
    response: bytes | None = None
    for number, body in _items(view, left):
        if number == 0x51:
            (maximum,) = struct.unpack_from(">I", body)
        elif number in texts:
            texts[number] = _text(body)
        elif number == 0x53:
            window = struct.unpack_from(">HH", body)
        elif number == 0x54:
            uid, stop = _take(body, 0)
            roles.append(RoleSelection(_text(uid), bool(body[stop]), bool(body[stop + 1])))
        elif number == 0x56:
            uid, stop = _take(body, 0)
            extended.append(ExtendedNegotiation(_text(uid), bytes(body[stop:])))
        elif number == 0x57:
            common.append(_decode_common(body, left))
        elif number == 0x58:
            primary, stop = _take(body, 2)
            # Some peers leave out the empty secondary field.
            secondary = _take(body, stop)[0] if stop < len(body) else b""
            identity = UserIdentity(body[0], bool(body[1]), bytes(primary), bytes(secondary))
        elif number == 0x59:
            response = bytes(_take(body, 0)[0])
    return UserInformation(
        maximum,
        texts[0x52],
        texts[0x55],
        window,
        tuple(roles),
        tuple(extended),
        tuple(common),
        identity,
        response,
    )


def _decode_common(body: memoryview, left: Iterator[int]) -> CommonExtendedNegotiation:
    sop_class, stop = _take(body, 0)
    service_class, stop = _take(body, stop)
    rest = _take(body, stop)[0] if stop < len(body) else memoryview(b"")
    related, position = [], 0
    while position < len(rest):
        _count(left)
        uid, position = _take(rest, position)
        related.append(_text(uid))
    return CommonExtendedNegotiation(_text(sop_class), _text(service_class), tuple(related))


def decode_data(view: memoryview) -> PDataTF:
    """Return the P-DATA-TF that a variable field holds."""
    position, end = 0, len(view)
    if end >= 6:
        length, context_id, control = _PDV.unpack_from(view)
        if length == end - 4:  # one PDV, the usual case: no list, no loop
            return PDataTF((PDV(context_id, control & 1 == 1, control & 2 == 2, view[6:]),))
    pdvs: list[PDV] = []
    while position < end:
        if end - position < 6:
            raise ProtocolError("a PDV is cut short", INVALID_PARAMETER)
        length, context_id, control = _PDV.unpack_from(view, position)
        start, position = position + 6, position + 4 + length
        if length < 2 or position > end:
            raise ProtocolError("a PDV does not fit its P-DATA-TF", INVALID_PARAMETER)
        if len(pdvs) == MAXIMUM_PDVS:
            raise ProtocolError(f"more than {MAXIMUM_PDVS} PDVs in one PDU", INVALID_PARAMETER)
        pdvs.append(PDV(context_id, control & 1 == 1, control & 2 == 2, view[start:position]))
    if not pdvs:
        raise ProtocolError("a P-DATA-TF without a PDV", INVALID_PARAMETER)
    return PDataTF(tuple(pdvs))


_DECODERS: dict[int, Callable[[memoryview], Pdu]] = {
    1: _decode_rq,
    2: _decode_ac,
    3: lambda view: AssociateRJ(view[1], view[2], view[3]),
    4: decode_data,
    5: lambda view: ReleaseRQ(),
    6: lambda view: ReleaseRP(),
    7: lambda view: Abort(view[2], view[3]),
}
