"""Fixtures of the tests of the command."""

import pytest


@pytest.fixture
def folder(request, tmp_path):
    """Return a folder in which the app of the test's module is `app.py`."""
    (tmp_path / "app.py").write_text(request.module.APP)
    return tmp_path
