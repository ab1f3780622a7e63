"""Fixtures of the tests of clients and servers."""

import contextlib

import pytest
from support.datasets import made, uid
from support.listening import Listening

from pacsroute import (
    App,
)


@pytest.fixture
def listening():
    with contextlib.ExitStack() as stack:
        yield lambda app, serve=None: stack.enter_context(Listening(app, serve))


@pytest.fixture
def archive():
    """Return an app with all five services; what it stores, it has."""
    app = App("ARCHIVE")
    app.state.stored = {}
    app.state.asked = []

    @app.store
    def store(request):
        with request.instance.open() as file:
            app.state.stored[request.sop_instance] = (request, file.read())

    @app.find
    def find(request):
        app.state.asked.append(request.identifier)
        for number in range(3):
            yield {"PatientID": f"P{number}", "StudyInstanceUID": uid(number)}

    @app.get
    @app.move
    def retrieve(request):
        app.state.asked.append(request)
        request.count = 5
        for number in range(5):
            yield made(number)

    return app
