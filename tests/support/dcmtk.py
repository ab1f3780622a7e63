"""Where DCMTK's tools are."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def search_path():
    """Return PATH without the virtual environment, where pynetdicom has tools of the same names."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(f for f in folders if not Path(f).is_relative_to(sys.prefix))


def dcmtk_tool(name):
    """Return the path of one of DCMTK's tools; without it the test is skipped, but fails in CI."""
    path = shutil.which(name, path=search_path())
    if path is None:
        if "CI" in os.environ:
            pytest.fail(f"DCMTK's {name} is not installed, and CI must have it")
        pytest.skip(f"DCMTK's {name} is not installed")
    return path
