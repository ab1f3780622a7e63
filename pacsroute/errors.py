"""The exceptions of the package, one tree under `PacsrouteError`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class PacsrouteError(Exception):
    """The base of every exception that pacsroute raises on purpose.

    Worth a retry: that depends on the subclass.
    """


class SetupError(PacsrouteError):
    """A mistake in how an app is put together; the message says what to do.

    Worth a retry: no.
    """


def nearest(text: str, names: Iterable[str], cutoff: float = 0.5, *, any_case: bool = False) -> str:
    """Return a suggestion of the nearest name for an error message; empty if none is near.

    Parameters
    ----------
    text : str
        The misspelt text.
    names : iterable of str
        The valid names.
    cutoff : float
        The required similarity, from 0 to 1.
    any_case : bool
        Whether to ignore case.

    Examples
    --------
    >>> nearest("CT_Storage", ["CTStorage", "MRStorage"])
    "; did you mean 'CTStorage'?"
    """
    from difflib import get_close_matches  # noqa: PLC0415 - only after a typo

    spelt = {name.casefold() if any_case else name: name for name in names}
    near = get_close_matches(text.casefold() if any_case else text, spelt, 1, cutoff)
    return f"; did you mean {spelt[near[0]]!r}?" if near else ""


class DataSetError(PacsrouteError, ValueError):
    """A value, keyword or data set that cannot be encoded, decoded or matched.

    Worth a retry: no, the same data fails again.
    """


class UnreadableDataSet(DataSetError):
    """A peer's data set that cannot be read completely; it is answered with 0xC000.

    The message names no value. Worth a retry: no, unless the peer sends it again.
    """


class DataSetTooLarge(UnreadableDataSet):
    """A data set that exceeds a limit of the settings; it is answered with 0xA700.

    Worth a retry: later if the limit was `max_memory`, which all peers share; else no.
    """


class IdentifierError(DataSetError):
    """A key of an identifier that cannot be matched; if no handler catches it, 0xA900.

    The message names the key and never its value: the peer sees it. Worth a retry: no.
    """


class ProtocolError(PacsrouteError):
    """Something the peer sent that the standard does not allow.

    Worth a retry: no, the peer will send it again.

    Parameters
    ----------
    message : str
        The error, for the log; never contains values of a data set.
    reason : int
        The reason of the A-ABORT that answers it (PS3.8 §9.3.8).
    """

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason


class AssociationError(PacsrouteError):
    """The base of errors that end an association, or prevent it.

    Worth a retry: that depends on the subclass.
    """


class AssociationReleased(AssociationError):
    """The peer has released the association in good order (PS3.8 §7.2).

    Worth a retry: yes, on a new association.
    """


class AssociationAborted(AssociationError):
    """The association was aborted or lost, with all its requests (PS3.8 §7.3).

    Worth a retry: yes, on a new association; no if the same request ends that one, too.

    Parameters
    ----------
    source : int or None
        0 if the peer's service user ended it, 2 if the service provider
        did, None if the transport connection was lost without an A-ABORT.
    reason : int
        The provider's reason (PS3.8 §9.3.8); 0 if there is none.
    message : str
        More about the cause.

    Attributes
    ----------
    began : bool
        Whether there was an association; False if a client got none.
    """

    began = True

    def __init__(self, source: int | None, reason: int = 0, message: str = "") -> None:
        super().__init__(message or _aborted(source, reason))
        self.source = source
        self.reason = reason


def _aborted(source: int | None, reason: int) -> str:
    if source is None:
        return "the connection was lost"
    who = "the peer's application" if source == 0 else "the peer's upper layer"
    return f"{who} aborted it (source {source}, reason {reason})"


class ConnectionRefused(AssociationAborted):
    """Nothing listens at the peer's port: the peer is off, or has not opened it yet.

    Worth a retry: yes, after a while.
    """

    began = False


class ReadFailed(AssociationAborted):
    """A file could not be read to its end while it was sent, so we aborted the association.

    Worth a retry: no, the file is damaged or its disk is.
    """


class AssociationRejected(AssociationError):
    """The peer rejected the association (PS3.8 §9.3.4).

    Worth a retry: yes, after a while, if `result` is 2 (transient); else no.

    Parameters
    ----------
    result : int
        1 permanent, 2 transient.
    source : int
        1 service user, 2 service provider (ACSE), 3 service provider (presentation).
    reason : int
        The reason, from the table for the source.
    """

    def __init__(self, result: int, source: int, reason: int, message: str = "") -> None:
        super().__init__(
            message or f"association rejected (result {result}, source {source}, reason {reason})"
        )
        self.result = result
        self.source = source
        self.reason = reason


def let_go(error: BaseException) -> None:
    """Clear an exception's traceback and context, so that storing it does not keep frames alive.

    The frames refer back to the association, or the request with its file, that stores the
    exception. All of it would stay in memory until the garbage collector runs, which is rare.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None


_FAILURE_ELEMENTS = frozenset({"OffendingElement", "ErrorID", "AttributeIdentifierList"})


class Failure(PacsrouteError):
    """Raised by a handler to refuse a request with a status of its own.

    Worth a retry: the peer decides by the status: 0xA7xx says later, others no.

    Parameters
    ----------
    status : int
        The status code of the response, a failure or a warning of PS3.7 Annex C or
        of the service class.
    comment : str
        The Error Comment (0000,0902) that the peer sees: no patient data in it. It
        is cut to 64 characters.
    **elements
        More elements of the response by keyword: ``OffendingElement``, ``ErrorID`` and
        ``AttributeIdentifierList``.

    Examples
    --------
    >>> raise Failure(0xA900, "PatientID is required")
    Traceback (most recent call last):
    pacsroute.errors.Failure: 0xA900 PatientID is required
    """

    def __init__(self, status: int, comment: str = "", **elements: Any) -> None:
        if not isinstance(status, int):
            raise TypeError(f"a Failure's status must be a number like 0xA700, not {status!r:.40}")
        super().__init__(f"0x{status:04X} {comment}".rstrip())
        unknown = elements.keys() - _FAILURE_ELEMENTS
        if unknown:
            known = ", ".join(sorted(_FAILURE_ELEMENTS))
            raise TypeError(f"a Failure takes {known}, not {unknown}")
        # Checked here, so that the traceback shows the handler's line, not when it is encoded.
        if not isinstance(comment, str):
            raise TypeError(f"the comment of a Failure must be a string, not {comment!r:.40}")
        for name in elements.keys() - {"ErrorID"}:
            tags = elements[name] if isinstance(elements[name], (list, tuple)) else [elements[name]]
            if not all(isinstance(tag, int) and 0 <= tag < 1 << 32 for tag in tags):
                raise TypeError(f"{name} must be tags like 0x00100020, not {elements[name]!r:.40}")
        if not 0 <= elements.get("ErrorID", 0) < 1 << 16:
            raise TypeError(f"ErrorID must be from 0 to 65535, not {elements['ErrorID']!r:.40}")
        self.status = status
        self.comment = comment
        self.elements = elements


class NotAccepted(PacsrouteError):
    """The peer did not accept the presentation context that a request needs.

    Worth a retry: no, not before the peer's configuration changes.
    """


class RequestFailed(PacsrouteError):
    """A peer answered a request of ours with a failure, or with Cancel.

    Worth a retry: by `status`: later for 0xA7xx and 0x0213, no for others.

    Raised by the methods of a `Client`. In a handler it is an exception like any other:
    a failure of another peer does not become your status.

    Parameters
    ----------
    what : str
        The request, for the message.
    status : Status
        The peer's answer, with its Error Comment.
    progress : Progress, optional
        The counts of a C-GET or C-MOVE, with the instances that failed.
    """

    def __init__(self, what: str, status: Any, progress: Any = None) -> None:
        super().__init__(f"{what}: {status}")
        self.status = status
        self.progress = progress
