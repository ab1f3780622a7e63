"""The benchmark itself works; what it measures is for a person to judge."""

import subprocess
import sys
from pathlib import Path


def test_a_quick_run_prints_its_table():
    works = ("echo", "associate", "store40k", "store512k", "find")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks", "--quick"),
            *("--server", "pacsroute", "--only", *works),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2 + len(works), done.stdout
