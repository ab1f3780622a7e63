"""The benchmark itself works; what it measures is for a person to judge."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import dicomweb, plot, report
from tests.benchmarks.works import WORKS

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(
    path.stem
    for path in Path(__file__).parent.glob("[!t]*.py")  # not the tests
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_starts_from_a_clone(name):
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m tests.benchmarks")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_benchmark_runs_every_work_and_reports_it(tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks", "--scale", "0.01", "--rounds", "1"),
            *(
                "--without",
                "pynetdicom",
                "Orthanc",
                "--disk",
                str(tmp_path),
                "--json",
                str(figures),
            ),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert list(found["works"]) == list(WORKS)
    firsts = {key: work.parties[0].name for key, work in WORKS.items()}
    assert all(len(works[firsts[key]]) == 1 for key, works in found["works"].items())
    assert [len(figures) > 1 for figures in found["growth"].values()] == [True] * 3
    for work in WORKS.values():
        assert f"| {work.name} | **{work.parties[0].name}** |" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_dicomweb_benchmark_runs_every_work_and_reports_it():
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.dicomweb", "--scale", "0.02", "--rounds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for work in ("QIDO of 1,000 studies", "frame 500 of 572", "C-STORE beside metadata"):
        assert f"| {work}" in done.stdout


def test_report_compares_medians():
    figures = {"pacsroute": [10.0, 30.0, 20.0], "storescp": [5.0, 5.0, 100.0]}
    work = WORKS["echo"]
    assert report.ratio(work, figures, work.parties[1]) == 4
    assert report.ratio(work, figures, work.parties[0]) is None
    assert report.ratio(work, figures, work.parties[2]) is None
    lines = list(report.table(WORKS, {"echo": figures}))
    assert lines[2:] == [
        "| C-ECHO | **pacsroute** | 20 /s | ±50% |  |  |",
        "|  | storescp | 5 /s | ±950% | 4.00 | ≥ 1.3 |",
    ]


def test_report_names_aims_that_were_missed():
    figures = {"pacsroute": [10.0], "storescp": [9.0], "bare server": [10.0]}
    assert list(report.missed(WORKS, {"echo": figures})) == [
        "- C-ECHO: 1.11 of storescp, the aim is ≥ 1.3"
    ]
    figures = {"pacsroute": [6.0], "pynetdicom": [10.0]}
    assert list(report.missed(WORKS, {"start": figures})) == [
        "- from the command to listening: 0.60 of pynetdicom, the aim is ≤ 0.5"
    ]


def test_summary_has_a_column_for_each_other_server():
    figures = {"pacsroute": [10.0], "storescp": [9.0], "bare server": [10.0], "pydcm": [20.0]}
    assert list(report.summary(WORKS, {"echo": figures}))[2:] == [
        "| C-ECHO | 10 /s | 1.11 (≥ 1.3) | 1.00 (≥ 0.85) |  | 0.50 |  |"
    ]


def test_documents_have_a_place_for_the_figures():
    figures = {"machine": {"rounds": 1, "python": "3", "processors": 2}, "growth": {}}
    figures["works"] = {"echo": {"pacsroute": [10.0], "storescp": [5.0]}}
    for path in (report.README, report.GUIDE):
        made = report.inserted(path.read_text(), report.whole(WORKS, figures))
        assert "| C-ECHO | 10 /s | 2.00 (≥ 1.3) |" in made
        assert report.inserted(made, ["again"]).count("again") == 1
    with pytest.raises(ValueError, match="no <!-- benchmarks -->"):
        report.inserted("nothing", ["x"])


def test_plot_writes_a_png(tmp_path):
    pytest.importorskip("matplotlib", exc_type=ImportError)
    figures = {
        "echo": {"pacsroute": [10.0], "storescp": [5.0]},
        "start": {"pacsroute": [10.0], "pynetdicom": [20.0]},
    }
    plot.plot(WORKS, figures, {"answers": {"10": 1.0, "100": 2.0}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_goals_are_compared_with_the_best_of_ours():
    less, more = "metadata of 500 instances, s", "frame, 8 clients, a second"
    results = {
        "pacsroute": {less: [2, 1, 3], more: [5]},
        "pacsroute --workers 2": {more: [7]},
        "Orthanc": {less: [8], more: [2]},
    }
    assert list(dicomweb.table(results, dicomweb._GOALS))[2:] == [
        f"| {less} | 2 |  | 8 | 4.00 | ≥ 2 |",
        f"| {more} | 5 | 7 | 2 | 3.50 | ≥ 2 |",
    ]
