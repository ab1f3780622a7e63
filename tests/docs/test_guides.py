"""The guides: every block does what the page says, page by page."""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import is_dataclass
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE, evt
from support.guides import Block, Reader, blocks, broken_links
from support.names import WAIT
from support.places import GUIDES, ROOT
from support.processes import Running
from support.programs import program

from pacsroute import App, RequestFailed, connect
from pacsroute.config import SETTINGS
from pacsroute.framework import requests
from pacsroute.testing import TestClient


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)  # a process for each command: slow where the machine is busy
def test_tutorial_does_what_it_says(work):
    with Reader(work) as reader:
        for block in blocks(GUIDES / "tutorial.md"):
            reader.read(block)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_guide_to_jobs_does_what_it_says(work, sample, monkeypatch):
    shutil.copy(sample("CT_small.dcm"), work)
    monkeypatch.chdir(work)
    with Reader(work) as reader:
        for block in blocks(GUIDES / "jobs.md"):
            reader.read(block)
        deadline = time.monotonic() + WAIT
        while not list((work / "pacs").glob("*.dcm")):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_deployment_guide_does_what_it_says(work, sample):
    shutil.copy(ROOT / "examples" / "archive.py", work)
    shutil.copy(sample("CT_small.dcm"), work)
    with Reader(work) as reader:
        for block in blocks(GUIDES / "deployment.md"):
            if block.language not in ("ini", "dockerfile"):
                reader.read(block)
    assert "Conformance Statement" in (work / "statement.md").read_text()
    with sqlite3.connect(work / "copy" / "index.db") as db:
        ((path,),) = db.execute("SELECT path FROM image")
    db.close()
    assert (work / "copy" / Path(path).name).is_file()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_archive_guide_does_what_it_says(work):
    with Reader(work) as reader:
        for block in blocks(GUIDES / "archive.md"):
            reader.read(block)
    for name in ("layout", "more", "node", "delete", "correct", "audited"):
        done = subprocess.run(
            [sys.executable, f"{name}.py"], cwd=work, timeout=60, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_guide_to_the_console_does_what_it_says(work):
    with Reader(work) as reader:
        for block in blocks(GUIDES / "console.md"):
            text = block.text
            for port in ("11112", "11113") if block.language == "python" else ():
                text = text.replace(port, reader.ports.get(port, port))
            reader.read(block._replace(text=text))
    assert list((work / "recordings").glob("*.rec"))
    code = "from audited import app; app.tell_auditors('access', what='echo PACS', action='E')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None E echo PACS\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_guide_to_dicomweb_does_what_it_says(work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(work)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    with Reader(work) as reader:
        for block in blocks(GUIDES / "dicomweb.md"):
            port = reader.ports.get("8042", "8042")  # a Python block has no other way to it
            is_python = block.language == "python"
            text = block.text.replace("8042", port) if is_python else block.text
            reader.read(block._replace(text=text))
    assert list((work / "fetched").glob("*.dcm"))
    monkeypatch.delitem(sys.modules, "app", raising=False)


@pytest.mark.parametrize("name", ["structure", "testing", "client", "command", "matching"])
def test_short_guide_does_what_it_says(name, work):
    with Reader(work) as reader:
        for block in blocks(GUIDES / f"{name}.md"):
            reader.read(block)


def test_systemd_unit_is_valid_and_confined(work):
    units = [block for block in blocks(GUIDES / "deployment.md") if block.language == "ini"]
    (unit,) = (block.text for block in units if block.options == "archive.service")
    for block in units:
        if block.options == "other":
            unit = unit.replace("CapabilityBoundingSet=\n", "")
            unit = unit.replace("[Install]", f"{block.text}\n[Install]")
    command = "/opt/archive/venv/bin/pacsroute"
    assert command in unit
    path = work / "archive.service"
    path.write_text(unit.replace(command, sys.executable), encoding="utf-8")
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    for check in (["verify", "--man=no"], ["security", "--offline=yes", "--threshold=40"]):
        done = subprocess.run(
            [program("systemd-analyze"), *check, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Unknown" not in done.stderr


def test_commands_of_the_container_are_valid(work):
    (text,) = (b.text for b in blocks(GUIDES / "deployment.md") if b.language == "dockerfile")
    commands = [json.loads(found) for found in re.findall(r"CMD (\[.*\])$", text, re.MULTILINE)]
    check, serve = (shlex.join(command).replace("/opt/archive/", "") for command in commands)
    serve = serve.replace("/data/", "")
    shutil.copy(ROOT / "examples" / "archive.py", work)
    page = GUIDES / "deployment.md"
    with Reader(work) as reader:
        reader.read(Block(page, "", 0, "sh", "serves", f"ARCHIVE=data {serve}\n"))
        reader.read(Block(page, "", 0, "sh", "", check))


def test_a_new_process_has_the_port_while_the_old_one_finishes(work):
    (work / "app.py").write_text("from pacsroute import App\napp = App()\n")
    with Running(work, "run", "app.py", "--port", "0", "--grace", "30") as old:
        port = old.port()
        with connect("127.0.0.1", port) as client:
            assert client.echo()
            old.signal(signal.SIGTERM)
            old.until("have 30 s to finish")
            with Running(work, "run", "app.py", "--port", str(port)) as new:
                assert new.port() == port
                with connect("127.0.0.1", port) as another:
                    assert another.echo()
                assert client.echo()
        assert old.ended() == 0


def _module(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _pynetdicom(module):
    address = ("127.0.0.1", 0)
    server = module.ae.start_server(address, block=False, evt_handlers=module.handlers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@contextlib.contextmanager
def _pacsroute(module):
    with module.app.serve(port=0, grace=1) as server:
        yield server.port


@pytest.mark.parametrize("scp", ["pynetdicom", "pacsroute"])
@pytest.mark.parametrize("scu", ["pynetdicom", "pacsroute"])
def test_migration_guide_programs_behave_alike(scu, scp, work, monkeypatch, sample):
    monkeypatch.chdir(work)
    with Reader(work) as reader:
        for block in blocks(GUIDES / "from_pynetdicom.md"):
            reader.read(block)
    path = sample("CT_small.dcm")
    client = _module(work, f"scu_{scu}")
    serving = {"pynetdicom": _pynetdicom, "pacsroute": _pacsroute}[scp]
    with serving(_module(work, f"scp_{scp}")) as port:
        assert client.send_and_find(port, path) == [("1CT1", "CompressedSamples^CT1")]
    (saved,) = work.glob("*.dcm")
    before = dcmread(path)
    before.pop("DataSetTrailingPadding", None)
    after = dcmread(saved)
    after.pop("DataSetTrailingPadding", None)
    assert after == before
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID


def test_guide_states_the_statuses_that_are_answered():
    app = App()

    def broken(error):
        def handler(request):
            raise error

        return handler

    app.store(broken(ValueError("x")))
    app.store("CTImageStorage")(broken(OSError("x")))
    app.find(broken(ValueError("x")))
    app.echo(broken(ValueError("x")))
    app.n_create("MPPS")(broken(ValueError("x")))
    ct, mr = Dataset(), Dataset()
    ct.SOPClassUID, ct.SOPInstanceUID = CTImageStorage, "1.2.3"
    mr.SOPClassUID, mr.SOPInstanceUID = MRImageStorage, "1.2.3"
    with app.serve(port=0, grace=1) as server:
        with connect("127.0.0.1", server.port) as client:
            for code, ask in {
                0xA700: lambda: client.store(ct),
                0xC000: lambda: client.store(mr),
                0x0110: client.echo,
            }.items():
                with pytest.raises(RequestFailed) as caught:
                    ask()
                assert caught.value.status.code == code
                assert "Error" in caught.value.status.comment
            with pytest.raises(RequestFailed, match="ValueError") as caught:
                list(client.find({"QueryRetrieveLevel": "STUDY"}))
            assert caught.value.status.code == 0xC000
            with pytest.raises(RequestFailed) as caught:
                client.n_create("MPPS", {})
            assert caught.value.status.code == 0x0110
    assert App().config.idle_timeout == 15 * 60
    assert AE().network_timeout == 60


REQUESTS = [
    kind for kind in vars(requests).values() if isinstance(kind, type) and is_dataclass(kind)
]


@pytest.mark.parametrize("page", sorted(GUIDES.glob("*.md")), ids=lambda page: page.name)
def test_names_on_a_guide_page_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"@app\.(\w+)", text):
        assert hasattr(App, name), name
    for name in re.findall(r"\bclient\.(?!md\b)(\w+)", text):
        assert hasattr(TestClient, name), name
    for name in re.findall(r"\bevt\.(\w+)", text):
        assert hasattr(evt, name), name
    for name in re.findall(r"(?<!\w\.)\brequest\.(\w+)", text):
        assert any(hasattr(kind, name) or name in kind.__dataclass_fields__ for kind in REQUESTS), (
            name
        )
    assert broken_links(page) == []
    for names in re.findall(r"the settings? ((?:`\w+`(?:, )?)+)", text):
        for name in re.findall(r"\w+", names):
            assert name in SETTINGS, name
