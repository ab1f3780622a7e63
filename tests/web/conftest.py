import pytest

from pacsroute import App, Archive


@pytest.fixture
def archive(tmp_path):
    """Return an app with an archive."""
    app = App("ARCHIVE", spool=str(tmp_path))
    app.register_blueprint(Archive(tmp_path / "archive"))
    return app


@pytest.fixture
def web(archive):
    """Return a client of the archive's over HTTP, in memory."""
    with archive.test_client() as client:
        yield client.web
