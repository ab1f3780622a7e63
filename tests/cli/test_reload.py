"""`pacsroute run --reload`: the same port, whatever is saved."""

import os
import shutil
import signal
import socket
import subprocess

import pytest
from support.processes import Running, without
from support.raw_peer import RawPeer

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="it forks"), pytest.mark.slow]

APP = """
from pacsroute import App
from parts.title import TITLE

app = App(TITLE)

@app.lifespan
def once(app):
    import late
    yield
    print("put away", TITLE)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "late.py").write_text("")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "title.py").write_text("TITLE = 'ONE'\n")
    return tmp_path


@pytest.fixture
def running(folder):
    with Running(folder, "run", "--port", "0", "--reload") as running:
        running.until("ONE serves")
        running.number = running.port()
        yield running


def answers(port):
    with RawPeer(port) as peer:
        assert peer.echo() == 0
        peer.release()


def test_saved_file_restarts_the_server_on_the_same_port(running, folder):
    answers(running.number)
    for title in ("TWO", "SIX", "TEN"):  # of one length, within one second
        (folder / "parts" / "title.py").write_text(f"TITLE = '{title}'\n")
        running.until(r"parts/title\.py is saved: restarting")
        running.until("put away")
        running.until(f"{title} serves")
        assert running.port() == running.number
    answers(running.number)


def test_a_broken_file_waits_for_its_fix_and_so_do_peers(running, folder, dcmtk):
    (folder / "app.py").write_text("import nothing_of_this_name\n")
    running.until("ModuleNotFoundError")
    running.until("the app has ended: waiting for a file to be saved")
    echo = subprocess.Popen(["echoscu", "127.0.0.1", str(running.number)])
    try:
        (folder / "app.py").write_text("x = = 1\n")
        running.until("SyntaxError")
        (folder / "app.py").write_text(APP.replace("TITLE)", "'MENDED')"))
        running.until("MENDED serves")
        assert running.port() == running.number
        assert echo.wait(30) == 0
    finally:
        echo.kill()
        echo.wait()


def test_reload_waits_for_an_app_that_is_broken_from_the_start(folder):
    (folder / "parts" / "title.py").write_text("TITLE = 'A' * 17\n")
    with Running(folder, "run", "app:app", "--port", "0", "--reload") as running:
        running.until("is not a valid AE title")
        running.until("waiting for a file to be saved")
        (folder / "parts" / "title.py").write_text("TITLE = 'FINE'\n")
        running.until("FINE serves")
        answers(running.port())


def test_open_associations_do_not_delay_a_reload(running, folder):
    with RawPeer(running.number) as peer:
        assert peer.echo() == 0
        (folder / "app.py").write_text(APP.replace("TITLE)", "'NEXT')"))
        running.until("NEXT serves")
        running.port()
        peer.read_pdu()  # an A-ABORT


def test_reload_with_a_port_added_or_changed(folder):
    (folder / "app.py").write_text(APP.replace("App(TITLE", "App(TITLE, port=0"))
    with Running(folder, "run", "--reload") as running:
        first = running.port()
        with socket.create_server(("127.0.0.1", 0)) as free:
            second = free.getsockname()[1]
        (folder / "app.py").write_text(APP.replace("App(TITLE", f"App(TITLE, port={second}"))
        running.until("restarting")
        assert running.port() == second
        answers(second)
        with pytest.raises(ConnectionError):
            answers(first)


def test_modules_that_the_lifespan_imports_are_watched_too(folder):
    (folder / "app.py").write_text(APP.replace("import late", "import elsewhere.late"))
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "late.py").write_text("")
    with Running(folder, "run", "--port", "0", "--reload") as running:
        running.port()
        (folder / "elsewhere" / "late.py").write_text("raise RuntimeError('seen')\n")
        running.until("late.py is saved")
        running.until("seen")


def test_reload_survives_a_package_that_is_removed_and_comes_back(running, folder):
    (folder / "parts" / "title.py").write_text("TITLE = 'NIL'\n")
    running.until("NIL serves")  # it is watched by now
    running.port()
    shutil.rmtree(folder / "parts")
    running.until("No module named 'parts")
    running.until("waiting for a file to be saved")
    (folder / "parts").mkdir()
    for title in ("TWO", "SIX"):
        (folder / "parts" / "title.py").write_text(f"TITLE = '{title}'\n")
        running.until(f"{title} serves")
        assert running.port() == running.number


def test_files_that_are_not_code_do_not_restart_the_server(running, folder):
    (folder / "image.dcm").write_bytes(b"\0" * 200)
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "app.pyc").write_bytes(b"\0")
    (folder / "settings.toml").write_text("")
    assert running.until("is saved")[0]
    assert running.lines[-1] == "settings.toml is saved: restarting"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_watcher_and_server(running, number):
    running.signal(number)
    assert running.ended() == 0
    assert "put away ONE" in running.lines
    with pytest.raises(ConnectionError):
        RawPeer(running.number)


def test_reload_ends_where_the_command_line_is_wrong(folder):
    with Running(folder, "run", "--reload", "--max-spool", "many") as running:
        assert running.ended() == 2
    assert any("max_spool must be a whole number" in line for line in running.lines)


def test_reload_without_watchfiles_names_the_extra(folder):
    code, said = without("watchfiles", folder, "run", "--reload")
    assert code == 1
    assert said == "Error: --reload needs watchfiles: pip install 'pacsroute[reload]'\n"
