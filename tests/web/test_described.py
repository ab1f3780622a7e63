"""What the commands and the conformance statement tell of DICOMweb."""

from support.processes import pacsroute

from pacsroute import App
from pacsroute.conformance import statement

APP = """
from pacsroute import App

app = App("ARCHIVE"{settings})

@app.store
def store(request): ...
"""


def test_the_routes_below_the_root_are_listed(tmp_path):
    (tmp_path / "app.py").write_text(APP.format(settings=", web_port=8042"))
    _, out, _ = pacsroute(tmp_path, "routes", "app.py")
    below = out.partition("Below /dicom-web, over HTTP:\n")[2].splitlines()
    assert below == ["  POST      studies", "  POST      studies/{study}"]
    (tmp_path / "app.py").write_text(APP.format(settings=""))
    assert "HTTP" not in pacsroute(tmp_path, "routes", "app.py")[1]


def test_titles_and_routes_of_ones_own_are_listed(tmp_path):
    (tmp_path / "app.py").write_text(
        """
from pacsroute import App, Blueprint

app, research = App("ARCHIVE", web_port=8042), Blueprint("research")

@research.store
def store(request): ...

@app.web.route("/hello/<name>", methods=["POST", "GET"])
def hello(name): ...

app.register_blueprint(research, called_ae="RESEARCH")
"""
    )
    _, out, _ = pacsroute(tmp_path, "routes", "app.py")
    assert "  POST      aets/RESEARCH/studies\n" in out
    assert "\n  POST      studies\n" not in out
    assert out.endswith("Of its own, over HTTP:\n  GET, POST /hello/<name>\n")


def test_the_statement_tells_of_each_service_what_it_takes_and_gives():
    app = App("ARCHIVE", web_port=8042, max_results=77)
    app.store(lambda request: None)
    app.find("StudyRoot")(lambda request: [])
    app.get("StudyRoot")(lambda request: [])
    text = statement(app)
    studies = text.partition("#### 5.3.2 Studies Web Service")[2].partition("#### 5.3.3")[0]
    for words in (
        "multipart/related; type=application/dicom+xml",
        "image/png and image/gif are refused",
        "at most 77 results",
        "Fuzzy matching is not supported",
    ):
        assert words in " ".join(studies.split())
    assert "workitems" not in text
    assert "#### 5.3.3 Worklist Web Service - N/A" in text
    app.n_create("UPS")(lambda request: None)
    worklist = statement(app).partition("#### 5.3.3 Worklist Web Service\n")[2]
    assert "`/dicom-web/workitems` | POST" in worklist
    assert "no notification connection" in " ".join(worklist.split())


def test_the_statement_has_the_web_services_of_an_app_with_a_port_for_them():
    app = App("ARCHIVE", web_port=8042, web_key="secret.pem", web_certificate="cert.pem")

    @app.get("StudyRoot")
    def get(request):
        return []

    text = statement(app)
    assert "5.3.1 URI Web Service\n" in text
    assert "| `/dicom-web/studies/{study}/metadata` | GET |" in text
    assert "studies/{study}` | POST" not in text
    assert "secret.pem" not in text
    without = statement(App("ARCHIVE"))
    assert "5.3 DICOM Web Services - N/A" in without
