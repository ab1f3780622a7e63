"""The worklist broker, asked by DCMTK, pynetdicom and the test client."""

import csv
import json
import os
import runpy
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind

from pacsroute import RequestFailed

EXAMPLE = Path(__file__).parents[2] / "examples" / "worklist.py"
ROWS = [
    {
        "PatientName": "Doe^John",
        "PatientID": "1",
        "AccessionNumber": "A1",
        "Modality": "CT",
        "ScheduledStationAETitle": "CT1",
        "ScheduledProcedureStepStartDate": "20240131",
        "ScheduledProcedureStepStartTime": "1000",
    },
    {
        "PatientName": "Doe^Jane",
        "PatientID": "2",
        "Modality": "MR",
        "ScheduledStationAETitle": "MR1",
        "ScheduledProcedureStepStartDate": "20240201",
        "ScheduledProcedureStepStartTime": "1100",
    },
    {"PatientName": "Müller^Ute", "PatientID": "3", "Modality": "CT", "AccessionNumber": "A3"},
]


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(params=["json", "csv"])
def path(request, tmp_path, monkeypatch):
    path = tmp_path / f"today.{request.param}"
    write(path, ROWS)
    monkeypatch.setenv("WORKLIST", str(path))
    return path


@pytest.fixture
def app(path):
    return runpy.run_path(str(EXAMPLE))["app"]


def ids(client, step=None, **keys):
    step = {"Modality": "", **(step or {})}
    asked = {"PatientID": "", "ScheduledProcedureStepSequence": [step], **keys}
    return sorted(row.PatientID for row in client.find(asked, "Worklist"))


@pytest.mark.parametrize(
    ("step", "keys", "expected"),
    [
        ({}, {}, ["1", "2", "3"]),
        ({"Modality": "CT"}, {}, ["1", "3"]),
        ({"Modality": "CT", "ScheduledStationAETitle": "CT1"}, {}, ["1"]),
        ({"ScheduledProcedureStepStartDate": "20240201-"}, {}, ["2"]),
        ({"ScheduledProcedureStepStartDate": "20240131"}, {}, ["1"]),
        ({"ScheduledProcedureStepStartTime": "0900-1030"}, {}, ["1"]),
        ({}, {"PatientName": "DOE*"}, ["1", "2"]),
        ({}, {"AccessionNumber": "A?"}, ["1", "3"]),
        ({"ScheduledStationAETitle": "XX"}, {}, []),
    ],
)
def test_worklist_matches_keys(dicom_client, step, keys, expected):
    assert ids(dicom_client, step, **keys) == expected


def test_requested_keys_come_back(dicom_client):
    step = {"Modality": "CT", "ScheduledStationAETitle": "", "ScheduledProcedureStepID": ""}
    asked = {"PatientName": "M*", "AdmissionID": "", "ScheduledProcedureStepSequence": [step]}
    (row,) = dicom_client.find(asked, "Worklist")
    assert row.PatientName == "Müller^Ute"
    assert row.AdmissionID in ("", None)
    (item,) = row.ScheduledProcedureStepSequence
    assert (item.Modality, item.ScheduledStationAETitle) == ("CT", "")
    assert "QueryRetrieveLevel" not in row


def test_one_step_with_a_wrong_value_does_not_hide_the_others(dicom_client, path, caplog):
    wrong = {"ScheduledStationAETitle": 1, "ScheduledProcedureStepStartDate": "2024-01-31"}
    changed = [row | {"PregnancyStatus": "4"} for row in ROWS[:2]]
    changed.append(ROWS[2] | {"PatientID": 4711, "PregnancyStatus": "no"} | wrong)
    if path.suffix == ".json":
        changed[0]["MedicalAlerts"] = ["Latex", "Iodine"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*ROWS[0], "PregnancyStatus"])
        if path.suffix == ".json":
            json.dump(changed, file)
        else:
            writer.writeheader()
            writer.writerows(changed)
    step = {"ScheduledStationAETitle": "", "ScheduledProcedureStepStartDate": ""}
    names = ["PatientID", "PatientName", "PregnancyStatus", "MedicalAlerts"]
    asked = dict.fromkeys(names) | {"ScheduledProcedureStepSequence": [step]}
    found = {row.PatientID: row for row in dicom_client.find(asked, "Worklist")}
    assert sorted(found) == ["1", "2", "4711"]
    assert found["1"].PregnancyStatus == 4
    assert found["1"].MedicalAlerts == (["Latex", "Iodine"] if path.suffix == ".json" else "")
    assert found["4711"].PatientName == "Müller^Ute"
    assert found["4711"].PregnancyStatus is None
    (item,) = found["4711"].ScheduledProcedureStepSequence
    assert (item.ScheduledStationAETitle, item.ScheduledProcedureStepStartDate) == ("1", "")
    assert "step 3: no value of a ScheduledProcedureStepStartDate" in caplog.text


def test_a_changed_file_is_read_again(dicom_client, path):
    assert ids(dicom_client) == ["1", "2", "3"]
    write(path, ROWS[:1])
    os.utime(path, ns=(1, 1))
    assert ids(dicom_client) == ["1"]


def test_missing_worklist_file_is_a_failure(dicom_client, path):
    path.unlink()
    with pytest.raises(RequestFailed, match="0xA700"):
        ids(dicom_client)


def test_findscu(dicom_server, dcmtk):
    keys = ("PatientID", "ScheduledProcedureStepSequence[0].Modality=CT", "PatientName=Doe*")
    options = [word for key in keys for word in ("-k", key)]
    done = dcmtk("findscu", "-W", *options, "127.0.0.1", dicom_server.port)
    assert done.returncode == 0, done.stdout
    assert "Doe^John" in done.stdout
    assert "Doe^Jane" not in done.stdout


def test_pynetdicom(dicom_server):
    ae = AE()
    ae.dimse_timeout = 30
    ae.add_requested_context(ModalityWorklistInformationFind)
    association = ae.associate("127.0.0.1", dicom_server.port)
    keys, step = Dataset(), Dataset()
    step.Modality = "MR"
    keys.PatientName, keys.ScheduledProcedureStepSequence = "", [step]
    answers = list(association.send_c_find(keys, ModalityWorklistInformationFind))
    association.release()
    assert [status.Status for status, _ in answers] == [0xFF00, 0]
    assert answers[0][1].PatientName == "Doe^Jane"
