"""What watches an archive learns: whether it is ready, and what it has set aside."""

import re
import shutil
import urllib.error
import urllib.request

import pytest
from support.archives import image, only_folder

from pacsroute import App, Blueprint, RequestFailed, SetupError, connect


def ask(server, path):
    try:
        url = f"http://127.0.0.1:{server.metrics_port}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@only_folder
def test_archive_without_room_is_not_ready(make):
    with make(min_free=2**62).serve(port=0, metrics_port=0) as server:
        status, told = ask(server, "/ready")
        assert status == 503
        assert told.startswith("archive: too little room is left in the archive: ")
        assert told.endswith(" GiB are free, but 4294967296.0 GiB must stay free\n")
        assert ask(server, "/health")[0] == 200
    with make(min_free=0).serve(port=0, metrics_port=0) as server:
        assert ask(server, "/ready") == (200, "ready\n")


@only_folder
def test_free_room_and_what_has_to_stay_are_metrics(make):
    pytest.importorskip("prometheus_client")
    app = make(min_free=12345)
    with app.serve(port=0, metrics_port=0) as server:
        _, text = ask(server, "/metrics")
        (free,) = re.findall(r'^pacsroute_archive_free_bytes{archive="archive"} (\S+)$', text, re.M)
        disk = shutil.disk_usage(app.state.archive.folder)
        assert 0.5 < float(free) / disk.free < 2
        assert 'pacsroute_archive_min_free_bytes{archive="archive"} 12345.0' in text


def test_what_is_set_aside_is_counted_by_reason(make):
    pytest.importorskip("prometheus_client")
    app = make()
    with app.serve(port=0, metrics_port=0) as server:
        with connect("127.0.0.1", server.port) as client:
            client.store(image(1))
            for number in (2, 3):
                client.store(image(number, PatientID="888"))
            with pytest.raises(RequestFailed):
                client.store(image(1, Rows=7))
        _, text = ask(server, "/metrics")
    assert 'pacsroute_archive_quarantined_total{reason="mismatch"} 2.0' in text
    assert 'pacsroute_archive_quarantined_total{reason="conflict"} 1.0' in text


def test_checks_of_the_app_and_its_blueprints_are_asked(caplog):
    app, part = App(), Blueprint("part")
    answers = {"app": None, "part": ""}

    @app.ready
    def own(app):
        return answers["app"]

    @part.ready
    def inner(app):
        if answers["part"] == "broken":
            raise OSError("a password")
        return answers["part"]

    app.register_blueprint(part)
    with app.serve(port=0, metrics_port=0) as server:
        assert ask(server, "/ready") == (200, "ready\n")
        answers["app"] = "the database does not answer"
        assert ask(server, "/ready") == (503, "the database does not answer\n")
        answers["part"] = "broken"
        code, told = ask(server, "/ready")
        assert (code, told.endswith("inner failed\n")) == (503, True)
        assert "password" not in told
    assert "a password" in caplog.text
    with pytest.raises(SetupError, match="is called as"):
        app.ready(lambda: None)
