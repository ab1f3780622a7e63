"""Sections 6, 7.1 and 7.2: configuration and association policies."""

from __future__ import annotations

from pacsroute import uids
from pacsroute.config import SETTINGS, Config
from pacsroute.conformance import kinds
from pacsroute.conformance.facts import Entity, Facts, Offer
from pacsroute.conformance.markdown import blank, heading, table, text
from pacsroute.conformance.overview import who
from pacsroute.services.transfer import CONVERTED

_NOT_SHOWN = (
    *("spool", "tls_certificate", "tls_key", "tls_key_passphrase", "tls_ca"),
    *("web_certificate", "web_key", "web_ca"),
)
"""Settings whose values are paths or secrets of one installation."""


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of sections 6, 7.1 and 7.2 by their numbers."""
    config = facts.app.config
    return {
        "6": "Settings are changed in a file, by environment variables or by options of the "
        "command line, and take effect after a restart.",
        "6.1": table(
            ["Parameter", "Configurable", "Value", "Comment"],
            [
                [name, "Yes", _value(config, name), setting.metadata["purpose"]]
                for name, setting in SETTINGS.items()
            ],
        ),
        "6.2": _destinations(facts),
        "7": "",
        "7.1": "",
        "7.1.1": text(
            _parameters(facts),
            "All AEs have the same application context and the same parameters.",
            _negotiation(facts),
        ),
        "7.2": _entities(facts),
    }


def _value(config: Config, name: str) -> str:
    value = getattr(config, name)
    if name in _NOT_SHOWN:
        return "set" if value else "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:g} s"
    if isinstance(value, int) and not name.endswith("port"):
        return f"{value:,}"
    return "not set" if value is None else str(value)


def _destinations(facts: Facts) -> str:
    if not facts.answers("move"):
        return "Individual services cannot be configured."
    return text(
        "The AE title, host name or IP address, and TCP port of each C-MOVE destination must be "
        "configured.",
        blank("how destinations are configured"),
    )


def _parameters(facts: Facts) -> str:
    config = facts.app.config
    window = (
        "not negotiated: one operation at a time"
        if config.outstanding == 1
        else f"up to {config.outstanding} operations that peers invoke; 1 that we invoke"
    )
    return table(
        ["Name", "Value"],
        [
            ["Application Context Name", uids.APPLICATION_CONTEXT],
            ["Implementation Class UID", uids.IMPLEMENTATION_CLASS],
            ["Implementation Version Name", uids.IMPLEMENTATION_VERSION],
            ["Maximum PDU Length received", f"{config.maximum_length:,} bytes"],
            ["Maximum PDU Length sent", "what the peer allows; 0 is no limit"],
            ["ARTIM Timeout", f"{config.artim:g} s, also for the answer to our own request"],
            ["Timeout for connecting", f"{config.connect_timeout:g} s"],
            ["Idle Timeout", f"{config.idle_timeout:g} s without a message"],
            ["Network Timeout", f"{config.network_timeout:g} s without a byte within a message"],
            [
                "Minimum rate of a message",
                f"{config.min_rate:,} bytes/s, over {config.network_timeout:g} s",
            ],
            ["Associations accepted at the same time", f"{config.max_associations:,}"],
            ["of these, from one host", f"{config.max_associations_per_host:,}"],
            ["of these, of one calling AE title", f"{config.max_associations_per_ae:,}"],
            ["Presentation contexts of a request", f"{config.max_contexts:,}"],
            ["Asynchronous Operations Window", window],
            [
                "Length of an identifier or attribute list",
                f"{config.max_identifier_length:,} bytes",
            ],
            ["Length of an instance to be stored", f"{config.max_dataset_length:,} bytes"],
        ],
    )


def _negotiation(facts: Facts) -> str:
    return table(
        ["Item", "PS3.7", "Support"],
        [
            ["Maximum Length", "D.3.3.1", "Yes"],
            ["Implementation Identification", "D.3.3.2", "Yes"],
            [
                "Asynchronous Operations Window",
                "D.3.3.3",
                "No" if facts.app.config.outstanding == 1 else "Yes, as acceptor",
            ],
            [
                "SCP/SCU Role Selection",
                "D.3.3.4",
                "Yes: a role is granted if it is in the tables of section 7.2",
            ],
            ["SOP Class Extended Negotiation", "D.3.3.5", _extended(facts)],
            [
                "SOP Class Common Extended Negotiation",
                "D.3.3.6",
                "Yes, as acceptor: an unknown SOP Class is accepted as one of the related general "
                "SOP Classes that the requestor names",
            ],
            ["User Identity", "D.3.3.7", "See section 8.5"],
        ],
    )


def _extended(facts: Facts) -> str:
    offers = [offer for entity in facts.entities for offer in entity.offers]
    return "Yes: see section 7.2" if any(offer.extended for offer in offers) else "No"


# ------------------------------------------------------------- each application entity


def _entities(facts: Facts) -> str:
    parts = []
    for number, entity in enumerate(facts.entities, 1):
        at = f"7.2.{number}"
        parts += [
            heading(at, f"{entity.title} Application Entity"),
            heading(f"{at}.1", f"Sequencing of Real-World Activities for {entity.title}"),
            _sequence(facts, entity),
            heading(f"{at}.2", f"Association Parameters of {entity.title}"),
            "Those of section 7.1.1.",
            heading(f"{at}.3", "Association Initiation"),
            _initiation(entity),
            heading(f"{at}.4", "Association Acceptance"),
            _acceptance(facts, entity),
        ]
    return text(*parts)


def _sequence(facts: Facts, entity: Entity) -> str:
    window = facts.app.config.outstanding
    parts = [
        "Requests are answered in the order in which they arrive on an association."
        if window == 1
        else f"Up to {window} requests of an association are answered at the same time if that was "
        "negotiated, and otherwise one after the other."
    ]
    if entity.answers("get") or entity.answers("move"):
        parts.append(
            "The sub-operations of a C-GET or C-MOVE are performed one after the other, before its "
            "final response."
        )
    return text(" ".join(parts), blank("what happens in the product before, between and after"))


def _initiation(entity: Entity) -> str:
    parts = []
    if entity.answers("move"):
        converted = ", ".join(uids.name(uid) for uid in CONVERTED[:2])
        parts += [
            "For a C-MOVE, it requests an association with the move destination when the first "
            "instance is ready. The calling AE title is the called AE title of the C-MOVE. The "
            "association is released after the last sub-operation. If it is lost, or an instance "
            "needs presentation contexts that it does not have, another association is requested. "
            "If one is lost before an instance has arrived, the remaining sub-operations fail.",
            table(
                ["Abstract Syntax", "UID", "Transfer Syntaxes", "Role", "Extended Negotiation"],
                [
                    [
                        "Each storage class of the instances",
                        "theirs",
                        f"one context with that of the instance; another with {converted}, if "
                        "it can be transcoded",
                        "SCU",
                        "None",
                    ]
                ],
            ),
        ]
    reporting = [offer for offer in entity.offers if offer.scp and _reports(offer)]
    if reporting:
        syntaxes = ", ".join(uids.name(uid) for uid in CONVERTED[:2])
        parts += [
            "If an event is not reported on the association of the request, it requests an "
            "association with the peer that must receive it:",
            table(
                ["Abstract Syntax", "UID", "Transfer Syntaxes", "Role", "Extended Negotiation"],
                [
                    [offer.name, offer.uid, syntaxes, "SCP (role selection)", "None"]
                    for offer in reporting
                ],
            ),
        ]
    parts.append(blank("other associations that the product requests, or that there are none"))
    return text(*parts)


def _reports(offer: Offer) -> bool:
    """Return whether the SCP of a class has events to report."""
    is_event = offer.service == kinds.UPS and offer.name.endswith("Event SOP Class")
    return is_event or offer.service == kinds.COMMITMENT


def _acceptance(facts: Facts, entity: Entity) -> str:
    storage = [offer for offer in entity.offers if offer.service == kinds.STORAGE]
    lines = [
        [
            offer.name + (f", for {offer.calling_ae}" if offer.calling_ae else ""),
            offer.uid,
            facts.sets[offer.syntaxes],
            _role(offer),
            _says(offer),
        ]
        for offer in entity.offers
        if offer.service != kinds.STORAGE
    ]
    if storage:
        titles = ", ".join(dict.fromkeys(who(entity, offer) for offer in storage))
        lines.append(
            [
                f"The classes of Table 1-1 (section 1.1) with {titles} as their AE",
                "as given there",
                "as given there",
                "SCP, and SCU for C-GET, as given there"
                if any(offer.scu for offer in storage)
                else "SCP",
                ", ".join(dict.fromkeys(map(_says, storage))),
            ]
        )
    hooked = any(scope.hooks["before_association"] for scope in entity.scopes)
    return text(
        "It accepts associations as described in section 8.7.2. Each presentation context is "
        "negotiated separately; an association is accepted even if none of its contexts is. The "
        "same abstract syntax may be proposed several times. If several contexts have the same ID, "
        "the first accepted one is used.",
        table(
            ["Abstract Syntax", "UID", "Transfer Syntaxes", "Role", "Extended Negotiation"], lines
        ),
        "The sets of transfer syntaxes are those of Table 1-2 (section 1.1). Roles are those of "
        f"{entity.title}; SCU needs role selection by the peer"
        + (", but not for a C-GET." if facts.app.config.get_without_role else "."),
        blank("the associations that the product's own rules refuse") if hooked else "",
    )


def _role(offer: Offer) -> str:
    """Return the roles that this side may take on a peer's association."""
    return " and ".join(["SCP"] * offer.scp + ["SCU"] * offer.scu)


def _says(offer: Offer) -> str:
    said = [f"{name.replace('_', ' ')}: {value}" for name, value in offer.extended if value]
    return "; ".join(said) or "None"
