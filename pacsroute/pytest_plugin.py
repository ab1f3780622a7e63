"""The pytest plugin: a client and a live server for the fixture ``app``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pacsroute.app import App
    from pacsroute.net.server import Server
    from pacsroute.testing import TestClient


@pytest.fixture
def dicom_client(app: App) -> Iterator[TestClient]:
    """Return a client of the test's app in memory, within its lifespan.

    Examples
    --------
    ::

        @pytest.fixture
        def app():
            return archive.app

        def test_that_it_answers(dicom_client):
            assert dicom_client.echo().category == "Success"
    """
    with app.test_client() as client:
        yield client


@pytest.fixture
def dicom_server(app: App) -> Iterator[Server]:
    """Return a server of the test's app on a free port, `dicom_server.port`."""
    with app.serve(port=0, grace=1) as server:
        yield server
