"""What surrounds the answer to a request, for any transport: hooks, observer, log, followers."""

import logging

import pytest
from support.names import FIND

from pacsroute import App, EchoRequest, FindRequest, uids
from pacsroute.framework.answering import Answering
from pacsroute.framework.observer import Observer


class Watch(Observer):
    def __init__(self):
        self.seen = []

    def began(self, peer, command, sop_class, size):
        self.seen.append(("began", command, size))

    def answered(self, peer, command, sop_class, status, seconds):
        self.seen.append(("answered", command, sop_class, status and status.code))

    def unsuccessful(self, peer, command, sop_class, status):
        self.seen.append(("unsuccessful", command, sop_class, status.code))


@pytest.fixture
def app():
    app = App("ARCHIVE")
    app.observer = Watch()
    return app


def test_a_transport_of_its_own_gets_all_that_surrounds_a_request(app, caplog):
    done = app.observer.seen

    @app.find("StudyRoot")
    def find(request):
        request.after(done.append, "after")
        yield {"PatientID": "1"}

    @app.after_request
    def audit(request, status, error):
        done.append(("hook", request.calling_ae, status.code, error))

    request = FindRequest(calling_ae="BROWSER", remote_address="10.0.0.9", sop_class=FIND)
    with caplog.at_level(logging.INFO), Answering(app, request, "C-FIND", FIND) as answering:
        answering.request = request
        *rows, final = app.handle(request)
        done.append("written")
        answering.outcome = final.outcome._replace(note=f"{len(rows)} answers")
    assert done == [
        ("began", "C-FIND", None),
        "written",
        ("answered", "C-FIND", FIND, 0),
        ("hook", "BROWSER", 0, None),
        "after",
    ]
    assert "BROWSER C-FIND 0x0000 Success, 1 answers," in caplog.text
    assert caplog.records[-1].dicom["peer"] == "10.0.0.9"


def test_functions_for_after_the_response_are_deferred_where_the_transport_says(app):
    waiting, done = [], []
    request = EchoRequest(sop_class=uids.VERIFICATION)
    request.after(done.append, 1)
    with Answering(app, request, "C-ECHO", uids.VERIFICATION, defer=waiting.append) as answering:
        answering.request = request
        answering.outcome = app.handle(request)
    assert done == []
    waiting[0]()
    assert done == [1]


def test_unwritable_response_reaches_hooks_and_observer(app, caplog):
    told, request = [], EchoRequest(sop_class=uids.VERIFICATION)
    request.after(told.append, "never")

    @app.after_request
    def audit(request, status, error):
        told.append((status, error))

    lost = ConnectionError("the browser is gone")

    def answer():
        with Answering(app, request, "C-ECHO", uids.VERIFICATION) as answering:
            answering.request = request
            app.handle(request)
            raise lost

    with pytest.raises(ConnectionError), caplog.at_level(logging.INFO):
        answer()
    assert told == [(None, lost)]
    assert app.observer.seen[-1] == ("answered", "C-ECHO", uids.VERIFICATION, None)
    assert caplog.records == []


def test_an_exception_of_a_handler_is_kept_with_its_frames_until_the_hooks_have_run(app):
    traces = []

    @app.echo
    def echo(request):
        raise OSError("the disk")

    @app.after_request
    def audit(request, status, error):
        traces.append(error.__traceback__)

    request = EchoRequest(sop_class=uids.VERIFICATION)
    with Answering(app, request, "C-ECHO", uids.VERIFICATION) as answering:
        answering.request = request
        answering.outcome = app.handle(request)
    assert traces[0] is not None
    assert isinstance(request.error, OSError)
    assert request.error.__traceback__ is None


def test_a_failure_is_kept_for_a_test_that_asks_for_it(app):
    kept = []

    @app.echo
    def echo(request):
        raise OSError("the disk")

    request = EchoRequest(sop_class=uids.VERIFICATION)
    request.keep_failure = kept.append
    with Answering(app, request, "C-ECHO", uids.VERIFICATION) as answering:
        answering.request = request
        answering.outcome = app.handle(request)
    assert kept == [request.error]
    assert request.error.__traceback__ is not None


def test_carrier_of_a_request_tells_whether_it_is_cancelled(app):
    left = []

    @app.find("StudyRoot")
    def find(request):
        for number in range(10):
            if request.cancelled:
                return
            yield {"PatientID": str(number)}
            left.append(number)

    request = FindRequest(sop_class=FIND, is_cancelled=lambda: len(left) == 2)
    assert len(list(app.handle(request))) == 3
    assert not FindRequest().cancelled


def test_an_observer_learns_of_each_status_but_success(app):
    @app.echo
    def verify(request):
        return 0x0110 if request.calling_ae == "OTHER" else None

    for title in ("TEST", "OTHER"):
        request = EchoRequest(app=app, calling_ae=title, sop_class=uids.VERIFICATION)
        with Answering(app, request, "C-ECHO", uids.VERIFICATION) as answering:
            answering.request = request
            answering.outcome = app.handle(request)
    told = [event for event in app.observer.seen if event[0] == "unsuccessful"]
    assert told == [("unsuccessful", "C-ECHO", uids.VERIFICATION, 0x0110)]
