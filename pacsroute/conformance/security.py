"""Section 8: who may come in, and how the way is protected."""

from __future__ import annotations

from pacsroute.config import Config
from pacsroute.conformance.facts import Facts
from pacsroute.conformance.markdown import blank, table, text


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of section 8 by the numbers of its sub-sections."""
    asking = [entity.title for entity in facts.entities if entity.authenticates]
    return {
        "8": "",
        "8.1": blank("in which network the product is meant to be, and what protects it there"),
        "8.2": "TCP/IP, over IPv4 or IPv6. Host names are resolved as the operating system does. "
        "No other network service is required.",
        "8.3": _ports(facts.app.config),
        "8.4": "",
        "8.5": "",
        "8.5.1": blank("which identity the product gives when it requests associations, if any"),
        "8.5.2": _identities(facts, asking),
        "8.7": "",
        "8.7.2": _network(facts.app.config),
        "8.7.3": "What is logged has AE titles, addresses and UIDs, and no values of data sets. "
        "Lengths, nesting and numbers are bounded as section 6.1 says.",
    }


def _ports(config: Config) -> str:
    return table(
        ["Port", "Address", "Direction", "Use"],
        [
            [config.port or "a free one", config.host, "in", "DICOM, without TLS"],
            ["as configured", "C-MOVE destinations and peers", "out", "DICOM"],
        ],
    )


def _identities(facts: Facts, asking: list[str]) -> str:
    if not asking:
        return (
            "An identity that a peer gives is not looked at; the association is accepted without "
            "a server response."
        )
    others = [entity.title for entity in facts.entities if entity.title not in asking]
    return text(
        f"{', '.join(asking)} asks who its peers are, and rejects those who are not known. A "
        "server response is sent if the peer has asked for it.",
        f"{', '.join(others)} does not look at the identity of its peers." if others else "",
        table(
            ["Type", "Identity", "Support"],
            [
                ["1", "User name", blank("Y or N")],
                ["2", "User name and passcode", blank("Y or N")],
                ["3", "Kerberos service ticket", blank("Y or N")],
                ["4", "SAML assertion", blank("Y or N")],
                ["5", "JSON Web Token", blank("Y or N")],
            ],
        ),
    )


def _network(config: Config) -> str:
    if config.allow:
        who = table(
            ["Allowed calling AE title, network, or both"], [[text] for text in config.allow]
        )
    else:
        who = "Every calling AE title may associate, from every address that reaches the product."
    called = (
        "Called AE titles other than those of section 4.1 are rejected."
        if config.require_called_ae
        else "No called AE title is rejected."
    )
    return text(who, called)
