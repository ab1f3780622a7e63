"""The rules of performed procedure steps, and the example that keeps them."""

import runpy
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
)
from support.another_worker import beside_another_worker
from support.datasets import dataset
from support.performed_steps import created, ended

from pacsroute import Failure, mpps

EXAMPLE = Path(__file__).parents[2] / "examples" / "mpps.py"


def code(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except Failure as failure:
        return failure.status
    return 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106),
        ({"PerformedProcedureStepStatus": None}, 0x0120),
        ({"PerformedProcedureStepStatus": ""}, 0x0121),
        ({"PatientName": None}, 0x0120),
        ({"Modality": ""}, 0x0121),
        ({"ScheduledStepAttributesSequence": []}, 0x0121),
        ({"ScheduledStepAttributesSequence": [Dataset()]}, 0x0120),
    ],
)
def test_n_create(changes, expected):
    assert code(mpps.check_create, created(**changes)) == expected


def test_not_strict_checks_the_status_only():
    only = dataset(PerformedProcedureStepStatus="IN PROGRESS")
    assert code(mpps.check_create, only) == 0x0120
    assert code(mpps.check_create, only, strict=False) == 0
    end = dataset(PerformedProcedureStepStatus="DISCONTINUED")
    assert code(mpps.check_set, only, end, strict=False) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ended(), 0),
        (ended("DISCONTINUED"), 0),
        (ended("FINISHED"), 0x0106),
        (ended(PerformedProcedureStepEndDate=""), 0x0121),
        (ended(PerformedSeriesSequence=[Dataset()]), 0x0120),
        (dataset(PerformedProcedureStepDescription="more"), 0),
        (dataset(PatientID="2"), 0x0106),
        (dataset(PatientID="1"), 0),
        (dataset(AdmissionID="", ReferencedPatientSequence=[]), 0),
        (dataset(AdmissionID="7"), 0x0106),
    ],
)
def test_n_set(change, expected):
    before = created()
    untouched = deepcopy(before)
    assert code(mpps.check_set, before, change) == expected
    assert before == untouched


@pytest.mark.parametrize("status", sorted(mpps.FINAL))
def test_final_step_cannot_be_changed(status):
    with pytest.raises(Failure, match="may no longer be updated") as caught:
        mpps.check_set(created(PerformedProcedureStepStatus=status), ended())
    assert (caught.value.status, caught.value.elements) == (0x0110, {"ErrorID": 0xA710})


def test_the_example_with_pynetdicom(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", str(tmp_path / "steps.db"))
    app = runpy.run_path(str(EXAMPLE))["app"]
    step, retrieve = ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve
    with app.serve(port=0, grace=1) as server:
        ae = AE("CT1")
        ae.dimse_timeout = ae.network_timeout = 30
        ae.add_requested_context(step)
        ae.add_requested_context(retrieve)
        association = ae.associate("127.0.0.1", server.port)
        assert association.send_n_create(created(), step, "1.2.9")[0].Status == 0
        assert association.send_n_create(created(), step, "1.2.9")[0].Status == 0x0111
        assert association.send_n_set(ended(), step, "1.2.8")[0].Status == 0x0112
        assert association.send_n_set(ended(), step, "1.2.9")[0].Status == 0
        status, _ = association.send_n_set(ended(), step, "1.2.9")
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
        status, found = association.send_n_get([], retrieve, "1.2.9")
        association.release()
    assert status.Status == 0
    assert found.PerformedProcedureStepStatus == "COMPLETED"
    assert found.PerformedSeriesSequence[0].ProtocolName == "Thorax"


def test_nothing_changes_between_the_check_of_a_step_and_its_change(tmp_path, monkeypatch):
    path, refusals = tmp_path / "steps.db", []
    monkeypatch.setenv("STEPS", str(path))
    app = runpy.run_path(str(EXAMPLE))["app"]

    checked = beside_another_worker(path, mpps.check_set, refusals)
    monkeypatch.setattr(mpps, "check_set", checked)
    with app.test_client() as client:
        client.n_create("MPPS", created(), "1.2.9")
        client.n_set("MPPS", "1.2.9", ended())
    assert refusals == ["database is locked"]


def test_a_step_keeps_texts_of_different_character_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", str(tmp_path / "steps.db"))
    app = runpy.run_path(str(EXAMPLE))["app"]
    step = created(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Ute")
    change = dataset(
        SpecificCharacterSet="ISO_IR 192", PerformedProcedureStepDescription="胸部 größer"
    )
    with app.test_client() as client:
        client.n_create("MPPS", step, sop_instance="1.2.3.1")
        client.n_set("MPPS", "1.2.3.1", change)
        read = client.n_get("MPPSRetrieve", "1.2.3.1").dataset
    assert read.PatientName == "Müller^Ute"
    assert read.PerformedProcedureStepDescription == "胸部 größer"
