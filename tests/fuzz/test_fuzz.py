"""A short run of the coverage-guided fuzzer; a person gives it hours."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it is in the extra dev, for Linux on x86-64 only",
)
@pytest.mark.timeout(240)
def test_short_fuzzing_run_finds_no_fault(tmp_path):
    done = subprocess.run(
        [*(sys.executable, "-m", "tests.fuzz"), *("--seconds", "12", "--keep", str(tmp_path))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| yes |") == 7, done.stdout
