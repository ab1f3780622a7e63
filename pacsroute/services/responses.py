"""Responses to requests, filled in from the handler's outcome (PS3.7 §9.3, §10.3)."""

from __future__ import annotations

import re
from typing import Any

from pacsroute.dimse import commands
from pacsroute.dimse.commands import Command, Response
from pacsroute.errors import ProtocolError
from pacsroute.framework.results import Outcome


def _names(kind: type[Command]) -> tuple[type[Response], list[tuple[str, str]]]:
    """Return the type of response to a type of request, and the UIDs that it repeats."""
    answer: Any = commands.TYPES.get(kind.command_field | 0x8000, commands.UnknownRSP)
    pairs = [
        (f"affected_{name}", f"{role}_{name}")
        for name in ("sop_class", "sop_instance")
        for role in ("affected", "requested")
        if hasattr(answer, f"affected_{name}") and hasattr(kind, f"{role}_{name}")
    ]
    return answer, pairs


_NOT_IN_A_COMMENT = re.compile(r"[^ -\[\]-~]")
_RESPONSES = {kind: _names(kind) for kind in (*commands.TYPES.values(), commands.UnknownRQ)}


def check_response(answer: Command, request: commands.RequestCommand) -> None:
    """Raise a `ProtocolError` if a response does not match the request's command."""
    if not isinstance(answer, _RESPONSES[type(request)][0]):
        raise ProtocolError(f"a {type(request).__name__} was answered with {type(answer).__name__}")


def response(request: commands.RequestCommand, outcome: Outcome) -> Response:
    """Return the response to a request, with the peer's own UIDs in it."""
    kind, pairs = _RESPONSES[type(request)]
    (code, comment), elements = outcome.status, outcome.elements
    answer = kind(message_id_responded_to=request.message_id, status=code)
    for ours, theirs in pairs:
        setattr(answer, ours, getattr(request, theirs) or None)
    if comment:
        # An LO in the default repertoire: a command has no character set.
        answer.error_comment = _NOT_IN_A_COMMENT.sub("?", comment)[:64]
    if elements:
        tags = elements.get("OffendingElement")
        if tags is not None:
            answer.offending_element = tuple(tags) if isinstance(tags, (list, tuple)) else (tags,)
        answer.error_id = elements.get("ErrorID")
        if "AttributeIdentifierList" in elements and hasattr(answer, "attribute_identifiers"):
            answer.attribute_identifiers = tuple(elements["AttributeIdentifierList"])
    if isinstance(request, commands.UnknownRQ):
        answer.received_field = request.received_field | 0x8000  # type: ignore[attr-defined]
    return answer
