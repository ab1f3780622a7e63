"""Section 5: the behaviour of each service."""

from __future__ import annotations

from pacsroute import uids
from pacsroute.conformance import kinds
from pacsroute.conformance.facts import Entity, Facts, Offer
from pacsroute.conformance.markdown import NO, YES, blank, heading, table, text
from pacsroute.conformance.overview import of_services, who
from pacsroute.framework.routes import name_of
from pacsroute.instances.convert import can_convert

_QUERY_CONDUCT = (
    "Responses omit requested keys that are not supported, and then have the status Pending with "
    "warning (FF01). Group lengths are ignored. Between responses, the product looks for a "
    "C-CANCEL, and answers it with FE00. Priority is ignored."
)
_LEVELS = "Responses have the Query/Retrieve Level of the request, and the Retrieve AE Title."
_UNIQUE_KEYS = (
    "The unique key of the level must have a value, or a list of values, without wildcards; "
    "otherwise the request is refused (A900). A level may also be spelt like IMAGES or Study."
)
_RETRIEVE_CONDUCT = (
    "The final response lists the failed instances. Between sub-operations, the product looks for "
    "a C-CANCEL, and answers it with FE00. Priority is passed on to the sub-operations, and "
    "otherwise ignored. An instance is sent in its stored transfer syntax if the receiver has "
    "accepted that, and is otherwise transcoded as in section 5.2.5.1.1."
)
_MOVE_CONDUCT = (
    "The move destination is looked up by its AE title; an unknown one is answered with A801. "
    "Instances are sent to it on a separate association, whose calling AE title is the called AE "
    "title of the C-MOVE, with the Move Originator AE Title and Message ID."
)


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of section 5 by the numbers of its sub-sections."""
    found = {
        "5": "",
        "5.1": _mapping(facts),
        "5.2": text(
            "Every AE answers a C-ECHO.",
            "The DICOM software checks the requests below before it passes them to the product.",
        ),
        **_storage(facts),
        "5.6": text(*facts.app.considered()) or blank("how the services depend on each other"),
        "5.7": _character_sets(facts),
    }
    for number in range(kinds.WORKLIST, kinds.OTHER + 1):
        if number != kinds.STORAGE and (body := _service(facts, number)):
            found[f"5.2.{number}"] = body
    return found


def _mapping(facts: Facts) -> str:
    lines = []
    for service, name in kinds.NAMES.items():
        cells = [_roles(entity, service) for entity in facts.entities]
        if any(cells):
            lines.append([name, *(cell or "-" for cell in cells)])
    return table(["Service", *(entity.title for entity in facts.entities)], lines)


def _roles(entity: Entity, service: int) -> str:
    offers = [offer for offer in entity.offers if offer.service == service]
    roles = ["SCP"] * any(offer.scp for offer in offers)
    sends = service == kinds.STORAGE and (entity.answers("move") or entity.answers("get"))
    roles += ["SCU"] * (sends or any(offer.scu for offer in offers))
    return ", ".join(roles)


def _service(facts: Facts, service: int) -> str:
    """Return a sub-section for each SOP class of a service."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for entity, offer in of_services(facts, [service]):
        role = "SCP" if offer.scp else "SCU"
        answers = f"{who(entity, offer)} answers {', '.join(_types(entity, offer))}"
        names = alike.setdefault((role, answers, _conduct(entity, offer)), [])
        names += [] if offer.name in names else [offer.name]
    parts = []
    for number, ((role, answers, conduct), names) in enumerate(alike.items(), 1):
        title = heading(f"5.2.{service}.{number}", f"{role} of {kinds.title(service, names)}")
        parts += [title, f"{answers} on presentation contexts of {', '.join(names)}.", conduct]
    return text(*parts)


def _conduct(entity: Entity, offer: Offer) -> str:
    parts = []
    rooted = any(offer.sop_class in roots.values() for roots in uids.QUERY_RETRIEVE.values())
    if "find" in offer.commands:
        parts += [
            f"{_QUERY_CONDUCT} {_LEVELS}" if rooted else _QUERY_CONDUCT,
            blank("the keys that are matched, how, and those returned"),
        ]
    if {"get", "move"} & set(offer.commands):
        parts += [_UNIQUE_KEYS] if rooted else []
        parts.append(f"{_pending(entity, offer)} {_RETRIEVE_CONDUCT}")
    if "move" in offer.commands:
        parts.append(_MOVE_CONDUCT)
    if "get" in offer.commands:
        parts.append(
            "On the association of the C-GET, the peer must propose the Storage SOP Classes that "
            "it wants, with the SCP role."
        )
    if any(command.startswith("n_") for command in offer.commands):
        parts.append(blank("the attributes that are used, and how"))
    if offer.service == kinds.COMMITMENT and offer.scp:
        parts += [
            "The result is reported by N-EVENT-REPORT, on the association of the request after "
            "its response, or on a new one: see section 7.2.",
            blank("which of the two, when, how often it is retried, and the failure reasons used"),
        ]
    if offer.extended:
        says = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in offer.extended)
        parts.append(f"Its answer to extended negotiation is: {says}.")
    return text(*parts)


def _types(entity: Entity, offer: Offer) -> list[str]:
    """Return the commands of a context, with the action and event types."""
    classes = {offer.sop_class, *uids.carried(offer.sop_class)}
    found: dict[str, list[int]] = {}
    for route in entity.routes:
        if any(map(route.covers, classes)):
            found.setdefault(route.command, []).extend([] if route.kind is None else [route.kind])
    return [
        name_of(command) + (f" of type {', '.join(map(str, sorted(types)))}" if types else "")
        for command, types in found.items()
    ]


def _pending(entity: Entity, offer: Offer) -> str:
    for route in entity.routes:
        if route.covers(offer.sop_class) and route.pending_interval:
            return (
                f"A Pending response with the counts is sent after a sub-operation, but at most "
                f"every {route.pending_interval:g} s; while none ends, one is sent each second."
            )
    return (
        "A Pending response with the counts is sent after each sub-operation; while none ends, one "
        "is sent each second."
    )


# ------------------------------------------------------------- storage


def _storage(facts: Facts) -> dict[str, str]:
    found = {}
    senders = [e.title for e in facts.entities if e.answers("get") or e.answers("move")]
    keepers = [entity for entity in facts.entities if entity.answers("store")]
    if senders:
        found["5.2.5.1"] = (
            f"Instances are sent by {', '.join(senders)} as sub-operations of C-GET and "
            "C-MOVE (section 5.2.7), one after the other. If the response is a failure, the "
            "sub-operation has failed; it is not tried again."
        )
        found["5.2.5.1.1"] = _transcoding()
    if keepers:
        found["5.2.5.2"] = _keeping(facts, keepers)
    if found:
        found["5.2.5"] = ""
    return found


def _transcoding() -> str:
    targets = sorted(uids.NATIVE)
    never = {one for one in uids.TRANSFER_SYNTAXES if not can_convert(one, targets[0])}
    compressed = uids.TRANSFER_SYNTAXES - uids.NATIVE - never
    assert all(can_convert(source, target) for source in compressed for target in targets)
    names = [uids.name(uid) for uid in targets]
    kept = [(uids.name(uid), YES) for uid in targets]
    return text(
        table(
            ["Stored as", *names],
            [
                *([name, *[yes] * len(names)] for name, yes in kept),
                ["Any other standard transfer syntax", *["Y, with a decoder"] * len(names)],
                ["Video, and pixel data from a pixel data provider (JPIP)", *[NO] * len(names)],
                ["A private transfer syntax", *[NO] * len(names)],
            ],
        ),
        "Transcoding keeps the SOP Instance UID. Nothing is compressed.",
        blank("which decoders are installed"),
    )


def _keeping(facts: Facts, keepers: list[Entity]) -> str:
    levels = {
        (entity.title, name): str(value)
        for entity in keepers
        for offer in entity.offers
        if offer.service == kinds.STORAGE
        for name, value in offer.extended
    }
    lines = [
        [
            entity.title,
            levels.get((entity.title, "level"), blank("0, 1 or 2")),
            levels.get((entity.title, "signature"), blank("1, 2 or 3")),
            levels.get((entity.title, "coercion"), blank("0, 1 or 2")),
        ]
        for entity in keepers
    ]
    config = facts.app.config
    return text(
        f"Instances are received by {', '.join(entity.title for entity in keepers)}.",
        table(
            ["AE", "Level of Conformance", "Level of Digital Signature Support", "Coercion"], lines
        ),
        "The product gets each instance as the bytes that were received: nothing in it is coerced, "
        "converted or left out before. An instance is refused without further checks if its SOP "
        "Class UID or SOP Instance UID differs from that of the request, or if it is "
        f"longer than {config.max_dataset_length:,} bytes. Instances of private SOP Classes and in "
        "private transfer syntaxes are treated like all others.",
        blank("how long instances are kept, how duplicates are treated, and what is changed"),
    )


def _sets_of_their_own(facts: Facts) -> list[str]:
    """Return a sentence for each route that has its own character set."""
    return [
        f"If {route.calling_ae or 'an AE'} calls {route.called_ae or facts.app.ae_title} for "
        f"{uids.name(route.sop_class) if route.sop_class else 'Query/Retrieve'}, that set is "
        f"{route.charset}."
        for route in facts.app.routes
        if route.charset
    ]


def _undeclared(facts: Facts) -> list[str]:
    """Return a sentence on data sets without a Specific Character Set, if a setting covers them."""
    sets = []
    for chosen in facts.app.config.default_charset:
        title, is_of_one, term = chosen.rpartition("=")
        sets.append((term or "ISO_IR 6") + (f" if they come from {title}" if is_of_one else ""))
    return [f"Data sets without one are read as {', '.join(sets)}."] if sets else []


def _character_sets(facts: Facts) -> str:
    chosen = facts.app.config.charset
    preferred = (
        f"{chosen}, as configured" if chosen else "the Specific Character Set of the request"
    )
    return text(
        "Requests may have any character set of section 1.7, with or without code extensions; a "
        "missing, misspelt or wrong one does not make a request fail.",
        *_undeclared(facts),
        f"Responses with characters of ISO_IR 6 only have no Specific Character Set. Others are "
        f"encoded in {preferred}, or in ISO_IR 192 if that set lacks some of their characters.",
        *_sets_of_their_own(facts),
        "Instances that are stored and sent keep their character set.",
        blank("how person names are matched, and what a user interface shows"),
    )
