"""Archives in folders and buckets of their own, with an index in SQLite or PostgreSQL."""

import contextlib
import io
import itertools

import psycopg
import pytest
from support.buckets import bucket
from support.postgresql import server

from pacsroute import App, Archive
from pacsroute.storage import Folder, Objects

_PREFIXES = itertools.count()


def pytest_generate_tests(metafunc):
    """Run each test with both engines and both places, but for those that look into one."""
    if "variant" in metafunc.fixturenames:
        only = {name for name in vars(metafunc.function) if name.startswith("only_")}
        engines = ["sqlite", "postgresql"]
        if "only_sqlite" in only or "only_postgresql" in only:
            engines = ["sqlite" if "only_sqlite" in only else "postgresql"]
        places = [False] if only & {"only_folder", "only_sqlite"} else [False, True]
        places = [True] if "only_bucket" in only else places
        variants = [
            pytest.param(
                f"{engine}{'-bucket' * place}",
                marks=[pytest.mark.slow] * (engine != "sqlite" or place != places[0]),
            )
            for place in places
            for engine in engines
        ]
        metafunc.parametrize("variant", variants, scope="function")


@pytest.fixture(scope="session")
def postgresql():
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def buckets():
    with bucket() as variables:
        yield variables


class Maker:
    """Makes an app with an archive; one made again finds what the last one kept."""

    def __init__(self, folder, index, prefix):
        self.folder = folder
        self.index = index
        self.prefix = prefix
        self._is_lost = False

    @property
    def where(self):
        """What the archive is made of."""
        return self.prefix or str(self.folder / "archive")

    def __call__(self, folder="archive", **options):
        app = App("ARCHIVE")
        options = {"index": self.index} | options if self.index else options
        where = self.prefix or self.folder / folder
        app.state.archive = Archive(where, **options)
        app.register_blueprint(app.state.archive)
        if self._is_lost and self.prefix:  # a folder has it done by a start
            self._is_lost = False
            with app.running():
                app.state.archive.reindex()
        return app

    def contents(self, app):
        """Return the instances that are kept, by name, but for what is in quarantine."""
        files = app.state.archive._files
        aside = {one.path for one in app.state.archive.check() if one.kind == "quarantined"}
        found = {}
        for name, _ in files.found():
            if name not in aside:
                with files.instance(name).open() as file:
                    found[name] = file.read()
        return found

    def remove(self, app, sop_instance):
        """Remove the file of an instance behind the archive's back."""
        self._storage(app).delete(self._name(app, sop_instance))

    def spoil(self, app, sop_instance):
        """Write nonsense into the file of an instance."""
        name = self._name(app, sop_instance)
        self._storage(app).put(name, io.BytesIO(b"nothing"), 7)

    def _name(self, app, sop_instance):
        names = (name for name, _ in app.state.archive._files.found())
        ours = (f"{sop_instance}.dcm", f"{sop_instance}/")
        return next(name for name in names if name.startswith(ours))

    def _storage(self, app):
        return Objects(self.prefix) if self.prefix else Folder(app.state.archive.folder)

    def lose_index(self, app):
        """Remove the index of an archive that is not open."""
        self._is_lost = True
        app.state.archive._database.close()
        if not self.index.startswith("postgresql"):
            app.state.archive._database._path.unlink()
            return
        with psycopg.connect(self.index) as db:
            db.execute("DROP SCHEMA archive CASCADE")
            db.execute("CREATE SCHEMA archive")


@pytest.fixture
def make(tmp_path, variant, request):
    index = prefix = ""
    if "postgresql" in variant:
        running = request.getfixturevalue("postgresql")
        with psycopg.connect(running.url(), autocommit=True) as db:
            with contextlib.suppress(psycopg.Error):
                db.execute("DROP SCHEMA archive CASCADE")
            db.execute("CREATE SCHEMA archive")
        index = f"{running.url()}&options=-csearch_path%3Darchive"
    if "bucket" in variant:
        request.getfixturevalue("buckets")
        prefix = f"s3://bucket/{next(_PREFIXES)}"
        index = index or str(tmp_path / "index" / "index.db")
    return Maker(tmp_path, index, prefix)
