"""The client: a peer's services, as methods that return or iterate."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydicom import Dataset

from pacsroute import uids
from pacsroute.dataset.encoding import encode
from pacsroute.dataset.keywords import keyword_tag
from pacsroute.dimse.commands import (
    CEchoRQ,
    CFindRQ,
    CGetRQ,
    CMoveRQ,
    CStoreRQ,
    NActionRQ,
    NCreateRQ,
    NDeleteRQ,
    NEventReportRQ,
    NGetRQ,
    NSetRQ,
    RequestCommand,
)
from pacsroute.dimse.messages import Message
from pacsroute.errors import DataSetError
from pacsroute.framework.base import BaseApp
from pacsroute.framework.character_sets import default_charset
from pacsroute.framework.requests import Progress
from pacsroute.framework.routes import name_of
from pacsroute.instances.instance import Instance
from pacsroute.net.answers import (
    answer_to,
    answer_to_store,
    answers_to,
    checked,
    data_set_of,
    final_status,
    is_final,
    progress_of,
    received,
)
from pacsroute.net.pool import Opener, Pool
from pacsroute.services import transfer
from pacsroute.services.exchange import Exchange
from pacsroute.status import Status
from pacsroute.upper_layer.negotiation import AcceptedContext
from pacsroute.upper_layer.pdu import UserIdentity

Source = Instance | str | os.PathLike[str] | Dataset | bytes
Keys = Mapping[str, Any] | Dataset

_USUAL = transfer.CONVERTED[:2]


class Reply(NamedTuple):
    """The response to a request of an N-service.

    Parameters
    ----------
    status : Status
        Success or a warning.
    sop_instance : str
        The UID of the instance; if an N-CREATE gave none, the peer's choice.
    dataset : pydicom.Dataset or None
        The attribute list, action reply or event reply.
    """

    status: Status
    sop_instance: str = ""
    dataset: Dataset | None = None


class Client:
    """Requests services of a peer; made by `connect`, `App.connect` and `App.test_client`.

    It associates with the contexts that a request needs, and again when a context or role is
    missing. As a context manager it releases at the end, or aborts after an exception. Threads may
    share it: each request has its own association while it runs, so a request beside an open
    iterator uses a second one.

    Examples
    --------
    >>> from pacsroute import App, connect
    >>> app = App("PACS")
    >>> with app.serve(port=0) as server, connect("127.0.0.1", server.port) as client:
    ...     client.echo().name
    'Success'
    """

    _pool_class: ClassVar[type[Pool]] = Pool

    def __init__(
        self,
        opener: Opener,
        *,
        called_ae: str,
        calling_ae: str,
        user: str | tuple[str, str] | UserIdentity | None = None,
        app: BaseApp | None = None,
    ) -> None:
        self.called_ae, self.calling_ae = called_ae, calling_ae
        self._app = app or BaseApp(calling_ae)
        self._pool = self._pool_class(
            opener, called_ae=called_ae, calling_ae=calling_ae, app=self._app, user=user
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.calling_ae!r} of {self.called_ae!r}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(abort=kind is not None)

    def close(self, *, abort: bool = False) -> None:
        """Release the associations, or abort them; those with a request under way are aborted."""
        self._pool.close(abort=abort)

    @property
    def _charset(self) -> str:
        """The Specific Character Set of responses without one."""
        return default_charset(self._app.config, self.called_ae)

    # ------------------------------------------------------------- requests

    def echo(self) -> Status:
        """Verify that the peer answers (PS3.7 §9.1.5).

        Returns
        -------
        Status
            Success or a warning.

        Raises
        ------
        AssociationError
            If no association can be made, or it ends; this holds for all methods.
        NotAccepted
            If the peer does not accept the presentation context; this too.
        RequestFailed
            If the peer answers with a failure; this too.
        """
        with self._pool.use([(uids.VERIFICATION, _USUAL)]) as (association, context):
            command = CEchoRQ(
                message_id=next(association.numbers), affected_sop_class=context.abstract_syntax
            )
            return final_status("C-ECHO", self._ask(association, context, command))

    def store(self, source: Source, *, priority: int = 0) -> Status:
        """Send an instance (PS3.7 §9.1.1).

        Parameters
        ----------
        source : Instance, path, pydicom.Dataset or bytes
            It is sent as it is stored, or converted if the peer accepts only another transfer
            syntax. Bytes are those of a Part 10 file.
        priority : int
            0 medium, 1 high, 2 low.

        Raises
        ------
        DataSetError, OSError
            If it cannot be read or converted, or its SOP Instance UID is too long to be sent.
        """
        instance = source if isinstance(source, Instance) else Instance(source)
        if len(instance.sop_instance) > uids.LONGEST:  # many peers would abort the association
            raise DataSetError(f"its SOP Instance UID is longer than {uids.LONGEST} characters")
        kind = instance.sop_class, instance.transfer_syntax
        with self._pool.use(transfer.contexts_for(*kind)) as (association, _):
            context = transfer.pick(association.contexts.values(), *kind, as_acceptor=False)
            status = transfer.send(
                association,
                context,
                instance,
                next(association.numbers),
                priority=priority,
                wait=functools.partial(answer_to_store, self._app, association),
            )
            return checked(f"C-STORE of {instance.sop_instance}", status)

    def find(
        self, keys: Keys, sop_class: str = "StudyRoot", *, priority: int = 0
    ) -> Generator[Dataset, None, Status]:
        """Query (PS3.7 §9.1.2).

        Parameters
        ----------
        keys : mapping of str or pydicom.Dataset
            The identifier: keywords with the values to match; keys with an empty value or None are
            only returned.
        sop_class : str
            ``StudyRoot``, ``PatientRoot``, ``Worklist``, a UID or a keyword.
        priority : int
            As for `store`.

        Yields
        ------
        pydicom.Dataset
            A match. Closing the iterator sends a C-CANCEL.

        Returns
        -------
        Status
            The generator's value: Success.

        Examples
        --------
        ::

            for study in client.find({"QueryRetrieveLevel": "STUDY", "PatientID": "1*"}):
                print(study.get("StudyInstanceUID"))
        """
        uid = uids.sop_class(sop_class, "find")
        with self._pool.use([(uid, _USUAL)]) as (association, context):
            command = CFindRQ(
                message_id=next(association.numbers), affected_sop_class=uid, priority=priority
            )
            identifier = encode(keys, context.transfer_syntax)
            coming = answers_to(self._app, association, context, command, identifier)
            with contextlib.closing(coming) as answers:
                for message in answers:
                    if is_final(message):
                        return final_status("C-FIND", message)
                    row = data_set_of(message, context, self._charset)
                    if row is not None:
                        yield row
        raise AssertionError  # the last answer is a status

    def get(
        self,
        keys: Keys,
        sop_class: str = "StudyRoot",
        *,
        storage: Iterable[str] | None = None,
        transfer_syntaxes: Sequence[str] = _USUAL,
        priority: int = 0,
        progress: Callable[[Progress], object] | None = None,
    ) -> Generator[Instance, None, Status]:
        """Fetch instances over this association (PS3.7 §9.1.3).

        Parameters
        ----------
        keys : mapping of str or pydicom.Dataset
            The identifier: the level, and the unique keys down to it.
        sop_class : str
            ``StudyRoot``, ``PatientRoot``, a UID or a keyword.
        storage : iterable of str, optional
            The expected storage classes, as UIDs or keywords: 127 contexts at most. If they fit,
            each transfer syntax gets its own context, so that the peer can send instances
            unchanged. By default, the most common classes; image classes get a second context if
            compressed transfer syntaxes are accepted.
        transfer_syntaxes : sequence of str
            The accepted transfer syntaxes, as UIDs or keywords, in order of preference.
        priority : int
            As for `store`.
        progress : callable, optional
            Called with the counts of each response, including the final one.

        Yields
        ------
        Instance
            An instance, as it was received. Its Success is sent when you ask for the next one, so
            an instance that you did not process is not acknowledged. An instance whose UIDs differ
            from those of its command is refused. Closing the iterator sends a C-CANCEL.

        Returns
        -------
        Status
            The generator's value: Success, or a warning if sub-operations failed.

        Examples
        --------
        ::

            keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
            for instance in client.get(keys):
                instance.save("incoming")
        """
        uid = uids.sop_class(sop_class, "get")
        syntaxes = tuple(uids.transfer_syntax(syntax) for syntax in transfer_syntaxes)
        classes = None if storage is None else [uids.sop_class(name, "store") for name in storage]
        contexts = transfer.contexts_to_fetch(classes, syntaxes)
        needed = [(uid, _USUAL), *contexts]
        scp_of = frozenset(storage_class for storage_class, _ in contexts)
        with self._pool.use(needed, scp_of) as (association, context):
            command = CGetRQ(
                message_id=next(association.numbers), affected_sop_class=uid, priority=priority
            )
            identifier = encode(keys, context.transfer_syntax)
            coming = answers_to(self._app, association, context, command, identifier, fetches=True)
            with contextlib.closing(coming) as answers:
                for message in answers:
                    if isinstance(message.command, CStoreRQ):
                        yield from received(association, message, message.command, self._charset)
                        continue
                    counts = progress_of(message, context)
                    if progress is not None:
                        progress(counts)
                    if is_final(message):
                        what = _with_role("C-GET", association, scp_of)
                        return final_status(what, message, counts)
        raise AssertionError

    def move(
        self, keys: Keys, destination: str, sop_class: str = "StudyRoot", *, priority: int = 0
    ) -> Generator[Progress, None, Status]:
        """Ask the peer to send instances to another (PS3.7 §9.1.4).

        Parameters
        ----------
        keys : mapping of str or pydicom.Dataset
            The identifier: the level, and the unique keys down to it.
        destination : str
            The AE title to send to, which the peer must know.
        sop_class : str
            ``StudyRoot``, ``PatientRoot``, a UID or a keyword.
        priority : int
            As for `store`.

        Yields
        ------
        Progress
            The counts in each of the peer's responses, including the final one. Closing the
            iterator sends a C-CANCEL.

        Returns
        -------
        Status
            The generator's value: Success, or a warning if sub-operations failed.
        """
        uid = uids.sop_class(sop_class, "move")
        with self._pool.use([(uid, _USUAL)]) as (association, context):
            command = CMoveRQ(
                message_id=next(association.numbers),
                affected_sop_class=uid,
                move_destination=destination,
                priority=priority,
            )
            identifier = encode(keys, context.transfer_syntax)
            coming = answers_to(self._app, association, context, command, identifier)
            with contextlib.closing(coming) as answers:
                for message in answers:
                    progress = progress_of(message, context)
                    yield progress
                    if is_final(message):
                        return final_status("C-MOVE", message, progress)
        raise AssertionError

    # ------------------------------------------------------------- N-services

    def n_create(
        self,
        sop_class: str,
        attributes: Keys | None = None,
        sop_instance: str | None = None,
        *,
        meta: str | None = None,
    ) -> Reply:
        """Create an SOP instance (PS3.7 §10.1.5).

        Parameters
        ----------
        sop_class : str
            A short name such as ``MPPS``, a UID or pydicom's keyword.
        attributes : mapping of str or Dataset, optional
            Its attribute list.
        sop_instance : str, optional
            Its UID; by default, the peer assigns one.
        meta : str, optional
            The SOP class of the presentation context, if it differs: a print management meta class,
            or a UPS class. This holds for all N-services.

        Returns
        -------
        Reply
            Success or a warning, with the data set of the response. This holds for all of them.
        """
        command = NCreateRQ(affected_sop_class="", affected_sop_instance=sop_instance)
        return self._managed("n_create", sop_class, meta, command, attributes)

    def n_set(
        self, sop_class: str, sop_instance: str, attributes: Keys, *, meta: str | None = None
    ) -> Reply:
        """Change attributes of an SOP instance (PS3.7 §10.1.3)."""
        command = NSetRQ(requested_sop_instance=uids.sop_instance(sop_instance))
        return self._managed("n_set", sop_class, meta, command, attributes)

    def n_get(
        self,
        sop_class: str,
        sop_instance: str,
        attributes: Iterable[str] = (),
        *,
        meta: str | None = None,
    ) -> Reply:
        """Get attributes of an SOP instance by keyword, or all of them (§10.1.2)."""
        tags = tuple(keyword_tag(keyword) for keyword in attributes)
        command = NGetRQ(
            requested_sop_instance=uids.sop_instance(sop_instance),
            attribute_identifiers=tags or None,
        )
        return self._managed("n_get", sop_class, meta, command, None)

    def n_action(
        self,
        sop_class: str,
        sop_instance: str,
        action_type: int,
        information: Keys | None = None,
        *,
        meta: str | None = None,
    ) -> Reply:
        """Ask for an action on an SOP instance (PS3.7 §10.1.4)."""
        command = NActionRQ(
            requested_sop_instance=uids.sop_instance(sop_instance), action_type=action_type
        )
        return self._managed("n_action", sop_class, meta, command, information)

    def n_delete(self, sop_class: str, sop_instance: str, *, meta: str | None = None) -> Reply:
        """Delete an SOP instance (PS3.7 §10.1.6)."""
        command = NDeleteRQ(requested_sop_instance=uids.sop_instance(sop_instance))
        return self._managed("n_delete", sop_class, meta, command, None)

    def n_event_report(
        self,
        sop_class: str,
        sop_instance: str,
        event_type: int,
        information: Keys | None = None,
        *,
        meta: str | None = None,
    ) -> Reply:
        """Report an event of an SOP instance, as its SCP (PS3.7 §10.1.1).

        The association proposes the SCP role for it.
        """
        command = NEventReportRQ(
            affected_sop_instance=uids.sop_instance(sop_instance), event_type=event_type
        )
        return self._managed("n_event_report", sop_class, meta, command, information)

    def _managed(
        self, name: str, sop_class: str, meta: str | None, command: Any, data: Keys | None
    ) -> Reply:
        uid = uids.sop_class(sop_class, name)
        abstract = uid if meta is None else uids.sop_class(meta, name)
        scp_of = frozenset({abstract} if name == "n_event_report" else ())
        with self._pool.use([(abstract, _USUAL)], scp_of) as (association, context):
            role = "affected" if hasattr(command, "affected_sop_class") else "requested"
            setattr(command, f"{role}_sop_class", uid)
            command.message_id = next(association.numbers)
            encoded = None if data is None else encode(data, context.transfer_syntax) or None
            message = self._ask(association, context, command, encoded)
            status = final_status(_with_role(name_of(name), association, scp_of), message)
            sop_instance = getattr(message.command, "affected_sop_instance", None) or ""
            return Reply(status, sop_instance, data_set_of(message, context, self._charset))

    def _ask(
        self,
        association: Exchange,
        context: AcceptedContext,
        command: RequestCommand,
        data: bytes | None = None,
    ) -> Message:
        association.send(context.id, command, data)
        return answer_to(self._app, association, command)


def _with_role(what: str, association: Exchange, scp_of: Collection[str]) -> str:
    """Return the name of a request for an error, with the role that the peer did not grant."""
    contexts = association.contexts.values()
    if not scp_of or any(one.scp for one in contexts if one.abstract_syntax in scp_of):
        return what
    return f"{what}, for which {association.called_ae} granted no SCP role"
