"""What an archive must never do: lose, mix up or replace what somebody trusts it with."""

import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from support.archives import fetched, found, image, only_folder, uids_in
from support.names import CT

from pacsroute import Failure, Instance, RequestFailed, SetupError, StoreRequest, connect
from pacsroute.archive import deletion
from pacsroute.dataset.encoding import encode


def names(client, **keys):
    rows = found(client, "STUDY", PatientName="", **keys)
    return {(row.StudyInstanceUID, str(row.PatientName)) for row in rows}


def quarantined(app):
    return [
        (one.sop_instance, one.reason)
        for one in app.state.archive.check()
        if one.kind == "quarantined"
    ]


# ------------------------------------------------------------- the same UID again


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_equal_content_in_another_transfer_syntax_changes_nothing(make, syntax):
    app = make()
    with app.test_client() as client:
        client.store(image(Rows=2, PixelData=b"\1\2\3\4", BitsAllocated=16))
        before = make.contents(app)
        again = encode(image(Rows=2, PixelData=b"\1\2\3\4", BitsAllocated=16), syntax)
        status = client.store(
            Instance(again, sop_class=CT, sop_instance="1.3.1", transfer_syntax=syntax)
        )
        assert status.category == "Success"
        assert make.contents(app) == before
        assert quarantined(app) == []


def test_equal_content_that_is_known_is_not_written_again(make, monkeypatch):
    app = make()
    with app.test_client() as client:
        client.store(image())
        monkeypatch.setattr(app.state.archive._files, "receive", lambda instance: 1 / 0)
        assert client.store(image()).category == "Success"


def test_other_content_with_a_known_uid_is_refused_and_kept_aside(make, caplog):
    app = make()
    with app.test_client(calling_ae="CT1") as client:
        client.store(image(PatientComments="first"))
        other = image(PatientID="888", study="1.9", PatientName="Roe^Jane")
        for _ in range(3):  # it is sent again, as senders do
            with pytest.raises(RequestFailed, match="0x0111 another version"):
                client.store(other)
        assert names(client) == {("1.1", "Doe^John")}
        ((first,),) = [
            list(
                client.get({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.1"}, storage=[CT])
            )
        ]
        assert first.dataset.PatientComments == "first"
        (kept,) = (one.path for one in app.state.archive.check())
        assert app.state.archive._files.instance(kept).dataset.PatientID == "888"
        assert quarantined(app) == [("1.3.1", "conflict")]
    assert caplog.text.count("is in quarantine") == 1
    told = " ".join(one.getMessage() for one in caplog.records if one.name == "pacsroute")
    assert "Roe" not in told
    assert "888" not in told  # the stamps in the bucket's own lines may have such digits


def test_replace_never_crosses_a_patient_or_a_study(make):
    app = make(conflict="replace")
    with app.test_client() as client:
        client.store(image(1, StudyDescription="first"))
        client.store(image(1, ContentDate="20240102"))
        (row,) = found(client, ContentDate="")
        assert row.ContentDate == "20240102"
        assert len(make.contents(app)) == 1
        for other in (image(1, PatientID="888"), image(1, study="1.9")):
            with pytest.raises(RequestFailed, match="0x0111"):
                client.store(other)
        assert [row.StudyInstanceUID for row in found(client)] == ["1.1"]
        assert len(quarantined(app)) == 2


def test_both_are_kept_if_that_is_wanted(make):
    app = make(conflict="keep-both")
    with app.test_client() as client:
        client.store(image(1, InstanceNumber=1))
        client.store(image(1, InstanceNumber=2))
        client.store(image(1, InstanceNumber=2))
        rows = found(client, InstanceNumber="")
        assert [(row.SOPInstanceUID, row.InstanceNumber) for row in rows] == [
            ("1.3.1", 1),
            ("1.3.1", 2),
        ]
        assert list(app.state.archive.check()) == []


ANOTHER_WORKER = """
import sys
from pathlib import Path
from pydicom import Dataset
from pacsroute import App, Archive, Failure, Instance, StoreRequest

app = App("ARCHIVE")
archive = Archive(sys.argv[1], index=sys.argv[3])
app.register_blueprint(archive)
Files = type(archive._files)
receive = Files.receive

def received(files, instance):
    path = receive(files, instance)
    print("saved", flush=True)
    sys.stdin.readline()
    return path

Files.receive = received
with app.running():
    try:
        print(archive.add(StoreRequest(app=app, calling_ae="CT2", instance=Instance(sys.argv[2]))))
    except Failure as error:
        print(hex(error.status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no workers")
def test_of_two_workers_that_store_one_uid_at_once_the_first_has_it(make, tmp_path):
    app = make()
    path = Instance(image(PatientComments="the other worker's")).save(tmp_path / "source")
    other = subprocess.Popen(
        [sys.executable, "-c", ANOTHER_WORKER, make.where, str(path), make.index],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "saved\n"
    with app.test_client() as client:
        client.store(image(PatientComments="ours"))
        told, _ = other.communicate("go on\n", timeout=60)
        assert told == "0x111\n"
        (instance,) = client.get(
            {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.1"}, storage=[CT]
        )
        assert instance.dataset.PatientComments == "ours"
        assert quarantined(app) == [("1.3.1", "conflict")]


def test_of_many_threads_that_store_one_uid_one_has_it(make):
    app = make()
    with app.serve(port=0) as server:
        told, together = [], threading.Barrier(8)

        def store(number):
            with connect("127.0.0.1", server.port, calling_ae=f"CT{number}") as client:
                together.wait(30)
                try:
                    told.append(client.store(image(InstanceNumber=number)).code)
                except RequestFailed as error:
                    told.append(error.status.code)

        threads = [threading.Thread(target=store, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(told) == [0, *[0x0111] * 7]
        assert len(quarantined(app)) == 7


# ------------------------------------------------------------- one wrong image


def test_an_image_of_another_patient_does_not_move_the_study(make, caplog):
    app = make()
    with app.test_client(calling_ae="CT1") as client:
        client.store(image(1))
        status = client.store(image(2, PatientID="888", PatientName="Roe^Jane"))
        assert (status.category, status.comment) == (
            "Warning",
            "quarantined: its patient is not that of its study",
        )
        assert names(client) == {("1.1", "Doe^John")}
        assert uids_in(client) == {"1.3.1"}
        assert fetched(client, "PATIENT", PatientID="888") == set()
        assert quarantined(app) == [("1.3.2", "mismatch")]
    assert "Roe" not in caplog.text


def test_without_patient_ids_the_names_tell_who_it_is(make):
    app = make(mismatch="refuse")
    with app.test_client() as client:
        client.store(image(1, PatientID=None))
        with pytest.raises(RequestFailed, match="its patient is not that of its study"):
            client.store(image(2, PatientID=None, PatientName="Roe^Jane"))
        client.store(image(3, PatientID=None, PatientName="DOE^JOHN^^"))
        client.store(image(4, PatientID="777", PatientName=None))  # this one knows more
        assert [row.PatientID for row in found(client, "STUDY")] == ["777"]
        assert quarantined(app) == []


def test_another_patient_is_accepted_if_that_is_wanted(make):
    app = make(mismatch="accept")
    with app.test_client() as client:
        client.store(image(1))
        client.store(image(2, PatientID="888", PatientName="Roe^Jane", StudyDescription="gap"))
        assert names(client) == {("1.1", "Doe^John")}
        assert uids_in(client) == {"1.3.1", "1.3.2"}
        (row,) = found(client, "STUDY", StudyDescription="")
        assert not row.StudyDescription  # nothing of another patient fills a gap


def test_the_first_instance_tells_of_its_study_and_others_fill_the_gaps(make):
    app = make()
    with app.test_client() as client:
        client.store(image(1, StudyDescription="first"))
        client.store(image(2, StudyDescription="second", AccessionNumber="A1", series="1.5"))
        (row,) = found(client, "STUDY", StudyDescription="", AccessionNumber="")
        assert (row.StudyDescription, row.AccessionNumber) == ("first", "A1")


def test_a_series_uid_that_occurs_in_two_studies_is_two_series(make):
    app = make()
    with app.test_client() as client:
        client.store(image(1, study="1.1", SeriesDescription="one"))
        client.store(image(2, study="1.9", SeriesDescription="two"))
        rows = found(client, "SERIES", SeriesDescription="")
        assert {(row.StudyInstanceUID, row.SeriesDescription) for row in rows} == {
            ("1.1", "one"),
            ("1.9", "two"),
        }
        for study, uid in (("1.1", "1.3.1"), ("1.9", "1.3.2")):
            assert fetched(client, "STUDY", "StudyRoot", StudyInstanceUID=study) == {uid}
            keys = {"StudyInstanceUID": study, "SeriesInstanceUID": "1.2"}
            assert fetched(client, "SERIES", "StudyRoot", **keys) == {uid}


# ------------------------------------------------------------- patients and issuers


def test_a_patient_id_of_two_hospitals_is_two_patients(make):
    app = make(default_issuer={"CT1": "NORTH", "CT2": "SOUTH"})
    for calling_ae, number in (("CT1", 1), ("CT2", 2)):
        with app.test_client(calling_ae=calling_ae) as client:
            client.store(image(number, study=f"1.1.{number}", PatientName=f"Doe{number}"))
    with app.test_client() as client:
        rows = found(
            client,
            "PATIENT",
            PatientName="",
            IssuerOfPatientID="",
            NumberOfPatientRelatedStudies="",
        )
        assert [
            (
                row.PatientID,
                row.IssuerOfPatientID,
                row.PatientName,
                row.NumberOfPatientRelatedStudies,
            )
            for row in rows
        ] == [("777", "NORTH", "Doe1", 1), ("777", "SOUTH", "Doe2", 1)]
        with pytest.raises(RequestFailed, match="IssuerOfPatientID is required"):
            fetched(client, "PATIENT", PatientID="777")
        keys = {"PatientID": "777", "IssuerOfPatientID": "SOUTH"}
        assert fetched(client, "PATIENT", **keys) == {"1.3.2"}


def test_an_issuer_by_network_survives_a_new_index(make):
    issuers = {"127.0.0.0/8": "HERE", "CT9": "NINE"}
    app = make(default_issuer=issuers)
    with app.serve(port=0) as server:
        with connect("127.0.0.1", server.port) as client:
            client.store(image(1))
            client.store(image(2, study="1.9", IssuerOfPatientID="THERE"))
            client.store(image(3))
            rows = found(client, "PATIENT", IssuerOfPatientID="")
    assert [row.IssuerOfPatientID for row in rows] == ["HERE", "THERE"]
    make.lose_index(app)
    with make(default_issuer=issuers).test_client() as client:
        rows = found(client, "PATIENT", IssuerOfPatientID="")
        assert [row.IssuerOfPatientID for row in rows] == ["HERE", "THERE"]


def test_an_issuer_by_title_survives_a_new_index(make):
    app = make(default_issuer={"CT9": "NINE"})
    with app.test_client(calling_ae="CT9") as client:
        client.store(image(1))
    make.lose_index(app)
    with make(default_issuer={"CT9": "NINE"}).test_client() as client:
        assert [
            row.IssuerOfPatientID for row in found(client, "PATIENT", IssuerOfPatientID="")
        ] == ["NINE"]


def test_studies_without_a_patient_id_are_each_a_patient_of_their_own(make):
    app = make()
    with app.test_client() as client:
        for number in range(3):
            client.store(image(number, study=f"1.1.{number}", PatientID=None))
        assert len(found(client, "PATIENT")) == 3
        with pytest.raises(RequestFailed, match="0xA900"):
            fetched(client, "PATIENT", PatientID="")


# ------------------------------------------------------------- deletion


def test_what_was_deleted_does_not_come_back_by_a_resend(make):
    app = make()
    archive = app.state.archive
    with app.test_client() as client:
        for number in range(3):
            client.store(image(number, series=f"1.2.{number}"))
        assert archive.delete(study="1.1", reason="wrong patient", by="doe") == 3
        assert found(client, "STUDY") == []
        assert make.contents(app) == {}
        with pytest.raises(RequestFailed, match="was deleted"):
            client.store(image(1, series="1.2.1"))
        assert archive.restore(series="1.2.1", reason="it was right", by="doe") == 1
        client.store(image(1, series="1.2.1"))
        assert uids_in(client) == {"1.3.1"}
        assert list(archive.check()) == []


def test_a_tombstone_outlives_the_index(make):
    app = make()
    archive = app.state.archive
    with app.test_client() as client:
        client.store(image(1))
        client.store(image(2))
        archive.delete(instance="1.3.1", reason="blurred", by="doe")
    make.lose_index(app)
    with make().test_client() as client:
        assert uids_in(client) == {"1.3.2"}
        with pytest.raises(RequestFailed, match="was deleted"):
            client.store(image(1))


def test_a_study_that_is_held_is_not_deleted(make):
    app = make()
    archive = app.state.archive
    with app.test_client() as client:
        client.store(image(1))
        archive.hold("1.1", reason="in court", by="doe")
        for what in ({"study": "1.1"}, {"series": "1.2"}, {"instance": "1.3.1"}):
            with pytest.raises(Failure, match="held"):
                archive.delete(**what, reason="old", by="roe")
        archive.release("1.1", reason="settled", by="doe")
        assert archive.delete(study="1.1", reason="old", by="roe") == 1


def test_a_series_of_two_studies_is_deleted_by_its_study(make):
    app = make()
    with app.test_client() as client:
        client.store(image(1, study="1.1"))
        client.store(image(2, study="1.9"))
        with pytest.raises(Failure, match="several studies"):
            app.state.archive.delete(series="1.2", reason="r", by="b")
        app.state.archive.delete(study="1.9", series="1.2", reason="r", by="b")
        assert uids_in(client) == {"1.3.1"}


# ------------------------------------------------------------- room


@only_folder
def test_a_full_disk_refuses_stores_and_answers_all_else(make):
    app = make()
    with app.test_client() as client:
        client.store(image(1))
    full = make(min_free=2**62)
    with full.test_client() as client:
        with pytest.raises(RequestFailed, match="too little room"):
            client.store(image(2))
        assert uids_in(client) == {"1.3.1"}
        assert fetched(client, "PATIENT", PatientID="777") == {"1.3.1"}
        assert full.state.archive.delete(study="1.1", reason="room", by="doe") == 1


@pytest.mark.parametrize("wrong", ["much", "105%", -1])
def test_a_min_free_that_is_no_room_is_a_set_up_error(make, wrong):
    with pytest.raises(SetupError, match="min_free"):
        make(min_free=wrong)


@pytest.mark.parametrize("retain", ["10y", timedelta(days=2)])
def test_study_is_not_deleted_while_it_has_to_be_retained(make, monkeypatch, retain):
    app = make(retain=retain)
    with app.test_client() as client:
        client.store(image(1))
        with pytest.raises(Failure, match="retained for longer"):
            app.state.archive.delete(study="1.1", reason="old", by="doe")
        later = time.time() + timedelta(days=4000).total_seconds()
        monkeypatch.setattr(deletion.time, "time", lambda: later)
        assert app.state.archive.delete(study="1.1", reason="old", by="doe") == 1


def test_a_retain_that_is_no_duration_is_a_set_up_error(make):
    with pytest.raises(SetupError, match="retain must be a timedelta"):
        make(retain="long")


# ------------------------------------------------------------- corrections


def corrected(app, **values):
    app.state.archive.correct("1.1", reason="mistyped", by="doe", **values)


def sent(client, study="1.1"):
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
    return [one.dataset for one in client.get(keys, storage=[CT])]


def test_correction_is_found_and_sent_and_leaves_the_file(make):
    app = make()
    with app.test_client() as client:
        client.store(image(1, PixelData=b"\1\2", BitsAllocated=16))
        before = make.contents(app)
        corrected(app, PatientID="778", PatientName="Müller^Jürgen")
        assert [row.PatientID for row in found(client, "STUDY", PatientName="müller*")] == ["778"]
        assert fetched(client, "PATIENT", PatientID="778") == {"1.3.1"}
        assert fetched(client, "PATIENT", PatientID="777") == set()
        (ds,) = sent(client)
        assert (ds.PatientID, ds.PatientName) == ("778", "Müller^Jürgen")
        (item,) = ds.OriginalAttributesSequence
        (told,) = item.ModifiedAttributesSequence
        assert (told.PatientID, told.PatientName) == ("777", "Doe^John")
        assert item.ReasonForTheAttributeModification == "CORRECT"
        assert item.ModifyingSystem == "archive"
        assert ds.PixelData == b"\1\2"
        assert make.contents(app) == before


def test_more_of_a_corrected_study_is_still_of_it(make):
    """The modality goes on to send what it knows."""
    app = make()
    with app.test_client() as client:
        client.store(image(1, AccessionNumber="A1"))
        corrected(app, PatientID="778", AccessionNumber="")
        corrected(app, PatientID="779")
        client.store(image(1, AccessionNumber="A1"))
        client.store(image(2, AccessionNumber="A1"))
        client.store(image(3, PatientID="779"))
        status = client.store(image(4, PatientID="888"))
        assert status.category == "Warning"
        assert uids_in(client) == {"1.3.1", "1.3.2", "1.3.3"}
        (row,) = found(client, "STUDY", AccessionNumber="")
        assert (row.PatientID, row.AccessionNumber) == ("779", "")
        for ds in sent(client):
            assert (ds.PatientID, ds.AccessionNumber) == ("779", "")


def test_corrections_survive_a_new_index(make):
    app = make()
    with app.test_client() as client:
        client.store(image(1))
        corrected(app, PatientID="778", StudyDate="20240106")
    make.lose_index(app)
    with make().test_client() as client:
        (row,) = found(client, "STUDY", StudyDate="")
        assert (row.PatientID, row.StudyDate) == ("778", "20240106")
        (ds,) = sent(client)
        assert (ds.PatientID, ds.StudyDate) == ("778", "20240106")
        client.store(image(2))
        assert len(sent(client)) == 2


@pytest.mark.parametrize(
    "values", [{}, {"Modality": "MR"}, {"StudyInstanceUID": "1.2"}, {"StudyDate": "yesterday"}]
)
def test_a_correction_that_cannot_be_is_refused(make, values):
    app = make()
    with app.test_client() as client:
        client.store(image(1))
        with pytest.raises(ValueError):
            corrected(app, **values)
        with pytest.raises(Failure, match="no study here"):
            app.state.archive.correct("1.9", reason="r", by="b", PatientID="1")


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "CT_small.dcm"])
def test_correction_of_an_image_keeps_its_pixels(make, sample, name):
    app = make()
    original = dcmread(sample(name))
    study = str(original.StudyInstanceUID)
    with app.test_client() as client:
        client.store(sample(name))
        app.state.archive.correct(study, reason="r", by="b", PatientName="Müller")
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
        syntaxes = [str(original.file_meta.TransferSyntaxUID)]
        (one,) = client.get(keys, storage=[original.SOPClassUID], transfer_syntaxes=syntaxes)
        assert one.transfer_syntax == syntaxes[0]
        assert one.dataset.PatientName == "Müller"
        assert one.dataset.PixelData == original.PixelData


# ------------------------------------------------------------- what is whole


@pytest.mark.parametrize("cut", [1, 40])
def test_data_set_that_was_cut_off_is_refused(make, cut):
    app = make()
    data = encode(image(1, PixelData=bytes(64), BitsAllocated=16), ExplicitVRLittleEndian)[:-cut]
    one = Instance(data, sop_class=CT, sop_instance="1.3.1", transfer_syntax=ExplicitVRLittleEndian)
    with app.running():
        outcome = app.handle(StoreRequest(app=app, instance=one))
        assert outcome.status.category == "Failure"
        assert app.state.archive.count() == 0
        assert make.contents(app) == {}


def test_data_set_of_another_instance_is_refused(make):
    app = make()
    data = encode(image(2), ExplicitVRLittleEndian)
    one = Instance(data, sop_class=CT, sop_instance="1.3.1", transfer_syntax=ExplicitVRLittleEndian)
    with app.running(), pytest.raises(Failure, match="belongs to another instance"):
        app.state.archive.add(one)
