"""The benchmark of a cluster works; what it measures is for a person to judge."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_both_engines_answer_alike_with_a_large_index(tmp_path):
    options = ("--rounds", "0", "--rows", "10000")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.cluster", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in ("| image | 10,000 |", "| the 100 images of a series | 100 |"):
        assert line in done.stdout
