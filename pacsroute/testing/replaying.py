"""Recordings as tests: replay the messages of a peer to an app."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from pacsroute.dimse.commands import CMoveRQ, CMoveRSP
from pacsroute.dimse.messages import Message
from pacsroute.errors import AssociationError
from pacsroute.framework.base import BaseApp
from pacsroute.framework.requests import Peer
from pacsroute.net import overlapping
from pacsroute.net.association import Association
from pacsroute.services.dispatcher import Dispatcher
from pacsroute.status import MOVE_DESTINATION_UNKNOWN
from pacsroute.testing.comparing import Difference, compare
from pacsroute.testing.memory import associate, known
from pacsroute.testing.script import Script, Wire, scripts
from pacsroute.trace.conversation import UnreadableFile
from pacsroute.upper_layer.pdu import AssociateRQ


def replay(
    file: str | os.PathLike[str],
    app: BaseApp,
    *,
    peers: Mapping[str, BaseApp] | None = None,
    ignore: Collection[str] = (),
    values: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Difference]:
    """Play the messages of a requestor to an app; return the differences in its responses.

    No network is used and no time passes. The app runs in its lifespan and does its work: an
    archive does store the recorded instances.

    Differences between servers are not compared: implementation, maximum length, Message IDs of the
    app's own requests, and how messages are cut into PDUs. Neither are the Pending responses of
    C-GET and C-MOVE, and the responses to a cancelled query: their number depends on the time.

    Parameters
    ----------
    file : path
        A recording of ``pacsroute run --record``, or a pcap or pcapng capture, possibly of another
        server. The requestor's part is replayed, and the acceptor's part is compared.
    app : App
        The app that answers.
    peers : mapping of str to BaseApp, optional
        The apps behind AE titles that the app sends to. Other titles get a stand-in that accepts
        everything.
    ignore : collection of str
        Keywords of elements that may differ, in command sets and data sets, such as
        ``ErrorComment`` or ``InstanceCreationTime``.
    values : bool
        Whether differences show values that may hold patient data; else they are masked.
    progress : callable, optional
        Called with the number of associations played so far.

    Raises
    ------
    OSError, UnreadableFile
        If there is no association in the file.

    Examples
    --------
    ::

        def test_the_odd_modality():
            assert replay("recordings/odd-modality.rec", app) == []
    """
    found = list(scripts(file))
    if not found:
        raise UnreadableFile("no association in it")
    differences: list[Difference] = []
    with contextlib.ExitStack() as lifespans:
        for one in (app, *(peers or {}).values()):
            lifespans.enter_context(one.running())
        for number, script in enumerate(found, 1):
            wire = _play(script, app, peers or {})
            label = f"association {number}, " if len(found) > 1 else ""
            differences += [
                difference._replace(where=label + difference.where)
                for difference in compare(script, wire, frozenset(ignore), values=values)
            ]
            if progress is not None:
                progress(number)
    return differences


def _play(script: Script, app: BaseApp, peers: Mapping[str, BaseApp]) -> Wire:
    wire = Wire(script)
    everybody = _Peers({title: _stand_in(title) for title in _destinations(script)} | dict(peers))
    with known(app, everybody), contextlib.suppress(AssociationError):
        association = cast("_Played", _Played.accept(cast("Any", wire), app))
        association.peers = everybody
        try:
            overlapping.run(Dispatcher(app, association))
        finally:
            association.close()
    return wire


class _Played(Association):
    """An association whose sub-operations stay in memory, too."""

    peers: Mapping[str, BaseApp]

    def connect(self, peer: Peer, request: AssociateRQ, **options: Any) -> Any:
        return associate(request, self.peers[request.called_ae], self.app, self.peers)


class _Peers(dict[str, BaseApp]):
    """The app behind each AE title; none is on the network."""

    def __missing__(self, title: str) -> BaseApp:
        return self.setdefault(title, _stand_in(title))

    def __contains__(self, title: object) -> bool:
        return True


def _stand_in(title: str) -> BaseApp:
    """Return a peer that accepts everything."""
    app = BaseApp(title)
    app.store(_take)
    app.n_event_report("StorageCommitment")(_take)
    return app


def _take(request: Any) -> None:
    """Return Success."""


def _destinations(script: Script) -> set[str]:
    """Return the C-MOVE destinations that were known during the recording."""
    answers = [one.command for one in script.answers if isinstance(one, Message)]
    unknown = {
        answer.message_id_responded_to
        for answer in answers
        if isinstance(answer, CMoveRSP) and answer.status == MOVE_DESTINATION_UNKNOWN
    }
    said = [one.command for one in script.said if isinstance(one, Message)]
    return {
        command.move_destination
        for command in said
        if isinstance(command, CMoveRQ) and command.message_id not in unknown
    }
