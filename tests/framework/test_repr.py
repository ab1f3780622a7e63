"""How apps, routes and clients introduce themselves in a shell and in error messages."""

from pacsroute import App
from pacsroute.foreground import announce


def archive():
    app = App("PACS")

    @app.find("StudyRoot")
    @app.find("PatientRoot")
    def a_handler_with_a_long_name(request):
        yield {}

    @app.store
    def keep(request): ...

    return app


def test_app_names_its_title_and_what_it_answers():
    assert repr(archive()) == "<App 'PACS': C-FIND, C-STORE>"
    assert repr(App("ECHO")) == "<App 'ECHO': no routes>"


def test_route_names_its_command_class_and_handler():
    assert repr(archive().routes[-1]) == (
        f"<Route C-STORE every storage class, unknown ones too -> {archive.__name__}.<locals>.keep>"
    )


def test_client_names_both_titles():
    with archive().test_client(calling_ae="CT1") as client:
        assert repr(client) == "<TestClient 'CT1' of 'PACS'>"


def test_announced_routes_fit_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    announce(archive())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(" " * 17) for line in lines)  # the rest of what is too long
    assert " ".join(" ".join(lines).split()).count("a_handler_with_a_long_name") == 2
