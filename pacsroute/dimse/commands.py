"""Commands: one light value type for each message of PS3.7."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

LOW, MEDIUM, HIGH = 2, 0, 1  # priorities (PS3.7 §E.1)


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Command:
    """What all messages have: their Command Field, and whether a data set follows.

    What goes out many times as it is has its bytes in `encoded`, and is not changed any more.
    """

    command_field: ClassVar[int] = 0
    has_data_set: bool = False
    encoded: bytes | None = field(default=None, init=False)

    # One for all: generating them for each message takes a twentieth of a server's start.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in values_of(self).items())
        return f"{type(self).__name__}({values})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Command) or type(other) is not type(self):
            return NotImplemented
        return values_of(self) == values_of(other)


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Request(Command):
    """A request, with the Message ID by which its response refers to it."""

    message_id: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Response(Command):
    """A response, with the status of what was requested (PS3.7 Annex C)."""

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
class CStoreRQ(Request):
    """C-STORE-RQ (PS3.7 §9.3.1.1)."""

    command_field: ClassVar[int] = 0x0001
    affected_sop_class: str = ""
    priority: int = MEDIUM
    affected_sop_instance: str = ""
    move_originator_ae: str | None = None
    move_originator_message_id: int | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CStoreRSP(InstanceResponse):
    """C-STORE-RSP (PS3.7 §9.3.1.2)."""

    command_field: ClassVar[int] = 0x8001


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CGetRQ(Request):
    """C-GET-RQ (PS3.7 §9.3.3.1)."""

    command_field: ClassVar[int] = 0x0010
    affected_sop_class: str = ""
    priority: int = MEDIUM


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CGetRSP(SubOperationsResponse):
    """C-GET-RSP (PS3.7 §9.3.3.2)."""

    command_field: ClassVar[int] = 0x8010


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CFindRQ(Request):
    """C-FIND-RQ (PS3.7 §9.3.2.1)."""

    command_field: ClassVar[int] = 0x0020
    affected_sop_class: str = ""
    priority: int = MEDIUM


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CFindRSP(Response):
    """C-FIND-RSP (PS3.7 §9.3.2.2)."""

    command_field: ClassVar[int] = 0x8020


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CMoveRQ(Request):
    """C-MOVE-RQ (PS3.7 §9.3.4.1)."""

    command_field: ClassVar[int] = 0x0021
    affected_sop_class: str = ""
    priority: int = MEDIUM
    move_destination: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CMoveRSP(SubOperationsResponse):
    """C-MOVE-RSP (PS3.7 §9.3.4.2)."""

    command_field: ClassVar[int] = 0x8021


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CEchoRQ(Request):
    """C-ECHO-RQ (PS3.7 §9.3.5.1)."""

    command_field: ClassVar[int] = 0x0030
    affected_sop_class: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CEchoRSP(Response):
    """C-ECHO-RSP (PS3.7 §9.3.5.2)."""

    command_field: ClassVar[int] = 0x8030


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class CCancelRQ(Command):
    """C-CANCEL-RQ, for C-FIND, C-GET and C-MOVE alike (PS3.7 §9.3.2.3)."""

    command_field: ClassVar[int] = 0x0FFF
    message_id_responded_to: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NEventReportRQ(Request):
    """N-EVENT-REPORT-RQ (PS3.7 §10.3.1.1)."""

    command_field: ClassVar[int] = 0x0100
    affected_sop_class: str = ""
    affected_sop_instance: str = ""
    event_type: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NEventReportRSP(InstanceResponse):
    """N-EVENT-REPORT-RSP (PS3.7 §10.3.1.2)."""

    command_field: ClassVar[int] = 0x8100
    event_type: int | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NGetRQ(Request):
    """N-GET-RQ (PS3.7 §10.3.2.1)."""

    command_field: ClassVar[int] = 0x0110
    requested_sop_class: str = ""
    requested_sop_instance: str = ""
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NGetRSP(InstanceResponse):
    """N-GET-RSP (PS3.7 §10.3.2.2)."""

    command_field: ClassVar[int] = 0x8110
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NSetRQ(Request):
    """N-SET-RQ (PS3.7 §10.3.3.1)."""

    command_field: ClassVar[int] = 0x0120
    requested_sop_class: str = ""
    requested_sop_instance: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NSetRSP(InstanceResponse):
    """N-SET-RSP (PS3.7 §10.3.3.2)."""

    command_field: ClassVar[int] = 0x8120
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NActionRQ(Request):
    """N-ACTION-RQ (PS3.7 §10.3.4.1)."""

    command_field: ClassVar[int] = 0x0130
    requested_sop_class: str = ""
    requested_sop_instance: str = ""
    action_type: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NActionRSP(InstanceResponse):
    """N-ACTION-RSP (PS3.7 §10.3.4.2)."""

    command_field: ClassVar[int] = 0x8130
    action_type: int | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NCreateRQ(Request):
    """N-CREATE-RQ (PS3.7 §10.3.5.1)."""

    command_field: ClassVar[int] = 0x0140
    affected_sop_class: str = ""
    affected_sop_instance: str | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NCreateRSP(InstanceResponse):
    """N-CREATE-RSP (PS3.7 §10.3.5.2)."""

    command_field: ClassVar[int] = 0x8140
    attribute_identifiers: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NDeleteRQ(Request):
    """N-DELETE-RQ (PS3.7 §10.3.6.1)."""

    command_field: ClassVar[int] = 0x0150
    requested_sop_class: str = ""
    requested_sop_instance: str = ""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class NDeleteRSP(InstanceResponse):
    """N-DELETE-RSP (PS3.7 §10.3.6.2)."""

    command_field: ClassVar[int] = 0x8150


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class UnknownRQ(Request):
    """A request whose Command Field is none of PS3.7's; it is answered all the same."""

    received_field: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class UnknownRSP(Response):
    """The answer to one: its Command Field with the bit of a response."""

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


def values_of(command: Command) -> dict[str, Any]:
    """Return the fields of a command by name.

    Examples
    --------
    >>> values_of(CEchoRQ(message_id=1))
    {'has_data_set': False, 'message_id': 1, 'affected_sop_class': ''}
    """
    return {one.name: getattr(command, one.name) for one in fields(command) if one.init}
