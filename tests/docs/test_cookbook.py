"""Each recipe of the cookbook, with requests that show what it does."""

import hashlib
import http.server
import json
import os
import queue
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
from pydicom import Dataset, dcmread
from support.guides import Reader, sections
from support.names import CT, GET, IMPLICIT, WAIT
from support.performed_steps import created, ended
from support.places import GUIDES

from pacsroute import (
    App,
    AssociationAborted,
    AssociationRejected,
    Instance,
    Peer,
    RequestFailed,
    connect,
)
from pacsroute.upper_layer.negotiation import negotiate, propose
from pacsroute.upper_layer.pdu import UserIdentity

PAGE = GUIDES / "cookbook.md"
RECIPES = sections(PAGE)
STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": None}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Return a function that does what a recipe says, in a folder of its own."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with Reader(folder) as reader:

        def read(title):
            for block in RECIPES[title]:
                reader.read(block)
            return SimpleNamespace(**reader.namespace)

        yield read


def image(uid="1.2.3.1.1", patient="4711"):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.PatientID, ds.PatientName = patient, "Doe^John"
    return ds


def files(pattern="**/*.dcm"):
    return sorted(str(path) for path in Path().glob(pattern))


def test_every_recipe_is_tested():
    source = Path(__file__).read_text(encoding="utf-8")
    assert set(RECIPES) == set(re.findall(r'recipe\("(.+?)"\)', source))


def test_recipe_routes_images_by_sender(recipe, caplog):
    gateway, pacs, research = recipe("Route by sender"), App("PACS"), App("RESEARCH")
    received = {title: [] for title in ("PACS", "RESEARCH")}
    pacs.store(lambda request: received["PACS"].append(request.sop_instance))
    research.store(lambda request: received["RESEARCH"].append(request.sop_instance))
    peers = {"PACS": pacs, "RESEARCH": research}
    patients = []
    for sender, uid in [("CT1", "1.2.1"), ("MR7", "1.2.2"), ("OTHER", "1.2.3")]:
        with gateway.app.test_client(calling_ae=sender, peers=peers) as client:
            client.store(image(uid))
    assert received == {"PACS": ["1.2.1", "1.2.3"], "RESEARCH": ["1.2.2"]}
    assert files() == []
    corrected = App("PACS")
    corrected.store(lambda request: patients.append(request.dataset.PatientID))
    with gateway.app.test_client(calling_ae="CT1", peers={"PACS": corrected}) as client:
        for patient in ("4711", "4712"):  # the same instance, corrected: both are acknowledged
            assert client.store(image("1.2.4", patient)).category == "Success"
    assert patients == ["4712"]
    down = App("PACS")  # it takes no images
    with gateway.app.test_client(calling_ae="CT1", peers={"PACS": down}) as client:
        assert client.store(image("1.2.5")).category == "Success"
        client.run_jobs()
        (waiting,) = gateway.app.work.opened.queue.jobs()
    assert waiting.arguments["sop_instance"] == "1.2.5"
    assert waiting.failed  # it is kept, and listed


def test_recipe_passes_on_answers_of_another_archive(recipe):
    gateway, pacs = recipe("Pass on the answers of another archive"), App("PACS")
    closed = []

    @pacs.find("StudyRoot")
    def find(request):
        try:
            for number in range(5000):
                yield {"StudyInstanceUID": f"1.2.{number}", "PatientID": "1"}
                if closed:  # the second time, for in memory nothing else slows it down
                    threading.Event().wait(0.001)
        finally:
            closed.append(number)

    with gateway.app.test_client(peers={"PACS": pacs}) as client:
        assert len(list(client.find(STUDY))) == 5000
        studies = client.find(STUDY)
        first = next(studies)
        studies.close()
    assert first.StudyInstanceUID == "1.2.0"
    assert "PatientID" not in first
    assert first.RetrieveAETitle == "PACS"
    assert len(closed) == 2
    assert closed[1] < 4999


def test_recipe_anonymises_before_writing(recipe):
    app = recipe("Anonymise on the way in").app
    ds = image()
    ds.PatientBirthDate, ds.AccessionNumber = "19700101", "A1"
    ds.private_block(0x0041, "MAKER", create=True).add_new(1, "LO", "Doe")
    ds.StudyID, ds.ImageComments, ds.OtherPatientIDs = "S99", "says Doe", ["4711", "X"]
    ds.StudyDate, ds.Modality, ds.FrameOfReferenceUID = "20240131", "CT", "1.2.3.4.7"
    item, reference = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT, "1.2.3.1.1"
    item.ReferencedSOPSequence, item.OperatorsName, item.StudyInstanceUID = [reference], "Doe", ""
    item.private_block(0x0041, "MAKER", create=True).add_new(1, "LO", "Doe")
    ds.RequestAttributesSequence = [item]
    with app.test_client() as client:
        client.store(ds)
        ds.SOPInstanceUID = "1.2.3.1.2"
        client.store(ds)
        with pytest.raises(RequestFailed, match="0xA900"):
            client.store(image(patient=""))
    one, two = (dcmread(path) for path in files())
    assert one.StudyInstanceUID == two.StudyInstanceUID != "1.2.3"
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.StudyInstanceUID.is_valid
    assert one.PatientID == two.PatientID != "4711"
    assert not one.PatientBirthDate
    text = b"".join(Path(path).read_bytes() for path in files())
    for secret in (b"Doe", b"4711", b"19700101", b"A1", b"1.2.3.1.1", b"MAKER"):
        assert secret not in text
    for secret in (b"S99", b"20240131", b"1.2.3"):
        assert secret not in text
    (item,) = one.RequestAttributesSequence
    (reference,) = item.ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID in (one.SOPInstanceUID, two.SOPInstanceUID)
    assert (reference.ReferencedSOPClassUID, one.SOPClassUID, one.Modality) == (CT, CT, "CT")
    assert one.PatientIdentityRemoved == "YES"


def test_recipe_coerces_an_attribute_with_a_warning(recipe):
    app = recipe("Coerce attributes").app
    with app.test_client() as client:
        assert client.store(image("1.2.1")).code == 0xB000
        assert client.store(image("1.2.2", patient="1")).code == 0
        ds = image("1.2.3")
        ds.PatientName = "Doe^John^^Dr"
        assert client.store(ds).code == 0
    names = [str(dcmread(path).PatientName) for path in files()]
    assert names == ["Doe^John^^Dr", "Doe^John", "Doe^John^^Dr"]


def test_recipe_refuses_associations_and_requests(recipe, monkeypatch):
    names = recipe("Refuse by rule")
    with names.app.test_client(calling_ae="DEMO1") as client:
        with pytest.raises(AssociationRejected):
            client.echo()
    free = SimpleNamespace(free=names.ROOM)
    monkeypatch.setattr(names.shutil, "disk_usage", lambda folder: free)
    with names.app.test_client() as client:
        client.store(image())
        with pytest.raises(RequestFailed, match="0xA900 PatientID is missing"):
            client.store(image(patient=None))
        free.free -= 1
        with pytest.raises(RequestFailed, match="0xA700 the disk is full"):
            client.store(image())


def test_recipe_serves_orders_as_a_worklist(recipe):
    app = recipe("A worklist from the hospital's database").app
    with sqlite3.connect("hospital.db") as db:
        db.execute(
            "CREATE TABLE orders (pid, family, given, born, sex, accession, study_uid, station,"
            " modality, day, hour, title)"
        )
        rest = ("1970-01-01", "M", "A1", "1.2.3")
        for pid, station, day in [("1", "CT1", "+0"), ("2", "MR1", "+1"), ("3", "CT1", "-9")]:
            db.execute(
                "INSERT INTO orders VALUES (?, 'Doe', 'John', ?, ?, ?, ?, ?, 'CT',"
                f" date('now', '{day} day'), '10:30', 'Head')",
                (pid, *rest, station),
            )
        db.execute(
            "INSERT INTO orders SELECT '4', 'Unknown', NULL, NULL, NULL, NULL, NULL, station,"
            " modality, day, hour, NULL FROM orders WHERE pid = '1'"
        )
    db.close()
    step = {"ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartTime": None}
    keys = {"PatientID": None, "PatientName": "doe*", "ScheduledProcedureStepSequence": [step]}
    with app.test_client() as client:
        (found,) = client.find(keys, "Worklist")
    assert (found.PatientID, found.PatientName) == ("1", "Doe^John")
    (item,) = found.ScheduledProcedureStepSequence
    assert item.ScheduledProcedureStepStartTime == "1030"
    with app.test_client() as client:  # whoever nobody knows much of is in the list, too
        (found,) = client.find(
            {"PatientID": "4", "PatientName": None, "PatientBirthDate": None}, "Worklist"
        )
    assert (found.PatientName, found.PatientBirthDate) == ("Unknown^", "")


def test_recipe_posts_a_performed_step_over_http(recipe):
    calls = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            calls.put((self.path, Dataset.from_json(body.decode())))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments): ...

    names = recipe("A performed procedure step becomes an HTTP call")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        names.tell.function.__globals__["URL"] = f"http://127.0.0.1:{server.server_port}/steps/"
        try:
            with names.app.test_client() as client:
                client.n_create("MPPS", created(), "1.2.9")
                client.run_jobs()
                assert calls.get(timeout=WAIT)[1].PerformedProcedureStepStatus == "IN PROGRESS"
                client.n_set("MPPS", "1.2.9", ended())
                client.run_jobs()
                path, told = calls.get(timeout=WAIT)
                with pytest.raises(RequestFailed, match="0x0111"):
                    client.n_create("MPPS", created(), "1.2.9")
                with pytest.raises(RequestFailed, match="0x0112"):
                    client.n_set("MPPS", "1.2.8", ended())
                with pytest.raises(RequestFailed, match="0x0110"):
                    client.n_set("MPPS", "1.2.9", ended())
        finally:
            server.shutdown()
            thread.join()
    assert path == "/steps/1.2.9"
    assert told.PerformedProcedureStepStatus == "COMPLETED"


def test_recipe_commits_to_stored_instances(recipe):
    names, modality, events = recipe("Storage commitment"), App("CT1"), []
    modality.n_event_report("StorageCommitment")(events.append)
    with names.app.serve(port=0, grace=1) as server:
        with connect("127.0.0.1", server.port, app=modality) as client:
            client.echo()  # so that the later ones need no other association
            client.store(image("1.2.1"))
            Path("archive/1.2.2.dcm").write_bytes(b"no DICOM")
            for uids in (["1.2.1"], ["1.2.1", "../1.2.1", "1.2.2"]):
                references = [
                    {"ReferencedSOPClassUID": CT, "ReferencedSOPInstanceUID": uid} for uid in uids
                ]
                asked = {"TransactionUID": "1.2.9", "ReferencedSOPSequence": references}
                client.n_action("StorageCommitment", "StorageCommitmentPushModel", 1, asked)
            while len(events) < 2:
                client.echo()  # what comes meanwhile is answered
    first, second = events
    assert first.event_type == 1
    assert second.event_type == 2
    failed = second.event_information.FailedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in failed] == ["../1.2.1", "1.2.2"]


def test_recipe_reads_destinations_for_each_move(recipe):
    app = recipe("Destinations of C-MOVE from a file").app
    assert app.resolve("WORKSTATION") == Peer("10.0.0.7", 104)
    assert app.resolve("NEW") is None
    Path("peers.toml").write_text('[NEW]\nhost = "10.0.0.9"\nport = 105\n')
    assert app.resolve("NEW") == Peer("10.0.0.9", 105)
    assert app.resolve("WORKSTATION") is None


def test_recipe_stops_a_slow_query_at_a_cancel(recipe):
    names = recipe("A slow query that can be cancelled")
    searched, go = [], threading.Event()

    def search(tape, identifier):
        searched.append(tape)
        if tape == 0:
            return {"StudyInstanceUID": "1.2.3"}
        go.wait(WAIT)
        return None

    names.find.__globals__["search"] = search
    with names.app.test_client() as client:
        found = client.find(STUDY)
        assert next(found).StudyInstanceUID == "1.2.3"
        threading.Timer(0.1, go.set).start()
        found.close()
    assert len(searched) < 1000


def test_recipe_serves_two_titles_at_one_port(recipe):
    app = recipe("Several AE titles in one server").app
    for title in ("ARCHIVE", "RESEARCH"):
        with app.test_client(called_ae=title) as client:
            client.store(image(f"1.2.{len(title)}"))
    assert files() == ["clinic/1.2.7.dcm", "research/1.2.8.dcm"]
    with app.test_client(called_ae="OTHER") as client, pytest.raises(AssociationRejected):
        client.echo()


def test_recipe_logs_each_request(recipe):
    app = recipe("An audit trail").app
    with app.test_client(calling_ae="CT1") as client:
        client.echo()
        client.store(image())
        Path("archive/1.2.4.dcm").mkdir()
        with pytest.raises(OSError):
            client.store(image("1.2.4"))
    echo, store, failed = map(json.loads, Path("audit.jsonl").read_text().splitlines())
    assert (echo["what"], echo["who"], echo["status"]) == ("echo", "CT1", "0000")
    assert (store["instance"], store["error"]) == ("1.2.3.1.1", None)
    assert (failed["status"], failed["error"]) == ("A700", "IsADirectoryError")


def test_recipe_answers_a_broken_database_with_a_status(recipe):
    app = recipe("When the database fails").app
    with app.test_client() as client:
        with pytest.raises(RequestFailed, match="0xA700 the index is not available"):
            list(client.find(STUDY))
        with sqlite3.connect("index.db") as db:
            db.execute("CREATE TABLE study AS SELECT '1.2.3' AS uid")
        db.close()
        (study,) = client.find(STUDY)
    assert study.StudyInstanceUID == "1.2.3"
    assert app.state.failures == 1


def test_recipe_checks_user_and_passcode(recipe):
    app = recipe("Log in with user name and passcode").app
    for wrong in (None, "doe", ("doe", "wrong"), ("nobody", "secret")):
        with app.test_client(identity=wrong) as client, pytest.raises(AssociationRejected):
            client.echo()
    with app.test_client(identity=("doe", "secret")) as client:
        client.echo()
        assert list(client.find(STUDY)) == []
        with pytest.raises(RequestFailed, match="0x0124"):
            list(client.get({**STUDY, "StudyInstanceUID": "1.2.3"}))


def test_recipe_takes_a_token_as_user(recipe):
    names = recipe("Log in with a JSON Web Token")
    seen = []
    names.app.echo(lambda request: seen.append(request.user))
    good = {"sub": "service", "aud": "archive", "exp": 4_000_000_000}

    def identity(key=names.KEY, **claims):
        return UserIdentity(5, False, jwt.encode({**good, **claims}, key).encode(), b"")

    with names.app.test_client(identity=identity()) as client:
        client.echo()
    assert seen == ["service"]
    wrong = [
        identity("another key which is long enough for it"),
        identity(exp=1),
        identity(aud="other"),
        UserIdentity(5, False, b"no token", b""),
        "doe",
        None,
    ]
    for one in wrong:
        with names.app.test_client(identity=one) as client, pytest.raises(AssociationRejected):
            client.echo()


def test_recipe_shows_a_page_beside_dicomweb(recipe):
    app = recipe("A page of your own beside DICOMweb").app
    with app.test_client() as client:
        client.store(image(patient="4711"))
        shown = client.web.get("/received").json
    assert shown == {"patients": ["4711"], "asked_by": "127.0.0.1"}


def test_recipe_stores_the_result_of_a_model(recipe, sample):
    names, pacs, received = recipe("Call an AI model, and send its result back"), App(), []
    pacs.store(lambda request: received.append(request.dataset))
    before = dcmread(sample("CT_small.dcm"))
    with names.app.test_client(peers={"PACS": pacs}) as client:
        for _ in range(2):
            client.store(sample("CT_small.dcm"))
            client.run_jobs()
    result, again = received
    assert again.SOPInstanceUID == result.SOPInstanceUID
    assert result.StudyInstanceUID == before.StudyInstanceUID
    assert result.SOPInstanceUID != before.SOPInstanceUID
    assert set(result.pixel_array.flat) == {0, 1000}
    assert files() == []


def test_recipe_handles_failures_of_a_pacs(recipe):
    names = recipe("A PACS that fails on purpose")
    with names.pacs.serve(port=0, grace=1) as server:
        with connect("127.0.0.1", server.port, timeout=1) as client:
            with pytest.raises(RequestFailed, match="0xA700"):
                client.store(image())
            with pytest.raises(AssociationAborted):
                client.store(image())
            with pytest.raises(AssociationAborted):
                client.store(image())
            names.patience.set()
        with connect("127.0.0.1", server.port) as client:
            assert client.store(image()).category == "Success"


def test_recipe_stores_a_large_instance_unparsed(recipe, sample, monkeypatch):
    app = recipe("Large instances without parsing them").app
    monkeypatch.setattr(Instance, "_parse", None)
    path = sample("CT_small.dcm")
    with app.test_client() as client:
        client.store(path)
    (saved,) = files()
    expected, uid = Path(saved).with_suffix(".sha256").read_text().split()
    with Instance(path).open() as file:
        assert hashlib.sha256(file.read()).hexdigest() == expected
    assert uid in saved


def test_recipe_gives_one_peer_its_own_character_set(recipe):
    app = recipe("A character set for one peer").app
    for title, charset in [("OLD_CT", "ISO_IR 100"), ("CT2", "ISO_IR 192")]:
        with app.test_client(calling_ae=title) as client:
            (found,) = client.find({"PatientName": None, "PatientID": None}, "Worklist")
        assert found.SpecificCharacterSet == charset
        assert found.PatientName == "Müller^Jürgen"


def test_recipe_keeps_or_refuses_duplicates(recipe):
    app = recipe("Instances that arrive twice").app
    changed = image()
    changed.PatientName = "Other"
    with app.test_client() as client:
        client.store(image())
        assert client.store(changed).code == 0
    with app.test_client(calling_ae="IMPORT") as client:
        with pytest.raises(RequestFailed, match="0x0111"):
            client.store(changed)
    assert dcmread(files()[0]).PatientName == "Doe^John"


def test_recipe_answers_a_get_without_a_role(recipe):
    policy = recipe("A workstation that never selects a role").app.policy("WORKSTATION")
    contexts = [(GET, (IMPLICIT,)), (CT, (IMPLICIT,))]
    request = propose("WORKSTATION", "ARCHIVE", contexts, maximum_length=16_384)
    _, contexts = negotiate(request, policy, 16_384)
    assert [context.scp for context in contexts.values()] == [False, True]


def test_recipe_sets_limits(recipe):
    config = recipe("Limits for a hostile network").app.config
    assert config.allow == ("CT1@10.1.0.0/16", "10.2.0.0/24")
    assert config.max_dataset_length == 2 * 2**30


def test_recipe_reads_settings_from_file_and_environment(recipe, monkeypatch):
    monkeypatch.setenv("ARCHIVE_PORT", "11113")
    config = recipe("Settings from a file and the environment").app.config
    assert (config.port, config.idle_timeout) == (11113, 1800)


def test_recipe_completes_commands_in_each_shell(recipe):
    recipe("Complete commands with Tab")
    (block,) = RECIPES["Complete commands with Tab"]
    for shell in re.findall(r"_PACSROUTE_COMPLETE=(\w+)", block.text):
        made = subprocess.run(
            [sys.executable, "-c", "from pacsroute.cli import main; main(prog_name='pacsroute')"],
            env=os.environ | {"_PACSROUTE_COMPLETE": shell},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "_pacsroute_completion" in made.stdout
