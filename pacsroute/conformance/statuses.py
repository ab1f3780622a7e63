"""Section 7.3: the status codes of responses and the ends of associations."""

from __future__ import annotations

from pacsroute.conformance import kinds
from pacsroute.conformance.facts import Facts, Offer
from pacsroute.conformance.markdown import blank, heading, table, text
from pacsroute.conformance.overview import of_services
from pacsroute.framework.routes import name_of
from pacsroute.services.statuses import ANSWERED
from pacsroute.status import (
    CANCEL,
    PENDING,
    SUB_OPERATIONS_FAILED,
    SUB_OPERATIONS_WARNING,
    SUCCESS,
    Status,
)

_CATEGORIES = ("Success", "Warning", "Failure", "Cancel", "Pending")
_COUNTED = (SUCCESS, SUB_OPERATIONS_FAILED, SUB_OPERATIONS_WARNING, CANCEL, PENDING)
_COMMENT, _COUNTS = "(0000,0902)", "(0000,1020), (0000,1021), (0000,1022), (0000,1023)"


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of section 7.3 by the numbers of its sub-sections."""
    found = {
        "7.3": "",
        "7.3.1": _failures(facts),
        "7.3.2": text(
            "These codes are returned by the DICOM software itself. A failure may have a comment "
            "that says what is wrong, without patient data. An unknown command is answered with "
            "0211.",
            "C-ECHO:",
            _codes("echo"),
        ),
    }
    for service in range(kinds.WORKLIST, kinds.OTHER + 1):
        offers = [offer for _, offer in of_services(facts, [service])]
        if body := _service(service, offers):
            found[f"7.3.2.{service}"] = body
    return found


def _service(service: int, offers: list[Offer]) -> str:
    """Return a table for each command of a service."""
    commands: dict[str, list[str]] = {}
    for offer in offers:
        for command in offer.commands:
            commands.setdefault(command, []).append(offer.name)
    parts = []
    for number, (command, names) in enumerate(commands.items(), 1):
        title = kinds.title(service, list(dict.fromkeys(names)))
        role = "SCU" if command == "n_event_report" else "SCP"
        parts += [
            heading(f"7.3.2.{service}.{number}", f"{role} of {title} - {name_of(command)}"),
            _codes(command),
            blank("the codes that the product adds, and when"),
        ]
    return text(*parts)


def _codes(command: str) -> str:
    return table(
        ["Service Status", "Further Meaning", "Status Code", "Related Fields", "Condition"],
        [
            [
                Status(code).category,
                Status(code).name,
                f"{code:04X}",
                _fields(command, code),
                condition,
            ]
            for code, condition in sorted(ANSWERED[command], key=_order)
        ],
    )


def _order(row: tuple[int, str]) -> tuple[int, int]:
    return _CATEGORIES.index(Status(row[0]).category), row[0]


def _fields(command: str, code: int) -> str:
    """Return the response elements that give details on a status code."""
    if command in ("get", "move") and code in _COUNTED:
        return _COUNTS
    return _COMMENT if Status(code).category == "Failure" else "None"


def _failures(facts: Facts) -> str:
    config = facts.app.config
    rejections = [
        ("1", "1", "2", "the application context name is not that of DICOM"),
        ("1", "2", "2", "the peer does not support protocol version 1"),
        ("2", "3", "2", "too many associations, or presentation contexts"),
    ]
    if config.allow:
        rejections.append(("1", "1", "3", "the calling AE title or its address is not allowed"))
    if config.require_called_ae:
        rejections.append(("1", "1", "7", "the called AE title is not one of ours"))
    if any(entity.authenticates for entity in facts.entities):
        rejections += [
            ("1", "2", "1", "the user identity is missing or refused"),
            ("2", "2", "1", "the user identity could not be checked"),
        ]
    hooked = any(s.hooks["before_association"] for e in facts.entities for s in e.scopes)
    return text(
        "Associations are rejected (A-ASSOCIATE-RJ) for these reasons:",
        table(["Result", "Source", "Reason", "Condition"], sorted(rejections)),
        blank("the reasons of the product's own rules") if hooked else "",
        "Associations are aborted (A-ABORT) for these reasons:",
        table(
            ["Source", "Reason", "Condition"],
            [
                ["0", "0", "the first PDU is not an association request"],
                ["0", "0", "a timeout of section 7.1.1 has passed, or the product stops"],
                ["0", "0", "an instance could not be read to its end while it was being sent"],
                ["2", "1", "a PDU of an unknown type"],
                ["2", "2", "an unexpected PDU"],
                ["2", "5", "a message on a presentation context that was not accepted"],
                ["2", "6", "a PDU that is too long, or has an invalid value"],
                ["2", "0", "other errors in messages, and failures of the product"],
            ],
        ),
        "When a connection is lost or an association is aborted, its requests end. When the "
        "product stops, it accepts no more associations, gives the open ones "
        f"{config.grace:g} s to finish, and aborts the rest.",
        blank("what the product does when a request or association has failed"),
    )
