"""The command line, in processes of its own."""

import os
import re
import signal
import socket
import sys
from pathlib import Path

import click
import pytest
from support.processes import ended
from support.raw_peer import RawPeer
from support.serving import APP, Serving, command, fails

from pacsroute import App
from pacsroute.cli.loading import load
from pacsroute.config import SECTIONS, SETTINGS
from pacsroute.foreground import address, announce_monitor


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hello.py").write_text(APP)
    return tmp_path


def test_ipv6_address_is_announced_in_brackets(capsys):
    assert address("::1", 11112, None) == "[::1]:11112"
    assert address("::", 11112, 2762) == "[::]:11112 and 2762 (TLS)"
    announce_monitor("::1", 9090)
    assert capsys.readouterr().out.endswith(" at http://[::1]:9090\n")


posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_says_what_it_serves_and_stops_at_a_signal(folder, number):
    with Serving(folder, "hello.py") as serving:
        assert serving.lines == [
            "HELLO serves",
            "  C-STORE        every storage class, unknown ones too -> store",
            "  C-FIND         Modality Worklist Information Model - FIND from CT1 -> worklist",
            "  C-ECHO         Verification",
            f"listening on 127.0.0.1:{serving.port}, Ctrl-C stops",
        ]
        with RawPeer(serving.port) as peer:
            assert peer.echo() == 0
            peer.release()
        code, rest, errors = serving.stop(number)
    assert (code, rest) == (0, "stopped\n")
    assert "Traceback" not in errors
    assert "RAW C-ECHO 0x0000 Success" in errors


@posix
@pytest.mark.parametrize(
    "spec",
    ["hello:app", "hello", "hello.py:app", "./hello.py", "inner.deep:holder.app", "inner.deep"],
)
def test_run_finds_the_app_by_module_file_or_attribute(folder, spec):
    (folder / "inner").mkdir()
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "deep.py").write_text(APP + "\nclass holder: ...\n\nholder.app = app\n")
    with Serving(folder, spec) as serving:
        assert serving.lines[0] == "HELLO serves"
        assert serving.stop()[0] == 0


@posix
@pytest.mark.parametrize("spec", ["made:create_app()", "made:tools.make()", "made"])
def test_run_accepts_app_factories(folder, spec):
    (folder / "made.py").write_text(
        "from pacsroute import App\n\ndef create_app():\n    return App('MADE')\n\n"
        "class tools:\n    make = staticmethod(create_app)\n"
    )
    with Serving(folder, spec) as serving:
        assert serving.lines[0] == "MADE serves"
        assert serving.stop()[0] == 0


@posix
def test_the_environment_and_the_folder_name_an_app(folder):
    with Serving(folder, PACSROUTE_APP="hello:app", PACSROUTE_AE_TITLE="OTHER") as serving:
        assert serving.lines[0] == "OTHER serves"
        assert serving.stop()[0] == 0
    (folder / "app.py").write_text(APP.replace("HELLO", "HERE"))
    with Serving(folder) as serving:
        assert serving.lines[0] == "HERE serves"
        assert serving.stop()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no app: name"),
        (["nowhere"], "there is no module 'nowhere'"),
        (["nowhere:app"], "there is no module 'nowhere'"),
        (["nowhere.py"], "there is no file 'nowhere.py'"),
        (["no/where.py:app"], "there is no file 'no/where.py'"),
        (["."], "'.' is a folder: name a file in it, such as app.py"),
        (["inner/"], "'inner/' is a folder: name a file in it, such as inner/app.py"),
        (["files"], "'files' is a folder: name a file in it, such as files/app.py"),
        (["empty"], "there is no App in 'empty'"),
        (["empty.py"], "there is no App in 'empty.py'"),
        (["hello:aap"], "hello has no 'aap'; its apps: app"),
        (["hello:store"], "is function, not an App; if it is a factory, use hello:store()"),
        (["empty:value"], "is int, not an App"),
        (["empty:value()"], "value cannot be called"),
        (["several"], "has several apps"),
        ([":app"], "is not the name of a module"),
        (
            ["hello", "--ae-title", "A" * 17],
            "--ae-title: 'AAAAAAAAAAAAAAAAA' is not a valid AE title",
        ),
        (["hello", "--idle-timeout", "nan"], "--idle-timeout: idle_timeout must be a number"),
        (["hello", "--host", "192.0.2.1"], "192.0.2.1 is not an address of this machine"),
        (["hello", "--charset", "latin1"], "'latin1' is not a Specific Character Set"),
        (["setup.py"], "did you mean 'CTImageStorage'"),
    ],
)
def test_run_reports_mistakes_without_a_traceback(folder, arguments, words):
    (folder / "empty.py").write_text("value = 5\n")
    for name in ("inner", "files"):
        (folder / name).mkdir()
    (folder / "several.py").write_text("from pacsroute import App\n\none, two = App(), App()\n")
    (folder / "setup.py").write_text(
        "from pacsroute import App\n\napp = App()\n\n"
        "@app.store('CTImageStorag')\ndef store(request): ...\n"
    )
    said = fails(folder, *arguments)
    assert words in said
    assert "Traceback" not in said


def test_a_set_up_mistake_names_the_users_line(folder):
    (folder / "wrong.py").write_text(
        "from pacsroute import App\n\napp = App()\n\n@app.store\nasync def store(request): ...\n"
    )
    assert re.search(r"store is async.*wrong\.py:[56]\)", fails(folder, "wrong.py"))


def test_wrong_setting_names_the_users_line(folder):
    (folder / "long.py").write_text("from pacsroute import App\n\napp = App('A' * 17)\n")
    assert re.search(r"is not a valid AE title.*long\.py:3\)", fails(folder, "long.py"))


def test_a_lifespan_that_fails_shows_the_users_traceback_only(folder):
    (folder / "broken.py").write_text(
        f"{APP}\n@app.lifespan\ndef database(app):\n    1 / 0\n    yield\n"
    )
    done = ended(command("broken", "--port", "0"), folder)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.endswith("Error: HELLO has ended: see the traceback above\n")
    assert done.stderr.count('File "') == 1


def test_run_names_a_port_that_is_in_use(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fails(folder, "hello", "--port", str(port))
    assert f"port {port} is in use" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_run_names_a_spool_folder_that_cannot_be_made(folder, workers):
    Path(folder, "taken").touch()
    said = fails(folder, "hello", "--port", "0", "--spool", "taken/spool", *workers)
    assert said.endswith("Error: the spool taken/spool cannot be used: Not a directory\n")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("spec", "text", "words"),
    [
        ("broken.py", "def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError"),
        ("broken", "def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError"),
        ("broken.py", "x = = 1\n", "SyntaxError"),
        ("broken:make()", "def make():\n    raise KeyError('x')\n", "KeyError"),
        ("broken.py", "raise SystemExit(0)\n", "SystemExit"),
    ],
)
def test_a_mistake_in_the_users_file_shows_the_users_traceback_only(folder, spec, text, words):
    (folder / "broken.py").write_text(text)
    said = fails(folder, spec)
    assert "Traceback" in said or words == "SyntaxError"
    assert words in said
    assert "broken.py" in said
    assert "see its traceback above" in said
    assert f"{os.sep}pacsroute{os.sep}" not in said
    assert "importlib" not in said


def test_a_viewer_without_a_port_for_http_is_warned_about(folder):
    with Serving(folder, "hello.py", "--web-viewer", str(folder)) as serving:
        assert "web_viewer is served only with --web-port" in serving.stop()[2]


@pytest.mark.parametrize("spec", ["broken.py", "broken"])
def test_a_module_that_is_not_installed_is_named(folder, spec):
    (folder / "broken.py").write_text("import nothing_of_this_name.inner\n")
    said = fails(folder, spec)
    assert 'broken.py", line 1' in said
    assert f"{spec!r} needs the module 'nothing_of_this_name', which is not installed" in said


def test_the_help_names_the_commands():
    done = ended([sys.executable, "-m", "pacsroute", "--help"])
    assert done.returncode == 0
    assert "run" in done.stdout


def test_the_help_of_run_has_each_setting_under_its_heading():
    said = ended([sys.executable, "-m", "pacsroute", "run", "--help"]).stdout
    sections = dict(re.findall(r"^(\w.*):\n((?:  .*\n)+)", said, re.MULTILINE))
    assert list(sections) == ["Options", *SECTIONS.values()]
    flags = {
        title: re.findall(r"^  --([a-z-]+)", text, re.MULTILINE) for title, text in sections.items()
    }
    assert {"config", "workers", "trace"} <= set(flags.pop("Options"))
    assert [flag.replace("-", "_") for some in flags.values() for flag in some] == list(SETTINGS)
    assert "web-hosts" in flags["DICOMweb and HTTP"]


@posix
def test_a_script_serves_as_the_command_does(folder):
    with (folder / "hello.py").open("a") as file:
        file.write("\nimport sys\napp.run(port=int(sys.argv[1]))\n")
    start = [sys.executable, "hello.py"]
    with Serving(folder, start=[*start, "0"]) as serving:
        assert serving.lines[0] == "HELLO serves"
        taken = ended([*start, str(serving.port)], folder)
        code, rest, errors = serving.stop(signal.SIGINT)
    assert (code, rest) == (0, "stopped\n")
    assert "RAW C-ECHO 0x0000 Success" in errors
    assert taken.returncode == 1
    assert taken.stderr.startswith(f"Error: port {serving.port} is in use")
    assert taken.stderr.count("\n") == 1


@posix
def test_a_script_with_a_log_of_its_own_keeps_it(folder):
    with (folder / "hello.py").open("a") as file:
        file.write(
            "\nimport logging\nlogging.basicConfig(format='mine: %(message)s', level='INFO')\n"
        )
        file.write("app.run(port=0)\n")
    with Serving(folder, start=[sys.executable, "hello.py"]) as serving:
        errors = serving.stop()[2]
    assert "mine: RAW C-ECHO 0x0000 Success" in errors


def test_a_call_of_run_in_a_file_that_the_command_loads_is_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "script_that_runs.py"
    file.write_text(
        "from pacsroute import App\napp = App('SCRIPT', port=0)\napp.run()\nloaded = True\n"
    )
    with caplog.at_level("WARNING", "pacsroute"):
        assert load("script_that_runs.py").ae_title == "SCRIPT"
    assert "app.run() is ignored" in caplog.text
    file.write_text(file.read_text() + "raise ValueError\n")
    with pytest.raises(click.ClickException):
        load("script_that_runs.py")
    caplog.clear()
    with App().serve(port=0) as server, pytest.raises(SystemExit):  # that port is taken
        App().run(port=server.port)
    assert "left out" not in caplog.text


# ------------------------------------------------------------------- completion


def completed(folder, **values):
    """Run the installed command as a shell does to complete a line."""
    script = "import sys; sys.argv = ['pacsroute']\nfrom pacsroute.cli import main\nmain()"
    return ended([sys.executable, "-c", script], folder, **values).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_there_for_each_shell(tmp_path, shell):
    assert "_pacsroute_completion" in completed(tmp_path, _PACSROUTE_COMPLETE=f"{shell}_source")


@pytest.mark.parametrize(
    ("line", "word", "wanted"),
    [("pacsroute ro", "1", "plain,routes"), ("pacsroute run --web-p", "2", "plain,--web-port")],
)
def test_tab_completes_commands_and_options(tmp_path, line, word, wanted):
    asked = {"_PACSROUTE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": word}
    assert wanted in completed(tmp_path, **asked).splitlines()
