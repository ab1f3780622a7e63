"""The load test itself works; a person runs it with its real numbers."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it reads /proc")
@pytest.mark.timeout(240)
def test_small_load_run_finds_no_fault():
    numbers = ("--seconds", "3", "--idle", "20", "--at-once", "8", "--each", "3")
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", *numbers],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 11, done.stdout
    assert " attack, " in done.stdout
