"""Commands: a lightweight value type for each message of PS3.7."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

LOW, MEDIUM, HIGH = 2, 0, 1  # priorities (PS3.7 §E.1)


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Command:
    """The base of all messages: their Command Field, and whether a data set follows.

    A command that is sent many times has its bytes in `encoded`, and must not change.

    Attributes
    ----------
    command_field : int
        The number of the message type (PS3.7 §E.1).
    name : str
        The standard's name of the operation, the same for a request and its response.
    route : str
        The name of the operation in routes and requests, such as ``find``; empty without a route.
    """

    command_field: ClassVar[int] = 0
    name: ClassVar[str] = "UNKNOWN"
    route: ClassVar[str] = ""
    has_data_set: bool = False
    encoded: bytes | None = field(default=None, init=False)

    # Shared: generating them for each message takes a twentieth of a server's start.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in values_of(self).items())
        return f"{type(self).__name__}({values})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Command) or type(other) is not type(self):
            return NotImplemented
        return values_of(self) == values_of(other)


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class RequestCommand(Command):
    """A request, with the Message ID by which its response refers to it."""

    message_id: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Response(Command):
    """A response, with its status (PS3.7 Annex C)."""

    message_id_responded_to: int = 0
    affected_sop_class: str | None = None
    status: int = 0
    error_comment: str | None = None
    error_id: int | None = None
    offending_element: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class InstanceResponse(Response):
    """A response that names the SOP instance it is about."""

    affected_sop_instance: str | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class SubOperationsResponse(Response):
    """A response that counts sub-operations."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CStoreRQ(RequestCommand):
    """C-STORE-RQ (PS3.7 §9.3.1.1)."""

    command_field: ClassVar[int] = 0x0001
    name: ClassVar[str] = "C-STORE"
    route: ClassVar[str] = "store"
    affected_sop_class: str = ""
    priority: int = MEDIUM
    affected_sop_instance: str = ""
    move_originator_ae: str | None = None
    move_originator_message_id: int | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CStoreRSP(InstanceResponse):
    """C-STORE-RSP (PS3.7 §9.3.1.2)."""

    command_field: ClassVar[int] = 0x8001
    name: ClassVar[str] = "C-STORE"


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CGetRQ(RequestCommand):
    """C-GET-RQ (PS3.7 §9.3.3.1)."""

    command_field: ClassVar[int] = 0x0010
    name: ClassVar[str] = "C-GET"
    route: ClassVar[str] = "get"
    affected_sop_class: str = ""
    priority: int = MEDIUM


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CGetRSP(SubOperationsResponse):
    """C-GET-RSP (PS3.7 §9.3.3.2)."""

    command_field: ClassVar[int] = 0x8010
    name: ClassVar[str] = "C-GET"


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CFindRQ(RequestCommand):
    """C-FIND-RQ (PS3.7 §9.3.2.1)."""

    command_field: ClassVar[int] = 0x0020
    name: ClassVar[str] = "C-FIND"
    route: ClassVar[str] = "find"
    affected_sop_class: str = ""
    priority: int = MEDIUM


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CFindRSP(Response):
    """C-FIND-RSP (PS3.7 §9.3.2.2)."""

    command_field: ClassVar[int] = 0x8020
    name: ClassVar[str] = "C-FIND"


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CMoveRQ(RequestCommand):
    """C-MOVE-RQ (PS3.7 §9.3.4.1)."""

    command_field: ClassVar[int] = 0x0021
    name: ClassVar[str] = "C-MOVE"
    route: ClassVar[str] = "move"
    affected_sop_class: str = ""
    priority: int = MEDIUM
    move_destination: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CMoveRSP(SubOperationsResponse):
    """C-MOVE-RSP (PS3.7 §9.3.4.2)."""

    command_field: ClassVar[int] = 0x8021
    name: ClassVar[str] = "C-MOVE"


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CEchoRQ(RequestCommand):
    """C-ECHO-RQ (PS3.7 §9.3.5.1)."""

    command_field: ClassVar[int] = 0x0030
    name: ClassVar[str] = "C-ECHO"
    route: ClassVar[str] = "echo"
    affected_sop_class: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CEchoRSP(Response):
    """C-ECHO-RSP (PS3.7 §9.3.5.2)."""

    command_field: ClassVar[int] = 0x8030
    name: ClassVar[str] = "C-ECHO"


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CCancelRQ(Command):
    """C-CANCEL-RQ, for C-FIND, C-GET and C-MOVE alike (PS3.7 §9.3.2.3)."""

    command_field: ClassVar[int] = 0x0FFF
    name: ClassVar[str] = "C-CANCEL"
    message_id_responded_to: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NEventReportRQ(RequestCommand):
    """N-EVENT-REPORT-RQ (PS3.7 §10.3.1.1)."""

    command_field: ClassVar[int] = 0x0100
    name: ClassVar[str] = "N-EVENT-REPORT"
    route: ClassVar[str] = "n_event_report"
    affected_sop_class: str = ""
    affected_sop_instance: str = ""
    event_type: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NEventReportRSP(InstanceResponse):
    """N-EVENT-REPORT-RSP (PS3.7 §10.3.1.2)."""

    command_field: ClassVar[int] = 0x8100
    name: ClassVar[str] = "N-EVENT-REPORT"
    event_type: int | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NGetRQ(RequestCommand):
    """N-GET-RQ (PS3.7 §10.3.2.1)."""

    command_field: ClassVar[int] = 0x0110
    name: ClassVar[str] = "N-GET"
    route: ClassVar[str] = "n_get"
    requested_sop_class: str = ""
    requested_sop_instance: str = ""
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NGetRSP(InstanceResponse):
    """N-GET-RSP (PS3.7 §10.3.2.2)."""

    command_field: ClassVar[int] = 0x8110
    name: ClassVar[str] = "N-GET"
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NSetRQ(RequestCommand):
    """N-SET-RQ (PS3.7 §10.3.3.1)."""

    command_field: ClassVar[int] = 0x0120
    name: ClassVar[str] = "N-SET"
    route: ClassVar[str] = "n_set"
    requested_sop_class: str = ""
    requested_sop_instance: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NSetRSP(InstanceResponse):
    """N-SET-RSP (PS3.7 §10.3.3.2)."""

    command_field: ClassVar[int] = 0x8120
    name: ClassVar[str] = "N-SET"
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NActionRQ(RequestCommand):
    """N-ACTION-RQ (PS3.7 §10.3.4.1)."""

    command_field: ClassVar[int] = 0x0130
    name: ClassVar[str] = "N-ACTION"
    route: ClassVar[str] = "n_action"
    requested_sop_class: str = ""
    requested_sop_instance: str = ""
    action_type: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NActionRSP(InstanceResponse):
    """N-ACTION-RSP (PS3.7 §10.3.4.2)."""

    command_field: ClassVar[int] = 0x8130
    name: ClassVar[str] = "N-ACTION"
    action_type: int | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NCreateRQ(RequestCommand):
    """N-CREATE-RQ (PS3.7 §10.3.5.1)."""

    command_field: ClassVar[int] = 0x0140
    name: ClassVar[str] = "N-CREATE"
    route: ClassVar[str] = "n_create"
    affected_sop_class: str = ""
    affected_sop_instance: str | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NCreateRSP(InstanceResponse):
    """N-CREATE-RSP (PS3.7 §10.3.5.2)."""

    command_field: ClassVar[int] = 0x8140
    name: ClassVar[str] = "N-CREATE"
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NDeleteRQ(RequestCommand):
    """N-DELETE-RQ (PS3.7 §10.3.6.1)."""

    command_field: ClassVar[int] = 0x0150
    name: ClassVar[str] = "N-DELETE"
    route: ClassVar[str] = "n_delete"
    requested_sop_class: str = ""
    requested_sop_instance: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NDeleteRSP(InstanceResponse):
    """N-DELETE-RSP (PS3.7 §10.3.6.2)."""

    command_field: ClassVar[int] = 0x8150
    name: ClassVar[str] = "N-DELETE"


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class UnknownRQ(RequestCommand):
    """A request with an unknown Command Field; it is answered, too."""

    received_field: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class UnknownRSP(Response):
    """The response to an `UnknownRQ`: its Command Field with the response bit set."""

    received_field: int = 0


TYPES: dict[int, type[Command]] = {
    kind.command_field: kind
    for kind in (
        *(CStoreRQ, CStoreRSP, CGetRQ, CGetRSP, CFindRQ, CFindRSP, CMoveRQ, CMoveRSP),
        *(CEchoRQ, CEchoRSP, CCancelRQ, NEventReportRQ, NEventReportRSP, NGetRQ, NGetRSP),
        *(NSetRQ, NSetRSP, NActionRQ, NActionRSP, NCreateRQ, NCreateRSP, NDeleteRQ, NDeleteRSP),
    )
}
"""The message types by Command Field (PS3.7 §E.1)."""


NAMES: dict[str, str] = {kind.route: kind.name for kind in TYPES.values() if kind.route}
"""The standard's names of the operations, by their names in routes."""


def full_name(command: Command) -> str:
    """Return the standard's name of a message.

    Examples
    --------
    >>> full_name(CStoreRQ()), full_name(NEventReportRSP())
    ('C-STORE-RQ', 'N-EVENT-REPORT-RSP')
    """
    return f"{command.name}-{'RSP' if isinstance(command, Response) else 'RQ'}"


def values_of(command: Command) -> dict[str, Any]:
    """Return the fields of a command by name.

    Examples
    --------
    >>> values_of(CEchoRQ(message_id=1))
    {'has_data_set': False, 'message_id': 1, 'affected_sop_class': ''}
    """
    return {one.name: getattr(command, one.name) for one in fields(command) if one.init}
