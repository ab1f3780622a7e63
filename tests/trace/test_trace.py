"""What a person reads of an association."""

import re
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag
from support.names import CT, EXPLICIT, FIND, IMPLICIT
from support.places import RECORDINGS

from pacsroute import App, Failure, uids
from pacsroute.dimse import commands
from pacsroute.dimse.messages import fragment
from pacsroute.trace.conversation import Conversation
from pacsroute.trace.files import read
from pacsroute.trace.live import tracer
from pacsroute.trace.safe import SHOWN
from pacsroute.trace.text import Trace
from pacsroute.upper_layer import pdu

REQUEST = pdu.AssociateRQ(
    "ARCHIVE",
    "CT1",
    (
        pdu.PresentationContext(1, FIND, (EXPLICIT, IMPLICIT)),
        pdu.PresentationContext(3, CT, (EXPLICIT,)),
        pdu.PresentationContext(5, uids.VERIFICATION, (IMPLICIT,)),
    ),
    pdu.UserInformation(
        16_384,
        "1.2.3",
        "ODD_1",
        roles=(pdu.RoleSelection(CT, True, True),),
        extended=(pdu.ExtendedNegotiation(FIND, b"\1\0\1"),),
        user_identity=pdu.UserIdentity(2, True, b"dr.secretname", b"sesame"),
    ),
)
ANSWER = pdu.AssociateAC(
    "ARCHIVE",
    "CT1",
    (
        pdu.ContextResult(1, 0, IMPLICIT),
        pdu.ContextResult(3, 0, EXPLICIT),
        pdu.ContextResult(5, 3, IMPLICIT),
    ),
    pdu.UserInformation(
        131_072,
        "1.2.4",
        "PACSROUTE_0_1",
        roles=(pdu.RoleSelection(CT, False, True),),
        extended=(pdu.ExtendedNegotiation(FIND, b"\1\0\0"),),
    ),
)


def told(*steps, width=100, values=False, accepted=True):
    """Return the text of an association: (by the requestor, PDU or bytes)…"""
    blocks = []
    trace = Trace(
        Conversation("10.0.0.7:50312", "10.0.0.1:104"),
        blocks.append,
        values=values,
        width=lambda: width,
    )
    first = [(True, REQUEST), (False, ANSWER)] if accepted else []
    for by_requestor, what in [*first, *steps]:
        data = what if isinstance(what, bytes) else pdu.encode(what)
        trace.add(0.0, by_requestor, data)
    trace.end()
    return click.unstyle("\n".join(blocks))


def message(command, data=None, context_id=1):
    return b"".join(fragment(context_id, command, data, 0))


def find(dataset, implicit=True):
    output = DicomBytesIO()
    output.is_implicit_VR, output.is_little_endian = implicit, True
    write_dataset(output, dataset)
    command = commands.CFindRQ(message_id=7, affected_sop_class=FIND)
    return message(command, output.getvalue(), 1 if implicit else 3)


# ------------------------------------------------------------- negotiation


def test_trace_of_the_negotiation():
    lines = told().splitlines()
    assert lines[0].endswith("CT1 → ARCHIVE accepted, 2 of 3 contexts")
    table = [re.split(r" {2,}", line.strip()) for line in lines[1:]]
    assert ["CT1", "ARCHIVE"] in table
    assert ["address", "10.0.0.7:50312", "10.0.0.1:104"] in table
    assert ["implementation", "ODD_1", "PACSROUTE_0_1"] in table
    assert ["maximum PDU", "16,384", "131,072"] in table
    assert ["user identity", "user name and passcode, response requested"] in table
    assert ["relational, fuzzy"] in table
    text = "\n".join(lines)
    assert re.search(r"ExplicitVRLittleEndian +accepted\n.* ✓ ImplicitVRLittleEndian", text)
    assert re.search(r"3 +CT Image Storage +✓ ExplicitVRLittleEndian +accepted as SCP", text)
    assert re.search(r"5 +Verification.*ImplicitVRLittleEndian +abstract syntax not supp", text)
    assert "secretname" not in text
    assert "sesame" not in text


@pytest.mark.parametrize("values", [False, True])
def test_trace_hides_identity_and_secret(values):
    text = told(values=values)
    assert "secretname" not in text
    assert "sesame" not in text


@pytest.mark.parametrize("width", [80, 160])
def test_the_negotiation_keeps_to_the_width(width):
    assert max(map(len, told(width=width).splitlines())) <= width


def test_trace_merges_similar_contexts():
    classes = uids.usual_storage(100)
    contexts = tuple(
        pdu.PresentationContext(2 * i + 1, uid, (EXPLICIT,)) for i, uid in enumerate(classes)
    )
    results = tuple(pdu.ContextResult(one.id, 0, EXPLICIT) for one in contexts)
    text = told(
        (True, pdu.AssociateRQ("A", "B", contexts)),
        (False, pdu.AssociateAC("A", "B", results)),
        accepted=False,
    )
    assert "100 of 100 contexts" in text
    assert "and 95 more" in text
    assert len(text.splitlines()) < 15


def test_rejections_and_aborts():
    text = told((True, REQUEST), (False, pdu.AssociateRJ(1, 1, 7)), accepted=False)
    assert "CT1 → ARCHIVE\n" in text
    assert "✓" not in text
    assert text.endswith("← rejected, permanent: called AE title not recognized")
    assert told((True, pdu.Abort(2, 6))).endswith(
        "→ abort by the upper layer: invalid PDU parameter value"
    )
    assert told((False, pdu.Abort(0))).endswith("← abort by the application")
    assert told().endswith("closed without a release")
    ended = told((True, pdu.ReleaseRQ()), (False, pdu.ReleaseRP())).splitlines()
    assert [line[-10:] for line in ended[-2:]] == [" → release", "← released"]


# ------------------------------------------------------------- messages


def test_trace_of_messages():
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.PatientName = "Doe^John"
    ds.StudyInstanceUID = ""
    ds.SOPClassUID = CT
    item = Dataset()
    item.Modality = "CT"
    item.ScheduledStationAETitle = "SCANNER9"
    ds.ScheduledProcedureStepSequence = [item]
    answer = commands.CFindRSP(message_id_responded_to=7, affected_sop_class=FIND, status=0xA900)
    answer.error_comment = "nothing of Doe"
    text = told((True, find(ds)), (False, message(answer)))
    assert "→ C-FIND-RQ 7  Study Root Query/Retrieve Information Model - FIND" in text
    lines = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    assert ["(0008,0052) CS QueryRetrieveLevel", "STUDY"] in lines
    assert ["(0008,0016) UI SOPClassUID", "CT Image Storage"] in lines
    assert ["(0010,0010) PN PatientName", "masked, 8 characters"] in lines
    assert ["(0020,000D) UI StudyInstanceUID", "no value"] in lines
    assert ["(0008,0060) CS Modality", "CT"] in lines
    assert ["(0040,0001) AE ScheduledStationAETitle", "masked, 8 characters"] in lines
    assert "← C-FIND-RSP 7  0xA900 Error: data set or identifier does not match" in text
    assert ["ErrorComment", "masked, 14 characters"] in lines
    assert "Doe" not in text

    shown = told((True, find(ds)), (False, message(answer)), values=True)
    assert "Doe^John" in shown
    assert "SCANNER9" in shown
    assert "nothing of Doe" in shown


def test_counts_of_sub_operations_and_identifiers():
    answer = commands.CGetRSP(
        message_id_responded_to=7, status=0xFF00, remaining=3, completed=2, failed=0, warning=1
    )
    text = told((False, message(answer)))
    assert "← C-GET-RSP 7  0xFF00 Pending: 3 remaining, 2 completed, 1 warning" in text
    request = commands.NGetRQ(
        message_id=1,
        requested_sop_class=CT,
        requested_sop_instance="1.2.3",
        attribute_identifiers=(0x00100010,),
    )
    text = told((True, message(request)))
    assert "→ N-GET-RQ 1  CT Image Storage" in text
    assert "RequestedSOPInstanceUID  1.2.3" in text
    assert "AttributeIdentifierList  (0010,0010)" in text


def test_trace_shortens_stored_data_sets():
    ds = Dataset()
    ds.Modality = "CT"
    ds.PatientName = "Doe^John"
    ds.PixelData = bytes(5000)
    ds["PixelData"].VR = "OW"
    data = find(ds, implicit=False)
    command = commands.CStoreRQ(
        message_id=1, affected_sop_class=CT, affected_sop_instance="Doe^John"
    )
    output = DicomBytesIO()
    output.is_implicit_VR, output.is_little_endian = False, True
    write_dataset(output, ds)
    data = message(command, output.getvalue(), 3)
    text = told((True, data))
    assert "CS Modality   CT" in text
    assert "OW PixelData  5,000 bytes" in text
    assert "and 1 more, masked" in text
    assert "AffectedSOPInstanceUID  masked, 8 characters" in text
    assert "Doe" not in text
    assert "Doe^John" in told((True, data), values=True)


def test_long_values_are_shortened_and_uids_are_not():
    uid = "1.2." + "3" * 60
    ds = Dataset()
    ds.StudyInstanceUID = uid
    ds.PatientComments = "x" * 500
    text = told((True, find(ds)), width=80, values=True)
    assert uid in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.rstrip().endswith("…") or "…" in text


def test_text_of_a_peer_cannot_steer_the_terminal():
    ds = Dataset()
    ds.PatientName = "a\x1b[2Jb\u202ec\x9b1m"
    ds.SpecificCharacterSet = "ISO_IR 192"
    request = pdu.AssociateRQ(
        "A",
        "B",
        (pdu.PresentationContext(1, FIND + "\x1b[2J", (IMPLICIT + "\x1b[2J",)),),
        pdu.UserInformation(implementation_version="\x1b[2J"),
    )
    text = told((True, request), accepted=False, values=True)
    text += told((True, find(ds)), values=True)
    assert text.replace("\n", "").isprintable()


def test_trace_that_begins_after_the_negotiation():
    text = told((True, find(Dataset())), accepted=False)
    assert "→ C-FIND-RQ 7  Study Root Query" in text
    assert "on context 1, negotiated before" in text
    assert "in an unknown transfer syntax" in text
    assert "on context 9, which was not accepted" in told(
        (True, message(commands.CFindRQ(message_id=1), None, 9))
    )


# ------------------------------------------------------------- what is masked

TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT")
STANDARD = [
    tag
    for tag, row in DicomDictionary.items()
    if row[0] in (*TEXTS, "UI") and tag >> 16 not in (0, 2, 0xFFFE) and tag != 0x00080005
]
FREE = [tag for tag in STANDARD if tag not in SHOWN and dictionary_VR(tag) != "UI"]
# What no form of a value lets pass: lower case, and not a UID.
SECRETS = st.text("qxzjkv", min_size=8, max_size=16)


def elements(tags, secrets):
    return st.lists(st.tuples(tags, st.sampled_from((*TEXTS, "UI")), secrets), max_size=8)


def encoded(rows, nested):
    """Return explicit VR bytes of text elements, whatever their VRs and values are."""
    data = b""
    for tag, vr, text in sorted(rows):
        value = text.encode() + b" " * (len(text) % 2)
        head = tag.to_bytes(4, "big")
        data += head[1::-1] + head[:1:-1] + vr.encode()
        long = vr in ("UC", "UT")
        data += b"\0\0" + len(value).to_bytes(4, "little") if long else b""
        data += b"" if long else len(value).to_bytes(2, "little")
        data += value
    if nested:
        item = encoded(nested, ())
        data += bytes.fromhex("400075025351 0000") + (len(item) + 8).to_bytes(4, "little")
        data += bytes.fromhex("feff00e0") + len(item).to_bytes(4, "little") + item
    return data


PRIVATE = st.integers(4, 0x7FFF).map(lambda n: (2 * n + 1) << 16 | 0x1010)


@given(
    elements(st.sampled_from(STANDARD) | PRIVATE, SECRETS),
    elements(st.sampled_from(STANDARD) | PRIVATE, SECRETS),
    st.booleans(),
)
def test_no_value_that_may_be_a_patients_is_in_a_trace(rows, nested, stored):
    data = encoded(rows, nested)
    if stored:
        command = commands.CStoreRQ(message_id=1, affected_sop_class=CT)
        command.affected_sop_instance = "zzqqxxvv"
    else:
        command = commands.CFindRQ(message_id=1, affected_sop_class=FIND)
    answer = commands.CFindRSP(message_id_responded_to=1, error_comment="zzqqxxvv", status=0xC000)
    text = told((True, message(command, data, 3)), (False, message(answer, data, 3)))
    assert "cannot be read" not in text
    for _, _, secret in [*rows, *nested, (0, "", "zzqqxxvv")]:
        assert secret not in text


@given(elements(st.sampled_from(FREE), st.from_regex(r"[A-Z0-9]{8,16}", fullmatch=True)))
def test_trace_shows_no_patient_value_that_looks_like_a_code(rows):
    text = told((True, message(commands.CFindRQ(message_id=1), encoded(rows, ()), 3)))
    for _, _, secret in rows:
        assert secret not in text


def test_trace_shows_no_value_of_table_e_1_1_but_uids():
    table = (Path(__file__).parents[1] / "fixtures" / "ps3.15_table_e.1-1.txt").read_text().split()
    protected = {BaseTag(int(tag, 16)) for tag in table}
    assert len(protected) > 600
    assert not protected & SHOWN
    assert {dictionary_VR(tag) for tag in SHOWN} == {"CS", "IS", "US"}


RECORDED = [chunk for _, chunk in read(RECORDINGS / "dcmtk_storescu.rec") if chunk]


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    st.integers(0, len(RECORDED) - 1),
    st.booleans(),
)
def test_trace_of_any_bytes_never_fails(damage, which, values):
    steps = []
    for number, chunk in enumerate(RECORDED):
        data = bytearray(chunk.data)
        if number == which:
            for at, byte in damage:
                data[at % len(data)] = byte
        steps.append((chunk.by_requestor, bytes(data)))
    text = told(*steps, accepted=False, values=values)
    assert text
    if not values:
        assert "Doe" not in text
        assert "4711" not in text


# ------------------------------------------------------------- live


def test_a_live_trace(raw_peer):
    app = App("ARCHIVE")
    blocks = []
    app.taps.append(tracer(blocks.append, width=lambda: 80))

    @app.find("StudyRoot")
    def find_studies(request):
        raise Failure(0xA900, "no such thing")

    with app.serve(port=0, grace=1) as server:
        for _ in range(2):
            with raw_peer(server.port, [(FIND, EXPLICIT)]) as peer:
                peer.find(b"\x10\x00\x10\x00PN\x04\x00Doe*", FIND)
                peer.receive()
                peer.release()
    text = click.unstyle("\n".join(blocks))
    for number in (1, 2):
        own = [line for line in text.splitlines() if line.startswith(f"#{number} ")]
        kinds = [re.sub(r"^#\d [0-9:.]+ +", "", line) for line in own]
        assert [kind[:14] for kind in kinds] == [
            "RAW → ANY acce",
            "→ C-FIND-RQ 1 ",
            "← C-FIND-RSP 1",
            "→ release",
            "← released",
        ]
    assert "Doe" not in text
