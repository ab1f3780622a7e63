"""`pacsroute new`: a project that passes its own tests, and runs."""

import ast
import os
import subprocess
import sys
import tomllib

import pytest
from support.names import WAIT
from support.processes import Running, environment, pacsroute
from support.programs import program

pytestmark = pytest.mark.slow

FILES = {
    ".gitignore",
    "Dockerfile",
    "README.md",
    "app.py",
    "night-archive.service",
    "pyproject.toml",
    "tests/test_app.py",
}


@pytest.fixture
def project(tmp_path):
    code, out, said = pacsroute(tmp_path, "new", "night-archive")
    assert (code, said) == (0, "")
    folder = tmp_path / "night-archive"
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == FILES
    for name in FILES:
        assert f"  night-archive/{name}\n" in out
    return folder


def test_new_project_passes_its_own_tests(project):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_new_project_serves_and_its_command_runs(project, dcmtk, sample):
    with Running(project, "run", "--port", "0", "--workers", "2") as running:
        assert running.lines == []
        port = running.port()
        assert running.lines[0] == "NIGHT-ARCHIVE serves"
        sent = dcmtk("storescu", "127.0.0.1", port, sample("CT_small.dcm"))
        assert sent.returncode == 0, sent.stdout
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=compressed*"]
        found = dcmtk("findscu", "-S", "127.0.0.1", port, *keys)
        assert "CompressedSamples^CT1" in found.stdout
    assert pacsroute(project, "count") == (0, "1\n", "")


def test_new_project_has_its_name_in_every_file(project):
    for name in FILES:
        text = (project / name).read_text()
        assert "project-name" not in text
        assert "PROJECT-TITLE" not in text
        if name.endswith(".py"):
            ast.parse(text)
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    assert metadata["project"]["name"] == "night-archive"


def test_new_project_has_a_valid_systemd_unit(project, tmp_path):
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(project / "night-archive.service")],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "night-archive" in line]
    # All that is wrong is that it is not installed here.
    assert all("is not executable" in line for line in complaints), done.stderr


def test_new_project_with_a_long_name_has_a_valid_ae_title(tmp_path):
    assert pacsroute(tmp_path, "new", "the-very-long-one-here")[0] == 0
    assert 'App("THE-VERY-LONG-ON"' in (tmp_path / "the-very-long-one-here" / "app.py").read_text()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_new_project_does_not_overwrite_files(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    code, out, said = pacsroute(tmp_path, "new", "there")
    assert (code, out) == (1, "")
    assert said == "Error: there exists already: nothing was written\n"
    assert os.listdir(tmp_path) == ["there"]
    assert kind != "folder" or os.listdir(path) == []


@pytest.mark.parametrize(
    "name",
    ["", "Archive", "a/b", "../up", "1st", "a_b", "a--b", "a-", "é", "a b", ".", "pacsroute"],
)
def test_new_project_needs_a_valid_name(tmp_path, name):
    code, out, said = pacsroute(tmp_path, "new", "--", name)
    assert (code, out) == (2, "")
    assert "Traceback" not in said
    assert os.listdir(tmp_path) == []
