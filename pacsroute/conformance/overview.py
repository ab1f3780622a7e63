"""The cover and sections 1 to 4: the overview."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from pacsroute import uids
from pacsroute.conformance import kinds
from pacsroute.conformance.facts import Entity, Facts, Offer
from pacsroute.conformance.markdown import NO, YES, blank, heading, table, text
from pacsroute.dataset import charsets
from pacsroute.framework.routes import name_of

_SOP_CLASSES = ("SOP Class", "UID", "Transfer Syntaxes", "SCU", "SCP", "AE")

_TERMS = (
    ("Application Entity (AE)", "An endpoint of DICOM communication, identified by its AE title."),
    ("Association", "A connection between two AEs, which have agreed on the services to use."),
    (
        "Presentation Context",
        "A SOP Class and the transfer syntax agreed for it on an association.",
    ),
    ("SOP Class", "A type of object, and the operations on it."),
    ("SCU, SCP", "The user of a service, which sends requests; its provider, which answers them."),
    ("Transfer Syntax", "The encoding of a data set, with its compression, if any."),
)
_ABBREVIATIONS = (
    ("AE", "Application Entity"),
    ("ARTIM", "Association Request/Reject/Release Timer"),
    ("DIMSE", "DICOM Message Service Element"),
    ("PDU", "Protocol Data Unit"),
    ("SCP", "Service Class Provider"),
    ("SCU", "Service Class User"),
    ("SOP", "Service-Object Pair"),
    ("TLS", "Transport Layer Security"),
    ("UID", "Unique Identifier"),
    ("VR", "Value Representation"),
)


def cover(facts: Facts, date: str | None) -> str:
    """Return the text before the sections."""
    rows = [
        ("Product", blank("name and version")),
        ("Manufacturer", blank("name and address")),
        ("Document", blank("number and revision")),
        *([("Date", date)] if date else []),
        ("Standard", "DICOM PS3.2, Annex N"),
        ("DICOM software", f"pacsroute {version('pacsroute')}"),
    ]
    return text(
        f"# DICOM Conformance Statement: {facts.app.ae_title}",
        table(["", ""], rows),
        "This statement is generated from the configuration of the DICOM software. N/A marks "
        "sections that do not apply to this software. If the product provides such a function by "
        "other means, describe it there.",
    )


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of sections 1 to 4 by their numbers."""
    found = {
        "1": _summary(facts),
        "1.1": _content(facts),
        "1.2": "The sections below list the SOP Classes of each kind of service. A set of "
        "transfer syntaxes is one of Table 1-2 (section 1.1).",
        "1.2.1": _services(facts, [kinds.VERIFICATION]),
        "1.2.2": _storage_services(facts),
        "1.2.3": _services(
            facts,
            [kinds.WORKLIST, kinds.PROCEDURE_STEP, kinds.UPS, kinds.AVAILABILITY, kinds.OTHER],
        ),
        "1.2.4": _services(facts, [kinds.QUERY]),
        "1.2.5": _services(facts, [kinds.PRINT]),
        "1.7": "The supported Defined Terms are: " + ", ".join(charsets.SUPPORTED) + ". "
        "Section 5.7 describes their use.",
        "3": "",
        "3.1": table(
            ["Revision", "Date", "Description"], [[blank("number"), blank("date"), blank("text")]]
        ),
        "3.2": "This document is for the engineers and administrators of hospitals and vendors who "
        "connect this product with others. Knowledge of DICOM is assumed.",
        "3.3": "Matching conformance statements do not guarantee that two products work together: "
        "test their connection with the data that they will exchange.",
        "3.4": table(["Term", "Meaning"], _TERMS),
        "3.5": table(["Abbreviation", "Meaning"], _ABBREVIATIONS),
        "3.6": "NEMA PS3 / ISO 12052, Digital Imaging and Communications in Medicine (DICOM) "
        "Standard.",
        "4": "",
        "4.1": _data_flow(facts),
        "A.A": blank(
            "the attributes of instances that the product creates; N/A if it creates none"
        ),
    }
    if facts.answers("store"):
        found["1.1.1"] = blank("templates of structured reports that are created or read")
    return {number: body for number, body in found.items() if body or number in ("3", "4")}


def _summary(facts: Facts) -> str:
    titles = ", ".join(entity.title for entity in facts.entities)
    many = len(facts.entities) > 1
    return text(
        blank("the purpose of the product, in a paragraph"),
        f"On the network, it is {'the application entities' if many else 'the application entity'} "
        f"{titles}. The following is taken from its configuration: the SOP Classes and transfer "
        "syntaxes are exactly those that it accepts.",
    )


# ------------------------------------------------------------- tables of SOP classes


def _rows(facts: Facts, entity_offers: Iterable[tuple[Entity, Offer]]) -> list[list[str]]:
    """Return the rows of a table of SOP classes; AEs with the same offer share a row."""
    found: dict[tuple[str, ...], list[str]] = {}
    for entity, offer in entity_offers:
        cells = (
            offer.name,
            offer.uid,
            facts.sets[offer.syntaxes],
            _as_scu(entity, offer),
            YES if offer.scp else NO,
        )
        found.setdefault(cells, []).append(who(entity, offer))
    return [[*cells, ", ".join(titles)] for cells, titles in found.items()]


def who(entity: Entity, offer: Offer) -> str:
    """Return the AE that makes an offer, and the peers that get it."""
    return f"{entity.title} for {offer.calling_ae}" if offer.calling_ae else entity.title


def _as_scu(entity: Entity, offer: Offer) -> str:
    if offer.service != kinds.STORAGE:
        return YES if offer.scu else NO
    ways = ["C-GET"] * offer.scu + ["C-MOVE"] * entity.answers("move")
    return f"{YES} ({', '.join(ways)})" if ways else NO


def of_services(facts: Facts, services: Iterable[int]) -> list[tuple[Entity, Offer]]:
    """Return the AEs' offers for some services, by class."""
    wanted = set(services)
    pairs = [
        (entity, offer)
        for entity in facts.entities
        for offer in entity.offers
        if offer.service in wanted
    ]
    order = {offer.sop_class: n for n, (_, offer) in enumerate(pairs)}
    return sorted(pairs, key=lambda pair: order[pair[1].sop_class])


def _services(facts: Facts, services: list[int]) -> str:
    found = _rows(facts, of_services(facts, services))
    return table(_SOP_CLASSES, found) if found else ""


def _storage_services(facts: Facts) -> str:
    storage = of_services(facts, [kinds.STORAGE]) or facts.answers("move")
    return text(
        "The Storage SOP Classes are those of section 1.1." if storage else "",
        _services(facts, [kinds.COMMITMENT]),
    )


def _content(facts: Facts) -> str:
    found = _rows(facts, of_services(facts, [kinds.STORAGE]))
    movers = [
        entity.title
        for entity in facts.entities
        if entity.answers("move") and not any(o.service == kinds.STORAGE for o in entity.offers)
    ]
    if movers:
        name = "Every storage class of the stored instances"
        found.append([name, "-", "as stored", f"{YES} (C-MOVE)", NO, ", ".join(movers)])
    storage = ""
    if found:
        storage = text(
            "Table 1-1: the Storage SOP Classes. As SCU, the product sends the instances that a "
            "C-GET or C-MOVE requests: on the association of the C-GET, or to the destination of "
            "the C-MOVE.",
            table(_SOP_CLASSES, found),
            blank("which of these classes the product creates, and which it displays"),
        )
    return text(storage or "No instances are exchanged.", _sets(facts))


def _sets(facts: Facts) -> str:
    """Return the sets of transfer syntaxes that the tables of SOP classes name."""
    parts = ["Table 1-2: the sets of transfer syntaxes."]
    lines = []
    for syntaxes, name in facts.sets.items():
        lines += [[name, uids.name(uid), uid] for uid in syntaxes.uids]
        if syntaxes.unknown:
            lines.append([name, "Every other transfer syntax, including private ones", "any other"])
    parts.append(table(["Set", "Transfer Syntax", "UID"], lines))
    ours = [name for syntaxes, name in facts.sets.items() if syntaxes.ours]
    peers = [name for name in facts.sets.values() if name not in ours]
    if peers:
        parts.append(
            f"Of the transfer syntaxes that a peer proposes for a presentation context, the first "
            f"one that is in the set is accepted ({', '.join(peers)})."
        )
    if ours:
        parts.append(
            f"Of the transfer syntaxes that a peer proposes, the one that is first in the table is "
            f"accepted ({', '.join(ours)})."
        )
    return text(*parts)


# ------------------------------------------------------------- the model


def _data_flow(facts: Facts) -> str:
    figure = []
    for entity in facts.entities:
        asked = ", ".join(_commands(entity))
        figure.append(f"any peer  -- {asked} -->  {entity.title}")
        if entity.answers("get"):
            figure.append(f"{entity.title}  -- C-STORE, on the association of the C-GET -->  peer")
        if entity.answers("move"):
            figure.append(
                f"{entity.title}  -- C-STORE, on an association of its own -->  move destination"
            )
    parts = ["\n".join(["```text", *figure, "```"])]
    for number, entity in enumerate(facts.entities, 1):
        parts += [
            heading(f"4.1.{number}", f"Functional Definition of {entity.title}"),
            f"{entity.title} accepts associations and answers {', '.join(_commands(entity))}.",
            _titles(facts, entity),
            blank("its function in the product"),
        ]
    return text(*parts)


def _commands(entity: Entity) -> list[str]:
    """Return the names of an AE's services, C-ECHO first."""
    return list(map(name_of, dict.fromkeys(["echo", *(r.command for r in entity.routes)])))


def _titles(facts: Facts, entity: Entity) -> str:
    config = facts.app.config
    if entity.title != facts.app.ae_title:
        return "It accepts its own AE title only."
    if config.require_called_ae:
        also = [title for title in config.called_ae_titles if title != entity.title]
        accepted = ", ".join([entity.title, *also])
        return f"It accepts the called AE titles {accepted}, and rejects all others."
    if len(facts.entities) > 1:
        return "It also accepts every called AE title that is not listed here."
    return "It accepts every called AE title."
