"""`@app.cli.command` and `pacsroute shell`: the app on the command line."""

import pytest
from support.processes import pacsroute

pytestmark = pytest.mark.slow

APP = '''
import click
from pacsroute import App

app = App("TOOLS")

@app.lifespan
def resources(app):
    app.state.index = ["a", "b"]
    yield
    print("put away")

@app.store
def store(request): ...

@app.cli.command()
@click.argument("word")
@click.option("--twice", is_flag=True)
def shout(word, twice):
    """Say WORD loudly.

    And this is told by its own help only.
    """
    with app.running():
        click.echo(word.upper() * (1 + twice) + str(len(app.state.index)))

@app.cli.command(hidden=True)
def secret():
    """Not to be seen."""

@app.cli.group()
def index():
    """What is done with the index."""

@index.command()
def rebuild():
    raise click.ClickException("it is locked")
'''


@pytest.mark.parametrize("named", [[], ["--app", "tools.py"], ["--app", "tools:app"]])
def test_a_command_of_the_app_runs(folder, named):
    if named:
        (folder / "app.py").rename(folder / "tools.py")
    code, out, said = pacsroute(folder, *named, "shout", "--twice", "hey")
    assert (code, out, said) == (0, "HEYHEY2\nput away\n", "")


def test_the_environment_names_the_app_and_the_option_wins(folder):
    (folder / "app.py").rename(folder / "tools.py")
    (folder / "other.py").write_text("from pacsroute import App\n\napp = App()\n")
    assert pacsroute(folder, "shout", "hey", PACSROUTE_APP="tools.py")[:2] == (
        0,
        "HEY2\nput away\n",
    )
    code, _, said = pacsroute(folder, "--app", "other.py", "shout", "x", PACSROUTE_APP="tools.py")
    assert code == 2
    assert "No such command 'shout'" in said


def test_help_lists_app_commands_below_builtin_ones(folder):
    code, out, said = pacsroute(folder, "--help")
    assert (code, said) == (0, "")
    own, theirs = out.split("Commands of TOOLS, app.py:\n")
    assert "\n  run " in own
    assert theirs == "  index  What is done with the index.\n  shout  Say WORD loudly.\n"


def test_help_of_an_app_command(folder):
    code, out, _ = pacsroute(folder, "shout", "--help")
    assert code == 0
    assert " shout [OPTIONS] WORD\n" in out
    assert "told by its own help only" in out


def test_app_command_refuses_wrong_arguments(folder):
    assert pacsroute(folder, "index", "rebuild") == (1, "", "Error: it is locked\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = = 1\n", "SyntaxError: invalid syntax"),
        ("import nothing_there\n", "ModuleNotFoundError: No module named 'nothing_there'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("print('loaded')\n", "there is no App in 'app.py'"),
    ],
)
def test_broken_app_does_not_break_the_help(folder, text, why):
    (folder / "app.py").write_text(text)
    code, out, said = pacsroute(folder, "--help")
    assert (code, said) == (0, "")
    assert "\n  run " in out
    assert f"Commands of app.py:\n  It could not be loaded: {why}" in out


def test_unknown_command_while_the_app_is_broken(folder):
    (folder / "app.py").write_text("import nothing_there\n")
    code, _, said = pacsroute(folder, "shout", "hey")
    assert code == 2
    assert "nothing_there" in said
    assert "pacsroute has no command 'shout'" in said
    assert pacsroute(folder, "new", "--help")[0] == 0


def test_unknown_command_without_an_app(tmp_path):
    code, _, said = pacsroute(tmp_path, "shout")
    assert code == 2
    assert "No such command 'shout'" in said


# ------------------------------------------------------------------------------ shell

LINES = """
print(app.ae_title, app.state.index)
print(client.echo().category)
print(pacsroute.App is type(app), Dataset.__module__)
app.state.index.clear()
1 / 0
print("still here")
"""


def test_the_shell_has_the_app_and_a_client_within_the_lifespan(folder):
    code, out, said = pacsroute(folder, "shell", text_in=LINES)
    shown = [line.replace(">>> ", "") for line in out.splitlines()]
    assert code == 0
    for line in ("TOOLS ['a', 'b']", "Success", "True pydicom.dataset", "still here", "put away"):
        assert line in shown
    assert "pacsroute shell of TOOLS" in said
    assert "client     speaks to it in memory" in said
    assert said.count("Traceback") == 1  # of 1 / 0
    assert "ZeroDivisionError" in said


def test_errors_of_pacsroute_are_a_line_in_the_shell(folder):
    lines = "client.store('nowhere.dcm')\nlist(client.find({'PatientName': ''}))\nprint(app)\n"
    code, out, said = pacsroute(folder, "shell", text_in=lines)
    assert code == 0
    assert "<App 'TOOLS':" in out
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.dcm'" in said
    assert "NotAccepted: TOOLS does not accept Study Root" in said
    assert "Traceback" not in said


def test_leaving_the_shell_ends_the_lifespan(folder):
    code, out, said = pacsroute(folder, "--app", "app:app", "shell", text_in="exit()\n")
    assert (code, out.splitlines()[-1]) == (0, ">>> put away")
    assert "Traceback" not in said


def test_shell_without_an_app_is_an_error(tmp_path):
    code, _, said = pacsroute(tmp_path, "shell")
    assert code == 2
    assert "no app: name" in said


def test_a_command_of_the_app_with_a_name_of_pacsroute_is_an_error(tmp_path):
    (tmp_path / "app.py").write_text(
        "from pacsroute import App\napp = App('TOOLS')\n"
        "@app.cli.command()\ndef archive(): ...\n@app.cli.command()\ndef count(): ...\n"
    )
    for command in (["routes"], ["count"]):
        code, _, said = pacsroute(tmp_path, *command)
        assert code == 2
        assert "archive is a command of pacsroute itself" in said


def test_a_misspelt_command_is_answered_with_the_nearest(tmp_path):
    code, _, said = pacsroute(tmp_path, "rum")
    assert code == 2
    assert "No such command 'rum'; did you mean 'run'?" in said
