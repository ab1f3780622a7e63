"""`app.web` under gunicorn: alone, in a Flask site of one's own, and in plain WSGI."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request

import pytest
from support.names import WAIT
from support.web import CT, ROOT, content, read

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="gunicorn is for POSIX systems"),
]
pytest.importorskip("gunicorn")

APP = """
import os
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from pacsroute import App, Archive

app = App("ARCHIVE")
app.register_blueprint(Archive("archive"))

@app.lifespan
def noted(app):
    print(f"begun {os.getpid()}", flush=True)
    yield
    print(f"ended {os.getpid()}", flush=True)

@app.web.get("/hello")
def hello():
    return "hello"

alone = app.web

site = Flask("site")
site.add_url_rule("/", view_func=lambda: "home")
mounted = DispatcherMiddleware(site, {"/pacs": app.web})

def plain(environ, start_response):
    if environ["PATH_INFO"].startswith(("/dicom-web", "/hello")):
        return app.web(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"plain"]
"""


@contextlib.contextmanager
def gunicorn(folder, name, *options):
    """Serve one of the applications; yield its URL, and a list that ends as what was printed."""
    (folder / "served.py").write_text(APP)
    arguments = ["-m", "gunicorn", "-b", "127.0.0.1:0", *options, f"served:{name}"]
    said = []
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"Listening at: (http://\S+)", line):
                    yield found[1], said
                    break
        finally:
            process.terminate()
            said += process.communicate(timeout=WAIT)[0].splitlines(keepends=True)


def ask(url, data=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, named)
    with urllib.request.urlopen(request, timeout=WAIT) as response:
        return response, response.read()


@pytest.mark.parametrize(
    ("name", "path", "home", "options"),
    [
        ("alone", "", None, ["--threads", "4"]),
        ("mounted", "/pacs", b"home", ["--threads", "4", "--workers", "2"]),
        ("plain", "", b"plain", ["--threads", "4"]),
        ("alone", "", None, ["--worker-class", "sync"]),
    ],
)
def test_an_instance_goes_and_comes_back(tmp_path, name, path, home, options):
    with gunicorn(tmp_path, name, *options) as (base, said):
        root = f"{base}{path}{ROOT}"
        assert ask(f"{base}{path}/hello")[1] == b"hello"
        stored = ask(f"{root}/studies", content(CT), Content_Type="application/dicom")[1]
        (one,) = json.loads(stored)["00081199"]["Value"]
        (url,) = one["00081190"]["Value"]
        assert url.startswith(f"{root}/studies/")
        response, data = ask(url, Accept="application/dicom")
        assert int(response.headers["Content-Length"]) == len(data)
        part = ask(url, Accept="application/dicom", Range="bytes=128-131")
        assert (part[0].status, part[1]) == (206, b"DICM")
        assert read(CT).PixelData in data
        (row,) = json.loads(ask(f"{root}/studies?PatientID=1CT1")[1])
        assert row["00081190"]["Value"] == [url.partition("/series/")[0]]
        assert ask(f"{url}/rendered")[1].startswith(b"\xff\xd8\xff")
        if home is not None:
            assert ask(f"{base}/")[1] == home
    lives = [line.split() for line in said if line.startswith(("begun", "ended"))]
    processes = {number for _, number in lives}
    assert sorted(lives) == sorted([word, one] for word in ("begun", "ended") for one in processes)


def test_bodies_in_chunks_and_refusals(tmp_path):
    with gunicorn(tmp_path, "alone", "--threads", "4") as (base, _):
        chunks = iter([content(CT)[:500], content(CT)[500:]])
        response, _ = ask(f"{base}{ROOT}/studies", chunks, Content_Type="application/dicom")
        assert response.status == 200
        for asked, status in (
            ({"url": f"{base}{ROOT}/studies", "X_Forwarded_For": "10.0.0.7"}, 403),
            ({"url": f"{base}{ROOT}/studies/1.2"}, 404),
            ({"url": f"{base}{ROOT}/studies", "data": b"x", "Content_Type": "text/plain"}, 415),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(**asked)
            assert refused.value.code == status
            refused.value.close()
