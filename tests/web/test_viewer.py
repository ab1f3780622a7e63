"""A built viewer below /viewer."""

import pytest
from support.web import ROOT

from pacsroute import App, SetupError

PAGE = """<html><head><script>window.PUBLIC_URL = '/';</script><link href="/app.bundle.css">
<script src="/app.bundle.1.js"></script></head></html>"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    (folder / "app-config.js").write_text("window.config = {dataSources: []};")
    (folder / "app.bundle.1.js").write_text('__webpack_require__.p = "/"')
    (folder / "app.bundle.css").write_text("@font-face{src:url(/font.woff2)}")
    (folder / "decoder.wasm").write_bytes(b"\0asm")
    (folder / "assets" / "logo.png").write_bytes(b"png")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def viewer(folder):
    with App("ARCHIVE", web_viewer=folder).test_client() as client:
        yield client.web


def test_what_a_build_says_of_its_place_is_rewritten(viewer):
    page = viewer.get("/viewer/").text
    assert "PUBLIC_URL = '/viewer/'" in page
    assert 'href="/viewer/app.bundle.css"' in page
    assert 'src="/viewer/app.bundle.1.js"' in page
    assert '__webpack_require__.p = "/viewer/"' in viewer.get("/viewer/app.bundle.1.js").text
    assert "url(/viewer/font.woff2)" in viewer.get("/viewer/app.bundle.css").text


def test_its_configuration_points_here(viewer):
    text = viewer.get("/viewer/app-config.js").text
    assert text.startswith("window.config = {dataSources: []};")
    assert f'"qidoRoot": "{ROOT}"' in text
    assert '"routerBasename": "/viewer"' in text


def test_paths_of_the_viewers_own_are_its_page(viewer):
    assert viewer.get("/viewer/viewer?StudyInstanceUIDs=1.2").text == viewer.get("/viewer/").text
    assert viewer.get("/viewer").headers["Location"] == "/viewer/"
    assert viewer.get("/viewer/missing.js").status_code == 404


def test_other_files_go_as_they_are(viewer):
    found = viewer.get("/viewer/decoder.wasm")
    assert (found.data, found.content_type) == (b"\0asm", "application/wasm")
    assert found.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert found.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    again = viewer.get("/viewer/decoder.wasm", headers={"If-None-Match": found.headers["ETag"]})
    assert again.status_code == 304
    assert viewer.get("/viewer/assets/logo.png").data == b"png"


@pytest.mark.parametrize(
    "path", ["/viewer/../secret.txt", "/viewer/%2e%2e/secret.txt", "/viewer//etc/passwd.txt"]
)
def test_nothing_outside_the_folder_is_served(viewer, path):
    response = viewer.get(path)
    assert b"secret" not in response.data
    assert b"root:" not in response.data


def test_the_viewer_is_guarded_as_all_else_is(folder):
    app = App("ARCHIVE", web_viewer=folder)

    @app.authenticate
    def check(identity, association):
        return None

    with app.test_client() as client:
        assert client.web.get("/viewer/").status_code == 401


def test_a_folder_without_a_viewer_is_an_error(tmp_path):
    with pytest.raises(SetupError, match=r"index\.html"):
        App(web_viewer=tmp_path).serve(port=0, web_port=0)
    with App().test_client() as client:
        assert client.web.get("/viewer/").status_code == 404
