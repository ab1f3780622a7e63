"""Section 7.3: the status codes of responses, and how associations end."""

from __future__ import annotations

from pacsroute.conformance import kinds
from pacsroute.conformance.facts import Facts, Offer
from pacsroute.conformance.markdown import blank, heading, table, text
from pacsroute.conformance.overview import of_services
from pacsroute.framework.routes import name_of
from pacsroute.status import Status

# What this layer answers by itself, by command; handlers may answer with other codes, too.
_WRONG_CLASS = (0x0122, "the SOP Class is not that of the presentation context, or is not served")
_WRONG_INSTANCE = (0x0117, "the SOP Instance UID is no UID")
_FAILED = "the product failed unexpectedly"
_QUERY = [(0xFE00, "a C-CANCEL was received"), _WRONG_CLASS, (0xC000, _FAILED)]
_BAD_IDENTIFIER = "there is no identifier, it cannot be read, is longer than section 7.1.1 says, or"
_RETRIEVE = [
    (0x0000, "all sub-operations have succeeded, or there are none"),
    (0xFF00, "sub-operations continue"),
    (0xB000, "some sub-operations have failed, or ended with a warning"),
    (0xA702, "all sub-operations have failed"),
    (0xA900, f"{_BAD_IDENTIFIER} lacks its level or unique key"),
    *_QUERY,
]
_NORMALIZED = [
    (0x0000, "it is done"),
    (0x0110, f"{_FAILED}, or the data set cannot be read or is too long"),
    _WRONG_INSTANCE,
    _WRONG_CLASS,
    (0x0211, "this operation is not answered for the SOP Class"),
]
_CODES: dict[str, list[tuple[int, str]]] = {
    "echo": [(0x0000, "always, unless the product fails"), (0x0110, _FAILED)],
    "store": [
        (0x0000, "the product has taken the instance"),
        _WRONG_CLASS,
        _WRONG_INSTANCE,
        (
            0xA700,
            "the data set could not be kept: it is too long, or there is no room for it",
        ),
        (
            0xA900,
            "there is no data set, or its SOP Class or Instance UID differs from the request's",
        ),
        (0xC000, _FAILED),
    ],
    "find": [
        (0x0000, "there are no more matches"),
        (0xFF00, "a match; all keys are supported"),
        (0xFF01, "a match; some keys are not supported"),
        (0xA900, f"{_BAD_IDENTIFIER} has a key that cannot be matched"),
        *_QUERY,
    ],
    "get": _RETRIEVE,
    "move": [*_RETRIEVE, (0xA801, "nobody knows the move destination")],
    "n_create": _NORMALIZED,
    "n_set": _NORMALIZED,
    "n_get": [*_NORMALIZED, (0x0107, "attributes were asked for that there are not")],
    "n_action": [*_NORMALIZED, (0x0123, "there is no such action type")],
    "n_delete": _NORMALIZED,
    "n_event_report": [*_NORMALIZED, (0x0113, "there is no such event type")],
}
_CATEGORIES = ("Success", "Warning", "Failure", "Cancel", "Pending")
_COMMENT, _COUNTS = "(0000,0902)", "(0000,1020), (0000,1021), (0000,1022), (0000,1023)"


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of section 7.3 by the numbers of its sub-sections."""
    found = {
        "7.3": "",
        "7.3.1": _failures(facts),
        "7.3.2": text(
            "These codes are returned by the DICOM software itself. A failure may have a comment "
            "that says what is wrong, without patient data. A message with a command that does not "
            "exist is answered with 0211.",
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
            for code, condition in sorted(_CODES[command], key=_order)
        ],
    )


def _order(row: tuple[int, str]) -> tuple[int, int]:
    return _CATEGORIES.index(Status(row[0]).category), row[0]


def _fields(command: str, code: int) -> str:
    """Return the elements that say more than the code."""
    if command in ("get", "move") and code in (0x0000, 0xA702, 0xB000, 0xFE00, 0xFF00):
        return _COUNTS
    return _COMMENT if Status(code).category == "Failure" else "None"


def _failures(facts: Facts) -> str:
    config = facts.app.config
    rejections = [
        ("1", "1", "2", "the application context name is not the one of DICOM"),
        ("1", "2", "2", "the peer has no protocol version 1"),
        ("2", "3", "2", "too many associations, or presentation contexts"),
    ]
    if config.allow:
        rejections.append(("1", "1", "3", "the calling AE title or its address is not allowed"))
    if config.require_called_ae:
        rejections.append(("1", "1", "7", "the called AE title is not one of ours"))
    if any(entity.authenticates for entity in facts.entities):
        rejections += [
            ("1", "2", "1", "the user identity is missing or refused"),
            ("2", "2", "1", "the user identity could not be judged"),
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
                ["0", "0", "what comes first is no association request"],
                ["0", "0", "a timeout of section 7.1.1 has passed, or the product stops"],
                ["0", "0", "an instance could not be read to its end while it was being sent"],
                ["2", "1", "a PDU of an unknown type"],
                ["2", "2", "a PDU that is not expected now"],
                ["2", "5", "a message on a presentation context that was not accepted"],
                ["2", "6", "a PDU that is too long, or has a value that is not possible"],
                ["2", "0", "other errors in messages, and failures of the product"],
            ],
        ),
        "A connection that is lost, or an association that is aborted, ends the requests under "
        f"way on it. A product that is stopped accepts no more associations, gives the running "
        f"ones {config.grace:g} s to end, and aborts the rest.",
        blank("what the product does when a request or association has failed"),
    )
