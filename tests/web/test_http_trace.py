"""`--trace` of requests over HTTP."""

import re
import subprocess
import sys

import pytest
from support.names import WAIT
from support.web import CT, ROOT, content, path_of, read

from pacsroute import App, Archive
from pacsroute.trace.http import HttpExchange, http_tracer

HEADERS = [
    ("Accept", "application/dicom+json"),
    ("Authorization", "Bearer SECRET"),
    ("Cookie", "session=SECRET"),
    ("X-Patient", "SECRET"),
]


def traced(path, query="", *, values=False, is_dicomweb=True, answered=()):
    text = []
    one = HttpExchange(
        0.0,
        "10.0.0.7",
        "GET",
        path,
        query,
        is_dicomweb,
        HEADERS,
        answered,
        "200 OK",
        1234,
        0.0123,
    )
    http_tracer(text.append, values=values)(one)
    return text[0]


def test_a_request_and_its_answer_are_shown():
    path = path_of(read(CT))
    shown = traced(path, "accept=application/dicom", answered=[("Content-Type", "a/b")])
    lines = shown.splitlines()
    assert re.fullmatch(r"#H1 \d\d:\d\d:\d\d\.\d{3}  10\.0\.0\.7 → .*", lines[0])
    assert lines[0].endswith(f"GET {path}?accept=application/dicom")
    assert "Accept: application/dicom+json" in lines[1]
    assert lines[2] == "  ← 200 OK, 1,234 bytes, 12.3 ms"
    assert "Content-Type: a/b" in lines[3]


@pytest.mark.parametrize(
    "query",
    [
        "PatientName=SECRET",
        "00100010=SECRET",
        "OtherPatientIDsSequence.PatientID=SECRET",
        "StudyDate=SECRET",
        "StudyInstanceUID=SECRET",
        "Modality=SECRET%20now",
        "access_token=SECRET",
        "token=1.2.3",
        "unknown=SECRET",
    ],
)
@pytest.mark.parametrize("values", [False, True])
def test_values_are_masked_and_secrets_always_are(query, values):
    shown = traced(f"{ROOT}/studies", query, values=values)
    secret = "token" in query
    assert ("SECRET" in shown or "1.2.3" in shown) == (values and not secret)
    assert query.partition("=")[0] in shown


def test_what_names_nobody_is_shown():
    query = "StudyInstanceUID=1.2.3,1.2.4&Modality=CT&limit=5&includefield=all&offset=10"
    assert query in traced(f"{ROOT}/studies", query)


def test_paths_that_may_name_somebody_are_masked():
    assert f"{ROOT}/studies/…/series/1.2" in traced(f"{ROOT}/studies/Doe^John/series/1.2")
    assert "/people/…" in traced("/people/Doe/1", is_dicomweb=False)
    assert "/people/Doe" in traced("/people/Doe", is_dicomweb=False, values=True)
    shown = traced(f"{ROOT}/studies", answered=[("Location", "http://a/b?token=SECRET")])
    assert "SECRET" not in shown
    assert "\x1b[2J" not in traced(f"{ROOT}/\x1b[2J")


def test_each_request_is_shown_once_it_has_ended(tmp_path):
    app, seen = App("ARCHIVE"), []
    app.register_blueprint(Archive(tmp_path))
    app.http_taps.append(seen.append)
    with app.test_client() as client:
        stored = client.web.post(
            f"{ROOT}/studies", data=content(CT), content_type="application/dicom"
        )
        client.web.get(f"{ROOT}/nonsense")
        client.web.get("/nothing")
    assert [(one.method, one.path, one.status[:3], one.is_dicomweb) for one in seen] == [
        ("POST", f"{ROOT}/studies", "200", True),
        ("GET", f"{ROOT}/nonsense", "404", True),
        ("GET", "/nothing", "404", False),
    ]
    assert seen[0].size == len(stored.data)
    assert ("Content-Type", "application/dicom") in seen[0].asked


def test_a_tap_that_fails_harms_no_request(caplog):
    app = App("ARCHIVE")

    def broken(exchange):
        raise ValueError

    app.http_taps.append(broken)
    with app.test_client() as client:
        assert client.web.get("/nothing").status_code == 404
    assert "a tap failed" in caplog.text


@pytest.mark.slow
def test_the_command_traces_both_transports(tmp_path):
    (tmp_path / "app.py").write_text(
        "from pacsroute import App\napp = App('ARCHIVE')\napp.find('StudyRoot')(lambda r: [])\n"
    )
    arguments = ["-m", "pacsroute", "run", "app.py", "--port", "0", "--web-port", "0", "--trace"]
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = iter(process.stdout.readline, "")
            url = next(line.split()[-1] for line in lines if line.startswith("DICOMweb at"))
            subprocess.run(
                [sys.executable, "-m", "pacsroute", "find", url, "-k", "PatientName=Doe"],
                check=False,
                capture_output=True,
                timeout=WAIT,
            )
            shown = next(line for line in lines if line.startswith("#H1"))
        finally:
            process.terminate()
            process.communicate(timeout=WAIT)
    assert "/dicom-web/studies?" in shown
    assert "PatientName=…" in shown
