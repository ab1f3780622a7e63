"""What a peer sends that cannot be read is one warning line, without its values or a traceback."""

import logging

import pytest
from support.names import CT, DEFLATED, EXPLICIT, FIND

from pacsroute import App, DataSetError, Failure, uids
from pacsroute.dataset import encode
from pacsroute.dimse import commands

MPPS = uids.sop_class("MPPS", "n_set")
CUT = b"\x10\x00\x10\x00PN\xff\x00SECRET^NAME"


@pytest.fixture
def warned(caplog):
    """Return a function that gives the one record of a warning, with nothing of a peer in it."""
    caplog.set_level(logging.INFO)

    def one():
        (record,) = (one for one in caplog.records if one.levelno > logging.INFO)
        assert record.exc_info is None
        assert "SECRET" not in caplog.text
        return record.message

    return one


@pytest.fixture
def app():
    app = App(max_depth=3, max_identifier_length=1000, max_set_length=1000)

    @app.store
    def store(request):
        return list(request.dataset.iterall()) and None

    @app.find("StudyRoot")
    def find(request):
        yield {"PatientID": "1"}

    @app.n_set("MPPS")
    def update(request): ...

    return app


def nested(depth):
    return {"ContentSequence": [nested(depth - 1)]} if depth else {"PatientName": "SECRET"}


@pytest.mark.parametrize(
    ("syntax", "data", "status"),
    [
        (EXPLICIT, CUT, 0xC000),
        (DEFLATED, b"\xff\xff", 0xC000),
        (EXPLICIT, encode(nested(8), EXPLICIT), 0xA700),
    ],
    ids=["cut", "not deflated", "too deep"],
)
def test_an_instance_that_cannot_be_read(syntax, data, status, app, raw_peer, warned):
    with app.serve(port=0, grace=1) as server, raw_peer(server.port, [(CT, syntax)]) as peer:
        assert peer.store(data, CT, "1.2.3").status == status
        peer.release()
    assert "C-STORE from RAW: the data set cannot be read" in warned()


@pytest.mark.parametrize(
    ("data", "status"),
    [(CUT, 0xA900), (encode({"PatientComments": "SECRET" * 300}, EXPLICIT), 0xA700)],
    ids=["cut", "too long"],
)
def test_an_identifier_that_cannot_be_read(data, status, app, raw_peer, warned):
    with app.serve(port=0, grace=1) as server, raw_peer(server.port, [(FIND, EXPLICIT)]) as peer:
        peer.find(data, FIND)
        assert peer.receive()[0].status == status
        peer.release()
    assert "C-FIND from RAW: the identifier" in warned()


@pytest.mark.parametrize(
    ("data", "status"),
    [(CUT, 0x0110), (encode({"PatientComments": "SECRET" * 300}, EXPLICIT), 0x0213)],
    ids=["cut", "too long"],
)
def test_a_modification_list_that_cannot_be_read(data, status, app, raw_peer, warned):
    with app.serve(port=0, grace=1) as server, raw_peer(server.port, [(MPPS, EXPLICIT)]) as peer:
        command = commands.NSetRQ(
            message_id=1, requested_sop_class=MPPS, requested_sop_instance="1.2.3"
        )
        peer.send(1, command, data)
        assert peer.receive()[0].status == status
        peer.release()
    assert "N-SET from RAW: the data set" in warned()


@pytest.mark.parametrize("chained", [True, False])
def test_what_an_error_handler_makes_of_it_has_no_traceback_either(chained, app, raw_peer, warned):
    @app.error_handler(DataSetError)
    def refuse(error, request):
        if chained:
            raise Failure(0xA900, "not like this") from error
        return 0xA900

    with app.serve(port=0, grace=1) as server, raw_peer(server.port, [(CT, DEFLATED)]) as peer:
        assert peer.store(b"\xff\xff", CT, "1.2.3").status == 0xA900
        peer.release()
    assert "inflated" in warned()


def test_a_refusal_is_logged_where_only_warnings_are(raw_peer, caplog):
    app = App()

    @app.store
    def store(request):
        raise Failure(0xA700, "no room")

    with app.serve(port=0, grace=1) as server, raw_peer(server.port, [(CT, EXPLICIT)]) as peer:
        peer.store(encode({"PatientID": "1"}, EXPLICIT), CT, "1.2.3")
        peer.release()
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert "C-STORE 0xA700 Refused: out of resources (no room)" in record.message
