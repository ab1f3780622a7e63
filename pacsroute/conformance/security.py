"""Section 8: access control and protection of connections."""

from __future__ import annotations

from pacsroute.config import Config
from pacsroute.conformance.facts import Facts
from pacsroute.conformance.markdown import blank, table, text
from pacsroute.tls import TLS


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of section 8 by the numbers of its sub-sections."""
    asking = [entity.title for entity in facts.entities if entity.authenticates]
    config = facts.app.config
    secure = {}
    if config.tls_certificate:
        secure = {"8.4.2": _transport(config), "A.C": _ciphers(config)}
    return {
        **({"6.6": _syslog()} if facts.app.auditors else {}),
        "8": "",
        "8.1": blank("the network for which the product is intended, and its protection there"),
        "8.2": "TCP/IP, over IPv4 or IPv6. The operating system resolves host names. "
        "No other network service is required.",
        "8.3": _ports(config),
        "8.4": "",
        **secure,
        "8.5": "",
        "8.5.1": blank("which identity the product gives when it requests associations, if any"),
        "8.5.2": _identities(facts, asking),
        "8.7": "",
        "8.7.2": _network(config),
        "8.7.3": text(
            "The log contains AE titles, addresses and UIDs, but no values of data sets. "
            "Section 6.1 lists the limits of lengths, nesting and numbers.",
            _audit(facts),
        ),
    }


def _ports(config: Config) -> str:
    plain, secured = "DICOM, without TLS", "DICOM over TLS (section 8.4.2)"
    only_tls = bool(config.tls_certificate) and config.tls_port is None
    ports = [(config.port, secured if only_tls else plain)]
    if config.tls_certificate and config.tls_port is not None:
        ports.append((config.tls_port, secured))
    return table(
        ["Port", "Address", "Direction", "Use"],
        [
            *([port or "a free one", config.host, "in", use] for port, use in ports),
            ["as configured", "C-MOVE destinations and other peers", "out", "DICOM, or over TLS"],
        ],
    )


_PROFILES = {
    # Include the RFCs: "BCP 195" alone would name the older profile of B.9.
    "bcp195": ("BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile", "PS3.15 B.12"),
    "modified": (
        "Modified BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile",
        "PS3.15 B.13",
    ),
}
_CLIENT_CERTIFICATES = {
    "none": "Clients are not asked for a certificate.",
    "optional": "A client need not send a certificate, but one that is sent must be valid.",
    "required": "Clients without a valid certificate are refused.",
}


def _transport(config: Config) -> str:
    asked = config.tls_client_certificate or ("required" if config.tls_ca else "none")
    return text(
        table(["Profile", "Defined in", "Support"], [[*_PROFILES[config.tls_profile], "acceptor"]]),
        f"Only TLS 1.2 and 1.3 are supported. {_CLIENT_CERTIFICATES[asked]} Revocation is not "
        "checked.",
        blank("key lengths and issuer of the certificate, and how certificates are exchanged"),
    )


def _ciphers(config: Config) -> str:
    context = TLS(profile=config.tls_profile).client()  # type: ignore[arg-type]
    suites = ", ".join(sorted(cipher["name"] for cipher in context.get_ciphers()))
    return f"Cipher suites, by their names in OpenSSL: {suites}."


def _identities(facts: Facts, asking: list[str]) -> str:
    if not asking:
        return (
            "An identity that a peer gives is ignored; the association is accepted without "
            "a server response."
        )
    others = [entity.title for entity in facts.entities if entity.title not in asking]
    return text(
        f"User identities are checked by {', '.join(asking)}; unknown users are rejected. A server "
        "response is sent if the peer has requested it.",
        f"They are ignored by {', '.join(others)}." if others else "",
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


def _syslog() -> str:
    return text(
        "The product sends no audit messages by syslog.",
        blank("how they get to an audit repository, if they do"),
    )


def _audit(facts: Facts) -> str:
    if not facts.app.auditors:
        return "No audit trail is written."
    return text(
        "Stores, queries, retrievals, exports, access over HTTP, deletions, corrections, "
        "authentications, rejected associations, start and stop are audit events, with the content "
        "of PS3.15 A.5.",
        blank("where the audit trail is kept, and for how long"),
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
