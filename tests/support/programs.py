"""Programs of others that tests need: without one a test is skipped, but in CI it fails."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def missing(program):
    """Skip the test, or fail it in CI, because a program is not installed."""
    if "CI" in os.environ:
        pytest.fail(f"{program} is not installed, and CI must have it")
    pytest.skip(f"{program} is not installed")


def search_path():
    """Return PATH without the virtual environment, where pynetdicom has tools of DCMTK's names."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(f for f in folders if not Path(f).is_relative_to(sys.prefix))


def program(name):
    """Return the path of a program."""
    return shutil.which(name, path=f"{search_path()}{os.pathsep}/usr/sbin") or missing(name)
