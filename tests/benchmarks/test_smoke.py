"""The benchmark itself works; what it measures is for a person to judge."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import plot, report
from tests.benchmarks.works import WORKS


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_benchmark_runs_every_work_and_reports_it(tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks", "--scale", "0.01", "--rounds", "1"),
            *("--without", "pynetdicom", "storescp --fork", "--json", str(figures)),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert list(found["works"]) == list(WORKS)
    assert all(len(works["pacsroute"]) == 1 for works in found["works"].values())
    assert [len(figures) > 1 for figures in found["growth"].values()] == [True] * 3
    for work in WORKS.values():
        assert f"| {work.name} | **pacsroute** |" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_dicomweb_benchmark_runs_every_work_and_reports_it():
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.dicomweb", "--scale", "0.02", "--rounds", "1"],
        cwd=Path(__file__).parents[2],
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
        "| C-ECHO, one association | **pacsroute** | 20 /s | ±50% |  |  |",
        "|  | storescp | 5 /s | ±950% | 4.00 | ≥ 1.1 |",
    ]


def test_plot_writes_a_png(tmp_path):
    pytest.importorskip("matplotlib", exc_type=ImportError)
    figures = {
        "echo": {"pacsroute": [10.0], "storescp": [5.0]},
        "start": {"pacsroute": [10.0], "pynetdicom": [20.0]},
    }
    plot.plot(WORKS, figures, {"answers": {"10": 1.0, "100": 2.0}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
