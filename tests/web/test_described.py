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
