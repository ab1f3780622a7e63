"""The console in Chromium: light and dark, wide and narrow, by keyboard, and without JavaScript."""

import pytest
from pydicom.data import get_testdata_file
from support.browser import drive

from pacsroute import App, Archive, Failure, Peer, RequestFailed, connect


@pytest.fixture
def app(tmp_path):
    """Return an app with something of all that the console shows."""
    app = App("ARCHIVE", spool=str(tmp_path), web_console_values="*")
    app.register_blueprint(Archive(tmp_path / "archive"))

    @app.before_request
    def check(request):
        if request.calling_ae == "MR<7>":
            raise Failure(0xA700, "there is no room")

    @app.job(retry=[])
    def report(uid):
        raise ValueError(uid)

    return app


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_console_in_a_browser(app, tmp_path):
    images = [get_testdata_file(name) for name in ("CT_small.dcm", "MR_small.dcm")]
    with App("PACS").serve(port=0) as pacs, app.serve(port=0, web_port=0) as server:
        app.destinations["PACS"] = Peer("127.0.0.1", pacs.port)
        app.forward(images[0], "GONE")
        with (
            connect("127.0.0.1", server.port, called_ae="ARCHIVE", calling_ae="CT1") as client,
            connect("127.0.0.1", server.port, called_ae="ARCHIVE", calling_ae="MR<7>") as other,
        ):
            for image in images:
                client.store(image)
                with pytest.raises(RequestFailed):
                    other.store(image)
            seen = drive("console.js", f"http://127.0.0.1:{server.web_port}", tmp_path)
    assert seen["elsewhere"] == []
    assert seen["errors"] == []  # the policy forbids nothing that a page asks for
    assert seen["overflow"] == []
    assert seen["faint"] == []
    names = [one["name"] for one in seen["focus"]]
    assert names[0] == "Skip to the content"
    assert names[1:7] == ["Now", "Lately", "Studies", "Jobs", "Destinations", "Routes"]
    assert [one["name"] for one in seen["focus"] if not one["visible"]] == []
    assert names[-1] == "Echo"
    assert "answered in" in seen["echoed"]
    assert seen["refreshed"]
    assert seen["held"]
    for word in ("CT1", "MR<7>", "C-STORE", "GONE", "Archive.answer_store"):
        assert word in seen["plain"]
    assert len(list(tmp_path.glob("*.png"))) == 8
