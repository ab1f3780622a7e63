"""The buttons of the console: echo, and those of the queue; nobody forges them."""

import re
import socket

import pytest
from pydicom.data import get_testdata_file

from pacsroute import App, Peer

ORIGIN = {"Origin": "http://localhost"}
CT = get_testdata_file("CT_small.dcm")


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def app():
    return App("ROUTER")


@pytest.fixture
def web(app):
    with app.test_client() as client:
        yield client.web


def token(web):
    html = web.get("/console").text
    found = web.get_cookie("pacsroute-console", path="/console").value
    assert set(re.findall(r'name="token" value="(.*?)"', html)) <= {found}
    return found


def press(web, path, headers=ORIGIN, **form):
    return web.post(f"/console/{path}", data={"token": token(web)} | form, headers=headers)


# ------------------------------------------------------------- forgery


@pytest.mark.parametrize(
    ("headers", "changed"),
    [
        ({}, {}),
        ({"Origin": "null"}, {}),
        ({"Origin": "https://evil.example"}, {}),
        ({"Origin": "http://localhost:9999"}, {}),
        ({"Origin": "https://localhost"}, {}),
        (ORIGIN, {"token": ""}),
        (ORIGIN, {"token": "0" * 64}),
        (ORIGIN, {"token": "é"}),
    ],
)
def test_a_button_from_elsewhere_is_refused(app, web, headers, changed):
    app.destinations["PACS"] = Peer("127.0.0.1", unused_port())
    found = press(web, "echo", headers, title="PACS", **changed)
    assert found.status_code == 403
    assert "failed:" not in web.get("/console").text


def test_a_token_without_the_cookie_is_refused(app, web):
    app.destinations["PACS"] = Peer("127.0.0.1", unused_port())
    form = {"token": token(web), "title": "PACS"}
    web.delete_cookie("pacsroute-console", path="/console")
    assert web.post("/console/echo", data=form, headers=ORIGIN).status_code == 403
    web.set_cookie("pacsroute-console", "short", path="/console")
    form["token"] = "short"
    assert web.post("/console/echo", data=form, headers=ORIGIN).status_code == 403


def test_the_cookie_goes_to_the_console_alone(web):
    cookie = web.get("/console").headers["Set-Cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/console"))
    assert "Secure" not in cookie
    cookie = web.get("/console", base_url="https://localhost").headers["Set-Cookie"]
    assert "Secure" in cookie


def test_behind_a_proxy_the_public_url_is_the_pages_origin(app, web):
    app.destinations["PACS"] = Peer("127.0.0.1", unused_port())
    app.config.web_public_url = "https://pacs.example/site"
    found = press(web, "echo", {"Origin": "https://pacs.example"}, title="PACS")
    assert found.status_code == 303


@pytest.mark.parametrize("path", ["echo", "queue"])
def test_buttons_are_not_links(web, path):
    found = web.get(f"/console/{path}")
    assert found.status_code == 405
    assert found.headers["Allow"] == "POST"


def test_a_long_form_is_not_read(app, web):
    app.destinations["PACS"] = Peer("127.0.0.1", unused_port())
    assert press(web, "echo", title="PACS", more="x" * 100_000).status_code == 413


def test_who_may_not_see_the_console_has_no_buttons(web):
    form = {"token": token(web), "title": "PACS"}
    elsewhere = {"REMOTE_ADDR": "10.0.0.9"}
    found = web.post("/console/echo", data=form, headers=ORIGIN, environ_base=elsewhere)
    assert found.status_code == 403


# ------------------------------------------------------------- destinations


def test_an_echo_tells_how_it_went(app, web):
    with App("PACS").serve(port=0) as server:
        app.destinations["PACS"] = Peer("127.0.0.1", server.port)
        app.destinations["GONE"] = Peer("127.0.0.1", unused_port())
        assert "not checked since the start" in web.get("/console").text
        found = press(web, "echo", title="PACS")
        assert (found.status_code, found.headers["Location"]) == (303, "/console#destinations")
        press(web, "echo", title="GONE")
    html = web.get("/console").text
    assert re.search(r"PACS</b>.*?answered in \d+ ms", html)
    assert re.search(r"GONE</b>.*?failed:</span> GONE at .*cannot be reached", html)


def test_a_destination_at_a_url_is_asked_for_a_study(app, web):
    pacs, keys = App("PACS"), []

    @pacs.find("StudyRoot")
    def find(request):
        keys.append(request.identifier.StudyInstanceUID)
        return []

    with pacs.serve(port=0, web_port=0) as server:
        app.destinations["CLOUD"] = Peer(url=f"http://127.0.0.1:{server.web_port}/dicom-web")
        press(web, "echo", title="CLOUD")
    assert keys == ["2.25.0"]
    assert re.search(r"CLOUD</b>.*?answered in", web.get("/console").text)


def test_an_echo_keeps_no_other_request_from_its_turn():
    app = App("ARCHIVE", web_threads=1)
    app.find("StudyRoot")(lambda request: [])
    with app.serve(port=0, web_port=0) as server:
        app.destinations["SELF"] = Peer(url=f"http://127.0.0.1:{server.web_port}/dicom-web")
        web = app.web.test_client()
        assert press(web, "echo", title="SELF").status_code == 303
        assert re.search(r"SELF</b>.*?answered in", web.get("/console").text)


def test_destinations_that_only_a_function_knows_can_be_asked(app):
    with App("PACS").serve(port=0) as server:

        @app.destination
        def destination(title, request):
            return Peer("127.0.0.1", server.port) if title == "PACS" else None

        web = app.web.test_client()
        assert 'name="title"' in web.get("/console").text
        assert press(web, "echo", title="PACS").status_code == 303
        assert "@app.destination" in web.get("/console").text
        for title in ("OTHER", "", "x" * 17, "a\\b", "é"):
            assert press(web, "echo", title=title).status_code == 404


def test_without_destinations_it_says_how_to_add_one(web):
    assert "app.destinations[" in web.get("/console").text


# ------------------------------------------------------------- jobs


def test_the_queue_is_shown_and_changed(app):
    @app.job(retry=[])
    def report(patient):
        raise ValueError(patient)

    with app.test_client() as client:
        web = client.web
        app.forward(CT, "PACS")
        report.later("Doe^John", key="Doe^John")
        client.run_jobs()
        html = web.get("/console").text
        assert "Doe" not in html
        assert "ValueError" in html
        assert "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322" in html
        control = app.work_under_way.control
        (number,) = (
            job.id for job in control.jobs() if job.state == "failed" and job.lane != "PACS"
        )
        found = press(web, "queue", action="retry", what=number)
        assert found.headers["Location"] == "/console#jobs"
        assert {job.id: job.state for job in control.jobs()}[number] == "waiting"
        press(web, "queue", action="pause", what="PACS")
        assert re.search(r"PACS</b>.*?paused", web.get("/console").text)
        press(web, "queue", action="resume", what="PACS")
        assert not any(lane.paused for lane in control.lanes())
        press(web, "queue", action="drop", what=number)
        assert number not in [job.id for job in control.jobs()]
        assert press(web, "queue", action="drop", what=number).status_code == 409
        assert press(web, "queue", action="pause", what="NOBODY").status_code == 409


@pytest.mark.parametrize(
    ("action", "what"),
    [("", "1"), ("remove", "1"), ("retry", "x"), ("drop", "-1"), ("drop", "9" * 30), ("drop", "²")],
)
def test_other_buttons_are_bad_requests(app, web, action, what):
    app.forward(CT, "PACS")
    assert press(web, "queue", action=action, what=what).status_code == 400


def test_without_a_queue_there_is_nothing_to_change(web):
    assert "No job was queued yet." in web.get("/console").text
    assert press(web, "queue", action="pause", what="PACS").status_code == 404


def test_a_queue_that_cannot_be_used_is_told(app, web, monkeypatch):
    app.forward(CT, "PACS")
    broken = app.work_under_way.control.__class__

    def fail(*arguments, **options):
        raise OSError(5, "the disk is gone")

    for name in ("jobs", "pause"):
        monkeypatch.setattr(broken, name, fail)
    assert "the disk is gone" in web.get("/console").text
    assert press(web, "queue", action="pause", what="PACS").status_code == 503


# ------------------------------------------------------------- audit


def test_every_button_is_an_audit_event(app):
    events = []
    app.audit(events.append)
    with app.test_client() as client:
        press_all(app, client.web, events)
    seen = [(event.kind, event.what, event.action, event.outcome) for event in events]
    assert seen[-4:] == [
        ("access", "echo GONE", "E", 8),
        ("access", "pause lane PACS", "U", 0),
        ("access", "drop job 999", "D", 8),
        ("access", "a button that was not pressed on a page of the console", "R", 8),
    ]


def press_all(app, web, events):
    app.destinations["GONE"] = Peer("127.0.0.1", unused_port())
    app.forward(CT, "PACS")
    web.get("/console")
    assert [event for event in events if event.kind == "access"] == []  # no patient data is there
    press(web, "echo", title="GONE")
    press(web, "queue", action="pause", what="PACS")
    press(web, "queue", action="drop", what="999")
    press(web, "echo", {}, title="GONE")
