"""UPS-RS (PS3.18 §11), with the example's steps behind it."""

import json
import runpy

import pytest
from support.names import EXPLICIT
from support.places import EXAMPLES
from support.unified_steps import OTHER, OURS, performed, pushed
from support.web import ROOT, parts

from pacsroute import App, Failure, Peer, dicom_json, ups
from pacsroute.dataset import encode
from pacsroute.web.xml_model import XML, model_of, xml_of

UID = "1.2.3.4"
ITEM = f"{ROOT}/workitems/{UID}"
JSON = "application/dicom+json"
STATE, TRANSACTION = "00741000", "00081195"


@pytest.fixture
def steps(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", str(tmp_path / "ups.db"))
    app = runpy.run_path(str(EXAMPLES / "ups.py"))["app"]
    app.destinations["WATCHER"] = Peer("127.0.0.1", 1)
    with app.test_client() as client:
        yield client.web


def model(dataset):
    return dicom_json(encode(dataset, EXPLICIT), EXPLICIT)


def sent(client, method, path, body=None, **options):
    data = None if body is None else json.dumps(body)
    return client.open(path, method=method, data=data, content_type=JSON, **options)


def state(client, value, transaction=OURS):
    body = {
        STATE: {"vr": "CS", "Value": [value]},
        TRANSACTION: {"vr": "UI", "Value": [transaction]},
    }
    return sent(client, "PUT", f"{ITEM}/state", body)


def warning(response):
    head, _, text = response.headers["Warning"].partition(' "')
    assert head == f"299 http://localhost{ROOT}"
    return text.rstrip('"')


@pytest.fixture
def created(steps):
    response = sent(steps, "POST", f"{ROOT}/workitems?workitem={UID}", [model(pushed())])
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == f"http://localhost{ITEM}"
    return steps


def test_a_step_goes_through_its_life(created):
    assert state(created, "IN PROGRESS").status_code == 200
    body = {"UnifiedProcedureStepPerformedProcedureSequence": performed()}
    changes = model({**body, "ProcedureStepProgressInformationSequence": []})
    for query, word in ((f"?transaction={OTHER}", "incorrect"), ("", "missing")):
        refused = sent(created, "POST", f"{ITEM}{query}", changes)
        assert refused.status_code == 400
        assert warning(refused) == f"The Transaction UID is {word}."
    assert sent(created, "POST", f"{ITEM}?{OURS}", changes).status_code == 200
    assert state(created, "COMPLETED").status_code == 200
    for path in (ITEM, f"{ROOT}/workitems?includefield={TRANSACTION}", f"{ROOT}/workitems?limit=1"):
        (shown,) = created.get(path).json
        assert TRANSACTION not in shown
    (found,) = created.get(ITEM).json
    assert found[STATE]["Value"] == ["COMPLETED"]
    assert found["00100010"]["Value"] == [{"Alphabetic": "Müller^Ute"}]
    assert TRANSACTION not in found
    again = state(created, "COMPLETED")
    assert again.status_code == 200
    assert warning(again) == "The UPS is already in the requested state of COMPLETED."
    final = sent(created, "POST", f"{ITEM}?transaction={OURS}", changes)
    assert final.status_code == 400  # PS3.18 §11.6.2
    assert "inconsistent with the current state" in warning(final)
    assert state(created, "CANCELED").status_code == 409


def test_steps_are_found(created):
    (found,) = created.get(f"{ROOT}/workitems?ProcedureStepState=SCHEDULED").json
    assert found["00080018"]["Value"] == [UID]
    assert found["00741204"]["Value"] == ["Segment"]
    assert TRANSACTION not in found
    assert created.get(f"{ROOT}/workitems?PatientID=nobody").json == []
    nested = "ScheduledWorkitemCodeSequence.CodeValue"
    assert len(created.get(f"{ROOT}/workitems?{nested}=C1").json) == 1
    assert created.get(f"{ROOT}/workitems?{nested}=C2").json == []


def test_a_cancel_request_cancels_what_nobody_performs(created):
    assert sent(created, "POST", f"{ITEM}/cancelrequest").status_code == 202
    (found,) = created.get(ITEM).json
    assert found[STATE]["Value"] == ["CANCELED"]


def test_a_cancel_request_that_reaches_nobody_is_a_conflict(created):
    state(created, "IN PROGRESS")
    body = model({"ReasonForCancellation": "moved"})
    assert sent(created, "POST", f"{ITEM}/cancelrequest", body).status_code == 409


def test_subscriptions_are_of_titles_that_dimse_reaches(created):
    path = f"{ITEM}/subscribers/WATCHER"
    assert created.post(f"{path}?deletionlock=true").status_code == 201
    assert created.delete(path).status_code == 200
    refused = created.post(f"{ITEM}/subscribers/NOBODY")
    assert (refused.status_code, "event channel" in refused.text) == (403, True)
    assert created.post(f"{path}?deletionlock=maybe").status_code == 400
    assert created.post(f"{ROOT}/workitems/1.9/subscribers/WATCHER").status_code == 404
    everything = f"{ROOT}/workitems/1.2.840.10008.5.1.4.34.5/subscribers/WATCHER"
    assert created.post(everything).status_code == 201
    assert created.post(f"{everything}/suspend").status_code == 200


def test_a_filtered_subscription_has_the_keys_of_its_filter():
    app, asked = App(), []
    app.destinations["WATCHER"] = Peer("127.0.0.1", 1)

    @app.n_action("UPS", action_type=ups.SUBSCRIBE)
    def subscribe(request):
        asked.append(request.action_information)
        ups.check_subscription(None, request.sop_instance, 3, request.action_information)
        return 0xB301

    path = f"{ROOT}/workitems/{ups.FILTERED_GLOBAL}/subscribers/WATCHER"
    keys = "PatientID=7,ScheduledWorkitemCodeSequence.CodeValue=C1"
    with app.test_client() as client:
        response = client.web.post(path, query_string={"filter": keys, "deletionlock": "true"})
        assert (response.status_code, warning(response)) == (201, "Deletion Lock not granted.")
        for query in ("", "?filter=", "?filter=PatientID", "?filter=NoSuch%3D1"):
            assert client.web.post(path + query).status_code == 400
    assert asked[0].PatientID == "7"
    assert asked[0].ScheduledWorkitemCodeSequence[0].CodeValue == "C1"
    assert (asked[0].ReceivingAE, asked[0].DeletionLock) == ("WATCHER", "TRUE")


def test_steps_may_be_xml(steps):
    text = xml_of(model(pushed()))
    made = steps.post(f"{ROOT}/workitems?{UID}", data=text, content_type=XML)
    assert made.status_code == 201, made.text
    found = steps.get(ITEM, headers={"Accept": f'multipart/related; type="{XML}"'})
    ((kind, shown),) = parts(found)
    assert kind == XML
    assert model_of(shown, 9)["00100010"]["Value"] == [{"Alphabetic": "Müller^Ute"}]
    assert steps.get(ITEM, headers={"Accept": XML}).content_type == XML
    assert steps.post(f"{ROOT}/workitems", data=b"<a/>", content_type=XML).status_code == 400
    rows = steps.get(f"{ROOT}/workitems", headers={"Accept": XML})
    assert len(parts(rows)) == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0x0106, 400),
        (0x0111, 409),
        (0x0112, 404),
        (0x0124, 403),
        (0xA700, 503),
        (0xC300, 409),
        (0xC301, 400),
        (0xC307, 404),
        (0xC312, 409),
        (0xC315, 403),
        (0x0110, 500),
    ],
)
def test_each_status_has_one_of_http(code, status):
    app = App()

    @app.n_action("UPS", action_type=ups.REQUEST_CANCEL)
    @app.n_get("UPS")
    def refuse(request):
        raise Failure(code)

    with app.test_client() as client:
        response = client.web.post(f"{ITEM}/cancelrequest")
        assert response.status_code == status
        assert f"0x{code:04X}" in response.text
        shown = client.web.get(ITEM).status_code
    assert shown == (404 if code == 0x0124 else status)


def test_conflicts_and_mistakes_are_told(created):
    again = sent(created, "POST", f"{ROOT}/workitems?workitem={UID}", [model(pushed())])
    assert again.status_code == 409
    wrong = model(pushed(ProcedureStepState="COMPLETED"))
    assert sent(created, "POST", f"{ROOT}/workitems", wrong).status_code == 400
    assert state(created, "COMPLETED").status_code == 409
    assert created.get(f"{ROOT}/workitems/1.9").status_code == 404
    assert created.get(f"{ROOT}/workitems/x").status_code == 400
    for body in ("{", "[]", "[1, 2]", '{"0010": 1}'):
        response = created.post(ITEM, data=body, content_type=JSON)
        assert response.status_code == 400
    assert created.post(ITEM, data="{}", content_type="text/plain").status_code == 415


def test_a_uid_is_made_where_none_is_given(steps):
    response = sent(steps, "POST", f"{ROOT}/workitems", model(pushed()))
    assert response.status_code == 201
    assert steps.get(response.headers["Location"]).status_code == 200


def test_without_handlers_it_is_not_implemented():
    with App().test_client() as client:
        assert client.web.get(ITEM).status_code == 501
        assert client.web.get(f"{ROOT}/workitems").status_code == 501


def test_the_capabilities_have_the_work_items(steps):
    found = steps.options(f"{ROOT}/", headers={"Accept": "application/json"}).json["resources"]
    methods = {one["path"]: one["methods"] for one in found}
    assert methods["workitems"] == ["GET", "POST"]
    assert methods["workitems/{workitem}/state"] == ["PUT"]
    assert "studies" not in methods
