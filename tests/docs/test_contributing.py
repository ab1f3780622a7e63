"""The pages for contributors: every path and every room that they name is there."""

import os
import re
import tomllib

import pytest
from support.places import ROOT

PAGES = (".github/CONTRIBUTING.md", "tests/README.md")
GUIDE = (ROOT / PAGES[0]).read_text(encoding="utf-8")


def paths(text):
    """Return the files and folders that a page names in backticks."""
    words = {word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()}
    return {word for word in words if re.fullmatch(r"[\w./-]+(\.(py|md|toml)|/)|\.ci/\w+", word)}


def exists(path):
    return (ROOT / path).exists() or (ROOT / "pacsroute" / path).exists()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_a_page_exists(page):
    named = paths((ROOT / page).read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [path for path in named if not exists(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert link.startswith("http") or ((ROOT / page).parent / link).exists(), link


def test_the_floors_are_those_of_the_import_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    floors = [
        {room.removeprefix("pacsroute.") for room in layer.split(" | ")}
        for layer in contract["layers"]
    ]
    table = GUIDE[GUIDE.index("| rooms of `pacsroute/`") :].partition("\n\n")[0]
    rows = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    named = [
        {re.sub(r"/$|\.py$", "", room) for room in re.findall(r"`(.+?)`", row)} for row in rows
    ]
    assert named == floors


def test_every_folder_of_tests_is_described():
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    assert [f for f in folders if len(f.parts) == 2 and f"| `{f.as_posix()}/` |" not in text] == []


def test_the_slow_tests_that_ci_runs_exist():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    words = re.findall(r"(tests/[\w/.]+)(?:::(\w+))?", script)
    assert len(words) > 5
    for path, name in words:
        assert (ROOT / path).exists()
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_the_workflow_runs_the_script_on_debian():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"- run: (.+)", workflow) == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    images = re.findall(r"\"(\w+):\w+\"", workflow)
    assert set(images) == {"debian"}  # .ci/common installs Debian's packages


def test_issue_templates_and_workflow_are_valid_yaml():
    yaml = pytest.importorskip("yaml")
    files = [*(ROOT / ".github").rglob("*.yml")]
    assert len(files) == 4
    read = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
    for name in ("bug.yml", "idea.yml"):
        assert read[name].keys() >= {"name", "description", "body"}
        fields = [field for field in read[name]["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields) > 2
