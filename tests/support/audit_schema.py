"""The structure of audit messages: the schema of PS3.15 §A.5.1.1, element by element."""

import re
from xml.etree import ElementTree as ET

_TOKEN = r"\S(.*\S)?|"
_TEXT = r"(?s).*"
_DATE_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"
_BASE64 = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_BOOLEAN, _INTEGER = r"true|false|0|1", r"[+-]?\d+"
_CODED = {
    "csd-code": _TOKEN,
    "codeSystemName": _TOKEN,
    "displayName?": _TOKEN,
    "originalText": _TOKEN,
}

# The attributes of each element, those with a question mark optional, and the order of its
# children.
_ELEMENTS = {
    "AuditMessage": (
        {},
        "EventIdentification ActiveParticipant+ AuditSourceIdentification "
        "ParticipantObjectIdentification*",
    ),
    "EventIdentification": (
        {
            "EventActionCode?": "[CRUDE]",
            "EventDateTime": _DATE_TIME,
            "EventOutcomeIndicator": "0|4|8|12",
        },
        "EventID EventTypeCode* EventOutcomeDescription?",
    ),
    "EventID": (_CODED, ""),
    "EventTypeCode": (_CODED, ""),
    "RoleIDCode": (_CODED, ""),
    "MediaType": (_CODED, ""),
    "ParticipantObjectIDTypeCode": (_CODED, ""),
    "EventOutcomeDescription": ({}, _TEXT),
    "AuditSourceIdentification": (
        {"AuditEnterpriseSiteID?": _TOKEN, "AuditSourceID": _TOKEN},
        "AuditSourceTypeCode*",
    ),
    "AuditSourceTypeCode": (
        {
            "csd-code": _TOKEN,
            "codeSystemName?": _TOKEN,
            "displayName?": _TOKEN,
            "originalText?": _TOKEN,
        },
        "",
    ),
    "ActiveParticipant": (
        {
            "UserID": _TEXT,
            "AlternativeUserID?": _TEXT,
            "UserName?": _TEXT,
            "UserIsRequestor": _BOOLEAN,
            "NetworkAccessPointID?": _TOKEN,
            "NetworkAccessPointTypeCode?": "[1-5]",
        },
        "RoleIDCode* MediaIdentifier?",
    ),
    "MediaIdentifier": ({}, "MediaType"),
    "ParticipantObjectIdentification": (
        {
            "ParticipantObjectID": _TOKEN,
            "ParticipantObjectTypeCode?": "[1-4]",
            "ParticipantObjectTypeCodeRole?": "[1-9]|1[0-9]|2[0-6]",
            "ParticipantObjectDataLifeCycle?": "[1-9]|1[0-5]",
            "ParticipantObjectSensitivity?": _TOKEN,
        },
        "ParticipantObjectIDTypeCode (ParticipantObjectName|ParticipantObjectQuery) "
        "ParticipantObjectDetail* ParticipantObjectDescription*",
    ),
    "ParticipantObjectName": ({}, _TEXT),
    "ParticipantObjectQuery": ({}, _BASE64),
    "ParticipantObjectDetail": ({"type": _TOKEN, "value": _BASE64}, ""),
    "ParticipantObjectDescription": (
        {},
        "MPPS* Accession* SOPClass* ParticipantObjectContainsStudy? Encrypted? Anonymized?",
    ),
    "MPPS": ({"UID": _TOKEN}, ""),
    "Accession": ({"Number": _TOKEN}, ""),
    "SOPClass": ({"UID?": _TOKEN, "NumberOfInstances": _INTEGER}, "Instance*"),
    "Instance": ({"UID": _TOKEN}, ""),
    "ParticipantObjectContainsStudy": ({}, "StudyIDs*"),
    "StudyIDs": ({"UID": _TOKEN}, ""),
    "Encrypted": ({}, _BOOLEAN),
    "Anonymized": ({}, _BOOLEAN),
}
_WITH_TEXT = (_TEXT, _BASE64, _BOOLEAN)


def checked(message):
    """Return the root of a message; raise an AssertionError where it is not as the schema says."""
    root = ET.fromstring(message)
    assert root.tag == "AuditMessage"
    _check(root)
    return root


def _check(element):
    assert element.tag in _ELEMENTS, element.tag
    attributes, content = _ELEMENTS[element.tag]
    _check_attributes(element, attributes)
    if content in _WITH_TEXT:
        assert len(element) == 0, element.tag
        assert re.fullmatch(content, element.text or ""), (element.tag, element.text)
        return
    assert not (element.text or "").strip(), element.tag
    order = re.sub(r"\w+", lambda name: f"(?:{name[0]};)", content).replace(" ", "")
    children = "".join(f"{child.tag};" for child in element)
    assert re.fullmatch(order, children), (element.tag, children)
    for child in element:
        assert not (child.tail or "").strip(), child.tag
        _check(child)


def _check_attributes(element, attributes):
    known = {name.rstrip("?"): pattern for name, pattern in attributes.items()}
    assert known.keys() >= element.attrib.keys(), (element.tag, element.attrib)
    missing = {name for name in attributes if not name.endswith("?")} - element.attrib.keys()
    assert not missing, (element.tag, missing)
    for name, value in element.attrib.items():
        assert re.fullmatch(known[name], value), (element.tag, name, value)
