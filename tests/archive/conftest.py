"""Archives in folders of their own, with an index in SQLite, and the same in PostgreSQL."""

import contextlib

import psycopg
import pytest
from support.postgresql import server

from pacsroute import App, Archive

ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


def pytest_generate_tests(metafunc):
    """Run each test with both engines, but for those that look into SQLite's file."""
    if "engine" in metafunc.fixturenames:
        only = getattr(metafunc.function, "only_sqlite", False)
        metafunc.parametrize("engine", ENGINES[:1] if only else ENGINES, scope="function")


@pytest.fixture(scope="session")
def postgresql():
    with server() as running:
        yield running


class Maker:
    """Makes an app with an archive in a folder; one made again finds what the last one kept."""

    def __init__(self, folder, index):
        self.folder = folder
        self.index = index

    def __call__(self, folder="archive", **options):
        app = App("ARCHIVE")
        options = {"index": self.index} | options if self.index else options
        app.state.archive = Archive(self.folder / folder, **options)
        app.register_blueprint(app.state.archive)
        return app

    def lose_index(self, app):
        """Remove the index of an archive that is not open."""
        app.state.archive._database.close()
        if not self.index:
            (app.state.archive.folder / "index.db").unlink()
            return
        with psycopg.connect(self.index) as db:
            db.execute("DROP SCHEMA archive CASCADE")
            db.execute("CREATE SCHEMA archive")


@pytest.fixture
def make(tmp_path, engine, request):
    index = ""
    if engine == "postgresql":
        running = request.getfixturevalue("postgresql")
        with psycopg.connect(running.url(), autocommit=True) as db:
            with contextlib.suppress(psycopg.Error):
                db.execute("DROP SCHEMA archive CASCADE")
            db.execute("CREATE SCHEMA archive")
        index = f"{running.url()}&options=-csearch_path%3Darchive"
    return Maker(tmp_path, index)
