"""An index in PostgreSQL: several nodes, and a server that fails."""

import threading

import psycopg
import pytest
from support.archives import found, image, only_sqlite, uids_in
from support.names import WAIT
from support.postgresql import server
from support.unharmed import until

from pacsroute import (
    App,
    Archive,
    Failure,
    FindRequest,
    Instance,
    RequestFailed,
    connect,
    uids,
)
from pacsroute.archive import queries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running():
    with server() as one:
        yield one


@pytest.fixture
def node(running, tmp_path):
    """Return a function that makes a node: its own app, with the folder and the index of all."""
    with psycopg.connect(running.url(), autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS nodes CASCADE")
        db.execute("CREATE SCHEMA nodes")

    def make(**options):
        app = App("ARCHIVE")
        url = f"{running.url()}&options=-csearch_path%3Dnodes"
        app.state.archive = Archive(tmp_path / "shared", index=url, **options)
        app.register_blueprint(app.state.archive)
        return app

    return make


def test_nodes_that_store_at_once_lose_and_double_nothing(node):
    nodes, failed = [node(), node()], []

    def store(server, thread):
        try:
            with connect("127.0.0.1", server.port, calling_ae=f"CT{thread}") as client:
                for number in range(25):
                    client.store(image(f"{thread}.{number}", study=f"1.1.{number % 5}"))
                    # The same from everybody.
                    client.store(image(f"9.{number}", study=f"1.1.{number % 5}"))
        except Exception as error:  # noqa: BLE001 - it is told below
            failed.append(error)

    with nodes[0].serve(port=0) as one, nodes[1].serve(port=0) as other:
        threads = [
            threading.Thread(target=store, args=((one, other)[number % 2], number))
            for number in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * WAIT)
        assert failed == []
        with connect("127.0.0.1", other.port) as client:
            assert len(uids_in(client)) == 7 * 25
            assert len(found(client)) == 7 * 25
            assert len(found(client, "STUDY")) == 5
            assert len(found(client, "SERIES")) == 5
        assert list(nodes[0].state.archive.check()) == []


def test_what_one_node_deletes_the_other_does_not_take_again(node):
    one, other = node(), node()
    with one.test_client() as client, other.running():
        client.store(image(1))
        other.state.archive.delete(study="1.1", reason="r", by="b")
        with pytest.raises(RequestFailed, match="was deleted"):
            client.store(image(1))


def test_database_that_stops_is_out_of_resources_until_it_starts(node, running):
    app = node()
    with app.test_client() as client:
        client.store(image(1))
        running.stop()
        try:
            with pytest.raises(RequestFailed, match="0xA700"):
                client.store(image(2))
            with pytest.raises(RequestFailed, match="0xA700"):
                found(client)
            assert [one.name for one in app.state.archive.folder.glob("*.dcm")] == ["1.3.1.dcm"]
        finally:
            running.start()

        def is_stored():
            try:
                return client.store(image(3)).category == "Success"
            except RequestFailed:
                return False

        assert until(is_stored)
        assert uids_in(client) == {"1.3.1", "1.3.3"}
        assert list(app.state.archive.check()) == []


def test_query_of_postgresql_is_cancelled_when_nobody_waits_for_it(node, monkeypatch):
    app = node()
    monkeypatch.setitem(
        queries._COMPUTED["STUDY"], "NumberOfStudyRelatedSeries", "(SELECT pg_sleep(600)::text)"
    )
    with app.test_client() as client:
        client.store(image(1))
        identifier = image(QueryRetrieveLevel="STUDY")
        identifier.add_new("NumberOfStudyRelatedSeries", "IS", None)
        request = FindRequest(
            app=app,
            sop_class=uids.sop_class("StudyRoot", "find"),
            identifier=identifier,
            is_cancelled=iter([False, False, *[True] * 9]).__next__,
        )
        ended = threading.Thread(target=list, args=[app.state.archive.find(request)], daemon=True)
        ended.start()
        ended.join(WAIT)
        assert not ended.is_alive()
        client.store(image(2))  # the connection is as good as before


@only_sqlite
def test_address_of_the_database_is_in_no_error_and_no_log(tmp_path, caplog):
    archive = Archive(tmp_path / "a", index="postgresql://doe:topsecret@127.0.0.1:1/pacs")
    app = App("ARCHIVE")
    app.register_blueprint(archive)
    archive.folder.mkdir()
    database = archive._database
    archive._opened = 1  # as if it had been open when the database went away
    try:
        with pytest.raises(Failure) as failed:
            archive.add(Instance(image(1)))
    finally:
        database.close()
    assert failed.value.status == 0xA700
    assert "topsecret" not in f"{failed.value} {caplog.text} {archive!r} {database!r}"
