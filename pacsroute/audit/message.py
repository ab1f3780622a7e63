"""The audit message of an event in XML (PS3.15 §A.5.1), with the codes of §A.5.3."""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from xml.etree import ElementTree as ET

from pacsroute import uids
from pacsroute.audit.event import Event, Kind, Subject
from pacsroute.dataset.encoding import encode

Code = tuple[str, str, str]
"""A code, its scheme, and its meaning."""

_TRANSFERRED = ("110104", "DCM", "DICOM Instances Transferred")
_ACCESSED = ("110103", "DCM", "DICOM Instances Accessed")
_ACTIVITY = ("110100", "DCM", "Application Activity")

_EVENTS: dict[Kind, tuple[Code, Code | None, str]] = {
    "start": (_ACTIVITY, ("110120", "DCM", "Application Start"), "E"),
    "stop": (_ACTIVITY, ("110121", "DCM", "Application Stop"), "E"),
    "authentication": (
        ("110114", "DCM", "User Authentication"),
        ("110122", "DCM", "Login"),
        "E",
    ),
    "rejection": (
        ("110113", "DCM", "Security Alert"),
        ("110126", "DCM", "Node Authentication"),
        "E",
    ),
    "store": (_TRANSFERRED, None, "C"),
    "query": (("110112", "DCM", "Query"), None, "E"),
    "retrieve": (_TRANSFERRED, None, "R"),
    "export": (_TRANSFERRED, None, "R"),
    "access": (_ACCESSED, None, "R"),
    "correction": (_ACCESSED, None, "U"),
    "deletion": (("110105", "DCM", "DICOM Study Deleted"), None, "D"),
}
"""The event, its type, and its action."""

_APPLICATION: Code = ("110150", "DCM", "Application")
_SOURCE: Code = ("110153", "DCM", "Source Role ID")
_DESTINATION: Code = ("110152", "DCM", "Destination Role ID")
_PATIENT_NUMBER: Code = ("2", "RFC-3881", "Patient Number")
_USER_IDENTIFIER: Code = ("11", "RFC-3881", "User Identifier")
_URI: Code = ("12", "RFC-3881", "URI")
_STUDY_UID: Code = ("110180", "DCM", "Study Instance UID")
_CLASS_UID: Code = ("110181", "DCM", "SOP Class UID")

_NOT_IN_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_APPLICATION_SERVER = "4"
_HOST_NAME, _IP_ADDRESS, _URL = "1", "2", "5"


def xml(event: Event) -> bytes:
    """Return the audit message of an event (PS3.15 §A.5).

    Parameters
    ----------
    event : Event
        The event, as passed to a function of `@app.audit`.

    Returns
    -------
    bytes
        An ``AuditMessage`` in UTF-8, on one line.

    Examples
    --------
    >>> from pacsroute.audit import Event
    >>> b'originalText="Application Start"' in xml(Event(kind="start", ae_title="ARCHIVE"))
    True
    """
    message = ET.Element("AuditMessage")
    _identify(message, event)
    _add_participants(message, event)
    source = ET.SubElement(message, "AuditSourceIdentification")
    source.set("AuditSourceID", _text(event.ae_title))
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    _add_objects(message, event)
    encoded: bytes = ET.tostring(message, encoding="utf-8")
    return encoded


def _identify(message: ET.Element, event: Event) -> None:
    code, kind, action = _EVENTS[event.kind]
    if event.kind == "deletion" and event.what:  # only part of a study
        code = _ACCESSED
    found = ET.SubElement(
        message,
        "EventIdentification",
        EventActionCode=event.action or action,
        EventDateTime=event.at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(event.outcome),
    )
    _add_code(found, "EventID", code)
    if kind is not None:
        _add_code(found, "EventTypeCode", kind)
    if event.why:
        ET.SubElement(found, "EventOutcomeDescription").text = _text(event.why)


# ------------------------------------------------------------- active participants


def _add_participants(message: ET.Element, event: Event) -> None:
    kind = event.kind
    has_user, has_peer = event.user is not None, bool(event.calling_ae or event.address)
    if kind in ("start", "stop"):
        _add_us(message, event, _APPLICATION, asks=False)
        return
    if kind in ("store", "query"):
        if has_peer:
            _add_peer(message, event, _SOURCE, asks=not has_user)
        _add_us(message, event, _DESTINATION, asks=not (has_peer or has_user))
    elif kind == "retrieve":
        _add_us(message, event, _SOURCE, asks=False)
        _add_peer(message, event, _DESTINATION, asks=not has_user)
    elif kind == "export":
        _add_us(message, event, _SOURCE, asks=not has_peer)
        _add_process(message, event.destination_ae, event.destination, _DESTINATION, asks=False)
        if has_peer:
            _add_peer(message, event, None, asks=not has_user)
    else:
        alert = kind == "rejection"
        _add_us(message, event, None, asks=alert)
        if has_peer:
            _add_peer(message, event, None, asks=not (alert or has_user))
    if has_user:
        ET.SubElement(
            message, "ActiveParticipant", UserID=_text(event.user), UserIsRequestor="true"
        )


def _add_us(message: ET.Element, event: Event, role: Code | None, *, asks: bool) -> None:
    _add_process(message, event.called_ae or event.ae_title, socket.gethostname(), role, asks=asks)


def _add_peer(message: ET.Element, event: Event, role: Code | None, *, asks: bool) -> None:
    _add_process(message, event.calling_ae, event.address, role, asks=asks)


def _add_process(
    message: ET.Element, ae_title: str, where: str, role: Code | None, *, asks: bool
) -> None:
    """Add a process, which has an AE title, or an address, or both."""
    told = {"UserID": _text(ae_title or where), "UserIsRequestor": str(asks).lower()}
    if ae_title:
        told["AlternativeUserID"] = _text(f"AETITLES={ae_title}")
    if where:
        told["NetworkAccessPointID"] = _text(where)
        told["NetworkAccessPointTypeCode"] = _access_point(where)
    participant = ET.SubElement(message, "ActiveParticipant", told)
    if role is not None:
        _add_code(participant, "RoleIDCode", role)


def _access_point(where: str) -> str:
    if "://" in where:
        return _URL
    return _IP_ADDRESS if ":" in where or where.replace(".", "").isdecimal() else _HOST_NAME


# ------------------------------------------------------------- participant objects


def _add_objects(message: ET.Element, event: Event) -> None:
    if event.identifier is not None:
        _add_query(message, event)
    if event.what:
        _add_object(message, event.what, _URI, kind="2", role="3", name=event.what)
    for subject in event.subjects:
        if subject.study:
            _add_study(message, event, subject)
    patients = dict.fromkeys(
        (one.patient_id, one.issuer, one.patient_name) for one in event.subjects if one.patient_id
    )
    for number, issuer, name in patients:
        told = f"{number}^^^{issuer}" if issuer else number
        _add_object(message, told, _PATIENT_NUMBER, kind="1", role="1", name=name)
    if event.proven_by and event.user is not None:
        user = _add_object(message, event.user, _USER_IDENTIFIER, kind="1", role="11")
        _add_detail(user, "proof", event.proven_by)


def _add_query(message: ET.Element, event: Event) -> None:
    assert event.identifier is not None
    syntax = uids.EXPLICIT_VR_LITTLE_ENDIAN
    found = _add_object(message, event.sop_class, _CLASS_UID, kind="2", role="3", name=None)
    query = ET.SubElement(found, "ParticipantObjectQuery")
    query.text = b64encode(encode(event.identifier, syntax)).decode("ascii")
    _add_detail(found, "TransferSyntax", syntax)


def _add_study(message: ET.Element, event: Event, subject: Subject) -> None:
    study = _add_object(message, subject.study, _STUDY_UID, kind="2", role="3")
    told = ET.SubElement(study, "ParticipantObjectDescription")
    if subject.accession_number:
        ET.SubElement(told, "Accession", Number=_text(subject.accession_number))
    for uid, count in subject.sop_classes.items():
        ET.SubElement(told, "SOPClass", UID=_text(uid), NumberOfInstances=str(count))
    if not subject.sop_classes and event.count is not None and len(event.subjects) == 1:
        ET.SubElement(told, "SOPClass", NumberOfInstances=str(event.count))


def _add_object(
    message: ET.Element, what: object, code: Code, *, kind: str, role: str, name: str | None = ""
) -> ET.Element:
    found = ET.SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_text(what),
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _add_code(found, "ParticipantObjectIDTypeCode", code)
    if name is not None:
        ET.SubElement(found, "ParticipantObjectName").text = _text(name)
    return found


def _add_detail(parent: ET.Element, kind: str, value: str) -> None:
    coded = b64encode(value.encode()).decode("ascii")
    ET.SubElement(parent, "ParticipantObjectDetail", type=kind, value=coded)


def _add_code(parent: ET.Element, name: str, code: Code) -> None:
    value, scheme, meaning = code
    coded = {"csd-code": value, "codeSystemName": scheme, "originalText": meaning}
    ET.SubElement(parent, name, coded)


def _text(value: object) -> str:
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", str(value))
