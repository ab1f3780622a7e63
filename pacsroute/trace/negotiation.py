"""Show the proposal and the answer of a negotiation side by side (PS3.8 §9.3, PS3.7 Annex D)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.uid import UID

from pacsroute import uids
from pacsroute.trace.layout import HARD_SPACE, Cell, printable, table
from pacsroute.upper_layer import extended
from pacsroute.upper_layer.negotiation import AcceptedContext
from pacsroute.upper_layer.pdu import (
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    ContextResult,
    PresentationContext,
    UserInformation,
)
from pacsroute.upper_layer.rejections import reason_of

_RESULTS = {
    1: "rejected by the user",
    2: "rejected without a reason",
    3: "abstract syntax not supported",
    4: "transfer syntaxes not supported",
}

_IDENTITIES = {
    1: "user name",
    2: "user name and passcode",
    3: "Kerberos ticket",
    4: "SAML assertion",
    5: "JSON web token",
}

_ABORTS = {
    1: "unrecognized PDU",
    2: "unexpected PDU",
    4: "unrecognized PDU parameter",
    5: "unexpected PDU parameter",
    6: "invalid PDU parameter value",
}

_NAMED = 5  # most accepted contexts of one kind that are named
_NOTHING = UserInformation()


def syntax_name(uid: str) -> str:
    """Return pydicom's keyword for a transfer syntax, or the UID if it has none."""
    return UID(printable(uid)).keyword or printable(uid)


def rejection(pdu: AssociateRJ) -> str:
    """Describe an A-ASSOCIATE-RJ (PS3.8 §9.3.4)."""
    why = reason_of(pdu) or f"source {pdu.source}, reason {pdu.reason}"
    return f"rejected, {'transient' if pdu.result == 2 else 'permanent'}: {why}"


def abort(pdu: Abort) -> str:
    """Describe an A-ABORT (PS3.8 §9.3.8)."""
    if pdu.source == 0:
        return "abort by the application"
    why = _ABORTS.get(pdu.reason)
    return "abort by the upper layer" + (f": {why}" if why else "")


def ends(
    request: AssociateRQ,
    answer: AssociateAC | None,
    addresses: tuple[str, str],
    width: int,
    indent: int,
) -> Iterator[str]:
    """Return a table of each end's user information, the requestor's in the first column."""
    ours = request.user_information
    theirs = answer.user_information if answer is not None else _NOTHING
    rows = [
        ("", printable(request.calling_ae), printable(request.called_ae)),
        ("address", *addresses),
        ("implementation", *map(_implementation, (ours, theirs))),
        ("maximum PDU", *map(_maximum, (ours, theirs))),
        ("operations", *map(_window, (ours, theirs))),
        ("user identity", _identity(ours), _identified(theirs)),
        *_extended_rows(ours, theirs),
    ]
    if request.protocol_version != 1:
        rows.append(("protocol version", str(request.protocol_version), ""))
    if request.application_context != uids.APPLICATION_CONTEXT:
        rows.append(("application context", printable(request.application_context), ""))
    told = [row for row in rows if row[1] or row[2]]
    yield from table([[Cell(text) for text in row] for row in told], width, indent)


def contexts(
    request: AssociateRQ,
    answer: AssociateAC | None,
    accepted: dict[int, AcceptedContext],
    width: int,
    indent: int,
) -> Iterator[str]:
    """Return a table of the presentation contexts; similar ones share a row."""
    if not request.contexts:
        yield " " * indent + "no presentation contexts"
        return
    results = {result.id: result for result in answer.contexts} if answer is not None else {}
    roles = {role.sop_class for role in request.user_information.roles}

    alike: dict[tuple[tuple[str, ...], str, Cell], list[PresentationContext]] = {}
    for context in request.contexts:
        usable = accepted.get(context.id)
        told = Cell("")
        if answer is not None:
            asked = context.abstract_syntax in roles
            told = _answer(results.get(context.id), usable, asked)
        chosen = usable.transfer_syntax if usable else ""
        alike.setdefault((context.transfer_syntaxes, chosen, told), []).append(context)

    rows = [[Cell("id"), Cell("SOP class"), Cell("transfer syntaxes"), Cell("answer")]]
    for (syntaxes, chosen, told), group in alike.items():
        names = [printable(uids.name(context.abstract_syntax)) for context in group]
        if chosen and len(names) > _NAMED + 1:
            names[_NAMED:] = [f"and {len(names) - _NAMED} more"]
        numbers = str(group[0].id) if len(group) == 1 else f"{group[0].id}…{group[-1].id}"
        lines = [
            f"{'✓' if uid == chosen else ' '}{HARD_SPACE}{syntax_name(uid)}" for uid in syntaxes
        ]
        rows.append([Cell(numbers), Cell("\n".join(names)), Cell("\n".join(lines) or "none"), told])
    yield from table(rows, width, indent)


def _answer(
    result: ContextResult | None, accepted: AcceptedContext | None, role_proposed: bool
) -> Cell:
    if result is None:
        return Cell("not answered", "red")
    if result.result != 0:
        return Cell(_RESULTS.get(result.result, f"result {result.result}"), "red")
    if accepted is None:
        name = syntax_name(result.transfer_syntax)
        return Cell(f"accepted with {name}, which was not proposed", "red")
    if not role_proposed:
        return Cell("accepted", "green")
    roles = [name for name, has in (("SCU", accepted.scu), ("SCP", accepted.scp)) if has]
    return Cell(f"accepted as {' and '.join(roles) or 'neither SCU nor SCP'}", "green")


def _implementation(user: UserInformation) -> str:
    return printable(user.implementation_version or user.implementation_class)


def _maximum(user: UserInformation) -> str:
    if user.maximum_length is None:
        return ""
    return f"{user.maximum_length:,}" if user.maximum_length else "no limit"


def _window(user: UserInformation) -> str:
    if user.asynchronous_operations is None:
        return ""
    invoked, performed = (number or "any" for number in user.asynchronous_operations)
    return f"{invoked} invoked, {performed} performed at once"


def _identity(user: UserInformation) -> str:
    """Return the type of the proposed identity; a trace omits its name and secret."""
    identity = user.user_identity
    if identity is None:
        return ""
    kind = _IDENTITIES.get(identity.type, f"type {identity.type}")
    return f"{kind}, response requested" if identity.response_requested else kind


def _identified(user: UserInformation) -> str:
    return "" if user.user_identity_response is None else "acknowledged"


def _extended_rows(
    ours: UserInformation, theirs: UserInformation
) -> Iterator[tuple[str, str, str]]:
    offers, answers = dict(ours.extended), dict(theirs.extended)
    for uid in offers | answers:
        told = [_information(uid, side[uid]) if uid in side else "" for side in (offers, answers)]
        yield "extended", f"{printable(uids.name(uid))}:\n{told[0]}", told[1]
    for common in ours.common_extended:
        related = ", ".join(map(uids.name, common.related))
        text = f"{uids.name(common.sop_class)}: {uids.name(common.service_class)}"
        yield "common extended", printable(text + (f", as {related}" if related else "")), ""


def _information(sop_class: str, information: bytes) -> str:
    """Return the class of an extended negotiation, by name if known."""
    commands = [
        command for command, roots in uids.QUERY_RETRIEVE.items() if sop_class in roots.values()
    ]
    command = commands[0] if commands else "store" if uids.is_storage(sop_class) else ""
    agreed = extended.agreed(command, information)
    if not agreed:
        return f"{len(information)} bytes"
    said = [f"{name} {level}" if level > 1 else name for name, level in agreed.items() if level]
    return ", ".join(said).replace("_", " ") or "none"
