"""Audit messages in XML: the schema of PS3.15 §A.5.1, and the contents of §A.5.3."""

from base64 import b64decode
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from support.audit_schema import checked
from support.names import CT, FIND

from pacsroute import audit
from pacsroute.audit import SERIOUS, Event, Kind, Subject
from pacsroute.dataset import parse

DOE = Subject(
    patient_id="777",
    issuer="NORTH",
    patient_name="Doe^John",
    study="1.1",
    accession_number="A1",
    sop_classes={CT: 3},
)
AT = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
OF_A_PEER = {"calling_ae": "CT1", "called_ae": "ARCHIVE", "address": "10.0.0.7"}


def message(kind, **values):
    return checked(audit.xml(Event(kind=kind, ae_title="ARCHIVE", at=AT, **values)))


def codes(element, name):
    return [(one.get("csd-code"), one.get("originalText")) for one in element.iter(name)]


def participants(root):
    return [
        (
            one.get("UserID"),
            one.get("UserIsRequestor"),
            *(role.get("csd-code") for role in one.iter("RoleIDCode")),
        )
        for one in root.iter("ActiveParticipant")
    ]


def objects(root):
    return {
        one.find("ParticipantObjectIDTypeCode").get("csd-code"): one
        for one in root.iter("ParticipantObjectIdentification")
    }


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_event_is_a_message_of_the_schema(kind):
    root = message(kind, subjects=(DOE,), count=3, why="why", user="doe", **OF_A_PEER)
    assert root.find("EventIdentification").get("EventDateTime") == "2026-01-05T12:30:00.000+00:00"
    assert root.find("AuditSourceIdentification").get("AuditSourceID") == "ARCHIVE"
    message(kind)


def test_store_is_a_transfer_from_the_sender_to_us():
    root = message("store", subjects=(DOE,), count=1, **OF_A_PEER)
    assert codes(root, "EventID") == [("110104", "DICOM Instances Transferred")]
    assert participants(root) == [("CT1", "true", "110153"), ("ARCHIVE", "false", "110152")]
    source = root.find("ActiveParticipant")
    assert source.get("AlternativeUserID") == "AETITLES=CT1"
    assert source.get("NetworkAccessPointID") == "10.0.0.7"
    assert source.get("NetworkAccessPointTypeCode") == "2"
    found = objects(root)
    assert found["110180"].get("ParticipantObjectID") == "1.1"
    assert found["110180"].find(".//Accession").get("Number") == "A1"
    assert found["110180"].find(".//SOPClass").attrib == {"UID": CT, "NumberOfInstances": "3"}
    assert found["2"].get("ParticipantObjectID") == "777^^^NORTH"
    assert found["2"].find("ParticipantObjectName").text == "Doe^John"


def test_store_by_code_of_the_app_has_no_sender():
    assert participants(message("store", count=1)) == [("ARCHIVE", "true", "110152")]


def test_retrieval_and_export_go_from_us_to_where_they_go():
    root = message("retrieve", **OF_A_PEER)
    assert participants(root) == [("ARCHIVE", "false", "110153"), ("CT1", "true", "110152")]
    to = {"destination_ae": "WS", "destination": "ws.example"}
    root = message("export", **to, **OF_A_PEER)
    assert participants(root) == [
        ("ARCHIVE", "false", "110153"),
        ("WS", "false", "110152"),
        ("CT1", "true"),
    ]
    root = message("export", **to)
    assert participants(root)[0] == ("ARCHIVE", "true", "110153")
    points = [one.get("NetworkAccessPointTypeCode") for one in root.iter("ActiveParticipant")]
    assert points == ["1", "1"]


def test_query_has_its_keys_as_they_are_encoded():
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.PatientName = "STUDY", "Doe*"
    root = message("query", identifier=keys, sop_class=FIND, count=2, **OF_A_PEER)
    (found,) = root.iter("ParticipantObjectIdentification")
    assert found.get("ParticipantObjectID") == FIND
    encoded = b64decode(found.find("ParticipantObjectQuery").text)
    assert parse(encoded, "1.2.840.10008.1.2.1") == keys
    detail = found.find("ParticipantObjectDetail")
    assert (detail.get("type"), b64decode(detail.get("value"))) == (
        "TransferSyntax",
        b"1.2.840.10008.1.2.1",
    )


def test_user_is_who_has_asked_and_the_proof_is_told():
    root = message("query", user="doe", proven_by="passcode", **OF_A_PEER)
    assert participants(root)[0][:2] == ("CT1", "false")
    assert participants(root)[-1] == ("doe", "true")
    detail = objects(root)["11"].find("ParticipantObjectDetail")
    assert b64decode(detail.get("value")) == b"passcode"


def test_deletion_of_a_study_and_of_a_part_of_one():
    assert codes(message("deletion", user="doe"), "EventID") == [("110105", "DICOM Study Deleted")]
    root = message("deletion", user="doe", what="series 1.2")
    assert codes(root, "EventID") == [("110103", "DICOM Instances Accessed")]
    assert root.find("EventIdentification").get("EventActionCode") == "D"


def test_failure_says_why():
    root = message("rejection", outcome=SERIOUS, why="called AE title not recognized", **OF_A_PEER)
    found = root.find("EventIdentification")
    assert found.get("EventOutcomeIndicator") == "8"
    assert found.find("EventOutcomeDescription").text == "called AE title not recognized"
    assert codes(root, "EventTypeCode") == [("110126", "Node Authentication")]


def test_address_of_a_web_destination_is_a_url():
    root = message("export", destination="https://pacs.example/dicom-web")
    last = list(root.iter("ActiveParticipant"))[-1]
    assert last.get("NetworkAccessPointTypeCode") == "5"


@given(st.text(), st.text(), st.text())
def test_no_text_of_a_peer_breaks_a_message(name, title, why):
    subject = Subject(patient_id=name, patient_name=name, study=title, sop_classes={why: 1})
    event = Event(
        kind="store",
        ae_title="ARCHIVE",
        calling_ae=title,
        address=why,
        why=why,
        subjects=(subject,),
        user=name,
    )
    from xml.etree import ElementTree as ET

    root = ET.fromstring(audit.xml(event))
    assert len(root.findall("ActiveParticipant")) == 2 + bool(title or why)
    assert b"\n" not in audit.xml(event)


def test_schema_check_refuses_what_the_schema_refuses():
    whole = audit.xml(Event(kind="start", ae_title="ARCHIVE", at=AT))
    for wrong in (
        whole.replace(b'EventOutcomeIndicator="0"', b'EventOutcomeIndicator="1"'),
        whole.replace(b'UserIsRequestor="false"', b""),
        whole.replace(b"EventTypeCode", b"EventKind"),
        whole.replace(b'AuditSourceID="ARCHIVE"', b""),
    ):
        assert wrong != whole
        with pytest.raises(AssertionError):
            checked(wrong)
