"""Chromium, driven by a script for playwright-core, which is fetched once."""

import json
import os
import subprocess
from pathlib import Path

from support.places import ROOT
from support.programs import missing, program

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pacsroute-tests"
_PACKAGE = "playwright-core@1.56.1"


def drive(script, *arguments, timeout=300):
    """Run a script of tests/support in Node; return what it prints, which is JSON."""
    program("chromium")
    node, npm = program("node"), program("npm")
    folder = CACHE / "playwright"
    try:
        if not (folder / "node_modules" / "playwright-core").exists():
            command = [npm, "install", "--prefix", str(folder), _PACKAGE]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
    except (subprocess.SubprocessError, OSError):
        missing("playwright-core")
    done = subprocess.run(
        [node, str(ROOT / "tests" / "support" / script), *map(str, arguments)],
        env={**os.environ, "NODE_PATH": str(folder / "node_modules")},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
