"""The log as JSON: one object a line, with fields, and nothing of patients."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import warnings
from datetime import datetime
from unittest.mock import Mock

import pytest
from support.names import CT, EXPLICIT
from support.raw_peer import RawPeer
from support.serving import Serving, fails

from pacsroute.dataset.encoding import encode
from pacsroute.logs import JSONFormatter, LineFormatter, LineHandler, write

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
        write(
            logging.getLogger("pacsroute"), logging.INFO, "%s said", "CT1", extra=lambda: {"a": 1}
        )
        write(logging.getLogger("pacsroute"), logging.DEBUG, "too low")
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname, record.a) == ("CT1 said", "INFO", 1)


def _only_lines(monkeypatch):
    """Return a logger whose only handler writes lines, and the handler; pytest adds its own."""
    handler = LineHandler(io.StringIO())
    handler.setFormatter(LineFormatter("%(asctime)s %(process)d %(levelname)-7s %(message)s"))
    monkeypatch.setattr(logging.root, "handlers", [handler])
    ours = logging.Logger("lines", logging.INFO)
    ours.parent = logging.root
    return ours, handler


def test_a_line_without_a_record_is_that_of_a_record(monkeypatch):
    ours, handler = _only_lines(monkeypatch)
    title = "CT\n2026-01-01 00:00:00,000 1 INFO    ADMIN released\x85\u2028\x1b[2J 100%"
    for milliseconds in (0.4, 999.6, 1500.5, 250.5):
        now = 1_800_000_000_000_000_000 + int(milliseconds * 1_000_000)
        monkeypatch.setattr("time.time", lambda now=now: now / 1e9)
        monkeypatch.setattr("time.time_ns", lambda now=now: now)  # logging's from Python 3.13 on
        for level in (logging.INFO, logging.WARNING):
            write(ours, level, "%s: %d instances", title, 3, extra=pytest.fail)
            ours.log(level, "%s: %d instances", title, 3)
    lines = handler.stream.getvalue().splitlines()
    assert lines[::2] == lines[1::2]
    assert len(set(lines)) == 8
    assert lines[0].endswith(r"ADMIN released\x85\u2028\x1b[2J 100%: 3 instances")


def _seen_by_a_handler(ours, handler, seen, monkeypatch):
    other = logging.Handler()
    other.emit = seen.append
    ours.addHandler(other)


def _seen_by_a_second_root_handler(ours, handler, seen, monkeypatch):
    other = logging.Handler()
    other.emit = seen.append
    logging.root.handlers.append(other)


def _seen_by_a_filter(ours, handler, seen, monkeypatch):
    ours.addFilter(lambda record: not seen.append(record))


def _seen_by_a_filter_of_the_handler(ours, handler, seen, monkeypatch):
    handler.addFilter(lambda record: not seen.append(record))


def _seen_by_a_record_factory(ours, handler, seen, monkeypatch):
    def factory(*args, **options):
        seen.append(logging.LogRecord(*args, **options))
        return seen[-1]

    monkeypatch.setattr(logging, "_logRecordFactory", factory)


def _seen_by_a_library(ours, handler, seen, monkeypatch):
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda self, record: seen.append(record))


def _seen_by_another_formatter(ours, handler, seen, monkeypatch):
    handler.setFormatter(JSONFormatter())
    handler.format = seen.append


@pytest.mark.parametrize(
    "watch",
    [
        _seen_by_a_handler,
        _seen_by_a_second_root_handler,
        _seen_by_a_filter,
        _seen_by_a_filter_of_the_handler,
        _seen_by_a_record_factory,
        _seen_by_a_library,
        _seen_by_another_formatter,
    ],
)
def test_a_record_is_made_if_a_handler_or_filter_sees_it(monkeypatch, watch):
    ours, handler = _only_lines(monkeypatch)
    seen = []
    watch(ours, handler, seen, monkeypatch)
    write(ours, logging.INFO, "%s said", "CT1", extra=lambda: {"dicom": {"association": 1}})
    (record,) = seen
    assert (record.getMessage(), record.levelname, record.name) == ("CT1 said", "INFO", "lines")


def test_a_line_that_cannot_be_written_is_reported_as_logging_does(monkeypatch, capsys):
    ours, handler = _only_lines(monkeypatch)
    handler.stream.close()
    write(ours, logging.INFO, "%s said", "CT1")
    assert "ValueError: I/O operation on closed file" in capsys.readouterr().err


def test_a_line_whose_flush_fails_is_not_written_twice(monkeypatch, capsys):
    ours, handler = _only_lines(monkeypatch)
    handler.stream.flush = Mock(side_effect=OSError("no space left"))
    write(ours, logging.INFO, "%s said", "CT1")
    assert handler.stream.getvalue().count("CT1 said") == 1
    assert "OSError: no space left" in capsys.readouterr().err


def test_a_line_has_a_record_for_a_library_that_was_there_first():
    script = """
import logging

before, seen = logging.Logger.callHandlers, []

def call_handlers(logger, record):
    seen.append(record.getMessage())
    before(logger, record)

logging.Logger.callHandlers = call_handlers
from pacsroute import logs

handler = logs.LineHandler()
handler.setFormatter(logs.LineFormatter("%(asctime)s %(message)s"))
logging.basicConfig(handlers=[handler], level="INFO")
logs.write(logging.getLogger("pacsroute"), logging.INFO, "%s said", "CT1")
print(seen)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['CT1 said']\n"
    assert done.stderr.endswith(" CT1 said\n")


def test_a_handler_and_a_logger_keep_their_levels(monkeypatch):
    ours, handler = _only_lines(monkeypatch)
    handler.setLevel(logging.ERROR)
    write(ours, logging.INFO, "below the handler's level")
    handler.setLevel(logging.NOTSET)
    ours.disabled = True
    write(ours, logging.INFO, "of a disabled logger")
    assert handler.stream.getvalue() == ""
