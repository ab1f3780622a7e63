"""No name from the wire escapes a folder, forges a line of the log, or breaks SQL."""

import json
import re
import runpy
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from support.names import CT, EXPLICIT, FIND, IMPLICIT, MOVE, MPPS, ONE_STUDY
from support.places import EXAMPLES
from support.raw_peer import RawPeer
from support.unharmed import one_line_each, unharmed

from pacsroute import App, Failure, Instance, Peer, RequestFailed, matching
from pacsroute.dimse import commands
from pacsroute.upper_layer import pdu
from pacsroute.upper_layer.pdu import AssociateRQ, decode, encode

pytestmark = pytest.mark.slow

BODY = b"\x08\0\x05\0CS\0\0"

NASTY = [
    "../x",
    "..",
    ".",
    "/etc/passwd",
    "a/../../x",
    "..\\x",
    "x\0y",
    "x\ny",
    "x\r\n2026-01-01 00:00:00,000 INFO    forged",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b2J",
    "'; DROP TABLE study; --",
    '"; DROP TABLE step; --',
    "%",
    "_",
    "[a-z]",
    "]",
    "\\",
    "ÿþé",
    "\u2028\u202e",
    "\U0001f480",
    "x" * 70,
    "~",
    "$(id)",
    "%s%n{0}{}",
]
WIRE = [text for text in NASTY if all(ord(letter) < 256 for letter in text)]


# ------------------------------------------------------------------------------ folders


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@given(st.one_of(st.sampled_from(NASTY), st.text(max_size=300)))
def test_a_file_is_in_its_folder_whatever_its_name(name):
    instance = Instance(BODY, sop_class=CT, sop_instance="1.2.3", transfer_syntax=EXPLICIT)
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "folder")
        try:
            path = instance.save(folder, name=name, durable=False)
        except (ValueError, OSError):  # no name of a file at all, or too long for one
            assert tree(Path(top)) in ([], ["folder"])
        else:
            assert path.parent == folder
            assert len(tree(Path(top))) == 2


@pytest.mark.parametrize("name", WIRE)
def test_invalid_uid_never_becomes_a_name(tmp_path, name):
    app, reached = App(spool=tmp_path / "spool"), []
    app.store(lambda request: reached.append(request.save(tmp_path / "folder")))
    with unharmed(app) as server, RawPeer(server.port, [(CT, EXPLICIT)]) as peer:
        assert peer.store(BODY, CT, name).status == 0x0117
        peer.release()
    assert not reached
    assert tree(tmp_path) == ["spool"]
    with pytest.raises(Failure):
        Instance(BODY, sop_class=CT, sop_instance=name, transfer_syntax=EXPLICIT).save(tmp_path)


# ------------------------------------------------------------------------------ log lines


def test_control_characters_of_a_title_do_not_come_through():
    request = decode(encode(AssociateRQ("ARCHIVE", "CT\n\x1b[2J\x9bé")))
    assert request.calling_ae == "CT??[2J??"
    assert b"CT\n\x1b[2J\x9b\xe9" in request.titles, "the answer repeats the bytes as they came"


def associate(server, title, contexts):
    """Associate with a title of any bytes."""
    raw = title.encode("latin-1")[:16].ljust(16)
    peer = object.__new__(RawPeer)
    peer.socket = socket.create_connection(("127.0.0.1", server.port), 8)
    proposed = tuple(
        pdu.PresentationContext(2 * i + 1, abstract, (syntax,))
        for i, (abstract, syntax) in enumerate(contexts)
    )
    information = pdu.UserInformation(16_384, "1.2.3.4", title[:16])
    titles = raw * 2 + bytes(32)
    request = pdu.AssociateRQ("X", "X", proposed, information, titles=titles)
    peer.socket.sendall(encode(request))
    peer.answer = peer.read_pdu()
    return peer


@pytest.mark.parametrize("name", WIRE)
def test_no_name_forges_a_line_of_the_log(tmp_path, name):
    app = App(spool=tmp_path, debug=True)
    calls = iter(range(100))

    def broken(request):
        if next(calls) % 2:
            raise Failure(0xA700, name)
        raise ValueError(name)

    for register in (app.store, app.find, app.n_create("MPPS")):
        register(broken)
    app.move(lambda request: [Instance(BODY, sop_class=CT, sop_instance="1.2",
                                       transfer_syntax=EXPLICIT)])  # fmt: skip
    app.destination(lambda title, request: Peer("127.0.0.1", 1))
    contexts = [(CT, EXPLICIT), (FIND, IMPLICIT), (MOVE, IMPLICIT), (MPPS, IMPLICIT)]
    with unharmed(app) as server:  # which looks at every line
        with associate(server, name, contexts) as peer:
            for _ in range(2):
                peer.store(BODY, CT, "1.2.3")
                peer.store(BODY, CT, name)
                peer.find(ONE_STUDY, FIND, 3)
                peer.receive()
                peer.find(ONE_STUDY[:20] + b"\xff\xff" + ONE_STUDY[22:], FIND, 3)
                peer.receive()
                moving = commands.CMoveRQ(
                    message_id=1, affected_sop_class=MOVE, move_destination=name
                )
                peer.send(5, moving, ONE_STUDY)
                while peer.receive()[0].status == 0xFF00:
                    pass
                for uid in ("1.2.3", name):
                    making = commands.NCreateRQ(
                        message_id=1, affected_sop_class=MPPS, affected_sop_instance=uid
                    )
                    peer.send(7, making, ONE_STUDY)
                    peer.receive()
            peer.send(1, commands.CEchoRSP(message_id_responded_to=9, error_comment=name))
            peer.socket.sendall(b"\x99" * 20)
            peer.read_pdu()
        with associate(server, name, [(name, name), (CT, name)]):
            pass


@pytest.mark.parametrize("name", WIRE)
def test_no_name_forges_a_line_when_it_is_refused(name):
    for settings in ({"require_called_ae": True}, {"allow": ["CT1"]}, {"max_associations": 0}):
        with one_line_each() as lines, App(**settings).serve(port=0, grace=1) as server:
            with associate(server, name, [(CT, EXPLICIT)]) as peer:
                assert isinstance(peer.answer, pdu.AssociateRJ)
        assert lines.count


@pytest.mark.parametrize("name", WIRE)
def test_a_destination_that_answers_with_names(name):
    """The other end of a C-MOVE, or of a client, is a peer like any other."""
    there = App("WS")
    there.store(lambda request: (_ for _ in ()).throw(Failure(0xA700, name)))
    app = App("ARCHIVE")
    app.move(lambda request: [Instance(BODY, sop_class=CT, sop_instance="1.2",
                                       transfer_syntax=EXPLICIT)])  # fmt: skip
    with one_line_each(), there.serve(port=0, grace=1) as other:
        app.destinations["WS"] = Peer("127.0.0.1", other.port)
        with app.serve(port=0, grace=1) as server, RawPeer(server.port, [(MOVE, IMPLICIT)]) as peer:
            command = commands.CMoveRQ(message_id=1, affected_sop_class=MOVE, move_destination="WS")
            peer.send(1, command, ONE_STUDY)
            while (status := peer.receive()[0].status) == 0xFF00:
                pass
            assert status == 0xA702
            peer.release()


def test_the_text_of_an_exception_forges_no_record(tmp_path):
    script = """
import logging
from pacsroute.logs import LineFormatter

handler = logging.StreamHandler()
handler.setFormatter(LineFormatter("%(asctime)s %(levelname)-7s %(message)s"))
logging.basicConfig(level="INFO", handlers=[handler])
logger = logging.getLogger("pacsroute")
logger.info("stored %s", "x\\n2026-01-01 00:00:00,000 INFO    forged\\x1b[2J")
try:
    raise ValueError("x\\r\\n2026-01-01 00:00:00,000 INFO    forged\\x1b[2J\\u2028y")
except ValueError:
    logger.exception("it failed")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stderr.splitlines()
    assert [line for line in lines if "forged" in line and line.startswith("2026-01-01 0")] == []
    assert all(line.isprintable() for line in lines)
    assert sum(bool(re.match(r"\d{4}-\d\d-\d\d ", line)) for line in lines) == 2


# ------------------------------------------------------------------------------ SQL


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The archive example with a patient of each nasty name, and a client of it."""
    folder = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHIVE", str(folder))
        app = runpy.run_path(str(EXAMPLES / "archive.py"))["app"]
    with app.test_client() as client:
        for number, name in enumerate([*NASTY, "axb", "Doe"]):
            ds = Dataset()
            ds.SpecificCharacterSet = "ISO_IR 192"
            ds.SOPClassUID, ds.SOPInstanceUID = CT, f"1.2.{number}"
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.3.{number}", f"1.4.{number}"
            ds.StudyDescription = name.replace("\\", "|")[:64]
            ds.PatientID = name.replace("\\", "|")[:64]
            ds.PatientName = name.replace("\\", "|")[:64]
            client.store(ds)
        yield client, folder


def tables(folder):
    with sqlite3.connect(folder / "index.db") as db:
        ((count,),) = db.execute("SELECT count(*) FROM study")
    db.close()
    return count


@pytest.mark.parametrize("key", ["PatientID", "PatientName", "StudyDescription"])
@pytest.mark.parametrize("name", NASTY)
def test_archive_finds_nasty_names(archive, key, name):
    client, folder = archive
    asked = name.replace("\\", "|")[:64]
    count = tables(folder)
    keys = {
        "QueryRetrieveLevel": "STUDY",
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyInstanceUID": "",
        key: asked,
    }
    # "?" and "*" are the only wildcards there are: each name finds itself alone.
    expected = {
        f"1.3.{number}"
        for number, other in enumerate([*NASTY, "axb", "Doe"])
        if matching.stored(key, other.replace("\\", "|")[:64]) == matching.stored(key, asked)
    }
    assert {row.StudyInstanceUID for row in client.find(keys)} == expected
    assert tables(folder) == count == len(NASTY) + 2


@given(st.text(max_size=70))
def test_archive_survives_any_query(archive, text):
    client, folder = archive
    for key in ("PatientID", "PatientName", "StudyDescription", "AccessionNumber", "StudyDate"):
        keys = {"QueryRetrieveLevel": "STUDY", "SpecificCharacterSet": "ISO_IR 192", key: text}
        try:
            for _ in client.find(keys):
                pass
        except (RequestFailed, ValueError) as error:  # no date, or nothing that can be encoded
            assert not isinstance(error, RequestFailed) or error.status.code == 0xA900
    assert tables(folder) == len(NASTY) + 2


@pytest.mark.parametrize(
    "name", ["'; DROP TABLE study; --", "%", "_", "[a-z]", '"', "x' OR 'a'='a"]
)
def test_findscu_finds_nasty_names(archive, dcmtk, name):
    client, folder = archive
    with client.app.serve(port=0, grace=1) as server:
        done = dcmtk(
            *("findscu", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"PatientID={name}"),
            *("-k", "StudyInstanceUID", "127.0.0.1", server.port),
        )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Find Response:") == (name in NASTY), done.stdout
    assert tables(folder) == len(NASTY) + 2


@pytest.mark.parametrize("name", NASTY)
def test_worklist_finds_nasty_names(tmp_path, monkeypatch, name):
    names = [text.replace("\\", "|")[:64] for text in [*NASTY, "axb", "Doe"]]
    rows = [{"PatientID": text, "PatientName": text, "Modality": "CT"} for text in names]
    path = tmp_path / "today.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setenv("WORKLIST", str(path))
    app = runpy.run_path(str(EXAMPLES / "worklist.py"))["app"]
    asked = name.replace("\\", "|")[:64]
    with app.test_client() as client:
        for key in ("PatientID", "PatientName"):
            step = {"Modality": "", "ScheduledStationAETitle": ""}
            keys = {
                "SpecificCharacterSet": "ISO_IR 192",
                "ScheduledProcedureStepSequence": [step],
                key: asked,
            }
            expected = [
                text for text in names if matching.stored(key, text) == matching.stored(key, asked)
            ]
            assert len(list(client.find(keys, "Worklist"))) == len(expected)
        step["Modality"] = name[:16]
        list(client.find({"PatientID": "", "ScheduledProcedureStepSequence": [step]}, "Worklist"))
        assert len(list(client.find({"PatientID": ""}, "Worklist"))) == len(names)
