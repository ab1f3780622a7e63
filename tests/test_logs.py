"""The log as JSON: one object a line, with fields, and nothing of patients."""

from __future__ import annotations

import json
import logging
import re
import warnings
from datetime import datetime

import pytest
from support.names import CT, EXPLICIT
from support.raw_peer import RawPeer
from support.serving import Serving, fails

from pacsroute.dataset.encoding import encode
from pacsroute.logs import JSONFormatter, LineFormatter, write

APP = """
import logging
import warnings

from pacsroute import App, AssociationRejected

logging.getLogger("mine").warning("imported", extra={"answer": 42, "where": {"a", 1}})
warnings.warn("quoted \\n in two lines")
app = App("LOGGED", require_called_ae=False)

@app.before_association
def before(association):
    if association.called_ae == "WRONG":
        raise AssociationRejected(1, 1, 7)
    if association.called_ae == "BROKEN":
        raise ConnectionError("no database")

@app.store
def store(request):
    if request.dataset.PatientID == "FAILS":
        return {}[request.sop_class]
"""


@pytest.fixture
def lines(tmp_path, dcmtk, sample):
    """Return what a server has logged of an echo, two instances, a rejection and an abort."""
    (tmp_path / "app.py").write_text(APP)
    with Serving(tmp_path, "--log-format", "JSON") as serving:
        at = ("127.0.0.1", serving.port)
        assert dcmtk("storescu", "-aet", "MODALITY", *at, sample("CT_small.dcm")).returncode == 0
        with RawPeer(serving.port, [(CT, EXPLICIT)]) as peer:
            row = {"PatientID": "FAILS", "PatientName": "Doe^John"}
            assert peer.store(encode(row, EXPLICIT), CT, "1.2.3").status == 0xC000
        for title in ("WRONG", "BROKEN"):
            assert dcmtk("echoscu", "-aec", title, *at).returncode != 0
        errors = serving.stop()[2]
    assert "Doe" not in errors
    assert "CompressedSamples" not in errors  # PatientName of the sample
    return [json.loads(line) for line in errors.splitlines()]


def test_json_log_line_has_time_level_and_message(lines):
    for line in lines:
        assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0
        assert line["time"].endswith("Z")
        assert line["level"] in ("info", "warning", "error")
        assert line["logger"]
        assert line["message"]
    imported = next(line for line in lines if line["logger"] == "mine")
    assert (imported["message"], imported["answer"]) == ("imported", 42)
    assert any("quoted" in line["message"] for line in lines)


def test_associations_and_requests_have_fields(lines):
    stored = next(line for line in lines if line.get("command") == "C-STORE")
    assert stored == stored | {
        "event": "answered",
        "level": "info",
        "peer": "127.0.0.1",
        "calling_ae": "MODALITY",
        "called_ae": "ANY-SCP",
        "sop_class": "CT Image Storage",
        "status": "0x0000",
    }
    assert stored["bytes"] > 30_000
    assert 0 < stored["duration_ms"] < 9000
    events = [line["event"] for line in lines if line.get("association") == stored["association"]]
    assert events == ["accepted", "answered", "released"]


def test_a_rejection_and_a_lost_association(lines):
    rejected = next(line for line in lines if line.get("called_ae") == "WRONG")
    assert rejected["event"] == "rejected"
    assert (rejected["result"], rejected["source"], rejected["reason"]) == (1, 1, 7)
    broken = next(line for line in lines if line.get("called_ae") == "BROKEN")
    assert broken["event"] == "failed"
    assert "no database" in broken["exception"]
    lost = next(line for line in lines if line.get("event") == "aborted")
    assert (lost["calling_ae"], lost["level"]) == ("RAW", "warning")


def test_an_exception_is_a_field(lines):
    failed, answered = (
        line for line in lines if line.get("command") == "C-STORE" and line["calling_ae"] == "RAW"
    )
    assert (failed["event"], failed["level"]) == ("failed", "error")
    assert failed["exception"].startswith("Traceback")
    assert "KeyError" in failed["exception"]
    assert (answered["status"], answered["association"]) == ("0xC000", failed["association"])


def test_log_format_setting_chooses_the_formatter(tmp_path):
    (tmp_path / "app.py").write_text("from pacsroute import App\n\napp = App(log_level='error')\n")
    (tmp_path / "pacs.toml").write_text('log_format = "json"\n')
    with Serving(tmp_path, "--config", "pacs.toml", PACSROUTE_LOG_LEVEL="WARNING") as serving:
        (line,) = serving.stop()[2].splitlines()
    assert json.loads(line)["message"] == "no handler is registered: only C-ECHO is answered"
    assert "log_format must be one of plain, json" in fails(tmp_path, "--log-format", "xml")


def test_the_plain_format_stays_plain(tmp_path):
    (tmp_path / "app.py").write_text("from pacsroute import App\n\napp = App()\n")
    with Serving(tmp_path) as serving:
        errors = serving.stop()[2]
    assert re.search(r"^[\d-]+ [\d:,]+ INFO    RAW C-ECHO 0x0000 Success, [\d.]+ ms$", errors, re.M)


def test_record_with_line_breaks_is_one_line():
    record = logging.makeLogRecord({"msg": "a\nb %s", "args": ("\u2028",), "message": "x"})
    line = JSONFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == "a\nb \u2028"


def test_warnings_still_go_where_python_sends_them():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("here", stacklevel=1)
    assert len(caught) == 1


def test_times_of_lines_are_those_of_the_standard_library(monkeypatch):
    """The second is kept for the lines that follow; the first and a later one are made anew."""
    ours, theirs = LineFormatter("%(asctime)s"), logging.Formatter("%(asctime)s")
    for created in (1_800_000_000.001, 1_800_000_000.9996, 1_800_000_001.5, 1_800_000_000.25):
        record = logging.makeLogRecord({"created": created, "msecs": created % 1 * 1000})
        assert ours.format(record) == theirs.format(record)


def test_a_line_written_without_a_caller_has_all_else(caplog):
    with caplog.at_level(logging.INFO, "pacsroute"):
        write(logging.getLogger("pacsroute"), logging.INFO, "%s said", "CT1", extra={"a": 1})
        write(logging.getLogger("pacsroute"), logging.DEBUG, "too low")
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname, record.a) == ("CT1 said", "INFO", 1)
