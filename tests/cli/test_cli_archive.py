"""`pacsroute archive`, on an app in a file."""

import json

import pytest
from click.testing import CliRunner
from support.archives import image

from pacsroute import Instance
from pacsroute.cli import main


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(
        "from pacsroute import App, Archive\n"
        'app = App("ARCHIVE")\n'
        'app.register_blueprint(Archive("archive"))\n'
    )

    def run(*arguments):
        done = CliRunner().invoke(main, ["archive", *arguments])
        return done.exit_code, done.output

    return run


def test_check_and_reindex(command, tmp_path):
    assert command("check") == (0, "files and index agree\n")
    Instance(image(1)).save(tmp_path / "archive")
    assert command("check") == (1, "unknown  1.3.1.dcm\n")
    assert command("reindex", "app.py") == (0, "archive: 1 instances added to the index\n")
    assert command("check", "app:app") == (0, "files and index agree\n")
    (tmp_path / "archive" / "1.3.1.dcm").unlink()
    assert command("check") == (1, "missing  1.3.1.dcm  1.3.1\n")
    told = "archive: 0 instances added to the index\n"
    assert command("reindex", "--since", "2020-01-01") == (0, told)
    assert command("check")[0] == 1
    assert command("reindex") == (0, told)
    assert command("check") == (0, "files and index agree\n")


def test_an_app_without_an_archive_is_told(command, tmp_path):
    (tmp_path / "app.py").write_text("from pacsroute import App\napp = App('ECHO')\n")
    code, said = command("check")
    assert code == 2
    assert "ECHO has no Archive" in said


def test_a_date_that_is_none_is_told(command):
    assert command("reindex", "--since", "yesterday")[0] == 2


def test_routes_show_which_of_the_archives_have_lost_their_place(command, tmp_path):
    with open(tmp_path / "app.py", "a") as file:
        file.write("@app.store('CTImageStorage')\ndef mine(request): ...\n")
    done = CliRunner().invoke(main, ["routes", "app.py"], env={"COLUMNS": "300"})
    stores = [line.split() for line in done.output.splitlines() if line.startswith("C-STORE")]
    assert [("mine" in line, "(default)" in line) for line in stores] == [
        (True, False),
        (False, True),
    ]
    listed = json.loads(CliRunner().invoke(main, ["routes", "app.py", "--json"]).output)
    assert {(one["command"], one["handler"], one["default"]) for one in listed} >= {
        ("C-STORE", "mine", False),
        ("C-STORE", "Archive.answer_store", True),
        ("N-ACTION", "Archive.answer_commitment", True),
    }
