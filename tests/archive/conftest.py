"""Archives in folders of their own."""

import pytest

from pacsroute import App, Archive


@pytest.fixture
def make(tmp_path):
    """Make an app with an archive in a folder; one made again finds what the last one kept."""

    def make(folder="archive", **options):
        app = App("ARCHIVE")
        app.state.archive = Archive(tmp_path / folder, **options)
        app.register_blueprint(app.state.archive)
        return app

    return make
