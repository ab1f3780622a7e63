"""The events of an audit trail: one for each action (PS3.15 §A.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal[
    "start",
    "stop",
    "authentication",
    "rejection",
    "store",
    "query",
    "retrieve",
    "export",
    "access",
    "correction",
    "deletion",
]
"""The kind of action.

A ``retrieve`` sent instances to its requestor, by C-GET or over HTTP; an ``export`` sent them
to another destination, by C-MOVE or from the queue. An ``access`` is a page view or an action
on a page.
"""

SUCCESS, MINOR, SERIOUS = 0, 4, 8
"""The outcome: success; partial, with a warning, or cancelled; or failure (PS3.15 §A.5.1)."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A patient and a study that an event is about.

    Parameters
    ----------
    patient_id, issuer, patient_name : str
        Patient ID, Issuer of Patient ID and Patient's Name; empty if they are not known.
    study : str
        The Study Instance UID.
    accession_number : str
        The accession number of the study.
    sop_classes : mapping of str to int
        The number of the study's instances in the event, by SOP Class UID.
    """

    patient_id: str = ""
    issuer: str = ""
    patient_name: str = ""
    study: str = ""
    accession_number: str = ""
    sop_classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Event:
    """An action that succeeded or failed.

    Parameters
    ----------
    kind : str
        The action: see `Kind`.
    ae_title : str
        The app's own AE title.
    at : datetime.datetime
        The time, in UTC.
    outcome : int
        0, 4 or 8: see `SUCCESS`, `MINOR` and `SERIOUS`.
    why : str
        The status of a response, or a reason.
    user : object
        The user: the result of `@app.authenticate`, or the `by` of a correction or deletion. For a
        failed authentication, the claimed name. None if there is no name.
    proven_by : str
        The proof of the identity: ``passcode``, ``kerberos``, ``saml``, ``jwt`` or ``certificate``;
        ``username`` is a claim without proof; empty without a user.
    calling_ae, called_ae : str
        The AE titles of the association, or those used for HTTP.
    address : str
        The address of the peer, even behind a load balancer with the PROXY protocol.
    transport : str
        ``dimse``, ``web``, or empty for neither.
    destination_ae, destination : str
        The AE title and the host or URL of an export's destination.
    subjects : tuple of Subject
        The patients and studies, if known.
    count : int, optional
        The number of answers or instances.
    sop_class : str
        The SOP Class UID of a query's information model.
    identifier : pydicom.Dataset, optional
        The keys of a query.
    what : str
        The content of a page, or the deleted part of a study.
    action : str
        ``C`` create, ``R`` read, ``U`` update, ``D`` delete or ``E`` execute, if the kind does not
        imply it.
    """

    kind: Kind
    ae_title: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcome: int = SUCCESS
    why: str = ""
    user: object = None
    proven_by: str = ""
    calling_ae: str = ""
    called_ae: str = ""
    address: str = ""
    transport: Literal["", "dimse", "web"] = ""
    destination_ae: str = ""
    destination: str = ""
    subjects: tuple[Subject, ...] = ()
    count: int | None = None
    sop_class: str = ""
    identifier: Dataset | None = None
    what: str = ""
    action: Literal["", "C", "R", "U", "D", "E"] = ""
