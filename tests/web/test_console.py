"""The console: who may see it, what it shows of whom, and what it never does."""

import base64
import re
import shutil
import socket
import time
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
import trustme
from pydicom.data import get_testdata_file
from support.names import WAIT

from pacsroute import App, Failure, RequestFailed, SetupError, connect
from pacsroute.foreground import announce_web
from pacsroute.tls import expires
from pacsroute.trace.recording import recorder

HOSTILE = "<b>&'\"x</b>"
CT = get_testdata_file("CT_small.dcm")


def basic(name, passcode="secret"):
    text = base64.b64encode(f"{name}:{passcode}".encode()).decode()
    return {"Authorization": f"Basic {text}"}


class Page(HTMLParser):
    """The text of a page and of its elements with an id, and the addresses that it names."""

    def __init__(self, html):
        super().__init__()
        self.text, self.addresses, self.tags = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.addresses += [named[name] for name in ("href", "src", "action") if name in named]

    def handle_data(self, data):
        self.text += data


def page(client, path="/console", **options):
    found = client.get(path, **options)
    assert found.status_code == 200, found.text
    return Page(found.text)


def until(app, words):
    """Return the page once it says so: what is answered is counted a moment later."""
    deadline = time.monotonic() + WAIT
    while words not in (html := app.web.test_client().get("/console").text):
        assert time.monotonic() < deadline, html
    return html


@pytest.fixture
def app():
    return App("ARCHIVE")


@pytest.fixture
def named(app):
    """An app that knows three users, of whom two may see the console and one its values."""
    app.config.web_console = ("doe", "roe")
    app.config.web_console_values = ("roe",)

    @app.authenticate
    def check(identity, association):
        if association.calling_ae != "DICOMWEB":
            return "modality"
        return identity.name if identity and identity.passcode == "secret" else None

    return app


REMOTE = {"REMOTE_ADDR": "10.0.0.9"}


# ------------------------------------------------------------- who may see it


def test_the_root_leads_to_the_console_unless_the_app_has_a_page_there(app):
    client = app.web.test_client()
    found = client.get("/")
    assert (found.status_code, found.headers["Location"]) == (302, "/console")
    app = App()

    @app.web.get("/")
    def own():
        return "own"

    assert app.web.test_client().get("/").text == "own"


def test_routes_below_the_console_are_reserved(app):
    with pytest.raises(SetupError, match="/console"):
        app.web.get("/console/own")(lambda: "own")


@pytest.mark.parametrize(
    ("environ", "headers", "status"),
    [
        ({}, {}, 200),
        (REMOTE, {}, 403),
        ({}, {"Host": "evil.example"}, 403),
        ({}, {"X-Forwarded-For": "10.0.0.9"}, 403),
    ],
)
def test_without_authentication_this_machine_alone_sees_it(app, environ, headers, status):
    found = app.web.test_client().get("/console", environ_base=environ, headers=headers)
    assert found.status_code == status


def test_an_open_server_does_not_open_the_console(app):
    app.config.web_open = True
    client = app.web.test_client()
    assert client.get("/dicom-web/", method="OPTIONS", environ_base=REMOTE).status_code < 400
    assert client.get("/console", environ_base=REMOTE).status_code == 403
    app.config.web_console = ("*",)
    assert client.get("/console", environ_base=REMOTE).status_code == 403  # that is nobody's name


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), (basic("doe", "wrong"), 403), (basic("poe"), 403), (basic("doe"), 200)],
)
def test_from_elsewhere_it_is_for_users_that_are_named(named, headers, status):
    found = named.web.test_client().get("/console", environ_base=REMOTE, headers=headers)
    assert found.status_code == status


def test_a_star_names_all_that_are_authenticated(named):
    named.config.web_console = ("*",)
    found = named.web.test_client().get("/console", environ_base=REMOTE, headers=basic("poe"))
    assert found.status_code == 200


@pytest.mark.parametrize("path", ["/console/console.css", "/console/troubles/1", "/console/x"])
def test_nothing_below_it_is_for_others(named, path):
    found = named.web.test_client().get(path, environ_base=REMOTE, headers=basic("poe"))
    assert found.status_code == 403


# ------------------------------------------------------------- how it is secured


@pytest.mark.parametrize("path", ["/console", "/console/nothing", "/console/console.css"])
def test_each_answer_has_a_strict_policy(app, path):
    found = app.web.test_client().get(path)
    parts = found.headers["Content-Security-Policy"].split("; ")
    policy = dict(part.split(" ", 1) for part in parts)
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    for kind in ("script-src", "style-src", "img-src", "form-action", "connect-src"):
        assert policy[kind] == "'self'"
    assert found.headers["Cache-Control"] == "no-store"
    assert found.headers["X-Frame-Options"] == "DENY"
    assert "Access-Control-Allow-Origin" not in found.headers


def test_pages_of_other_origins_cannot_read_it(app):
    app.config.web_cors = ("https://viewer.example",)
    found = app.web.test_client().get("/console", headers={"Origin": "https://viewer.example"})
    assert "Access-Control-Allow-Origin" not in found.headers


def test_a_page_names_nothing_elsewhere_and_has_no_code_in_it(app):
    html = app.web.test_client().get("/console").text
    assert all(each.startswith(("/console", "#", "/dicom-web")) for each in Page(html).addresses)
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|javascript:", html) == []


def test_below_a_prefix_addresses_have_it(app):
    found = app.web.test_client().get("/console", environ_overrides={"SCRIPT_NAME": "/pacs"})
    assert 'href="/pacs/console/console.css"' in found.text
    assert "Path=/pacs/console" in found.headers["Set-Cookie"]


def test_its_files_are_there(app):
    client = app.web.test_client()
    names = ("console.css", "console.js", "icon.svg")
    kinds = {name: client.get(f"/console/{name}") for name in names}
    assert {name: one.status_code for name, one in kinds.items()} == dict.fromkeys(kinds, 200)
    assert kinds["console.css"].content_type.startswith("text/css")
    assert client.get("/console/page.py").status_code == 404
    assert client.get("/console/../caller.py").status_code == 404


def test_a_failure_of_a_page_is_logged_and_says_nothing(app, caplog, monkeypatch):
    monkeypatch.setattr("pacsroute.web.console.overview.in_order", lambda app: 1 / 0)
    found = app.web.test_client().get("/console")
    assert found.status_code == 500
    assert "ZeroDivisionError" not in found.text
    assert "a page of the console failed" in caplog.text


# ------------------------------------------------------------- what it shows


def test_associations_are_shown_with_what_they_ask_for(app):
    asking, shown = [], []

    @app.store
    def store(request):
        asking.append(page(app.web.test_client()).text)

    with app.serve(port=0, web_port=0) as server:
        with connect("127.0.0.1", server.port, called_ae="ARCHIVE", calling_ae=HOSTILE) as client:
            client.store(CT)
            shown.append(until(app, "nothing; last C-STORE"))
    (during,), (html,) = asking, shown
    assert "C-STORE for 0 s" in during
    assert "499 of 500 places left" in during
    text = Page(html).text
    assert HOSTILE in text
    assert HOSTILE not in html
    assert "39 kB" in text
    assert "1 in the last hour" in html
    assert "Nobody is associated." in page(app.web.test_client()).text


def test_ports_and_readiness_are_shown(app):
    reasons = []
    app.ready(lambda app: "".join(reasons))
    with app.serve(port=0, web_port=0, metrics_port=0) as server:
        text = page(app.web.test_client()).text
        for port in (server.port, server.web_port, server.metrics_port):
            assert f"127.0.0.1:{port}" in text
        assert "ready" in text
        reasons.append(f"no {HOSTILE}")
        assert f"not ready: no {HOSTILE}" in page(app.web.test_client()).text


def test_without_a_server_it_says_so(app):
    assert "no DICOM server in this process" in page(app.web.test_client()).text


def test_routes_are_those_of_the_command(app):
    @app.find("Worklist")
    def worklist(request):
        yield {}

    text = page(app.web.test_client()).text
    assert all(word in text for word in ("C-FIND", "Worklist", "test_console.py", "built in"))
    assert "Blueprint" not in text


def failing(app, comment):
    @app.store
    def store(request):
        raise Failure(0xA700, comment)

    with app.serve(port=0, web_port=0) as server:
        with connect("127.0.0.1", server.port, called_ae="ARCHIVE", calling_ae="CT1") as client:
            for _ in range(3):
                with pytest.raises(RequestFailed):
                    client.store(CT)


def test_failures_are_shown_in_words_and_alike_ones_together(app):
    failing(app, "Doe^John")
    html = app.web.test_client().get("/console").text
    text = Page(html).text
    assert "0xA700 Refused: out of resources" in text
    assert "C-STORE, CT Image Storage" in text
    assert len(re.findall(r"/console/troubles/", html)) == 1
    assert re.search(r'data-label="Times">3<', html)
    assert "Doe" not in text


def trouble(client, **options):
    (path,) = {one for one in page(client, **options).addresses if "/troubles/" in one}
    return page(client, path, **options).text


def test_what_a_handler_says_is_for_users_with_the_permission(named):
    failing(named, "Doe^John")
    client = named.web.test_client()
    assert "Doe^John" not in trouble(client, headers=basic("doe"))
    assert "Doe^John" in trouble(client, headers=basic("roe"))
    named.config.web_console_values = ("*",)
    assert "Doe^John" in trouble(client, headers=basic("doe"))


def test_this_machine_has_no_permission_by_itself(app):
    failing(app, "Doe^John")
    client = app.web.test_client()
    assert "Doe^John" not in trouble(client)
    app.config.web_console_values = ("doe",)
    assert "Doe^John" not in trouble(client)
    app.config.web_console_values = ("*",)
    assert "Doe^John" in trouble(client)


def test_rejections_are_shown_with_the_standards_words(app):
    app.config.require_called_ae = True
    with app.serve(port=0, web_port=0) as server:
        with pytest.raises(Exception, match="reject"):
            connect("127.0.0.1", server.port, called_ae="OTHER", calling_ae=HOSTILE).echo()
    text = page(app.web.test_client()).text
    assert "called AE title not recognized" in text
    assert HOSTILE in text


def test_connections_that_are_not_associations_are_shown(app):
    with app.serve(port=0, web_port=0) as server:
        with socket.create_connection(("127.0.0.1", server.port), WAIT) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(1000)
            until(app, '<span class="kind failed">')
    text = page(app.web.test_client()).text
    assert "unknown" in text
    assert "association failed" in text


def test_a_failure_leads_to_its_trace_where_one_is_recorded(named, tmp_path):
    named.taps.append(recorder(tmp_path / "recordings"))
    failing(named, "full")
    client = named.web.test_client()
    assert "with trace" in page(client, headers=basic("doe")).text
    masked, shown = (trouble(client, headers=basic(name)) for name in ("doe", "roe"))
    assert "C-STORE-RQ" in masked
    assert "CompressedSamples^CT1" not in masked
    assert "CompressedSamples^CT1" in shown
    for file in (tmp_path / "recordings").iterdir():
        file.unlink()
    assert "the recording cannot be read" in trouble(client, headers=basic("doe"))


@pytest.mark.parametrize(("limit", "value"), [("_MOST", 1), ("_READ", 10_000)])
def test_a_long_trace_is_cut(app, tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(f"pacsroute.web.console.traces.{limit}", value)
    app.taps.append(recorder(tmp_path / "recordings"))
    failing(app, "full")
    text = trouble(app.web.test_client())
    assert "accepted, 2 of 2 contexts" in text
    assert "the rest is left out" in text
    assert text.count("C-STORE-RQ") < 3


def test_http_requests_that_are_not_admitted_are_shown(named):
    client = named.web.test_client()
    client.get("/dicom-web/studies", environ_base=REMOTE, headers=basic("doe", "wrong"))
    client.get("/dicom-web/studies", environ_base=REMOTE)  # it is asked for credentials
    html = client.get("/console", headers=basic("doe")).text
    assert re.search(r"10\.0\.0\.9.*?HTTP request.*?rejected</span>.*?not authenticated", html)
    assert re.findall(r'data-label="Times">(\d+)<', html) == ["1"]


def test_a_look_at_what_a_handler_says_is_an_audit_event(named):
    events = []
    named.audit(events.append)
    failing(named, "Doe^John")
    client = named.web.test_client()
    trouble(client, headers=basic("doe"))
    assert [event.what for event in events if event.kind == "access"] == []
    trouble(client, headers=basic("roe"))
    (event,) = (event for event in events if event.kind == "access")
    assert (event.user, event.action) == ("roe", "R")
    assert "C-STORE" in event.what


def test_below_a_root_of_dicomweb_that_is_the_sites_it_is_there(app):
    app.config.web_root = "/"
    assert "Nobody is associated." in page(app.web.test_client()).text
    assert app.web.test_client().get("/studies").status_code == 501


def test_an_unknown_failure_is_not_found(app):
    assert app.web.test_client().get("/console/troubles/1-1").status_code == 404


def test_nothing_is_observed_where_there_is_no_web_port(app):
    app.web.get("/own")(lambda: "own")
    with app.serve(port=0):
        assert app.observers == []
    with app.serve(port=0, web_port=0):
        assert len(app.observers) == 1


def test_metrics_and_console_observe_the_same_app(app):
    with app.serve(port=0, web_port=0, metrics_port=0) as server:
        with connect("127.0.0.1", server.port) as client:
            client.echo()
            until(app, "1 in the last hour")
        (metrics,) = (one for one in app.observers if hasattr(one, "render"))
        assert b'category="Success",command="C-ECHO"' in metrics.render()


def test_certificates_are_shown_with_their_days(tmp_path):
    def shown(**life):
        made = trustme.CA().issue_cert("127.0.0.1", **life)
        made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
        app = App("ARCHIVE", tls_certificate=str(tmp_path / "own.pem"))
        with app.serve(port=0, tls_port=0, web_port=0) as server:
            text = page(app.web.test_client()).text
            assert f"127.0.0.1:{server.tls_port}" in text
            (tmp_path / "own.pem").write_text("nothing")
            assert "unreadable" in page(app.web.test_client()).text
        return " ".join(text.split())

    now = datetime.now(UTC)
    assert "DICOM certificate 99 days until it expires" in shown(not_after=now + timedelta(99.5))
    assert "DICOM certificate 9 days renew it now" in shown(not_after=now + timedelta(9.5))
    past = {"not_before": now - timedelta(9), "not_after": now - timedelta(2.5)}
    assert "DICOM certificate expired 2 d ago" in shown(**past)


def test_the_room_of_spool_archive_and_jobs_is_shown(archive, tmp_path, monkeypatch):
    archive.config.jobs = str(tmp_path / "jobs.db")
    archive.forward(CT, "PACS")
    disk = shutil.disk_usage(tmp_path)._replace(total=100 * 10**9, free=4 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk)
    with archive.test_client() as client:
        text = " ".join(page(client.web).text.split())
    assert "Disk of spool, jobs, archive 4.0 GB free of 100 GB, which is little" in text
    assert "Spool 69 GB free of 69 GB" in text
    archive.work.close()


def test_a_time_of_a_certificate_after_2049_is_read(tmp_path):
    ends = datetime(2061, 5, 6, 7, 8, 9, tzinfo=UTC)
    made = trustme.CA().issue_cert("pacs.example", not_after=ends)
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    assert expires(tmp_path / "own.pem") == ends.timestamp()


@pytest.mark.parametrize("certificate", [None, "own.pem"])
def test_the_start_tells_where_it_is(capsys, certificate):
    announce_web(App(web_host="::1", web_certificate=certificate).config, 8042)
    scheme = "https" if certificate else "http"
    assert f"console at {scheme}://[::1]:8042/console\n" in capsys.readouterr().out
