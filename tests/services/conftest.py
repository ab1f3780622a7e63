"""Fixtures of the services' tests."""

import socket

import pytest


@pytest.fixture
def nobody():
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return port
