"""The lines of a trace: an association as readable text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from pacsroute import uids
from pacsroute.dataset.limits import Limits
from pacsroute.dataset.parsing import readable
from pacsroute.dimse.command_set import keyword
from pacsroute.dimse.commands import (
    HIGH,
    LOW,
    MEDIUM,
    Command,
    CStoreRQ,
    RequestCommand,
    Response,
    SubOperationsResponse,
    full_name,
    values_of,
)
from pacsroute.dimse.messages import Message
from pacsroute.errors import DataSetError
from pacsroute.status import Status
from pacsroute.trace import datasets, negotiation
from pacsroute.trace.conversation import Conversation
from pacsroute.trace.layout import dim, printable, shortened
from pacsroute.trace.wire import DataSet, Seen, Trouble, WireReader
from pacsroute.upper_layer.pdu import (
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    Buffer,
    Pdu,
    ReleaseRQ,
)

_INDENT = 4
_LIMITS = Limits(inflated=64 * 1_048_576)

_COLOURS = {
    "Success": "green",
    "Pending": "cyan",
    "Cancel": "magenta",
    "Warning": "yellow",
    "Failure": "red",
    "Unknown": "red",
}
_PRIORITIES = {MEDIUM: "medium", HIGH: "high", LOW: "low"}
_COUNTS = ("remaining", "completed", "failed", "warning")

# Command fields that the first line already shows, or that are obvious.
_TOLD = {
    "has_data_set",
    "message_id",
    "message_id_responded_to",
    "status",
    "received_field",
    *("affected_sop_class", "requested_sop_class"),
    *_COUNTS,
}


class Trace:
    """Shows one association, a block of lines at a time.

    Parameters
    ----------
    conversation : Conversation
        The two ends of the association.
    write : callable
        Called with each block of lines.
    label : str
        The beginning of each block, if several associations are shown.
    values : bool
        Whether to show values that may contain patient data; see `pacsroute.trace.safe`.
    width : callable
        Returns the width of the terminal, in characters.
    """

    def __init__(
        self,
        conversation: Conversation,
        write: Callable[[str], object],
        *,
        label: str = "",
        values: bool = False,
        width: Callable[[], int] = lambda: 100,
    ) -> None:
        self._conversation = conversation
        self._write = write
        self._label = label
        self._values = values
        self._width = width
        self._reader = WireReader()
        self._proposed: float | None = None  # time of an unanswered request
        self._time = 0.0
        self._told = self._over = False

    def add(self, when: float, by_requestor: bool, data: Buffer) -> None:
        """Add bytes of one end, at a time in seconds since 1970; show the completed messages."""
        self._time = when
        for what in self._reader.add(by_requestor, data):
            self._tell(when, by_requestor, what)

    def end(self) -> None:
        """Show incomplete messages and the reason for the end."""
        for by_requestor, what in self._reader.end():
            self._tell(self._time, by_requestor, what, complete=False)
        self._tell_unanswered()
        if not self._told:
            self._block(f"{self._addresses()}: nothing was sent")
        why = self._conversation.trouble
        if not why and self._reader.request and not self._over:
            why = "closed without a release"
        if why:
            self._block(f"{self._clock(self._time)}   {click.style(why, fg='red')}")

    def _addresses(self) -> str:
        return f"{self._conversation.requestor} → {self._conversation.acceptor}"

    # ------------------------------------------------------------- blocks

    def _block(self, *lines: str) -> None:
        self._told = True
        self._write("\n".join((f"{self._label}{lines[0]}", *lines[1:])))

    def _clock(self, when: float) -> str:
        try:
            clock = time.strftime("%H:%M:%S", time.localtime(when))
        except (OverflowError, ValueError, OSError):  # from a damaged file
            return dim("??:??:??.???")
        return dim(f"{clock}.{int(when * 1000) % 1000:03}")

    def _tell(self, when: float, by_requestor: bool, what: Seen, *, complete: bool = True) -> None:
        if isinstance(what, AssociateRQ):
            self._proposed = when
            return
        head = f"{self._clock(when)} {'→' if by_requestor else '←'} "
        if isinstance(what, AssociateAC):
            self._associated(head, self._clock(when), what)
            return
        self._tell_unanswered()
        if isinstance(what, Message):
            self._block(*self._message(head, what, complete=complete))
        elif isinstance(what, Trouble):
            where = "" if self._reader.request else f"{self._addresses()}: "
            self._block(head + where + click.style(printable(what), fg="red"))
        else:
            self._over = not isinstance(what, ReleaseRQ)
            self._block(head + _short(what))

    def _associated(self, head: str, clock: str, answer: AssociateAC) -> None:
        request, accepted = self._reader.request, len(self._reader.contexts)
        if self._proposed is None or request is None:
            self._block(head + "accepted, but the request was not seen")
            return
        self._proposed = None
        of = len(request.contexts)
        self._block(
            f"{clock}   {_titles(request)} accepted, {accepted} of {of} contexts",
            *self._negotiation(request, answer),
        )

    def _tell_unanswered(self) -> None:
        """Show a request that was not followed by an acceptance."""
        if self._proposed is not None:
            request, when, self._proposed = self._reader.request, self._proposed, None
            assert request is not None
            self._block(
                f"{self._clock(when)}   {_titles(request)}", *self._negotiation(request, None)
            )

    def _negotiation(self, request: AssociateRQ, answer: AssociateAC | None) -> Iterator[str]:
        addresses = self._conversation.requestor, self._conversation.acceptor
        width = self._width()
        yield from negotiation.ends(request, answer, addresses, width, _INDENT)
        yield from negotiation.contexts(request, answer, self._reader.contexts, width, _INDENT)

    # ------------------------------------------------------------- messages

    def _message(self, head: str, message: Message, *, complete: bool) -> Iterator[str]:
        command, context = message.command, self._reader.contexts.get(message.context_id)
        first = f"{head}{click.style(full_name(command), bold=True)} {_number(command)}"
        if isinstance(command, Response):
            first += f"  {_status(command)}"
        else:
            named = sop_class(command) or (context.abstract_syntax if context else "")
            first += f"  {uids.name(named) if uids.is_uid(named) else 'no SOP class'}"
        yield first
        if context is None:
            why = "which was not accepted" if self._reader.request else "negotiated before"
            yield f"{' ' * _INDENT}on context {message.context_id}, {why}"
        for name, text in self._elements(command):
            yield f"{' ' * _INDENT}{dim(name)}  {shortened(text, self._width() - len(name) - 6)}"
        if isinstance(message.data, DataSet):
            syntax = context.transfer_syntax if context else ""
            yield from self._data_set(message.data, syntax, isinstance(command, CStoreRQ))
        if not complete:
            yield " " * _INDENT + click.style("the message is cut here", fg="red")

    def _elements(self, command: Command) -> Iterator[tuple[str, str]]:
        for name, value in values_of(command).items():
            if name in _TOLD or value is None or value == "":
                continue
            if name == "priority":
                if value != MEDIUM:
                    yield "Priority", _PRIORITIES.get(value, str(value))
                continue
            yield keyword(name), shown(name, value, values=self._values)

    def _data_set(self, data: DataSet, syntax: str, stored: bool) -> Iterator[str]:
        about = f"data set, {data.size:,} bytes"
        if not syntax:
            yield " " * _INDENT + dim(f"{about} in an unknown transfer syntax")
            return
        yield " " * _INDENT + dim(f"{about}, {negotiation.syntax_name(syntax)}")
        try:
            dataset = readable(data.bytes, syntax, _LIMITS)
        except DataSetError as error:
            yield " " * _INDENT + click.style(f"cannot be read: {error}", fg="red")
            return
        yield from datasets.lines(
            dataset, self._width(), 2 * _INDENT, values=self._values, masked=not stored
        )
        if data.size > len(data.bytes):
            yield " " * 2 * _INDENT + dim(f"of which the first {len(data.bytes):,} were read")


def sop_class(command: Command) -> str:
    """Return the SOP class that a command names, if it names one."""
    affected = getattr(command, "affected_sop_class", None)
    return uids.trim(affected or getattr(command, "requested_sop_class", None) or "")


def shown(name: str, value: Any, *, values: bool) -> str:
    """Return the value of a command field as text, masked if necessary."""
    if isinstance(value, tuple):
        return ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in value)
    if not isinstance(value, str):
        return str(value)
    free = name == "error_comment"
    if name.endswith("_sop_instance"):
        free = not uids.is_uid(uids.trim(value))
    return printable(value) if values or not free else f"masked, {len(value)} characters"


def _number(command: Command) -> str:
    if isinstance(command, RequestCommand):
        return str(command.message_id)
    return str(getattr(command, "message_id_responded_to", ""))


def _status(response: Response) -> str:
    status = Status(response.status)
    text = click.style(str(status), fg=_COLOURS[status.category])
    if isinstance(response, SubOperationsResponse):
        counts = [(name, getattr(response, name)) for name in _COUNTS]
        told = ", ".join(f"{count} {name}" for name, count in counts if count)
        text += f": {told}" if told else ""
    return text


def _titles(request: AssociateRQ) -> str:
    titles = f"{printable(request.calling_ae)} → {printable(request.called_ae)}"
    return click.style(titles, bold=True)


def _short(pdu: Pdu) -> str:
    if isinstance(pdu, AssociateRJ):
        return click.style(negotiation.rejection(pdu), fg="red")
    if isinstance(pdu, Abort):
        return click.style(negotiation.abort(pdu), fg="red")
    return "release" if isinstance(pdu, ReleaseRQ) else "released"
