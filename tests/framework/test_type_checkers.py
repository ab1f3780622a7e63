"""What mypy and pyright say of files that users write: `typed/` beside this one, the examples."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from support.places import ROOT

TYPED = Path(__file__).parent / "typed"
RIGHT, MISTAKES = TYPED / "right.py", TYPED / "mistakes.py"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder without settings of ours, where the checkers run as a user's do."""
    return tmp_path_factory.mktemp("types")


def mypy(folder, files, *options):
    """Return the lines of errors as (file, line, what)."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--output=json", "--no-error-summary", *options]
    run = subprocess.run([*command, *files], cwd=folder, capture_output=True, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return [
        (Path(folder, one["file"]).resolve(), one["line"], one["message"])
        for one in found
        if one["severity"] == "error"
    ]


def pyright(folder, files):
    """Return the lines of errors as (file, line, what)."""
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    run = subprocess.run([*command, *files], cwd=folder, capture_output=True, check=False)
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] == len(files)
    return [
        (Path(one["file"]), one["range"]["start"]["line"] + 1, one["message"])
        for one in report["generalDiagnostics"]
        if one["severity"] == "error"
    ]


def strict_mypy(folder, files):
    return mypy(folder, files, "--strict")


def lenient_mypy(folder, files):
    return mypy(folder, files, "--disable-error-code=var-annotated")


checkers = pytest.mark.parametrize("checker", [strict_mypy, pyright])


@checkers
def test_a_right_file_has_no_errors(checker, folder):
    assert checker(folder, [RIGHT]) == []


@checkers
def test_each_mistake_is_an_error(checker, folder):
    lines = MISTAKES.read_text(encoding="utf-8").splitlines()
    found = {line for _, line, _ in checker(folder, [MISTAKES])}
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("# mistake: ")]
    assert len(starts) > 12
    assert min(found) > starts[0]
    unseen = [
        lines[start - 1]
        for start, end in pairwise([*starts, len(lines) + 1])
        if not found.intersection(range(start, end))
    ]
    assert unseen == []


@pytest.mark.parametrize("checker", [lenient_mypy, pyright])
def test_the_examples_are_put_together_without_errors(checker, folder):
    # Their functions have no types: what is checked is what stands at the margin, the decorators.
    texts = {path: path.read_text(encoding="utf-8").splitlines() for path in EXAMPLES}
    found = checker(folder, EXAMPLES)
    assert [one for one in found if not texts[one[0]][one[1] - 1].startswith(" ")] == []
