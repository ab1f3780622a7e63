"""The README's code blocks and the examples do what they say."""

import re
import runpy
import subprocess

import pytest
from support.guides import Reader, blocks, broken_links
from support.names import CT
from support.places import GUIDES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", PYTHON)
def test_python_block(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "block.py"
    path.write_text(block, encoding="utf-8")
    assert "app" in runpy.run_path(str(path))


def test_the_first_file_answers_what_is_asked_for(tmp_path, monkeypatch):
    from pydicom import Dataset

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "app.py"
    path.write_text(PYTHON[0], encoding="utf-8")
    app = runpy.run_path(str(path))["app"]
    with app.test_client() as client:
        for number, name in enumerate(["Doe^Jane", "Roe^Richard", "Doe^John"], 1):
            ds = Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = CT, f"1.2.{number}.1"
            ds.StudyInstanceUID, ds.StudyDate = f"1.2.{number}", f"2026010{number}"
            ds.PatientName, ds.PatientID = name, str(number)
            client.store(ds)
        asked = {"QueryRetrieveLevel": "STUDY", "PatientName": "DOE*", "StudyDate": "20260102-"}
        found = client.find({**asked, "StudyInstanceUID": ""})
        assert [str(row.StudyInstanceUID) for row in found] == ["1.2.3"]
    assert len(list((tmp_path / "received").iterdir())) == 3


@pytest.mark.parametrize("block", SHELL[:2])
def test_set_up_is_one_line_of_valid_shell(block):
    assert block.startswith("python3 -m venv .venv && ")
    assert block.count("\n") == 1
    subprocess.run(["bash", "-n", "-c", block], check=True)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_loads_and_answers(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pacsroute import EchoRequest

    app = runpy.run_path(str(path))["app"]
    with app.serve(port=0):
        assert app.handle(EchoRequest(app=app)).status.code == 0


def test_the_commands_behind_the_first_file_answer(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    file, ask, printed, *_ = (
        block for block in blocks(ROOT / "README.md") if block.section == "One file"
    )
    (work / "app.py").write_text(file.text, encoding="utf-8")
    with Reader(work) as reader:
        reader.read(ask._replace(options="serves", text="pacsroute run\n"))
        reader.read(ask)
        reader.read(printed)
    assert len(list((work / "received").iterdir())) == 1


def test_the_readme_is_short():
    assert README.count("\n") <= 150


def test_the_table_of_service_classes_has_their_names():
    from pacsroute import uids

    table = (GUIDES / "service_classes.md").read_text(encoding="utf-8")
    names = [name for name in re.findall(r'"(\w+)"', table) if name not in ("Cardiac",)]
    commands = ("store", "find", "get", "move", *uids.N_COMMANDS)
    short = {name for command in commands for name in uids.short_names(command)}
    assert len(names) > 30
    assert [name for name in names if name not in short and name != "CTImageStorage"] == []


def test_readme_links_exist():
    assert broken_links(ROOT / "README.md") == []
