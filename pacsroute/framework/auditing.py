"""The events of requests, peers and pages for the functions of `@app.audit`.

Other modules check ``if app.auditors:`` before they import this one, so that an app without
an audit trail pays only for the check.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from pacsroute.audit.event import MINOR, SERIOUS, SUCCESS, Kind, Subject
from pacsroute.framework.requests import FindRequest, GetRequest, MoveRequest, Request, StoreRequest
from pacsroute.framework.results import Outcome
from pacsroute.framework.routes import name_of
from pacsroute.instances.attributes import attributes_of
from pacsroute.instances.instance import Instance

if TYPE_CHECKING:
    from pydicom import Dataset

    from pacsroute.framework.base import BaseApp
    from pacsroute.framework.identity import Identity
    from pacsroute.framework.peer import PeerView

_KINDS: dict[str, Kind] = {"store": "store", "find": "query", "get": "retrieve", "move": "export"}
_KIND_BY_NAME = {name_of(command): kind for command, kind in _KINDS.items()}
_OUTCOMES = {"Success": SUCCESS, "Warning": MINOR, "Cancel": MINOR}
_OF_A_SUBJECT = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "StudyInstanceUID",
    "AccessionNumber",
)
_TAGS = frozenset(tag_for_keyword(keyword) or 0 for keyword in _OF_A_SUBJECT)


# ------------------------------------------------------------- requests


def answered(
    app: BaseApp, peer: Any, command: str, request: Request | None, outcome: Outcome | None
) -> None:
    """Report an answered request, if its kind is audited.

    Parameters
    ----------
    app, peer, command
        As for `Answering`.
    request : Request or None
        None if it was refused before it reached a handler.
    outcome : Outcome or None
        None if no response could be written.
    """
    kind = _KIND_BY_NAME.get(command) if request is None else _KINDS.get(request.command)
    if kind is None:
        return
    values: dict[str, Any] = {"outcome": SERIOUS, "why": "no response could be sent"}
    if outcome is not None:
        status = outcome.status
        values = {
            "outcome": _OUTCOMES.get(status.category, SERIOUS),
            "why": "" if status.category == "Success" else str(status),
            "count": outcome.number,
        }
    if isinstance(request, StoreRequest):
        values |= {"subjects": (of_instance(request.instance),), "count": 1}
    elif isinstance(request, FindRequest):
        values |= {"identifier": request.identifier, "sop_class": request.sop_class}
    elif isinstance(request, GetRequest):
        values["subjects"] = request.subjects or tuple(_of_identifier(request.identifier))
    if isinstance(request, MoveRequest):
        values["destination_ae"] = request.move_destination
        if request.peer is not None:
            values["destination"] = request.peer.url or request.peer.host
    app.tell_auditors(kind, peer, **values)


def of_instance(instance: Instance) -> Subject:
    """Return the patient and the study of an instance, as far as they can be read."""
    sop_classes: dict[str, int] = {}
    try:
        sop_classes = {instance.sop_class: 1}
        dataset = attributes_of(instance, _TAGS)
    except Exception:  # noqa: BLE001 - it was refused for the same reason
        return Subject(sop_classes=sop_classes)
    return _of_dataset(dataset, _text(dataset, "StudyInstanceUID"), sop_classes)


def _of_identifier(identifier: Dataset) -> Iterable[Subject]:
    """Yield the subjects in a retrieval's identifier, for handlers that do not name them."""
    study = identifier.get("StudyInstanceUID")
    studies = list(study) if isinstance(study, MultiValue) else [study or ""]
    for uid in studies:
        found = _of_dataset(identifier, str(uid), {})
        if found != Subject():
            yield found


def _of_dataset(dataset: Dataset, study: str, sop_classes: dict[str, int]) -> Subject:
    return Subject(
        patient_id=_text(dataset, "PatientID"),
        issuer=_text(dataset, "IssuerOfPatientID"),
        patient_name=_text(dataset, "PatientName"),
        study=study,
        accession_number=_text(dataset, "AccessionNumber"),
        sop_classes=sop_classes,
    )


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        return str(dataset.get(keyword) or "")
    except Exception:  # noqa: BLE001 - pydicom raises what it likes for broken values
        return ""


def exported(app: BaseApp, destination_ae: str, as_title: str, instance: Instance) -> None:
    """Report an instance that was sent from the queue."""
    app.tell_auditors(
        "export",
        called_ae=as_title,
        transport="dimse",
        destination_ae=destination_ae,
        subjects=(of_instance(instance),),
        count=1,
    )


# ------------------------------------------------------------- who connects


def authenticated(app: BaseApp, association: PeerView) -> None:
    """Report a peer that `@app.authenticate` has admitted."""
    app.tell_auditors("authentication", association)


def not_authenticated(app: BaseApp, peer: PeerView, identity: Identity | None) -> None:
    """Report a peer that `@app.authenticate` has rejected, by its claimed name."""
    if identity is None and getattr(peer, "transport", "") == "web":
        return  # the response asks for credentials
    claimed = None if identity is None else identity.name or f"({identity.kind})"
    why = "not authenticated"
    app.tell_auditors("authentication", peer, user=claimed, outcome=SERIOUS, why=why)


def rejected(app: BaseApp, peer: PeerView, why: str) -> None:
    """Report a peer whose association or HTTP request was rejected."""
    app.tell_auditors("rejection", peer, outcome=SERIOUS, why=why)


# ------------------------------------------------------------- pages


def accessed(
    app: BaseApp,
    caller: PeerView,
    what: str,
    *,
    action: Literal["R", "C", "U", "D", "E"] = "R",
    subjects: tuple[Subject, ...] = (),
    count: int | None = None,
    outcome: int = SUCCESS,
) -> None:
    """Report that a user viewed a page, or acted on it.

    Requests through `App.handle`, such as a search over DICOMweb, are reported already.
    This is for pages that query the index or the queue directly.

    Parameters
    ----------
    app : App
        The app of the page.
    caller : PeerView
        The client: ``environ["pacsroute.caller"]`` of a WSGI request.
    what : str
        The page or action, such as ``/console/studies`` or ``retry job 17``.
    action : str
        ``R`` for reading; ``C``, ``U``, ``D`` or ``E`` for an action.
    subjects : tuple of Subject
        The patients and studies that were shown or changed.
    count : int, optional
        How many rows were shown.
    outcome : int
        As for `Event`.

    Examples
    --------
    >>> from pacsroute import App, EchoRequest
    >>> app = App("ARCHIVE")
    >>> @app.audit
    ... def keep(event):
    ...     print(event.user, event.what, event.count)
    >>> caller = EchoRequest(calling_ae="BROWSER", user="doe")
    >>> accessed(app, caller, "/console/studies", count=50)
    doe /console/studies 50
    """
    app.tell_auditors(
        "access",
        caller,
        what=what,
        action=action,
        subjects=subjects,
        count=count,
        outcome=outcome,
    )
