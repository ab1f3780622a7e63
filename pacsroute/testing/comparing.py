"""The differences between recorded and replayed responses."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from pydicom import Dataset

from pacsroute import uids
from pacsroute.dataset.parsing import readable
from pacsroute.dimse.command_set import keyword
from pacsroute.dimse.commands import (
    CCancelRQ,
    Response,
    SubOperationsResponse,
    full_name,
    values_of,
)
from pacsroute.dimse.messages import Message
from pacsroute.errors import DataSetError
from pacsroute.status import Status
from pacsroute.testing.script import Script, Wire
from pacsroute.trace import datasets, negotiation
from pacsroute.trace.text import shown
from pacsroute.trace.wire import DataSet, Seen, Trouble, WireReader
from pacsroute.upper_layer.pdu import Abort, AssociateAC, AssociateRJ, ReleaseRP

_WIDTH = 64  # characters of a value
_NOTHING = "nothing"
_CANCELLED = ", pending until cancelled"
_NOT_COMPARED = {"message_id", "has_data_set", "received_field"}


class Difference(NamedTuple):
    """A difference between a recorded response and the app's.

    Attributes
    ----------
    where : str
        The message and, if applicable, the element.
    recorded, replayed : str
        The recorded value, and the new one.
    """

    where: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return f"{self.where}: {self.recorded} recorded, {self.replayed} now"


def compare(
    script: Script, wire: Wire, ignore: frozenset[str], *, values: bool
) -> Iterator[Difference]:
    """Return the differences of a replay.

    If the association, or a context in use, was negotiated differently, that is the only
    difference, because the peer's messages no longer fit.
    """
    first = [answers[0] if answers else None for answers in (script.answers, wire.answers)]
    if type(first[0]) is not type(first[1]):
        yield Difference("the answer", *map(_text, first))
        return
    used = {seen.context_id for seen in script.said + script.answers if isinstance(seen, Message)}
    unusable = False
    for context_id, difference in _contexts(script.reader, wire.reader):
        unusable = unusable or context_id in used
        yield difference
    if unusable:
        return
    cancelled = {
        seen.command.message_id_responded_to
        for seen in script.said
        if isinstance(seen, Message) and isinstance(seen.command, CCancelRQ)
    }
    before, now = (_grouped(answers, cancelled) for answers in (script.answers, wire.answers))
    for where in before | now:
        pairs = list(zip_longest(before[where], now[where]))
        if where.endswith(_CANCELLED):
            pairs = list(zip(before[where], now[where], strict=False))
        for number, (one, other) in enumerate(pairs, 1):
            label = f"{where}, number {number}" if len(pairs) > 1 else where
            if one is None or other is None:
                # A truncated recording does not show the rest.
                if one is not None or not script.conversation.trouble:
                    yield Difference(label, _text(one), _text(other))
            elif isinstance(one, Message) and isinstance(other, Message):
                yield from _messages(label, one, other, script.reader, ignore, values=values)
            elif isinstance(one, AssociateAC) and isinstance(other, AssociateAC):
                yield from _agreements(one, other)
            elif one != other:
                yield Difference(label, _text(one), _text(other))


def _grouped(answers: list[Seen], cancelled: set[int]) -> defaultdict[str, list[Seen]]:
    """Return the answers by their requests, so that an extra one does not shift the others."""
    groups: defaultdict[str, list[Seen]] = defaultdict(list)
    answered: Counter[int] = Counter()
    for seen in answers:
        if not isinstance(seen, Message):
            groups["the end" if isinstance(seen, Abort | ReleaseRP) else "the answer"].append(seen)
            continue
        command = seen.command
        name = full_name(command)
        if not isinstance(command, Response):
            groups[name].append(seen)
            continue
        number = command.message_id_responded_to
        again = f" ({answered[number] + 1})" if answered[number] else ""
        if Status(command.status).category != "Pending":
            answered[number] += 1
            groups[f"{name} {number}{again}"].append(seen)
        elif not isinstance(command, SubOperationsResponse):
            until = _CANCELLED if number in cancelled else ", pending"
            groups[f"{name} {number}{again}{until}"].append(seen)
    return groups


def _text(seen: Seen | None) -> str:
    if seen is None:
        return _NOTHING
    if isinstance(seen, Message):
        command = seen.command
        return str(Status(command.status)) if isinstance(command, Response) else "a request"
    if isinstance(seen, AssociateRJ):
        return negotiation.rejection(seen)
    if isinstance(seen, Abort):
        return negotiation.abort(seen)
    if isinstance(seen, Trouble):
        return seen
    return "accepted" if isinstance(seen, AssociateAC) else "released"


# ------------------------------------------------------------- negotiation


def _contexts(before: WireReader, now: WireReader) -> Iterator[tuple[int, Difference]]:
    if before.request is None or now.request is None:
        return
    for context in before.request.contexts:
        one, other = before.contexts.get(context.id), now.contexts.get(context.id)
        told = [
            f"accepted with {negotiation.syntax_name(accepted.transfer_syntax)}"
            + ("" if accepted.scu else ", not as SCU")
            + (", as SCP" if accepted.scp else "")
            if accepted
            else "not accepted"
            for accepted in (one, other)
        ]
        if told[0] != told[1]:
            name = f"context {context.id}, {uids.name(context.abstract_syntax)}"
            yield context.id, Difference(name, *told)


def _agreements(one: AssociateAC, other: AssociateAC) -> Iterator[Difference]:
    before, now = one.user_information, other.user_information
    if before.asynchronous_operations != now.asynchronous_operations:
        windows = [str(side.asynchronous_operations) for side in (before, now)]
        yield Difference("asynchronous operations window", *windows)
    if dict(before.extended) != dict(now.extended):
        answers = [
            ", ".join(f"{uids.name(uid)} {data.hex(' ')}" for uid, data in side.extended)
            for side in (before, now)
        ]
        yield Difference("extended negotiation", *(answer or _NOTHING for answer in answers))
    responded = [side.user_identity_response is not None for side in (before, now)]
    if responded[0] != responded[1]:
        texts = ("acknowledged" if there else "not acknowledged" for there in responded)
        yield Difference("user identity", *texts)


# ------------------------------------------------------------- messages


def _messages(
    where: str,
    one: Message,
    other: Message,
    reader: WireReader,
    ignore: frozenset[str],
    *,
    values: bool,
) -> Iterator[Difference]:
    if type(one.command) is not type(other.command):
        yield Difference(where, full_name(one.command), full_name(other.command))
        return
    if one.context_id != other.context_id:
        contexts = (f"context {message.context_id}" for message in (one, other))
        yield Difference(where, *contexts)
        return
    others = values_of(other.command)
    for name, before in values_of(one.command).items():
        now = others[name]
        if before == now or name in _NOT_COMPARED or keyword(name) in ignore:
            continue
        if name == "status":
            told = [str(Status(code)) for code in (before, now)]
        else:
            told = [
                _NOTHING if value is None else shown(name, value, values=values)
                for value in (before, now)
            ]
        yield _difference(f"{where}, {keyword(name)}", *told)
    data = [message.data for message in (one, other)]
    accepted = reader.contexts.get(one.context_id)
    syntax = accepted.transfer_syntax if accepted else ""
    yield from _data_sets(where, data, syntax, ignore, values=values)


def _difference(where: str, recorded: str, replayed: str) -> Difference:
    return Difference(where, recorded, f"another, {replayed}" if recorded == replayed else replayed)


def _data_sets(
    where: str, data: Sequence[object], syntax: str, ignore: frozenset[str], *, values: bool
) -> Iterator[Difference]:
    both = [bytes(side.bytes) if isinstance(side, DataSet) else None for side in data]
    if both[0] == both[1]:
        return
    where = f"{where}, data set"
    sizes = [_NOTHING if side is None else f"{len(side):,} bytes" for side in both]
    if both[0] is None or both[1] is None:
        yield Difference(where, *sizes)
        return
    try:
        before, now = (readable(side, syntax) for side in both if side is not None)
    except DataSetError:
        yield _difference(where, *sizes)
        return
    found = list(_elements(where, before, now, ignore, values=values))
    yield from found
    if not found and not ignore:
        yield _difference(f"{where}, how it is encoded", *sizes)


def _elements(
    where: str, before: Dataset, now: Dataset, ignore: frozenset[str], *, values: bool
) -> Iterator[Difference]:
    for tag in sorted(before.keys() | now.keys()):
        one, other = before.get(tag), now.get(tag)
        known = one or other
        assert known is not None
        name = datasets.name(known)
        if name in ignore or one == other:
            continue
        place = f"{where}, {name}" if known.keyword else f"{where}, {name} {known.tag}"
        nested = one is not None and other is not None and one.VR == other.VR == "SQ"
        if nested and len(one.value) == len(other.value):
            for number, items in enumerate(zip(one.value, other.value, strict=True), 1):
                yield from _elements(f"{place} item {number}", *items, ignore, values=values)
            continue
        told = [
            _NOTHING if side is None else datasets.value(side, _WIDTH, values=values)
            for side in (one, other)
        ]
        yield _difference(place, *told)
